"""The registry's tables: versions, the index of runs and datasets, and the signed documents of releases."""

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
    sa.Column("removed_at", sa.DateTime(timezone=True)),  # its number is never given to others
    # The digest of the model that an adapter goes with; empty where the bytes are a whole model.
    sa.Column("base", sa.String(71), nullable=False, server_default=""),
)

# Rows of these three can be made again from the folders of runs and datasets; those are the truth.
runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("recipe_id", sa.String(71), nullable=False, index=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # as of the last look at the log
    sa.Column("created_at", sa.BigInteger, nullable=False),  # Unix milliseconds
)

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("digest", sa.String(71), primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("format", sa.String(16), nullable=False),
    sa.Column("license", sa.Text, nullable=False),
    sa.Column("counts", sa.JSON, nullable=False),
)

run_datasets = sa.Table(
    "run_datasets",
    metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(71), primary_key=True, index=True),
)

# What follows holds signed documents. The other columns are for finding them: nothing that they say is believed.
evidence = sa.Table(
    "evidence",
    metadata,
    sa.Column("digest", sa.String(71), primary_key=True),
    sa.Column("version", sa.String(80), nullable=False, index=True),
    sa.Column("artifact", sa.String(71), nullable=False, index=True),
    sa.Column("suite", sa.String(64), nullable=False),
    sa.Column("added_at", sa.BigInteger, nullable=False),  # Unix milliseconds
    sa.Column("envelope", sa.Text, nullable=False),
)

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("digest", sa.String(71), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, index=True),
    sa.Column("version", sa.String(80), nullable=False, index=True),
    sa.Column("requested_at", sa.BigInteger, nullable=False),  # Unix milliseconds
    sa.Column("envelope", sa.Text, nullable=False),
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("digest", sa.String(71), primary_key=True),
    sa.Column("release_digest", sa.String(71), nullable=False, index=True),
    sa.Column("envelope", sa.Text, nullable=False),
)
