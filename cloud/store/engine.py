"""An open database: connected, set up to mean "durable" when it says "committed", and migrated.

SQLite runs in WAL mode with ``synchronous=FULL``: a commit that returned is on the disk, also after a power
cut. (With NORMAL, WAL's usual companion, the last commits can be lost, and we acknowledge commits to others.)

Python's driver would begin transactions by guessing at statements, and never for DDL. It is told not to, and
every transaction begins with ``BEGIN IMMEDIATE``: the ones that read before they write can't fail half-way
because another process wrote in between, and a migration happens as a whole or not at all.

PostgreSQL is spoken to through psycopg. Every session asks for ``synchronous_commit``, whatever the server's
default is, and has a limit on every wait: a lock, a statement, a peer that has silently gone, and ourselves
where we would hold a lock for ever. A connection is tried before it is used, so that the first transaction
after a restart of the server works. What reads before it writes calls :func:`cloud.store.database.alone`.
"""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from cloud.store.claim import lock_path, share_file, share_session
from cloud.store.database import StoreFailed, reason_of
from shared.errors import ConfigError

BUSY_TIMEOUT_MS = 10_000
STATEMENT_TIMEOUT_MS = 60_000
_PSYCOPG = "postgresql+psycopg"
_MIGRATION_LOCK = 0x53484F414C  # "SHOAL"; any number that is always the same
_POSTGRES = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,  # ms that what was sent may stay unacknowledged
    "application_name": "shoal",
}
_SESSION = {
    "synchronous_commit": "on",
    "lock_timeout": BUSY_TIMEOUT_MS,
    "statement_timeout": STATEMENT_TIMEOUT_MS,
    "idle_in_transaction_session_timeout": STATEMENT_TIMEOUT_MS,
}


def open_engine(url: str) -> Engine:
    """Connect and migrate. Raises :class:`ConfigError` that says what the operator can do."""
    shown = url
    try:
        parsed = make_url(url)
        shown = parsed.render_as_string(hide_password=True)
        engine = connected(parsed)
        if not _is_newest(engine):
            with engine.begin() as connection:
                migrate(connection)
    except ImportError as error:
        raise ConfigError(
            f"cloud.store = {shown!r} needs a driver that is not installed ({error}); "
            "pip install 'shoal[postgres]'"
        ) from None
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(
            f"cloud.store = {shown!r} can't be used: {error}; write sqlite:///path or postgresql://"
        ) from None
    except (OSError, DBAPIError, StoreFailed) as error:
        raise ConfigError(f"can't open the cloud's store {shown!r}: {reason_of(error)}") from error
    except CommandError as error:
        raise ConfigError(
            f"the cloud's store {shown!r} was written by another version of shoal: {error}"
        ) from None
    return engine


def _is_newest(engine: Engine) -> bool:
    """Whether nothing is to be migrated; a look, so that a busy writer does not keep anybody out."""
    with engine.connect() as connection, connection.execution_options(read_only=True).begin():
        current = MigrationContext.configure(connection).get_current_revision()
    return current == ScriptDirectory.from_config(configuration()).get_current_head()


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the tables up to a form, inside the caller's transaction. Nothing happens if they are."""
    if connection.dialect.name == "postgresql":  # one process at a time, and as long as it takes
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    command.upgrade(configuration(connection), revision)


def configuration(connection: Connection | None = None) -> Config:
    """What Alembic's commands need."""
    config = Config()
    config.set_main_option("script_location", "cloud.store:migrations")
    config.attributes["connection"] = connection
    return config


def connected(url: URL, *, shared: bool = True) -> Engine:
    """An engine, set up; nothing is read or written yet. ``shared``: see :mod:`cloud.store.claim`."""
    match url.get_backend_name():
        case "sqlite":
            return _sqlite(url, url.database, shared)
        case "postgresql":
            return _postgres(url, shared)
    raise ArgumentError("only SQLite and PostgreSQL are supported")


def _postgres(url: URL, shared: bool) -> Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername=_PSYCOPG)
    engine = create_engine(url, connect_args=_POSTGRES, pool_pre_ping=True)
    event.listen(engine, "connect", _begin_session)
    if shared:
        event.listen(engine, "connect", share_session)
    return engine


def _begin_session(connection: Any, _: object) -> None:
    for name, value in _SESSION.items():
        connection.execute(f"SET {name} = '{value}'")
    connection.commit()


def _sqlite(url: URL, database: str | None, shared: bool) -> Engine:
    if not database or database == ":memory:":
        raise ArgumentError("the store must outlive the process")
    Path(database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = create_engine(url)
    if shared:
        share_file(engine, lock_path(database))
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
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
