"""Is an entry that came over the network one that we can live with? Everything from there is hostile."""

import msgspec

from shared.ids import is_id
from shared.sync import ENTRY_BYTES_MAX, LEVEL_ORDER, ConsistencyLevel, SyncStrategy, is_name
from shared.versions import CLOUD_ORIGIN, FIELDS_MAX, Entry, Write, fields_in, packed_entry, seen

WRITES_MAX = 512
STAMP_MAX = 1 << 62
MARK_MAX = 1 << 53
_LEVELS = frozenset(level.value for level in ConsistencyLevel)
_STRATEGIES = frozenset(strategy.value for strategy in SyncStrategy)


def traits_of(level: ConsistencyLevel, strategy: SyncStrategy, stamp: int) -> tuple[int, str, str]:
    """Level and strategy, as an entry carries them."""
    return stamp, level.value, strategy.value


def level_of(entry: Entry) -> ConsistencyLevel:
    """What was promised to whoever writes it."""
    return ConsistencyLevel(entry.traits[1]) if entry.traits[1] else ConsistencyLevel.EVENTUAL


def strategy_of(entry: Entry) -> SyncStrategy:
    """Who moves it, and when."""
    return SyncStrategy(entry.traits[2]) if entry.traits[2] else SyncStrategy.PUSH


def stricter(one: ConsistencyLevel, other: ConsistencyLevel) -> bool:
    """Whether ``one`` promises more."""
    return LEVEL_ORDER.index(one) > LEVEL_ORDER.index(other)


def unsound(entry: Entry) -> str:
    """What is wrong with an entry in itself; empty: nothing."""
    if not is_name(entry.name):
        return "its name is none"
    if entry.traits[1] not in (_LEVELS | {""}) or entry.traits[2] not in (_STRATEGIES | {""}):
        return "no such level or strategy"
    if len(entry.writes) > WRITES_MAX or len(entry.vector) > WRITES_MAX:
        return f"more than {WRITES_MAX} writers"
    if not 0 <= entry.traits[0] < STAMP_MAX or not 0 <= entry.revision < MARK_MAX:
        return "numbers out of range"
    if any(not _is_origin(origin) or not _is_mark(*mark) for origin, mark in entry.vector.items()):
        return "its vector names what can't write"
    problem = next(filter(None, (_unsound_write(entry, one) for one in entry.writes)), "")
    if problem:
        return problem
    size = len(packed_entry(entry))
    return f"{size} bytes; the limit is {ENTRY_BYTES_MAX}" if size > ENTRY_BYTES_MAX else ""


def _unsound_write(entry: Entry, write: Write) -> str:
    if not seen(entry.vector, write.origin, write.mark):
        return "it holds a write that it has not seen"
    if not 0 <= write.stamp < STAMP_MAX:
        return "numbers out of range"
    if not 0 < len(write.fields) <= FIELDS_MAX:
        return f"a write of {len(write.fields)} fields"
    return "" if all(map(is_value, write.fields.values())) else "a value that is not MessagePack"


def is_value(packed: bytes) -> bool:
    """Whether these bytes are one value, which can be shown and packed again."""
    try:
        fields_in(msgspec.msgpack.decode(packed))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, OverflowError):
        return False
    return True


def _is_origin(text: str) -> bool:
    return text == CLOUD_ORIGIN or is_id(text)


def _is_mark(epoch: int, sequence: int) -> bool:
    return 0 <= epoch < MARK_MAX and 0 <= sequence < MARK_MAX
