"""A device and the cloud's ingest with everything between them that can go wrong, one action at a time.

The cores are the real ones, and every message passes through the wire format. Work is done when the history
says so: a crash finds some of it done and some not, and what was done but not answered counts as done.
"""

import random
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cloud.telemetry.arrivals import batch_items, listed_in, orphans, report_items
from cloud.telemetry.core import Ingest, IngestLimits
from cloud.telemetry.events import Arrived, Look, LookAt, Looked, LookedAt, Reported, Store, Stored
from cloud.telemetry.memory import MemoryTelemetry
from edge.telemetry import events as e
from edge.telemetry.core import Telemetry
from edge.telemetry.limits import Limits
from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.messages import Grade, Sample, TelemetryBatch
from shared.topics import ACK, STREAMS, TELEMETRY
from shared.wire import decode, encode

NODE = "n1"
GRADES = {"alarm": Grade.CRITICAL, "room": Grade.NORMAL, "raw": Grade.BULK}
SAMPLE_BYTES = 50


@dataclass
class Disk:
    """What a power cut leaves. ``full``: nothing can be written."""

    kept: dict[e.StreamId, dict[int, Sample]] = field(default_factory=lambda: defaultdict(dict))
    pieces: dict[e.StreamId, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    gone: list[e.Kept] = field(default_factory=list)
    full: bool = False
    piece_max: int = 6

    def append(self, work: e.Append) -> e.Appended:
        if self.full:
            raise OSError("no space left on device")
        grown = []
        for lot in work.lots:
            end = lot.first + len(lot.samples)
            self.kept[lot.id].update(zip(range(lot.first, end), lot.samples, strict=True))
            pieces = self.pieces[lot.id]
            if pieces and pieces[-1][1] - pieces[-1][0] < self.piece_max:
                pieces[-1] = pieces[-1][0], end
            else:
                pieces.append((lot.first, end))
            grown.append(self.fact(lot.id, *pieces[-1]))
        return e.Appended(work.lots, tuple(grown))

    def fact(self, id: e.StreamId, first: int, end: int) -> e.Kept:
        return e.Kept(id, first, end, (end - first) * SAMPLE_BYTES)

    def load(self, work: e.Load) -> e.Loaded:
        held = self.kept[work.id]
        found = {one: held[one] for one in range(work.first, work.end) if one in held}
        return e.Loaded(work.id, work.first, work.end, found)

    def discard(self, work: e.Discard) -> e.Discarded:
        piece = work.kept
        for known in list(self.pieces[piece.id]):
            if known[0] == piece.first:
                self.pieces[piece.id].remove(known)
                self.gone.append(self.fact(piece.id, *known))
                return e.Discarded(self.gone[-1])
        return e.Discarded(self.fact(piece.id, piece.first, piece.first))

    def forget(self, effect: e.Forget) -> None:
        if effect.whole:
            self.pieces.pop(effect.id, None)
            self.gone = [one for one in self.gone if one.id != effect.id]
            return
        self.pieces[effect.id] = [one for one in self.pieces[effect.id] if one[1] > effect.until]
        self.gone = [one for one in self.gone if one.id != effect.id or one.end > effect.until]

    def restored(self) -> e.Restored:
        kept = tuple(self.fact(id, *one) for id, pieces in self.pieces.items() for one in pieces)
        return e.Restored(kept, tuple(self.gone))


class World:
    """``promised``: what the device told its programs is durable; ``said``: what it dropped."""

    def __init__(self, limits: Limits | None = None, seed: int = 0) -> None:
        self.random, self.now = random.Random(seed), 0.0
        self.limits = limits or Limits(
            batch_min=2, batch_max=4, linger_s=1.0, window=12, memory=5, unwritten=6, bytes_max=1000
        )
        self.disk, self.store = Disk(), MemoryTelemetry()
        self.epoch, self.recorded = 0, 0
        self.up: list[tuple[str, bytes]] = []
        self.down: list[tuple[str, bytes]] = []
        self.promised: set[tuple[int, str, int]] = set()
        self.boot()
        self.start_cloud()

    # The device -------------------------------------------------------------------------------------

    def boot(self) -> None:
        self.epoch += 1
        self.device = Telemetry(NODE, self.epoch, self.random, GRADES, interval_s=1e9, limits=self.limits)
        self.device.next_read = 1e9
        self.device_work: list[Any] = []
        self.feed(self.disk.restored())
        self.feed(LinkUp(False))

    def crash_device(self, done: int) -> None:
        """A power cut: the first ``done`` pieces of work that were under way reached the disk."""
        for work in self.device_work[:done]:
            with suppress(OSError):
                self._do(work)
        self.boot()

    def feed(self, event: object) -> None:
        for effect in self.device.step(event, self.now):  # type: ignore[arg-type]
            self._device_effect(effect)
        self.device.check()

    def _device_effect(self, effect: Effect) -> None:
        match effect:
            case Publish(to, message):
                self.up.append((to.name, encode(message)))
            case e.Forget():
                self.disk.forget(effect)
            case e.Durable(id, first, end):
                self.promised |= {(id.epoch, id.stream, one) for one in range(first, end)}
            case e.Trouble() | e.GaveWay() | Ignore():
                pass
            case _:
                self.device_work.append(effect)

    def record(self, stream: str) -> None:
        self.recorded += 1
        self.feed(e.Recorded(stream, Sample(float(self.recorded), {"x": float(self.recorded)})))

    def work_device(self) -> None:
        if self.device_work:
            work = self.device_work.pop(0)
            try:
                self.feed(self._do(work))
            except OSError as error:
                self.feed(Failed(work, str(error)))

    def _do(self, work: Any) -> Any:
        match work:
            case e.Append():
                return self.disk.append(work)
            case e.Load():
                return self.disk.load(work)
            case e.Discard():
                return self.disk.discard(work)
        raise AssertionError(work)

    # The cloud --------------------------------------------------------------------------------------

    def start_cloud(self) -> None:
        self.cloud = Ingest(IngestLimits(items=3, gather_s=0.0, window_max=12, window_min=4))
        self.cloud_work: list[Any] = []

    def crash_cloud(self, committed: bool) -> None:
        if committed and self.cloud_work:
            self._answer(self.cloud_work[0])
        self.start_cloud()

    def tell_cloud(self, event: object) -> None:
        for effect in self.cloud.step(event, self.now):  # type: ignore[arg-type]
            match effect:
                case Publish(to, message):
                    self.down.append((to.name, encode(message)))
                case Store() | Look() | LookAt():
                    self.cloud_work.append(effect)
        self.cloud.check()

    def work_cloud(self, fails: bool = False) -> None:
        if not self.cloud_work:
            return
        work = self.cloud_work.pop(0)
        if fails:
            self.tell_cloud(Failed(work, "the disk is full"))
        else:
            self.tell_cloud(self._answer(work))

    def _answer(self, work: Any) -> object:
        match work:
            case Store(items):
                return Stored(self.store.ingest(items))
            case Look(keys):
                found = self.store.positions(keys)
                return Looked(tuple(found[key] for key in sorted(found)))
            case LookAt(node, listed):
                return LookedAt(orphans(self.store.ledger(node), listed))
        raise AssertionError(work)

    # Between them -----------------------------------------------------------------------------------

    def deliver_up(self, place: int) -> None:
        if self.up:
            name, payload = self.up.pop(place % len(self.up))
            ids = TELEMETRY.ids(name)
            if ids is not None:
                batch: TelemetryBatch = decode(TELEMETRY, payload)
                self.tell_cloud(Arrived(batch_items(NODE, ids["stream"], batch, self.now), len(payload)))
                return
            report = decode(STREAMS, payload)
            items = report_items(NODE, report, self.now)
            self.tell_cloud(Arrived(items, len(payload)))
            self.tell_cloud(Reported(NODE, report.epoch, listed_in(items, report.epoch)))

    def deliver_down(self, place: int) -> None:
        if self.down:
            name, payload = self.down.pop(place % len(self.down))
            assert name == f"node/{NODE}/down/ack"
            self.feed(e.AckArrived(decode(ACK, payload)))

    def lose(self, place: int) -> None:
        for way in (self.up, self.down):
            if way:
                way.pop(place % len(way))

    def repeat(self, place: int) -> None:
        for way in (self.up, self.down):
            if way:
                way.append(way[place % len(way)])

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.feed(Tick())
        self.tell_cloud(Tick())

    def blink(self) -> None:
        self.feed(LinkDown())
        self.feed(LinkUp(False))

    def heal(self, rounds: int = 400) -> None:
        """Everything works from now on, and time passes until nothing moves any more."""
        self.disk.full = False
        self.blink()
        for _ in range(rounds):
            self.wait(1.0)
            for _ in range(200):
                if not (self.up or self.down or self.device_work or self.cloud_work):
                    break
                self.work_device()
                self.work_cloud()
                self.deliver_up(0)
                self.deliver_down(0)
            if self.settled():
                return

    def settled(self) -> bool:
        quiet = not (self.up or self.down or self.device_work or self.cloud_work)
        mine = all(not one.due and one.empty for one in self.device.streams.values())
        return quiet and mine and not self.store.unsettled()
