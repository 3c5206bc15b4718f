"""Telemetry in the database. See :class:`cloud.telemetry.store.TelemetryStore` for what is promised.

    telemetry_positions   one row per stream of one boot: what is settled, the ledger's counts, what is held
    telemetry_chunks      one row per batch, or for some that follow each other: packed samples, found by time
    telemetry_letters     one row per message that could not be taken

One row per batch and not per sample: a row costs 5 microseconds and a few dozen bytes beside its content, so
ten thousand messages of 20 samples would be a second's work of a core one way and twenty the other. What is
asked of old samples is a range of time, and that is read in whole chunks either way.

A chunk is an *interval* of time, and an index can order only one end of it. ``wide`` says whether a chunk
spans more than ``NARROW_S``: of the others, those that touch a range begin at most that much before it; the
wide ones are few, and all that begin before the range's end are looked at. So a question about one hour reads
little more than that hour, and a clock that jumped costs only its own chunk.

Neither database proves that it reads what it wrote (SQLite never, PostgreSQL by option): behind its samples a
chunk carries a CRC-32 of all that it says, and one that does not match is told without samples, and logged.

``held_chunks`` and ``held_samples`` stand beside the counts of the ledger so that retention need not count.
"""

import logging
import secrets
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, bindparam, delete, func, insert, select, tuple_, update

from cloud.store.database import Database, Row, alone, remove, replace
from cloud.store.tables import CHUNKS, LETTERS, META, POSITIONS
from cloud.store.telemetry_writes import FIELDS, KEY, PostgresWrites, SqliteWrites, Writes
from cloud.telemetry.ledger import keys_of, settle
from cloud.telemetry.store import Chunk, Item, Letter, Outcome, Place, Position, StreamKey
from shared.ranges import Range

log = logging.getLogger(__name__)

NARROW_S = 3600.0
_GROUP = "telemetry-group"
_KEY = tuple_(*(POSITIONS.c[name] for name in KEY))
_PLACE = (CHUNKS.c.at_min_unix_s, CHUNKS.c.epoch, CHUNKS.c.first_sequence)
_POSITION = tuple(POSITIONS.c[name] for name in KEY + FIELDS)
_encode = msgspec.msgpack.Encoder().encode
_decode_ahead = msgspec.msgpack.Decoder(tuple[Range, ...]).decode
_KEYS_AT_ONCE = 500  # of one statement: a database has a limit of parameters


