"""The registry's table: one row for each version of a model, never changed."""

import sqlalchemy as sa

from tandem.kit.db import metadata

# NOTE: rows live for ever. Columns are only added, at the end, with a default.
versions = sa.Table(
    "versions",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("task", sa.String(16), nullable=False),
    sa.Column("digest", sa.String(71), nullable=False),  # sha256: and 64 digits
    sa.Column("size", sa.BigInteger, nullable=False),  # bytes
    sa.Column("format", sa.String(16), nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    # The same bytes under the same name are the same version, however often and by whomever they are pulled.
    sa.UniqueConstraint("name", "digest"),
)
