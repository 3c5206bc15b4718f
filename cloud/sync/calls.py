"""STRONG reads and writes of devices: checked, recognised when they are repeated, and put in order.

Call ──may it?──> read ──> answered when a save has confirmed that we are still the cloud
                  write ──new?──> the writer, like any other
                        └─asked before──> the answer that it had, or will have
"""

from dataclasses import dataclass

import msgspec

from cloud.sync.events import Decided
from cloud.sync.fleet import Fleet
from cloud.sync.records import SyncKind
from cloud.sync.tasks import Waiter
from cloud.sync.writer import BUDGET_S_MAX, WAITING_MAX, Put, Writer
from shared.core import Effect
from shared.entries import is_value, level_of
from shared.journal import Journal
from shared.peers import Heard
from shared.sync import (
    PUBLISH,
    RECEIVE,
    Call,
    ConsistencyLevel,
    Outcome,
    Result,
    Status,
    is_key,
    is_name,
    setting_of,
)
from shared.versions import CLOUD_ORIGIN, Entry, fields_in, value_of
from shared.wire import packed


@dataclass(slots=True)
class Calls:
    """Nothing of its own: what is known of an operation is its task, and the numbers its node has used."""

    writer: Writer

    @property
    def fleet(self) -> Fleet:
        """Who shares what."""
        return self.writer.fleet

    @property
    def journal(self) -> Journal:
        """What is durable, and what will be."""
        return self.writer.journal

    def call(self, node: str, life: int, call: Call, unix_ms: int, now: float) -> list[Effect]:
        """A device reads or writes a STRONG key."""
        problem = self._problem(node, call)
        if problem is not None:
            return [self._result(node, call, problem)]
        audit, refusal = self._gated(node, call)
        if refusal is not None:
            return [*audit, self._result(node, call, refusal)]
        return audit + self._called(node, life, call, unix_ms, now)

    def _gated(self, node: str, call: Call) -> tuple[list[Effect], Outcome | None]:
        """A read brings the value to the device, a write to the cloud."""
        reads = call.value is None and not call.erase
        reader, action = (node, PUBLISH) if reads else (CLOUD_ORIGIN, RECEIVE)
        decision = self.fleet.gate.allowed(reader, call.name, self.fleet.tag_of(call.name), action)
        audit: list[Effect] = [Decided(reader, call.name, action, decision)]
        if decision.allowed:
            return audit, None
        return audit, Outcome(status=Status.REFUSED, code="residency", detail=decision.reason)

    def _called(self, node: str, life: int, call: Call, unix_ms: int, now: float) -> list[Effect]:
        if call.value is None and not call.erase:
            self.journal.then(self._result(node, call, _read(self.journal.read(call.name))))
            return []
        task_id = f"{node}:{life}:{call.sequence}"
        budget_s = call.budget_s if 0 < call.budget_s < BUDGET_S_MAX else BUDGET_S_MAX
        waiter = Waiter(now + budget_s, node=node, sequence=call.sequence, term=self.writer.term, life=life)
        heard = self.fleet.called.setdefault(node, Heard())
        if not heard.is_new(life, call.sequence) and task_id not in self.writer.tasks:
            outcome = Outcome(status=Status.INDETERMINATE, code="too-old", detail="it was asked before")
            return [self._result(node, call, outcome)]
        self.fleet.unsaved.add(node)
        setting = setting_of(call.name)
        put = Put(
            task_id,
            node,
            call.name if setting is None else setting[2],
            {} if call.value is None else fields_in(msgspec.msgpack.decode(call.value)),
            unix_ms,
            waiter,
            kind=SyncKind.DATA if setting is None else SyncKind.CONFIG,
            level=ConsistencyLevel.STRONG,
            targets=self._callers_targets(node, call.name),
            required=call.required,
            expected=call.expected,
        )
        return self.writer.put(put, now)

    def _problem(self, node: str, call: Call) -> Outcome | None:
        setting = setting_of(call.name)
        if not (is_key(call.name) or (setting is not None and setting[:2] == ("desired", node))):
            return Outcome(status=Status.REFUSED, code="bad-key", detail=f"{call.name[:80]!r} is not a key")
        if not self.fleet.shares(node, call.name):
            return Outcome(status=Status.REFUSED, code="not-shared", detail="the key belongs to others")
        if len(self.journal.next.then) >= WAITING_MAX:
            return Outcome(status=Status.REFUSED, code="overloaded", detail="too many operations wait")
        known = self.journal.newest(call.name)
        if known is not None and level_of(known) is not ConsistencyLevel.STRONG:
            detail = f"the key is {level_of(known)}; read and write it locally"
            return Outcome(status=Status.REFUSED, code="level", detail=detail)
        if call.value is not None and not is_value(call.value):
            return Outcome(status=Status.REFUSED, code="bad-value", detail="not one MessagePack value")
        return None

    def _callers_targets(self, node: str, name: str) -> tuple[str, ...]:
        if setting_of(name) is not None:
            return (node,)
        return () if name in self.fleet.sharing else self.fleet.sharing_of_new(node, name).targets

    def _result(self, node: str, call: Call, outcome: Outcome) -> Effect:
        name = call.name if is_name(call.name) else ""
        return self.fleet.say(node, Result(call.sequence, outcome, name, self.fleet.tag_of(name)))


def _read(entry: Entry) -> Outcome:
    value = None if entry.erased else bytes(packed(value_of(entry)))
    return Outcome(status=Status.OK, revision=entry.revision, value=value)