class SqlTelemetry:
    """See the protocol. Any number of threads and processes may use the same database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writes: Writes = PostgresWrites() if database.is_postgres else SqliteWrites()

    def telemetry_group(self) -> str:
        """See the protocol, as for all below."""
        with self._database.transaction() as connection:
            alone(connection, META)
            number = connection.scalar(select(META.c.value).where(META.c.name == _GROUP))
            if number is None:
                number = secrets.randbits(63)
                replace(connection, META, ("name",), [{"name": _GROUP, "value": number}])
            return f"{number:016x}"

    # Arrivals ---------------------------------------------------------------------------------------

    def ingest(self, items: Sequence[Item]) -> Outcome:
        with self._database.transaction() as connection:
            found = map(_position, self._writes.locked(connection, keys_of(items)))
            outcome = settle({one.key: one for one in found}, items)
            self._write(connection, outcome)
        return outcome

    def _write(self, connection: Connection, outcome: Outcome) -> None:
        chunks, samples = Counter[StreamKey](), Counter[StreamKey]()
        for chunk in outcome.chunks:
            chunks[chunk.key] += 1
            samples[chunk.key] += chunk.end - chunk.first
        rows = [(*_position_row(one), chunks[one.key], samples[one.key]) for one in outcome.positions]
        self._writes.put_positions(connection, rows)
        self._writes.add_chunks(connection, list(map(_chunk_row, outcome.chunks)))
        if outcome.letters:
            connection.execute(insert(LETTERS), list(map(_letter_row, outcome.letters)))

    def positions(self, keys: Sequence[StreamKey]) -> Mapping[StreamKey, Position]:
        found: dict[StreamKey, Position] = {}
        with self._database.snapshot() as connection:
            for wanted in _batched(keys, _KEYS_AT_ONCE):
                same = _KEY.in_([(key.node, key.epoch, key.stream) for key in wanted])
                found.update((one.key, one) for one in _positions(connection, _known().where(same)))
        return found

    # Readers ----------------------------------------------------------------------------------------

    def ledger(self, node: str = "", after: StreamKey | None = None, limit: int = 500) -> list[Position]:
        wanted = _known().order_by(*(POSITIONS.c[name] for name in KEY)).limit(limit)
        if node:
            wanted = wanted.where(POSITIONS.c.node == node)
        if after is not None:
            wanted = wanted.where((after.node, after.epoch, after.stream) < _KEY)
        with self._database.snapshot() as connection:
            return _positions(connection, wanted)

    def unsettled(self, limit: int = 10_000) -> list[Position]:
        wanted = _known().where(POSITIONS.c.settled < POSITIONS.c.produced)
        with self._database.snapshot() as connection:
            return _positions(connection, wanted.order_by(POSITIONS.c.last_at_unix_s.desc()).limit(limit))

    def chunks(
        self,
        node: str,
        stream: str,
        since_unix_s: float,
        until_unix_s: float,
        after: Place | None = None,
        limit: int = 200,
    ) -> list[Chunk]:
        touch = select(CHUNKS).where(
            CHUNKS.c.at_max_unix_s >= since_unix_s, CHUNKS.c.at_min_unix_s < until_unix_s
        )
        if after is not None:
            touch = touch.where(tuple_(*_PLACE) > (after.at_min_unix_s, after.epoch, after.first))
        narrow = touch.where(CHUNKS.c.at_min_unix_s >= since_unix_s - NARROW_S)
        with self._database.snapshot() as connection:
            return _in_order(connection, node, stream, narrow, touch, limit)

    def letters(self, node: str = "", before: int = 0, limit: int = 100) -> list[Letter]:
        wanted = select(LETTERS).order_by(LETTERS.c.number.desc()).limit(limit)
        if node:
            wanted = wanted.where(LETTERS.c.node == node)
        if before:
            wanted = wanted.where(LETTERS.c.number < before)
        with self._database.snapshot() as connection:
            return [_letter(row) for row in connection.execute(wanted).mappings()]

    # Retention --------------------------------------------------------------------------------------

    def trim(
        self, node: str, stream: str, before_unix_s: float, samples_max: int, chunks_max: int = 500
    ) -> int:
        held = select(func.sum(POSITIONS.c.held_samples)).where(
            POSITIONS.c.node == node, POSITIONS.c.stream == stream
        )
        every = select(CHUNKS).with_for_update()
        old = every.where(CHUNKS.c.at_max_unix_s < before_unix_s, CHUNKS.c.at_min_unix_s < before_unix_s)
        with self._database.transaction() as connection:
            over = int(connection.scalar(held) or 0) - samples_max if samples_max else 0
            found = _in_order(connection, node, stream, old, old, chunks_max)
            if over > 0:
                oldest = _in_order(connection, node, stream, every, every, chunks_max)
                found = sorted({_place(one): one for one in (*found, *oldest)}.values(), key=_place)
            gone = list(islice(_surplus(found, before_unix_s, over), chunks_max))
            _forget(connection, gone)
        return len(gone)

    def trim_letters(self, keep: int, limit: int = 500) -> int:
        with self._database.transaction() as connection:
            count = connection.scalar(select(func.count()).select_from(LETTERS)) or 0
            oldest = (
                select(LETTERS.c.number).order_by(LETTERS.c.number).limit(min(limit, max(0, count - keep)))
            )
            return connection.execute(delete(LETTERS).where(LETTERS.c.number.in_(oldest))).rowcount

    def retire(self, before_unix_s: float, limit: int = 500) -> int:
        other = POSITIONS.alias()
        newest = select(func.max(other.c.epoch)).where(other.c.node == POSITIONS.c.node).scalar_subquery()
        over = select(*(POSITIONS.c[name] for name in KEY)).where(
            POSITIONS.c.settled == POSITIONS.c.produced,
            POSITIONS.c.last_at_unix_s < before_unix_s,
            POSITIONS.c.first_at_unix_s > 0,
            POSITIONS.c.held_chunks == 0,
            POSITIONS.c.epoch < newest,
        )
        with self._database.transaction() as connection:
            gone = [dict(row) for row in connection.execute(_few(over, limit)).mappings()]
            remove(connection, POSITIONS, KEY, gone)
        return len(gone)


def _few(wanted: Select[Any], limit: int) -> Select[Any]:
    """So many, locked, so that none of them can come back to life before it is deleted."""
    return wanted.order_by(*(POSITIONS.c[name] for name in KEY)).limit(limit).with_for_update(of=POSITIONS)


def _known() -> Select[Any]:
    return select(*_POSITION).where(POSITIONS.c.first_at_unix_s > 0)


def _positions(connection: Connection, wanted: Select[Any]) -> list[Position]:
    return [_position(row) for row in connection.execute(wanted)]


def _in_order(
    connection: Connection, node: str, stream: str, narrow: Select[Any], wide: Select[Any], limit: int
) -> list[Chunk]:
    """The first chunks of a node's stream by place: one walk along the index for each width."""
    found = []
    for width, wanted in enumerate((narrow, wide)):
        of_it = wanted.where(CHUNKS.c.node == node, CHUNKS.c.stream == stream, CHUNKS.c.wide == width)
        rows = connection.execute(of_it.order_by(*_PLACE).limit(limit)).mappings()
        found.append([chunk for row in rows if (chunk := _chunk(row)) is not None])
    return list(islice(merge(*found, key=_place), limit))


