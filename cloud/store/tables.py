"""The tables as the newest migration leaves them; a test compares the two.

A deployment's key is its number and not (model, target): a target may name a thousand nodes, more than a
PostgreSQL index entry can hold.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

METADATA = MetaData()

META = Table(
    "meta",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

NODES = Table(
    "nodes",
    METADATA,
    Column("node", String(64), primary_key=True),
    Column("first_seen_unix_s", Double, nullable=False),
    Column("last_epoch", BigInteger, nullable=False),
    Column("birth", LargeBinary, nullable=False),
)

MODELS = Table(
    "models",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("version", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at_unix_s", Double, nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("info", LargeBinary, nullable=False),
)

DEPLOYMENTS = Table(
    "deployments",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("model", String(64), nullable=False),
    Column("target", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at_unix_s", Double, nullable=False),
    Column("created_by", String(64), nullable=False),
)

DESIRED = Table(
    "desired",
    METADATA,
    Column("node", String(64), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("models", JSON, nullable=False),
)

TASKS = Table(
    "tasks",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("created_at_unix_s", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("node", String(64), nullable=False),
    Column("outputs", LargeBinary, nullable=False),
    Column("code", Text, nullable=False),
    Column("detail", Text, nullable=False),
)
