"""Questions about telemetry, bound to the bus and the store."""

import asyncio

from broker.bus import Bus
from broker.service import Service, on
from cloud.history.core import AskArrived, Event, Found, History, Read
from cloud.history.query import series
from cloud.telemetry.ledger import missing
from cloud.telemetry.store import Position, StreamKey, TelemetryStore
from shared.ranges import size
from shared.telemetry import (
    LedgerPage,
    LedgerRow,
    LettersPage,
    LetterView,
    Series,
    TelemetryAsk,
    TelemetryKind,
)
from shared.topics import APP_TELEMETRY
from shared.wire import packed

FOREVER_UNIX_S = 1e12
MISSING_SHOWN = 20


def history_service(core: History, bus: Bus, store: TelemetryStore) -> Service[Event]:
    """Questions of every application about telemetry."""

    async def read(work: Read) -> Event:
        body = await asyncio.to_thread(answer, store, work.ask)
        return Found(work.app, work.ask.correlation, packed(body))

    return Service(
        "history",
        core,
        bus,
        [on(APP_TELEMETRY, lambda ids, ask: AskArrived(ids["app"], ask))],
        work={Read: read},
    )


def answer(store: TelemetryStore, ask: TelemetryAsk) -> Series | LedgerPage | LettersPage:
    """What a sensible question has for an answer. Blocks."""
    if ask.kind is TelemetryKind.LEDGER:
        return _ledger(store, ask)
    if ask.kind is TelemetryKind.LETTERS:
        return _letters(store, ask)
    until = ask.until_unix_s or FOREVER_UNIX_S
    return series(store, ask.node, ask.stream, ask.since_unix_s, until, ask.every_s, ask.limit)


def _ledger(store: TelemetryStore, ask: TelemetryAsk) -> LedgerPage:
    rows = store.ledger(ask.node, key_of(ask.after), ask.limit)
    more = name_of(rows[-1].key) if len(rows) == ask.limit else ""
    return LedgerPage(rows=tuple(map(row_of, rows)), next=more)


def _letters(store: TelemetryStore, ask: TelemetryAsk) -> LettersPage:
    before = int(ask.after) if ask.after.isdecimal() else 0
    rows = [
        LetterView(
            number=one.number,
            node=one.node,
            stream=one.stream,
            reason=one.reason,
            at_unix_s=one.at_unix_s,
            payload=one.payload,
        )
        for one in store.letters(ask.node, before, min(ask.limit, 200))
    ]
    return LettersPage(rows=tuple(rows), next=str(rows[-1].number) if len(rows) == ask.limit else "")


def row_of(position: Position) -> LedgerRow:
    """A position as a person reads it."""
    key, gaps = position.key, missing(position)
    return LedgerRow(
        node=key.node,
        epoch=key.epoch,
        stream=key.stream,
        grade=position.grade,
        numbered=key.epoch > 0,
        exact=key.epoch > 0 and not gaps,
        produced=position.produced,
        stored=position.stored,
        dropped=position.dropped,
        lost=position.lost,
        dead=position.dead,
        pending=size(gaps),
        duplicates=position.duplicates,
        missing=gaps[:MISSING_SHOWN],
        last_at_unix_s=position.last_at_unix_s,
    )


def name_of(key: StreamKey) -> str:
    """A row of the ledger as text, for paging."""
    return f"{key.node}/{key.epoch}/{key.stream}"


def key_of(name: str) -> StreamKey | None:
    """The other way; None for what is no name."""
    node, _, rest = name.partition("/")
    epoch, _, stream = rest.partition("/")
    return StreamKey(node, int(epoch), stream) if epoch.isdecimal() and stream else None