def _surplus(found: Iterable[Chunk], before_unix_s: float, over: int) -> Iterator[Chunk]:
    """What is too old, and what is over, from the oldest on."""
    for chunk in found:
        count = chunk.end - chunk.first
        if chunk.at_max_unix_s < before_unix_s or count <= over:
            yield chunk
            over -= count
        else:
            over = 0  # what is newer than a chunk that is only partly over is not over at all


def _forget(connection: Connection, gone: Sequence[Chunk]) -> None:
    if not gone:
        return
    key = tuple(column.name for column in CHUNKS.primary_key)
    remove(connection, CHUNKS, key, [dict(zip(_CHUNK_NAMES, _chunk_row(one), strict=True)) for one in gone])
    chunks, samples = Counter[StreamKey](), Counter[StreamKey]()
    for one in gone:
        chunks[one.key] += 1
        samples[one.key] += one.end - one.first
    less = update(POSITIONS).where(*(POSITIONS.c[name] == bindparam(f"key_{name}") for name in KEY))
    less = less.values(
        held_chunks=POSITIONS.c.held_chunks - bindparam("chunks"),
        held_samples=POSITIONS.c.held_samples - bindparam("samples"),
    )
    rows = [
        {"key_node": key.node, "key_epoch": key.epoch, "key_stream": key.stream}
        | {"chunks": chunks[key], "samples": samples[key]}
        for key in sorted(chunks)
    ]
    connection.execute(less, rows)


# Rows and back --------------------------------------------------------------------------------------

_CHUNK_NAMES = tuple(column.name for column in CHUNKS.columns)
_PROOF_BYTES = 4
_NO_SAMPLES = b"\x90"
_numbers = struct.Struct(">qqqdd").pack
_place = attrgetter("at_min_unix_s", "key.epoch", "first")


def _position_row(one: Position) -> tuple[Any, ...]:
    key = one.key
    return (
        *(key.node, key.epoch, key.stream, one.settled, _encode(one.ahead), one.produced, one.stored),
        *(one.dropped, one.lost, one.dead, one.duplicates, one.grade),
        *(one.first_at_unix_s, one.last_at_unix_s),
    )


def _position(row: Sequence[Any]) -> Position:
    node, epoch, stream, settled, ahead, *counts = row
    return Position(StreamKey(node, epoch, stream), settled, _decode_ahead(ahead), *counts)


def _chunk_row(one: Chunk) -> tuple[Any, ...]:
    key, wide = one.key, one.at_max_unix_s - one.at_min_unix_s > NARROW_S
    return (
        *(key.node, key.stream, int(wide), one.at_min_unix_s, key.epoch, one.first, one.end),
        *(one.at_max_unix_s, one.samples + _proof(one)),
    )


def _proof(one: Chunk) -> bytes:
    key = one.key
    numbers = _numbers(key.epoch, one.first, one.end, one.at_min_unix_s, one.at_max_unix_s)
    return zlib.crc32(one.samples, zlib.crc32(f"{key.node}/{key.stream}".encode() + numbers)).to_bytes(4)


def _chunk(row: Mapping[Any, Any]) -> Chunk | None:
    key, packed = StreamKey(row["node"], row["epoch"], row["stream"]), row["samples"]
    ends = row["first_sequence"], row["end_sequence"], row["at_min_unix_s"], row["at_max_unix_s"]
    try:
        chunk = Chunk(key, *ends, packed[:-_PROOF_BYTES])
        if packed[-_PROOF_BYTES:] == _proof(chunk):
            return chunk
    except (struct.error, TypeError):  # SQLite has no types: a flipped bit makes a number nothing, or a text
        log.error("a stored chunk can't be read: %s, %s", key, ends)
        return None
    log.error("a stored chunk is damaged: %s, samples %d to %d", chunk.key, chunk.first, chunk.end - 1)
    return msgspec.structs.replace(chunk, samples=_NO_SAMPLES)


def _letter_row(one: Letter) -> Row:
    return {
        "node": one.node,
        "stream": one.stream,
        "epoch": one.epoch,
        "first_sequence": one.first,
        "end_sequence": one.end,
        "reason": one.reason,
        "payload": one.payload,
        "at_unix_s": one.at_unix_s,
    }


def _letter(row: Mapping[Any, Any]) -> Letter:
    return Letter(
        row["node"],
        row["stream"],
        row["reason"],
        row["payload"],
        row["at_unix_s"],
        row["epoch"],
        row["first_sequence"],
        row["end_sequence"],
        row["number"],
    )


def _batched(keys: Sequence[StreamKey], size: int) -> Iterator[Sequence[StreamKey]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))
