"""The tables as the newest migration leaves them; a test compares the two.

A deployment's key is its number and not (model, target): a target may name a thousand nodes, more than a
PostgreSQL index entry can hold.

Ids fit in 64 characters everywhere, and that is checked before they come here. Texts that people or devices
write are :class:`Words`.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
)


class Words(TypeDecorator[str]):
    """Text without the one character that PostgreSQL can't hold: NUL becomes U+FFFD, in both databases."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _: Any) -> str | None:
        """What is written."""
        return value if value is None else value.replace("\0", "\ufffd")


METADATA = MetaData()

# Sorted as Python and SQLite sort, whatever language PostgreSQL was set up with: pages rely on it.
ID = String(64).with_variant(String(64, collation="C"), "postgresql")
NAME = String(256).with_variant(String(256, collation="C"), "postgresql")
NUMBER = BigInteger().with_variant(Integer, "sqlite")  # the only spelling that SQLite counts up by itself

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
    Column("version", Words, nullable=False),
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
    Column("target", Words, nullable=False),
    Column("version", Words, nullable=False),
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
    Column("code", Words, nullable=False),
    Column("detail", Words, nullable=False),
)

# Telemetry: see cloud.store.telemetry.

POSITIONS = Table(
    "telemetry_positions",
    METADATA,
    Column("node", ID, primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("stream", ID, primary_key=True),
    Column("settled", BigInteger, nullable=False),
    Column("ahead", LargeBinary, nullable=False),
    Column("produced", BigInteger, nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False),
    Column("dead", BigInteger, nullable=False),
    Column("duplicates", BigInteger, nullable=False),
    Column("grade", String(16), nullable=False),
    Column("first_at_unix_s", Double, nullable=False),
    Column("last_at_unix_s", Double, nullable=False),
    Column("held_chunks", BigInteger, nullable=False),
    Column("held_samples", BigInteger, nullable=False),
)

CHUNKS = Table(
    "telemetry_chunks",
    METADATA,
    Column("node", ID, primary_key=True),
    Column("stream", ID, primary_key=True),
    Column("wide", SmallInteger, primary_key=True, autoincrement=False),
    Column("at_min_unix_s", Double, primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("first_sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("end_sequence", BigInteger, nullable=False),
    Column("at_max_unix_s", Double, nullable=False),
    Column("samples", LargeBinary, nullable=False),
)

LETTERS = Table(
    "telemetry_letters",
    METADATA,
    Column("number", NUMBER, primary_key=True),
    Column("node", ID, nullable=False),
    Column("stream", ID, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("end_sequence", BigInteger, nullable=False),
    Column("reason", Words, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("at_unix_s", Double, nullable=False),
    sqlite_autoincrement=True,
)

# Replicated keys: see cloud.store.sync.

SYNC_KEYS = Table(
    "sync_keys",
    METADATA,
    Column("name", NAME, primary_key=True),
    Column("record", LargeBinary, nullable=False),
)

SYNC_TASKS = Table(
    "sync_tasks",
    METADATA,
    Column("id", NAME, primary_key=True),
    Column("task", LargeBinary, nullable=False),
)

SYNC_NODES = Table(
    "sync_nodes",
    METADATA,
    Column("node", ID, primary_key=True),
    Column("memory", LargeBinary, nullable=False),
)
