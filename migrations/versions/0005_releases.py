"""Evidence, releases and the decisions that end them.

Whatever stood in the table of deployments was served: a hand-edited row put any file in front of clients. Now only
signed documents let a version out. They are kept whole and checked on every reading; the columns beside them are there
to find them by.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evidence",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("version", sa.String(80), nullable=False),
        sa.Column("artifact", sa.String(71), nullable=False),
        sa.Column("suite", sa.String(64), nullable=False),
        sa.Column("added_at", sa.BigInteger, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_evidence"),
    )
    op.create_index("ix_evidence_version", "evidence", ["version"])
    op.create_index("ix_evidence_artifact", "evidence", ["artifact"])
    op.create_table(
        "releases",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.String(80), nullable=False),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_releases"),
    )
    op.create_index("ix_releases_name", "releases", ["name"])
    op.create_index("ix_releases_version", "releases", ["version"])
    op.create_table(
        "decisions",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("release_digest", sa.String(71), nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_decisions"),
    )
    op.create_index("ix_decisions_release_digest", "decisions", ["release_digest"])


def downgrade() -> None:
    op.drop_table("decisions")
    op.drop_table("releases")
    op.drop_table("evidence")
