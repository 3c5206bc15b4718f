"""Transactions, and the few statements that every table needs."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, Table, and_, bindparam, delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from shared.errors import Unavailable

Row = dict[str, Any]

# What reading raises on bytes that nobody wrote.
DAMAGE = (msgspec.MsgspecError, json.JSONDecodeError, UnicodeDecodeError, RecursionError)

_SNAPSHOT: dict[str, dict[str, Any]] = {
    "sqlite": {"read_only": True},  # ours: see cloud.store.engine
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}


class StoreFailed(Unavailable):
    """The database refused: full, locked or unreachable. Nothing of the transaction is known to be stored."""


class StoreDamaged(StoreFailed):
    """A row can't be read: the database returned what nobody wrote. Restore a backup (``shoal restore``)."""


class Database:
    """An engine whose failures are typed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # What the driver raises when it is used directly, past SQLAlchemy: for COPY.
        self._driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error

    @property
    def is_postgres(self) -> bool:
        """Which of the two it is, for the few statements that differ."""
        return self._engine.dialect.name == "postgresql"

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All or nothing; durable when the block has ended. Raises :class:`StoreFailed`."""
        with self._typed_errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Everything read inside is of one moment. Blocks no writer, and is not blocked by one."""
        with (
            self._typed_errors(),
            self._engine.connect() as connection,
            connection.execution_options(**_SNAPSHOT[connection.dialect.name]).begin(),
        ):
            yield connection

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise StoreFailed(f"the cloud's store failed: {reason_of(error)}") from error
        except (self._driver_error, OverflowError) as error:  # OverflowError: sqlite3, more than 64 bits
            raise StoreFailed(f"the cloud's store failed: {reason_of(error)}") from error
        except DAMAGE as error:
            raise StoreDamaged(f"a row of the cloud's store can't be read: {error}") from error
        except NoConnection as error:
            raise StoreFailed(f"the cloud's store is overloaded: {error}") from error

    def rows(self, table: Table, *order: ColumnElement[Any]) -> list[Row]:
        """The whole table."""
        with self.snapshot() as connection:
            return rows(connection, table, *order)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()


def reason_of(error: Exception) -> str:
    """What the driver said, in one line: PostgreSQL's messages have several."""
    return " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())


def rows(connection: Connection, table: Table, *order: ColumnElement[Any]) -> list[Row]:
    """The whole table, within a transaction."""
    return [dict(row) for row in connection.execute(select(table).order_by(*order)).mappings()]


def alone(connection: Connection, table: Table) -> None:
    """From here to the end of the transaction nobody else writes the table, so what is read in it stays true.

    In SQLite that is so from the transaction's begin.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE")


def together(connection: Connection, table: Table) -> None:
    """From here to the end of the transaction nobody is :func:`alone` with the table.

    To be called before the table is read or written: a lock that grows can meet one that waits for it.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {table.name} IN ROW EXCLUSIVE MODE")


def replace(connection: Connection, table: Table, key: tuple[str, ...], new: list[Row]) -> None:
    """Put ``new`` in place of the rows with the same ``key`` columns; all rows have the same columns."""
    if {column.name for column in table.primary_key} == set(key):
        upsert(connection, table, new)
        return
    alone(connection, table)  # two that replace the same row would otherwise both insert theirs
    remove(connection, table, key, new)
    if new:
        connection.execute(insert(table), new)


def upsert(connection: Connection, table: Table, new: list[Row], keep: tuple[str, ...] = ()) -> None:
    """Insert; where the primary key is there, set every column that was given, except ``keep``."""
    if not new:
        return
    build = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = build(table)
    key = [column.name for column in table.primary_key]
    news = {name: statement.excluded[name] for name in new[0] if name not in (*key, *keep)}
    connection.execute(statement.on_conflict_do_update(index_elements=key, set_=news), new)


def remove(connection: Connection, table: Table, key: tuple[str, ...], old: Iterable[Row]) -> None:
    """Delete the rows whose ``key`` columns are those of ``old``; they need not exist."""
    same = and_(*(table.c[name] == bindparam(f"key_{name}") for name in key))
    keys = [{f"key_{name}": row[name] for name in key} for row in old]
    if keys:
        connection.execute(delete(table).where(same), keys)
