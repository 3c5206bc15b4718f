"""Ingest bound to the bus and the store.

It hears messages in one group with the other workers of the fleet (``$share/{group}/...``), whose name is a
secret that stands in the store. Messages are taken off the bus here and not by the service's own routes,
because what can't be read is kept as a dead letter, and because senders are held back (their messages stay
unacknowledged on the way) while the store is behind.
"""

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache

from broker.bus import Bus, Delivery
from broker.service import Service
from cloud.telemetry.arrivals import batch_items, letter, listed_in, orphans, report_items
from cloud.telemetry.core import Ingest
from cloud.telemetry.events import (
    Arrived,
    Event,
    Gather,
    Gathered,
    Look,
    LookAt,
    Looked,
    LookedAt,
    Reported,
    Store,
    Stored,
)
from cloud.telemetry.retention import (
    STEP,
    Keep,
    Listed,
    ListStreams,
    Policy,
    Retention,
    Retire,
    Trim,
    TrimLetters,
    Trimmed,
)
from cloud.telemetry.retention import Event as RetentionEvent
from cloud.telemetry.store import Position, StreamKey, TelemetryStore
from shared.config import Config, KeepSection, RetentionSection
from shared.errors import RemoteError
from shared.topics import STREAMS, TELEMETRY
from shared.wire import decode

TICK_S = 0.5
_TOPICS_CACHED_MAX = 16_384
STEP_S = 0.2  # between two steps of retention


class IngestWorker:
    """One worker. ``group`` empty: it is alone, on a broker that may know no shared subscriptions."""

    def __init__(
        self,
        core: Ingest,
        bus: Bus,
        store: TelemetryStore,
        *,
        group: str = "",
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._core, self._bus, self._store, self._unix_s = core, bus, store, unix_s
        prefix = f"$share/{group}/" if group else ""
        self._filters = [prefix + TELEMETRY.filter, prefix + STREAMS.filter]
        self._room: asyncio.Future[None] | None = None
        self._ids = lru_cache(_TOPICS_CACHED_MAX)(TELEMETRY.ids)
        self.service: Service[Event] = Service(
            "ingest",
            core,
            bus,
            [],
            work={Store: self._ingest, Gather: self._gather, Look: self._look, LookAt: self._look_at},
            tick_s=TICK_S,
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        subscription = self._bus.subscribe(self._filters, self._deliver)
        try:
            await self.service.run()
        finally:
            subscription.close()

    # From the bus -----------------------------------------------------------------------------------

    def _deliver(self, delivery: Delivery) -> "asyncio.Future[None] | None":
        if delivery.retained or not delivery.payload:  # happenings of long ago say nothing about now
            return None
        ids = self._ids(delivery.topic)
        if ids is not None:
            self._telemetry(ids["node"], ids["stream"], delivery.payload)
        else:
            ids = STREAMS.ids(delivery.topic)
            if ids is not None:
                self._report(ids["node"], delivery.payload)
        return self._held_back()

    def _telemetry(self, node: str, stream: str, payload: bytes) -> None:
        now = self._unix_s()
        try:
            items = batch_items(node, stream, decode(TELEMETRY, payload), now)
        except RemoteError as error:
            items = (letter(node, stream, str(error), payload, now),)
        self.service.feed(Arrived(items, len(payload)))

    def _report(self, node: str, payload: bytes) -> None:
        now = self._unix_s()
        try:
            report = decode(STREAMS, payload)
        except RemoteError as error:
            self.service.feed(Arrived((letter(node, "", str(error), payload, now),), len(payload)))
            return
        items = report_items(node, report, now)
        if items:
            self.service.feed(Arrived(items, len(payload)))
        self.service.feed(Reported(node, report.epoch, listed_in(items, report.epoch)))

    def _held_back(self) -> "asyncio.Future[None] | None":
        if not self._core.full:
            return None
        if self._room is None or self._room.done():
            self._room = asyncio.get_running_loop().create_future()
        return self._room

    # To the store -----------------------------------------------------------------------------------

    async def _ingest(self, work: Store) -> Event:
        try:
            return Stored(await asyncio.to_thread(self._store.ingest, work.items))
        finally:
            if self._room is not None and not self._room.done():
                self._room.set_result(None)

    async def _gather(self, work: Gather) -> Event:
        await asyncio.sleep(work.wait_s)
        return Gathered()

    async def _look(self, work: Look) -> Event:
        found = await asyncio.to_thread(self._store.positions, work.keys)
        return Looked(tuple(found[key] for key in sorted(found)))

    async def _look_at(self, work: LookAt) -> Event:
        return LookedAt(orphans(await asyncio.to_thread(_positions, self._store, work.node), work.listed))


def _positions(store: TelemetryStore, node: str) -> list[Position]:
    """All of a node."""
    found: list[Position] = []
    after: StreamKey | None = None
    while page := store.ledger(node, after):
        found += page
        after = page[-1].key
    return found


def retention_service(
    core: Retention, bus: Bus, store: TelemetryStore, unix_s: Callable[[], float] = time.time
) -> Service[RetentionEvent]:
    """Old samples leave the store. One process of a fleet does this."""

    async def listed(_: ListStreams) -> RetentionEvent:
        return Listed(await asyncio.to_thread(_streams, store), unix_s())

    async def trim(work: Trim) -> RetentionEvent:
        arguments = work.node, work.stream, work.before_unix_s, work.samples_max, STEP
        return Trimmed(work, await asyncio.to_thread(store.trim, *arguments))

    async def trim_letters(work: TrimLetters) -> RetentionEvent:
        return Trimmed(work, await asyncio.to_thread(store.trim_letters, work.keep, STEP))

    async def retire(work: Retire) -> RetentionEvent:
        return Trimmed(work, await asyncio.to_thread(store.retire, work.before_unix_s, STEP))

    return Service(
        "retention",
        core,
        bus,
        [],
        work={ListStreams: listed, Trim: trim, TrimLetters: trim_letters, Retire: retire},
        tick_s=STEP_S,
    )


def _streams(store: TelemetryStore) -> tuple[tuple[str, str, str], ...]:
    """Each stream of each node once, with the grade of its newest boot."""
    found: dict[tuple[str, str], str] = {}
    after: StreamKey | None = None
    while page := store.ledger("", after):
        found.update(((one.key.node, one.key.stream), one.grade) for one in page)
        after = page[-1].key
    return tuple((node, stream, grade) for (node, stream), grade in found.items())


def policy_of(section: RetentionSection) -> Policy:
    """What is kept of telemetry, as configured."""
    return Policy(
        _keep(section.default),
        {grade: _keep(one) for grade, one in section.grades.items()},
        {stream: _keep(one) for stream, one in section.streams.items()},
        section.letters,
        section.every_s,
    )


def _keep(section: KeepSection) -> Keep:
    return Keep(section.days, section.samples)


def group_of(config: Config, store: TelemetryStore) -> str:
    """The secret name that the workers of a fleet share; empty on MQTT 3.1.1, which knows no groups."""
    return store.telemetry_group() if config.broker.protocol >= 5 else ""
