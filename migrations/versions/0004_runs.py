"""Runs and the datasets that they used.

The truth about a run is the log in its folder; reading hundreds of logs to show a list takes seconds, and from a
folder alone nobody sees which runs a dataset with a wrong licence went into.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("recipe_id", sa.String(71), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs"),
    )
    op.create_index("ix_runs_recipe_id", "runs", ["recipe_id"])
    op.create_table(
        "datasets",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("license", sa.Text, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_datasets"),
    )
    op.create_table(
        "run_datasets",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "digest", name="pk_run_datasets"),
    )
    op.create_index("ix_run_datasets_digest", "run_datasets", ["digest"])


def downgrade() -> None:
    op.drop_table("run_datasets")
    op.drop_table("datasets")
    op.drop_table("runs")
