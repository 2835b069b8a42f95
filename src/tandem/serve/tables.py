"""The tables of `serve`: what is wanted, what was bound before, which rollouts there are, and what is seen running."""

import sqlalchemy as sa

from tandem.kit.db import metadata

deployments = sa.Table(
    "deployments",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("version", sa.String(128), nullable=False),  # name@number
    sa.Column("digest", sa.String(71), nullable=False),  # sha256: and 64 hexadecimal digits
    sa.Column("size", sa.BigInteger, nullable=False),  # bytes
    sa.Column("task", sa.String(16), nullable=False),
    sa.Column("engine", sa.String(32), nullable=False),
    # NOTE: rows live for ever; fields of DeployOptions are only added, with a default.
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("wanted", sa.String(16), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),  # Unix seconds
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    # The id of the one key that sees a development deployment; empty where all clients do.
    sa.Column("owner", sa.String(64), nullable=False, server_default=""),
    # The digest of the model that the bytes, an adapter, go with; empty where they are a whole model.
    sa.Column("base", sa.String(71), nullable=False, server_default=""),
)

# Each binding that a deployment ever had, the current one included; a way back.
bindings = sa.Table(
    "bindings",
    metadata,
    sa.Column("deployment", sa.String(64), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.String(128), nullable=False),
    sa.Column("digest", sa.String(71), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("task", sa.String(16), nullable=False),
    sa.Column("engine", sa.String(32), nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("bound_at", sa.BigInteger, nullable=False),  # Unix seconds
    sa.Column("base", sa.String(71), nullable=False, server_default=""),
)

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("deployment", sa.String(64), nullable=False, index=True),
    # The deployment's name until the rollout is over, then nothing: a deployment has one at a time.
    sa.Column("active", sa.String(64), unique=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("stable", sa.String(128), nullable=False),  # name@number
    sa.Column("stable_digest", sa.String(71), nullable=False),
    sa.Column("version", sa.String(128), nullable=False),
    sa.Column("digest", sa.String(71), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    # NOTE: rows live for ever; fields of Plan, Progress and Finding are only added, with a default.
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("findings", sa.JSON, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),  # Unix seconds
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("base", sa.String(71), nullable=False, server_default=""),
)

# Written by the one controller alone, which replaces all rows; so no key ties them to deployments that may have
# been removed meanwhile.
replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("id", sa.String(96), primary_key=True),
    sa.Column("deployment", sa.String(64), nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("pid", sa.Integer),
    sa.Column("address", sa.String(256), nullable=False),  # never with the key
    sa.Column("restarts", sa.Integer, nullable=False),
    sa.Column("last_error", sa.Text, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),  # Unix seconds
    sa.Column("sharing", sa.Integer, nullable=False, server_default="1"),  # replicas of its engine, itself included
)
