"""The device's own writes: of its programs, and once more of what the cloud would not take as it was.

put ──STRONG──> a call to the cloud     (:mod:`edge.sync.calls`)
    ──WEAK────> memory, and the broker once
    ──EVENTUAL> journal ──Save──> Saved ──> Answer, and the lane to the cloud
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from edge.sync.events import Answer, Changed, PutAsked, ReadAsked
from shared.core import Effect, Ignore
from shared.entries import level_of, strategy_of, traits_of
from shared.sync import (
    ENTRY_BYTES_MAX,
    VALUE_BYTES_MAX,
    Call,
    ConsistencyLevel,
    Outcome,
    Push,
    Status,
    SyncStrategy,
    is_key,
    setting_of,
)
from shared.versions import Entry, fields_of, packed_entry, packed_value, written

if TYPE_CHECKING:
    from edge.sync.core import DeviceSync

KEYS_MAX = 10_000
BYTES_MAX = 64 << 20
WAITING_MAX = 10_000
RESTAMPS_MAX = 3


@dataclass(slots=True)
class Writer:
    """Turns what a program asks into changes of the journal, and into what is said to the cloud."""

    core: "DeviceSync"

    def put(self, event: PutAsked, now: float) -> list[Effect]:
        """A write, as the key's level asks for it; or why it is not done."""
        core = self.core
        code, detail = self._refusal(event)
        if code:
            return [Answer(event.ref, Outcome(status=Status.REFUSED, code=code, detail=detail))]
        before = core.weak.get(event.name) or core.journal.read(event.name)
        level = event.level or level_of(before)
        if level is ConsistencyLevel.STRONG:
            return self._call(event, now)
        if level is ConsistencyLevel.WEAK:
            return self._put_weak(event)
        return self._put_here(event, before)

    def _refusal(self, event: PutAsked) -> tuple[str, str]:
        """Why a write is not done at all."""
        core = self.core
        setting = setting_of(event.name)
        if not (is_key(event.name) or (setting is not None and setting[1] == core.node)):
            return (
                "bad-key",
                f"{event.name[:80]!r} is not a key: a-z, 0-9 and . _ / -, not beginning reserved",
            )
        known = core.weak.get(event.name) or core.journal.newest(event.name)
        if known is not None and event.level not in (None, level_of(known)):
            return "level", f"the key is {level_of(known)}; a key keeps the level that it was made with"
        size = sum(map(len, event.fields.values()))
        if size > VALUE_BYTES_MAX:
            return "too-large", f"{size} bytes; the limit is {VALUE_BYTES_MAX}"
        replica = core.journal.replica
        full = len(replica.entries) >= KEYS_MAX or replica.size_bytes + size > BYTES_MAX
        if (full and known is None) or len(core.journal.next.then) >= WAITING_MAX:
            return "no-room", f"{len(replica.entries)} keys, {replica.size_bytes} bytes; erase some"
        return ("", "") if core.is_restored else ("starting", "the replica is still being read")

    def _put_here(self, event: PutAsked, before: Entry) -> list[Effect]:
        core = self.core
        stamp = core.clock.tick(event.unix_ms - core.ahead_ms)
        core.sequence += 1
        after = written(before, (core.node, core.epoch, core.sequence), stamp, event.fields)
        strategy = event.strategy or strategy_of(before)
        if not before.traits[1]:
            traits = traits_of(ConsistencyLevel.EVENTUAL, strategy, 0)  # whatever the cloud says counts more
            after = msgspec.structs.replace(after, traits=traits)
        if len(packed_entry(after)) > ENTRY_BYTES_MAX:
            detail = "the value with its conflicts is over the limit; erase the key first"
            return [Answer(event.ref, Outcome(status=Status.REFUSED, code="too-large", detail=detail))]
        if after is not before:
            self._dirtied(after)
        core.journal.then(Answer(event.ref, Outcome(status=Status.OK)))
        return []

    def _dirtied(self, entry: Entry) -> None:
        core = self.core
        core.dirty.add(entry.name)
        core.cleaned.discard(entry.name)
        core.journal.write(entry, core.node)

    def _put_weak(self, event: PutAsked) -> list[Effect]:
        core = self.core
        stamp = core.clock.tick(event.unix_ms - core.ahead_ms)
        core.sequence += 1
        traits = traits_of(ConsistencyLevel.WEAK, event.strategy or SyncStrategy.PUSH, stamp)
        dot = (core.node, core.epoch, core.sequence)
        entry = msgspec.structs.replace(written(Entry(event.name), dot, stamp, event.fields), traits=traits)
        core.keep_weak(entry)
        answer = Answer(event.ref, Outcome(status=Status.OK))
        if not core.peer.lane.online:
            core.weak_dropped += 1
            return [answer, Changed(event.name)]
        return [core.say(Push(0, (entry,)), qos=0), answer, Changed(event.name)]

    def _call(self, event: PutAsked, now: float) -> list[Effect]:
        core = self.core
        packed = _whole(event.fields)
        call = Call(
            core.calls.next_sequence(),
            event.name,
            event.budget_s,
            value=packed,
            erase=packed is None,
            expected=event.expected,
            required=event.required,
        )
        return core.calls.add(event.ref, call, now)

    def read(self, event: ReadAsked, now: float) -> list[Effect]:
        """A STRONG key as it is now: only the cloud can say."""
        core = self.core
        return core.calls.add(event.ref, Call(core.calls.next_sequence(), event.name, event.budget_s), now)

    # Refused, or to be fetched anew -------------------------------------------------------------------

    def restamp(self, name: str, unix_ms: int, *, cloud_stamp: int = 0, alone: bool = False) -> bool:
        """Write our own value once more, in a form that the cloud takes. False: it was tried often enough.

        ``cloud_stamp``: our clock was ahead of this. ``alone``: as if nobody else had ever written it.
        """
        core = self.core
        entry = core.journal.newest(name)
        if entry is None or core.restamped.get(name, 0) >= RESTAMPS_MAX:
            return False
        core.restamped[name] = core.restamped.get(name, 0) + 1
        if cloud_stamp:
            core.clock.set_back(cloud_stamp)
        stamp = core.clock.tick(unix_ms - core.ahead_ms)
        core.sequence += 1
        before = Entry(name) if alone else entry
        fields = fields_of(entry)
        after = written(before, (core.node, core.epoch, core.sequence), stamp, fields, anew=True)
        traits = (0, "", "") if alone else entry.traits
        self._dirtied(msgspec.structs.replace(after, traits=traits))
        return True

    def reset(self, cleared: int, unix_ms: int) -> list[Effect]:
        """Keep only what the cloud has not acknowledged; the next comparison brings the rest."""
        core = self.core
        if cleared <= core.cleared:
            return [Ignore("a second word of the same reset")]
        core.cleared = cleared
        for name in list(core.journal.replica.entries):
            if name not in core.dirty:
                core.journal.forget(name)
            else:
                self.restamp(name, unix_ms, alone=True)
        core.journal.next.more = True
        core.compare_at = 0.0
        return []


def _whole(fields: Mapping[str, bytes]) -> bytes | None:
    """The packed value of which these are the fields; None: there is none."""
    if not fields:
        return None
    if set(fields) == {""}:
        return fields[""]
    return packed_value({name: msgspec.msgpack.decode(one) for name, one in fields.items()})
