"""Adapters that share a running base.

A version that was trained as a LoRA adapter could only be stored and served with its base merged into it. What names
the adapter's bytes names those of the base, too, and a replica tells how many its engine answers for.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TABLES = ("versions", "deployments", "bindings", "rollouts")


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(table, sa.Column("base", sa.String(71), nullable=False, server_default=""))
    op.add_column("replicas", sa.Column("sharing", sa.Integer, nullable=False, server_default="1"))


def downgrade() -> None:
    op.drop_column("replicas", "sharing")
    for table in reversed(_TABLES):
        op.drop_column(table, "base")
