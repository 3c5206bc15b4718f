"""Transactions, and the few statements that every table needs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Table, and_, bindparam, delete, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from shared.errors import Unavailable

Row = dict[str, Any]


class StoreFailed(Unavailable):
    """The database refused: full, locked or unreachable. Nothing of the transaction is known to be stored."""


class Database:
    """An engine whose failures are typed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All or nothing; durable when the block has ended. Raises :class:`StoreFailed`."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise StoreFailed(f"the cloud's store failed: {error.orig}") from error
        except NoConnection as error:
            raise StoreFailed(f"the cloud's store is overloaded: {error}") from error

    def rows(self, table: Table, *order: ColumnElement[Any]) -> list[Row]:
        """The whole table."""
        with self.transaction() as connection:
            return rows(connection, table, *order)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()


def rows(connection: Connection, table: Table, *order: ColumnElement[Any]) -> list[Row]:
    """The whole table, within a transaction."""
    return [dict(row) for row in connection.execute(select(table).order_by(*order)).mappings()]


def replace(connection: Connection, table: Table, key: tuple[str, ...], new: list[Row]) -> None:
    """Delete and insert: the upsert that every database understands."""
    remove(connection, table, key, new)
    if new:
        connection.execute(insert(table), new)


def remove(connection: Connection, table: Table, key: tuple[str, ...], old: Iterable[Row]) -> None:
    """Delete the rows whose ``key`` columns are those of ``old``; they need not exist."""
    same = and_(*(table.c[name] == bindparam(f"key_{name}") for name in key))
    keys = [{f"key_{name}": row[name] for name in key} for row in old]
    if keys:
        connection.execute(delete(table).where(same), keys)
