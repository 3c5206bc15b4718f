"""An open database: connected, set up to mean "durable" when it says "committed", and migrated.

SQLite runs in WAL mode with ``synchronous=FULL``: a commit that returned is on the disk, also after a power
cut. (With NORMAL, WAL's usual companion, the last commits can be lost, and we acknowledge commits to others.)

Python's driver would begin transactions by guessing at statements, and never for DDL. It is told not to, and
every transaction begins with ``BEGIN IMMEDIATE``: the ones that read before they write can't fail half-way
because another process wrote in between, and a migration happens as a whole or not at all.
"""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from shared.errors import ConfigError

BUSY_TIMEOUT_MS = 10_000


def open_engine(url: str) -> Engine:
    """Connect and migrate. Raises :class:`ConfigError` that says what the operator can do."""
    shown = url
    try:
        parsed = make_url(url)
        shown = parsed.render_as_string(hide_password=True)
        if parsed.get_backend_name() == "sqlite":
            engine = _sqlite(url, parsed.database)
        else:
            engine = create_engine(url, pool_pre_ping=True)
        with engine.begin() as connection:
            migrate(connection)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ConfigError(
            f"cloud.store = {shown!r} can't be used: {error}; write sqlite:///path or postgresql://"
        ) from None
    except (OSError, DBAPIError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise ConfigError(f"can't open the cloud's store {shown!r}: {reason}") from error
    except CommandError as error:
        raise ConfigError(
            f"the cloud's store {shown!r} was written by another version of shoal: {error}"
        ) from None
    return engine


def migrate(connection: Connection) -> None:
    """Bring the tables to the newest form, inside the caller's transaction. Nothing happens if they are."""
    config = Config()
    config.set_main_option("script_location", "cloud.store:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _sqlite(url: str, database: str | None) -> Engine:
    if not database or database == ":memory:":
        raise ArgumentError("the store must outlive the process")
    Path(database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = create_engine(url)
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _set_up(connection: Any, _: object) -> None:
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",  # first: switching to WAL waits for its turn too
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
