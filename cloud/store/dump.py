"""Tables as bytes and back, the same bytes whichever database they came from.

    block = length (4 bytes, big endian), MessagePack
    table = block of column names, blocks of at most 500 rows

Columns are sorted by name and rows by primary key, text by code points, so that the digest of a table's bytes
is the digest of its content: equal for SQLite and PostgreSQL, before a backup and after a restore.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Identity, Integer, String, Table, collate, insert, select

from cloud.store.database import Row
from shared.errors import Unreadable

ROWS = 500
BLOCK_BYTES_MAX = 512 << 20
_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_names = msgspec.msgpack.Decoder(list[str])
_rows = msgspec.msgpack.Decoder(list[list[Any]])


def table_bytes(connection: Connection, table: Table) -> Iterator[tuple[int, bytes]]:
    """The blocks of a table, each with its number of rows."""
    columns = sorted(table.columns, key=lambda column: column.name)
    yield 0, _block([str(column.name) for column in columns])
    wanted = select(*columns).order_by(*_order(connection, table))
    for rows in connection.execute(wanted, execution_options={"yield_per": ROWS}).partitions():
        yield len(rows), _block([list(row) for row in rows])


def load_table(connection: Connection, table: Table, read: Callable[[int], bytes]) -> None:
    """Insert what :func:`table_bytes` wrote. Raises :class:`Unreadable`."""
    try:
        names = _names.decode(_read_block(read))
        if set(names) != {column.name for column in table.columns}:
            raise Unreadable(f"the columns of {table.name} are not those of its revision")
        while block := _read_block(read):
            rows: list[Row] = [dict(zip(names, row, strict=True)) for row in _rows.decode(block)]
            connection.execute(insert(table), rows)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Unreadable(f"{table.name}: {error}") from None
    _count_on(connection, table)


def _order(connection: Connection, table: Table) -> Iterator[ColumnElement[Any]]:
    key = list(table.primary_key)
    assert key, f"{table.name} has no primary key"
    for column in key:
        as_text = isinstance(column.type, String) and connection.dialect.name == "postgresql"
        yield collate(column, "C") if as_text else column


def _block(value: object) -> bytes:
    content = _encode(value)
    return len(content).to_bytes(4, "big") + content


def _read_block(read: Callable[[int], bytes]) -> bytes:
    length = int.from_bytes(read(4), "big")
    if length > BLOCK_BYTES_MAX:
        raise Unreadable(f"a block of {length} bytes; the limit is {BLOCK_BYTES_MAX}")
    content = read(length)
    if len(content) < length:
        raise Unreadable("it ends in the middle of a block")
    return content


def _count_on(connection: Connection, table: Table) -> None:
    """PostgreSQL numbers new rows from a counter that knows nothing of rows with a given number."""
    key = list(table.primary_key)
    if connection.dialect.name != "postgresql" or len(key) != 1 or not isinstance(key[0].type, Integer):
        return
    if key[0].server_default is None or isinstance(key[0].server_default, Identity):
        return
    name, column = table.name, key[0].name
    connection.exec_driver_sql(
        f"SELECT setval(pg_get_serial_sequence('{name}', '{column}'), max({column})) FROM {name}"
    )
