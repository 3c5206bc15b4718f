"""``agent.data``: what programs on the device see of the replica. It works with no network.

await data.put("room/limits", {"max": 21.5})            durable here when it returns; synced when possible
data.get("room/limits")                                 what is here now, at once
async for change in data.watch("room/"): ...            every change, by whomever
await data.put("lock", "me", level=STRONG, expected=3)  in one order for the whole fleet, through the cloud
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from edge.sync.core import DeviceSync
from edge.sync.events import Answer, Changed, PutAsked, ReadAsked
from shared.entries import is_value
from shared.errors import Refused, TimedOut
from shared.lanes import DeadLetter
from shared.parcels import (
    cut,
    head_of,
    in_turns,
    is_large,
    parcel_in,
    together,
)
from shared.sync import ConsistencyLevel, Outcome, Required, Status, SyncStrategy, reported_name
from shared.versions import Entry, conflicts_of, fields_in, packed_value, value_of

CHANGES_MAX = 1024
GRACE_S = 1.0


class Change(msgspec.Struct, frozen=True):
    """One key changed. ``value``: as it was when this was noticed; None: erased. ``number`` only grows."""

    number: int
    key: str
    value: Any


class Conflict(Refused):
    """A compare-and-set came too late. ``revision``: of the key as it is."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("conflict", outcome.detail)
        self.revision = outcome.revision


def checked(outcome: Outcome) -> Outcome:
    """The outcome itself when it is good. Raises :class:`Conflict`, :class:`Refused` (it did not happen) or
    :class:`TimedOut` (indeterminate: it may still happen, and then exactly once)."""
    match outcome.status:
        case Status.OK:
            return outcome
        case Status.CONFLICT:
            raise Conflict(outcome)
        case Status.REFUSED:
            raise Refused(outcome.code or "refused", outcome.detail)
        case _:
            raise TimedOut("indeterminate", outcome.detail)


