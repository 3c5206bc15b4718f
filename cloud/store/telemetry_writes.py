"""The three statements of telemetry that decide how fast a fleet may speak, in each database's own way.

Everything here goes past SQLAlchemy to the driver, inside a transaction that SQLAlchemy began: its price for
one statement is ten times SQLite's. ``psycopg.Error`` and ``sqlite3.Error`` become :class:`StoreFailed` in
:meth:`cloud.store.database.Database.transaction`.

SQLite: one connection writes at a time (``BEGIN IMMEDIATE``), so what was read stays true. PostgreSQL: the
positions are locked in the order of their keys. A stream that has no row yet can't be locked, so it gets one
that says nothing (``first_at_unix_s`` 0): whoever else brings the same stream waits for it.
"""

from collections.abc import Iterable, Sequence
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

_POSITION = ", ".join((*KEY, *FIELDS))
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
    """Prepared statements, row by row: there is no round trip to save."""

    _SELECT = f"SELECT {_POSITION} FROM telemetry_positions WHERE node = ? AND epoch = ? AND stream = ?"
    _PUT = f"{_INTO_POSITIONS} VALUES ({', '.join('?' * len(KEY + FIELDS + HELD))}) {_ON_CONFLICT}"
    _ADD = f"INSERT INTO telemetry_chunks ({', '.join(CHUNK)}) VALUES ({', '.join('?' * len(CHUNK))})"

    def locked(self, connection: Connection, keys: Sequence[StreamKey]) -> Iterable[Sequence[Any]]:
        """See :class:`Writes`, as for all below."""
        cursor = _driver(connection).cursor()
        found = (cursor.execute(self._SELECT, (one.node, one.epoch, one.stream)).fetchone() for one in keys)
        return [row for row in found if row is not None]

    def put_positions(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        _driver(connection).executemany(self._PUT, rows)

    def add_chunks(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        _driver(connection).executemany(self._ADD, rows)


class PostgresWrites:
    """A column at a time as arrays, and COPY: a few round trips, however many rows there are."""

    _KEYS = "unnest(%b::text[], %b::bigint[], %b::text[]) AS k (node, epoch, stream)"
    _SELECT = (
        f"SELECT {', '.join(f'p.{name}' for name in KEY + FIELDS)} FROM telemetry_positions p "
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
