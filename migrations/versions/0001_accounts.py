"""Tenants, keys and usage events.

Who may call, how much, and what was used. Times are milliseconds since 1970 UTC, so that SQLite and PostgreSQL sort and
group them alike. A name is unique among the keys of a tenant that are not revoked. Usage events refer to keys by id
without a foreign key: a journal that is folded late must find its place whatever has become of the key by then.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    tenants = op.create_table(
        "tenants",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
        sa.UniqueConstraint("name", name="uq_tenants_name"),
    )
    # The tenant of everybody who never asked for another; it is as old as time.
    op.bulk_insert(tenants, [{"id": "default", "name": "default", "created_at": 0}])
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("prefix", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("requests_per_minute", sa.BigInteger),
        sa.Column("tokens_per_minute", sa.BigInteger),
        sa.Column("concurrency", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("digest", name="uq_keys_digest"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_keys_tenant_id_tenants"),
    )
    op.create_index("ix_keys_tenant_id_id", "keys", ["tenant_id", "id"])
    active = sa.text("revoked_at IS NULL")
    op.create_index(
        "uq_keys_active_name",
        "keys",
        ["tenant_id", "name"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )
    _create_usage_events()


def _create_usage_events() -> None:
    words = ("tenant_id", "key_id", "deployment", "version", "operation", "surface", "outcome")
    numbers = (
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "reserved_tokens",
        "started_at",
        "settled_at",
        "duration_ms",
    )
    op.create_table(
        "usage_events",
        sa.Column("id", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in words),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in numbers),
        sa.PrimaryKeyConstraint("id", name="pk_usage_events"),
    )
    op.create_index("ix_usage_events_tenant_id_started_at", "usage_events", ["tenant_id", "started_at"])
    op.create_index("ix_usage_events_started_at", "usage_events", ["started_at"])


def downgrade() -> None:
    op.drop_table("usage_events")
    op.drop_table("keys")
    op.drop_table("tenants")