class Data:
    """One per agent. ``feed`` takes events to the core; :meth:`answered` and :meth:`changed` come back."""

    def __init__(self, core: DeviceSync, feed: Callable[[object], None]) -> None:
        self._core, self._feed = core, feed
        self._refs = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}
        self._changes: deque[Change] = deque(maxlen=CHANGES_MAX)
        self._numbers = itertools.count(1)
        self._number = 0
        self._news = asyncio.Event()

    # Read and write -----------------------------------------------------------------------------------

    def get(self, key: str) -> Any:
        """What is here now; None: nothing, or not all of it. Of a STRONG key this is a copy, perhaps old."""
        value = self._raw(key)
        parcel = parcel_in(value)
        if parcel is None:
            return value
        packed = together(key, parcel, self._raw)
        return None if packed is None or not is_value(packed) else msgspec.msgpack.decode(packed)

    def _raw(self, key: str) -> Any:
        found = self._core.read(key)
        return None if found is None else value_of(found)

    def entry(self, key: str) -> Entry | None:
        """What is here now, with everything that is known about it; None: nothing."""
        return self._core.read(key)

    async def read(self, key: str, budget_s: float = 10.0) -> Outcome:
        """A STRONG key as it is now, and its revision: asked of the cloud. Raises as :func:`checked`."""
        return await self._asked(lambda ref: ReadAsked(ref, key, budget_s), budget_s)

    async def put(
        self,
        key: str,
        value: Any,
        *,
        level: ConsistencyLevel | None = None,
        strategy: SyncStrategy | None = None,
        required: Required = Required.MAJORITY,
        expected: int = -1,
        budget_s: float = 10.0,
    ) -> Outcome:
        """Write ``value`` (what JSON can say, and bytes; None erases). Returns as the key's level promises.

        Of a map only the fields that changed are written, so that others' changes of other fields stay; one
        that is too large for a message travels in parts (:mod:`shared.parcels`) and is replaced as a whole.
        ``expected`` (STRONG): only if the key is at this revision; 0: only if it never was.
        Raises as :func:`checked`, and ``TypeError`` for what can't be packed.
        """

        async def write(name: str, value: Any, strategy: SyncStrategy | None, expected: int) -> Outcome:
            fields = {} if value is None else fields_in(value)
            return await self._asked(
                lambda ref: PutAsked(
                    ref, name, fields, _unix_ms(), level, strategy, required, expected, budget_s=budget_s
                ),
                budget_s,
            )

        whole = packed_value(value)
        if is_large(whole):
            head, parts = _cut(key, whole)
            for names in in_turns(parts):
                await asyncio.gather(*(write(name, parts[name], SyncStrategy.HYBRID, -1) for name in names))
            value = head
        return await write(key, value, strategy, expected)

    async def report(self, key: str, value: Any) -> Outcome:
        """Say how one key of the configuration really is: ``reported/{node}/{key}``."""
        return await self.put(reported_name(self._core.node, key), value, strategy=SyncStrategy.EVENT_DRIVEN)

    def desired(self, key: str) -> Any:
        """How one key of the configuration should be; None: nobody said."""
        return self.get(f"desired/{self._core.node}/{key}")

    def keys(self, prefix: str = "") -> list[str]:
        """Every key that is here."""
        names = {*self._core.journal.replica.entries, *self._core.journal.next.entries, *self._core.weak}
        ours = (name for name in names if name.startswith(prefix) and head_of(name) is None)
        return sorted(name for name in ours if self._core.read(name))

    def conflicts(self, key: str) -> dict[str, dict[str, Any]]:
        """Field -> the values that lost, by who wrote them."""
        found = self._core.read(key)
        return {
            one.field: {lost.origin: msgspec.msgpack.decode(lost.fields[one.field]) for lost in one.lost}
            for one in ([] if found is None else conflicts_of(found))
        }

    def status(self) -> dict[str, Any]:
        """Whether the cloud is there, what it has not acknowledged, what was given up."""
        core = self._core
        dead: dict[str, DeadLetter] = core.peer.lane.dead
        return {
            "connected": core.peer.lane.online,
            "keys": len(core.journal.replica.entries),
            "bytes": core.journal.replica.size_bytes,
            "unsynced": sorted(core.dirty)[:1000],
            "waiting": len(core.peer.lane.items),
            "calls": len(core.calls.waiting),
            "weak_dropped": core.weak_dropped,
            "dead_letters": {name: one.reason for name, one in dead.items()},
        }

    async def _asked(self, event: Callable[[int], object], budget_s: float) -> Outcome:
        ref = next(self._refs)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[ref] = future
        try:
            self._feed(event(ref))
            async with asyncio.timeout(budget_s + GRACE_S):
                return checked(await future)
        except TimeoutError:
            raise TimedOut("indeterminate", f"the disk has not answered within {budget_s:g} s") from None
        finally:
            del self._waiting[ref]

    # Changes ------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """Of the newest change."""
        return self._number

    def changes(self, prefix: str, after: int) -> tuple[list[Change], bool]:
        """Those after a number, and whether some before them were forgotten (look at the keys again)."""
        missed = bool(self._changes) and self._changes[0].number > after + 1
        return [one for one in self._changes if one.number > after and one.key.startswith(prefix)], missed

    async def wait(self, prefix: str, after: int, budget_s: float) -> list[Change]:
        """The changes after a number as soon as there are some; none after ``budget_s``."""
        try:
            async with asyncio.timeout(budget_s):
                while not (found := self.changes(prefix, after)[0]):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return []
        return found

    async def watch(self, prefix: str = "") -> AsyncIterator[Change]:
        """Every change from now on. A slow reader that falls ``CHANGES_MAX`` behind misses the oldest."""
        after = self._number
        while True:
            for change in await self.wait(prefix, after, 3600.0):
                after = change.number
                yield change

    def answered(self, effect: Answer) -> None:
        """The core's word on a question."""
        future = self._waiting.get(effect.ref)
        if future is not None and not future.done():
            future.set_result(effect.outcome)

    def changed(self, effect: Changed) -> None:
        """A key has a new value; of one in parts that is so when the last of them is here."""
        whole = head_of(effect.name)
        key = whole or effect.name
        in_parts, value = parcel_in(self._raw(key)) is not None, self.get(key)
        if (in_parts and value is None) or (whole is not None and not in_parts):
            return
        self._number = next(self._numbers)
        self._changes.append(Change(self._number, key, value))
        self._news.set()


def _cut(key: str, packed: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    try:
        return cut(key, packed)
    except ValueError as error:
        raise Refused("too-large", str(error)) from None


def _unix_ms() -> int:
    return int(time.time() * 1000)
