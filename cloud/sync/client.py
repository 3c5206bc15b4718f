"""Replicated keys for an application: ``Fleet.sync``.

await fleet.sync.put("room/limits", {"max": 21.5}, ["edge-1"], How(ConsistencyLevel.STRONG))
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from broker.ask import Asker
from shared.entries import is_value
from shared.errors import Refused
from shared.messages import Reply
from shared.parcels import cut, head_of, in_turns, is_large, parcel_in, part_names, together
from shared.sync import ConsistencyLevel, Required, SyncAsk, SyncStrategy, SyncVerb
from shared.sync_views import ConflictView, KeyView, PutResult, SyncTaskView
from shared.topics import APP_SYNC
from shared.versions import Mark, packed_value
from shared.wire import unpacked

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class How:
    """How a write is done. What is None stays as the key has it; a new key is EVENTUAL and PUSH.

    ``required``: how many targets a STRONG write waits for. ``expected`` (STRONG): only if the key is at this
    revision; 0: only if it never was. ``tag``: a packed residency tag. ``operation``: see
    :meth:`SyncClient.operation`; (0, 0): a new one.
    """

    level: ConsistencyLevel | None = None
    strategy: SyncStrategy | None = None
    required: Required = Required.ALL
    expected: int = -1
    priority: int = 5
    tag: bytes = b""
    operation: Mark = (0, 0)


_AS_EVER = How()


class SyncClient:
    """Each call raises ``Refused`` (it did not happen; code ``conflict``: a stale revision) or ``TimedOut``
    (code ``indeterminate``: it may still happen, and then exactly once; repeating it with the same
    ``operation`` is safe)."""

    def __init__(self, app: str, asker: Asker, budget_s: Callable[[], float]) -> None:
        self._app, self._asker, self._budget_s = app, asker, budget_s
        self._epoch = secrets.randbits(40) + 1
        self._sequences = itertools.count(1)

    def operation(self) -> Mark:
        """A new name for one write."""
        return self._epoch, next(self._sequences)

    async def put(
        self,
        key: str,
        value: Any,
        targets: Sequence[str] = (),
        how: How = _AS_EVER,
        *,
        config: bool = False,
        budget_s: float | None = None,
    ) -> PutResult:
        """Write a value for these nodes (none: those that have it); returns as the key's level promises.

        ``config``: the desired state of each of them. What is too large for a message travels in parts
        (:mod:`shared.parcels`). Raises ``TypeError`` for what is no value.
        """
        packed = packed_value(value)
        if is_large(packed) and not config:
            head, parts = _cut(key, packed)
            of_parts = replace(how, strategy=SyncStrategy.HYBRID, expected=-1, operation=(0, 0))
            targets = targets or await self._targets(key)
            for names in in_turns(parts):
                await asyncio.gather(
                    *(self.put(name, parts[name], targets, of_parts, budget_s=budget_s) for name in names)
                )
            packed = packed_value(head)
        reply = await self._write(SyncVerb.PUT, key, targets, how, budget_s, value=packed, config=config)
        return unpacked(reply.body, PutResult)

    async def _targets(self, key: str) -> tuple[str, ...]:
        try:
            return (await self._get(key)).targets
        except Refused:
            return ()

    async def erase(
        self,
        key: str,
        targets: Sequence[str] = (),
        how: How = _AS_EVER,
        *,
        config: bool = False,
        budget_s: float | None = None,
    ) -> PutResult:
        """Erase a key everywhere, or (``config``) of these nodes."""
        reply = await self._write(SyncVerb.ERASE, key, targets, how, budget_s, config=config)
        return unpacked(reply.body, PutResult)

    async def model(
        self, model: str, targets: Sequence[str], how: How = _AS_EVER, *, budget_s: float | None = None
    ) -> PutResult:
        """Have these nodes hold a model of the catalog; STRONG: returns when enough of them are ready."""
        reply = await self._write(SyncVerb.MODEL, model, targets, how, budget_s)
        return unpacked(reply.body, PutResult)

    async def _write(
        self,
        verb: SyncVerb,
        key: str,
        targets: Sequence[str],
        how: How,
        budget_s: float | None,
        *,
        value: bytes = b"",
        config: bool = False,
    ) -> Reply:
        return await self._ask(
            verb,
            key,
            budget_s,
            value=value,
            targets=tuple(targets),
            level=how.level,
            strategy=how.strategy,
            required=how.required,
            expected=how.expected,
            priority=how.priority,
            tag=how.tag,
            setting="desired" if config else "",
            operation=how.operation if how.operation[0] else self.operation(),
        )

    async def get(self, key: str) -> KeyView:
        """A key as the cloud has it; a STRONG one as it is now, for everybody.

        Raises ``Refused`` (``incomplete``) while parts of a large value are on their way.
        """
        found = await self._get(key)
        parcel = parcel_in(found.value)
        if parcel is None:
            return found
        pieces: dict[str, Any] = {}
        for names in in_turns(part_names(key, parcel)):
            views = await asyncio.gather(*(self._get(name) for name in names), return_exceptions=True)
            pieces.update((one.key, one.value) for one in views if isinstance(one, KeyView))
        packed = together(key, parcel, pieces.get)
        if packed is None or not is_value(packed):
            raise Refused("incomplete", f"parts of {key} are missing; they may be on their way")
        return msgspec.structs.replace(found, value=msgspec.msgpack.decode(packed))

    async def _get(self, key: str) -> KeyView:
        return unpacked((await self._ask(SyncVerb.GET, key)).body, KeyView)

    async def status(self, task_id: str) -> SyncTaskView:
        """One write, target by target."""
        return unpacked((await self._ask(SyncVerb.STATUS, task_id)).body, SyncTaskView)

    async def tasks(self) -> list[SyncTaskView]:
        """The newest writes that are on their way, or ended within the last hour."""
        return unpacked((await self._ask(SyncVerb.TASKS)).body, list[SyncTaskView])

    async def keys(self, prefix: str = "") -> list[KeyView]:
        """Every key that begins so."""
        found: list[KeyView] = []
        while page := await self._page(SyncVerb.LIST, prefix, found[-1].key if found else "", list[KeyView]):
            found += page
        return [one for one in found if head_of(one.key) is None]

    async def conflicts(self, prefix: str = "") -> list[ConflictView]:
        """Every field on which writers disagree, with the values that lost."""
        found: list[ConflictView] = []
        while page := await self._page(
            SyncVerb.CONFLICTS, prefix, found[-1].key if found else "", list[ConflictView]
        ):
            found += page
        return found

    async def _page(self, verb: SyncVerb, prefix: str, after: str, of: type[T]) -> T:
        return unpacked((await self._ask(verb, prefix, after=after)).body, of)

    async def _ask(self, verb: SyncVerb, key: str = "", budget_s: float | None = None, **how: Any) -> Reply:
        def build(correlation: str, left_s: float) -> SyncAsk:
            return SyncAsk(correlation=correlation, budget_s=left_s, verb=verb, key=key, **how)

        return await self._asker.ask(APP_SYNC.at(app=self._app), build, budget_s or self._budget_s())


def _cut(key: str, packed: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    try:
        return cut(key, packed)
    except ValueError as error:
        raise Refused("too-large", str(error)) from None
