"""Rollouts, earlier bindings, and deployments that one key alone sees.

A new version could only replace the one before at once, and nothing knew what that had been; and a version without a
release could not be tried at all.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deployments", sa.Column("owner", sa.String(64), nullable=False, server_default=""))
    op.create_table(
        "bindings",
        sa.Column("deployment", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("task", sa.String(16), nullable=False),
        sa.Column("engine", sa.String(32), nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("bound_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("deployment", "revision", name="pk_bindings"),
    )
    op.execute(
        "INSERT INTO bindings (deployment, revision, version, digest, size, task, engine, options, facts, bound_at) "
        "SELECT name, revision, version, digest, size, task, engine, options, facts, updated_at FROM deployments"
    )
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("deployment", sa.String(64), nullable=False),
        sa.Column("active", sa.String(64)),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("stable", sa.String(128), nullable=False),
        sa.Column("stable_digest", sa.String(71), nullable=False),
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("findings", sa.JSON, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_rollouts"),
        sa.UniqueConstraint("active", name="uq_rollouts_active"),
    )
    op.create_index("ix_rollouts_deployment", "rollouts", ["deployment"])


def downgrade() -> None:
    op.drop_table("rollouts")
    op.drop_table("bindings")
    op.drop_column("deployments", "owner")
