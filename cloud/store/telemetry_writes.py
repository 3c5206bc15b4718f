"""The three statements of telemetry that decide how fast a fleet may speak, in each database's own way.

Everything here goes past SQLAlchemy to the driver, inside a transaction that SQLAlchemy began: its price for
one statement is ten times SQLite's. ``psycopg.Error`` and ``sqlite3.Error`` become :class:`StoreFailed` in
:meth:`cloud.store.database.Database.transaction`.

SQLite: one connection writes at a time (``BEGIN IMMEDIATE``), so what was read stays true. PostgreSQL: the
positions are locked in the order of their keys. A stream that has no row yet can't be locked, so it gets one
that says nothing (``first_at_unix_s`` 0): whoever else brings the same stream waits for it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

from sqlalchemy import Connection

from cloud.telemetry.store import StreamKey

KEY = ("node", "epoch", "stream")
FIELDS = (  # of a position, after its key
    "settled",
    "ahead",
    "produced",
    "stored",
    "dropped",
    "lost",
    "dead",
    "duplicates",
    "grade",
    "first_at_unix_s",
    "last_at_unix_s",
)
HELD = ("held_chunks", "held_samples")  # written as what is added
CHUNK = (
    "node",
    "stream",
    "wide",
    "at_min_unix_s",
    "epoch",
    "first_sequence",
    "end_sequence",
    "at_max_unix_s",
    "samples",
)

_SIZES = (1000, 200, 50, 10, 1)  # rows of a statement; SQLite takes 32,766 parameters

_POSITION = ", ".join((*KEY, *FIELDS))
_OF_P = ", ".join(f"p.{name}" for name in KEY + FIELDS)
_INTO_POSITIONS = f"INSERT INTO telemetry_positions ({_POSITION}, {', '.join(HELD)})"
_ON_CONFLICT = "ON CONFLICT (node, epoch, stream) DO UPDATE SET " + ", ".join(
    [f"{name} = excluded.{name}" for name in FIELDS]
    + [f"{name} = telemetry_positions.{name} + excluded.{name}" for name in HELD]
)


class Writes(Protocol):
    """What :class:`cloud.store.telemetry.SqlTelemetry` needs of a database beyond plain SQL."""

    def locked(self, connection: Connection, keys: Sequence[StreamKey]) -> Iterable[Sequence[Any]]:
        """KEY and FIELDS of each key that has a position; nobody else changes them until the commit."""
        ...

    def put_positions(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Insert or replace by key: rows of KEY, FIELDS, HELD."""
        ...

    def add_chunks(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Insert: rows of CHUNK."""
        ...


class SqliteWrites:
    """Many rows a statement, so that SQLite works on all of them while Python's other threads run.

    The driver lets go of the interpreter for each step of a statement and takes it back after, and the loop
    of a busy worker gives it back only every few milliseconds: a thousand rows one by one waited a thousand
    times for it (measured: a tenth of a second in place of ten milliseconds). A step inserts all its rows.
    """

    # CROSS JOIN: SQLite looks up each key, and not whether each position is one of them.
    _SELECT = (
        f"WITH k (node, epoch, stream) AS (VALUES {{}}) SELECT {_OF_P} "
        "FROM k CROSS JOIN telemetry_positions p "
        "ON p.node = k.node AND p.epoch = k.epoch AND p.stream = k.stream"
    )
    _PUT = f"{_INTO_POSITIONS} VALUES {{}} {_ON_CONFLICT}"
    _ADD = f"INSERT INTO telemetry_chunks ({', '.join(CHUNK)}) VALUES {{}}"

    def locked(self, connection: Connection, keys: Sequence[StreamKey]) -> Iterable[Sequence[Any]]:
        """See :class:`Writes`, as for all below."""
        rows = [(one.node, one.epoch, one.stream) for one in keys]
        return [row for cursor in _stepwise(connection, self._SELECT, rows) for row in cursor]

    def put_positions(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        deque(_stepwise(connection, self._PUT, rows), maxlen=0)

    def add_chunks(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        deque(_stepwise(connection, self._ADD, rows), maxlen=0)


def _stepwise(connection: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """Execute with as many rows at a time as a few sizes allow: prepared ones are kept by their text."""
    driver, start = _driver(connection), 0
    while left := len(rows) - start:
        size = next(size for size in _SIZES if size <= left)
        values = ", ".join([f"({', '.join('?' * len(rows[0]))})"] * size)
        yield driver.execute(statement.format(values), list(chain(*rows[start : start + size])))
        start += size


class PostgresWrites:
    """A column at a time as arrays, and COPY: a few round trips, however many rows there are."""

    _KEYS = "unnest(%b::text[], %b::bigint[], %b::text[]) AS k (node, epoch, stream)"
    _SELECT = (
        f"SELECT {_OF_P} FROM telemetry_positions p "
        f"JOIN {_KEYS} ON (p.node, p.epoch, p.stream) = (k.node, k.epoch, k.stream) "
        "ORDER BY p.node, p.epoch, p.stream FOR UPDATE OF p"
    )
    _NEW = (
        f"{_INTO_POSITIONS} SELECT node, epoch, stream, 0, '', 0, 0, 0, 0, 0, 0, '', 0, 0, 0, 0 "
        f"FROM {_KEYS} ON CONFLICT DO NOTHING"
    )
    _TYPES = (
        *("text", "bigint", "text", "bigint", "bytea"),
        *("bigint",) * 6,
        *("text", "float8", "float8", "bigint", "bigint"),
    )
    _PUT = (
        f"{_INTO_POSITIONS} SELECT * FROM unnest({', '.join(f'%b::{one}[]' for one in _TYPES)}) "
        f"{_ON_CONFLICT}"
    )
    _ADD = f"COPY telemetry_chunks ({', '.join(CHUNK)}) FROM STDIN (FORMAT BINARY)"
    _ADD_TYPES = ("varchar", "varchar", "int2", "float8", "int8", "int8", "int8", "float8", "bytea")

    def locked(self, connection: Connection, keys: Sequence[StreamKey]) -> Iterable[Sequence[Any]]:
        """See :class:`Writes`, as for all below."""
        cursor = _driver(connection).cursor()
        found = cursor.execute(self._SELECT, _columns(keys)).fetchall()
        if len(found) < len(keys):
            known = {StreamKey(*row[:3]) for row in found}
            unknown = [key for key in keys if key not in known]
            cursor.execute(self._NEW, _columns(unknown))
            found += cursor.execute(self._SELECT, _columns(unknown)).fetchall()
        return [row for row in found if row[-2] > 0]

    def put_positions(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            _driver(connection).execute(self._PUT, [list(column) for column in zip(*rows, strict=True)])

    def add_chunks(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            return
        with _driver(connection).cursor().copy(self._ADD) as copy:
            copy.set_types(self._ADD_TYPES)
            for row in rows:
                copy.write_row(row)


def _columns(keys: Sequence[StreamKey]) -> list[list[Any]]:
    return [[one.node for one in keys], [one.epoch for one in keys], [one.stream for one in keys]]


def _driver(connection: Connection) -> Any:
    """The driver's own connection, which is in the transaction."""
    return connection.connection.driver_connection
