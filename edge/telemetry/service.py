"""Telemetry bound to the bus, the disk and the machine; and the door for whoever has something to say."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from broker.bus import Bus
from broker.service import Service, on
from edge.telemetry.core import Telemetry
from edge.telemetry.disk import StreamFiles
from edge.telemetry.events import (
    AckArrived,
    Append,
    CloudSeen,
    Discard,
    Durable,
    Event,
    Forget,
    GaveWay,
    Load,
    ReadSample,
    Recorded,
    Restored,
    SampleRead,
    Trouble,
)
from shared.errors import Unavailable
from shared.ids import is_id
from shared.messages import Reply, ReplyStatus, Sample
from shared.samples import unfit
from shared.topics import ACK, CLOUD

log = logging.getLogger(__name__)
T = TypeVar("T")

TICK_S = 0.25
WAITERS_MAX = 10_000


class Streams:
    """What programs in the agent's own process record, and what the local door hands in.

    ``trouble`` hears what needs a person (the disk refuses), and an empty text once it is over.
    """

    def __init__(
        self,
        core: Telemetry,
        bus: Bus,
        read: Callable[[], Sample],
        folder: Path,
        trouble: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._core, self._files, self._trouble = core, StreamFiles(folder), trouble
        self._disk = ThreadPoolExecutor(1, "telemetry")
        self._waiting: list[tuple[str, int, asyncio.Future[None]]] = []
        self.service: Service[Event] = Service(
            "telemetry",
            core,
            bus,
            [
                on(ACK, lambda _, ack: AckArrived(ack), node=core.node),
                on(CLOUD, lambda _, presence: CloudSeen(presence)),
            ],
            do={
                Forget: self._forget,
                Durable: lambda effect: self._answer(effect, None),
                GaveWay: lambda effect: self._answer(effect, "the disk refuses, and memory is short"),
                Trouble: self._troubled,
            },
            work={
                ReadSample: lambda _: SampleRead(read()),
                Append: lambda work: self._aside(self._files.append, work),
                Load: lambda work: self._aside(self._files.load, work),
                Discard: lambda work: self._aside(self._files.discard, work),
            },
            tick_s=TICK_S,
        )

    async def run(self) -> None:
        """Serve until cancelled. What earlier boots left is read first; a folder that can't be read is
        reported, and samples are sent from memory."""
        try:
            self.service.feed(await self._aside(lambda _: self._files.restore(), None))
        except Unavailable as error:
            self.service.feed(Restored(()))
            self._troubled(Trouble(str(error)))
        if self._files.torn_bytes:
            log.warning("%d bytes of telemetry were torn by the last crash", self._files.torn_bytes)
        try:
            await self.service.run()
        finally:
            self._disk.shutdown(wait=True, cancel_futures=True)
            self._files.shut()

    # Recording --------------------------------------------------------------------------------------

    def record(self, stream: str, values: Mapping[str, float], at_unix_s: float | None = None) -> None:
        """One sample of ``stream``: it will be durable within milliseconds, and in the cloud some day.

        Raises ``ValueError`` for what is no sample, :class:`Unavailable` when there are too many streams.
        """
        if not is_id(stream):
            raise ValueError(f"{stream[:80]!r} is no stream: 1 to 64 of a-z, 0-9 and '-'")
        when = time.time() if at_unix_s is None else float(at_unix_s)
        sample = Sample(when, {str(name): float(value) for name, value in values.items()})
        if why := unfit(sample):
            raise ValueError(f"not a sample of {stream}: {why}")
        before = self._core.produced(stream)
        self.service.feed(Recorded(stream, sample))
        if self._core.produced(stream) == before:
            raise Unavailable(f"{stream}: {self._core.limits.streams} streams are the most a device may have")

    async def recorded(
        self, stream: str, values: Mapping[str, float], at_unix_s: float | None = None
    ) -> None:
        """As :meth:`record`; returns once the sample survives a power cut. Raises :class:`Unavailable` when
        it was dropped. Bound it with a timeout: a disk that refuses is tried again and again."""
        self.record(stream, values, at_unix_s)
        if len(self._waiting) >= WAITERS_MAX:
            raise Unavailable("too many wait for the disk; the sample is recorded and not yet durable")
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((stream, self._core.produced(stream) - 1, done))
        await done

    async def answer(
        self, stream: str, values: Mapping[str, float], at_unix_s: float | None, budget_s: float
    ) -> Reply:
        """:meth:`recorded`, for a caller who is told in a reply what came of it."""
        try:
            async with asyncio.timeout(budget_s):
                await self.recorded(stream, values, at_unix_s)
        except ValueError as error:
            return Reply(correlation="", status=ReplyStatus.REFUSED, code="bad-sample", detail=str(error))
        except Unavailable as error:
            return Reply(correlation="", status=ReplyStatus.REFUSED, code="no-room", detail=str(error))
        except TimeoutError:
            detail = f"recorded, but not durable within {budget_s:g} s: the disk does not answer"
            return Reply(correlation="", status=ReplyStatus.FAILED, code="not-saved", detail=detail)
        return Reply(correlation="")

    # For the loop -----------------------------------------------------------------------------------

    async def _aside(self, do: Callable[[Any], T], work: Any) -> T:
        """On the one thread that touches the files."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, do, work)

    def _forget(self, effect: Forget) -> None:
        self._disk.submit(self._forgotten, effect)

    def _forgotten(self, effect: Forget) -> None:
        try:
            self._files.forget(effect)
        except Unavailable as error:  # it is sent again after the next boot, and known to be a duplicate
            log.warning("%s", error)

    def _answer(self, effect: Durable | GaveWay, why: str | None) -> None:
        """Tell those who wait for these samples; forget those who do not wait any more."""
        left = []
        for one in self._waiting:
            stream, sequence, done = one
            if done.done():
                continue
            if stream != effect.id.stream or not effect.first <= sequence < effect.end:
                left.append(one)
            elif why is None:
                done.set_result(None)
            else:
                done.set_exception(Unavailable(f"{stream}: {why}"))
        self._waiting = left

    def _troubled(self, effect: Trouble) -> None:
        if effect.what:
            log.error("telemetry: %s", effect.what)
        self._trouble(effect.what)
