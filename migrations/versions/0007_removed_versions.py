"""Versions that were removed.

Nothing could be taken out of the register. A row that is deleted would free its number, and `coder@3` could come to
mean other bytes than those that old answers, evidence and releases speak of; so a removed version keeps its row.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("versions", sa.Column("removed_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("versions", "removed_at")
