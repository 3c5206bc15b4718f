"""The cloud's sync core, told as transcripts."""

import msgspec

from cloud.facts import NodeChanged, NodeFact, NodeStatus
from cloud.sync.core import Sync
from cloud.sync.events import Asked, Decided, Fenced, Load, MessageHeard, Restored, Save, Saved
from shared.core import Failed, LinkDown, LinkUp, Tick
from shared.sync import (
    Ack,
    Call,
    ConsistencyLevel,
    Digest,
    Push,
    Required,
    SyncAsk,
    SyncMessage,
    SyncStrategy,
    SyncVerb,
)
from shared.versions import Entry, fields_in, written
from tests.transcript import Transcript, shown

NOW_MS = 1_800_000_000_000
STRONG, EVENT = ConsistencyLevel.STRONG, SyncStrategy.EVENT_DRIVEN


def show(thing: object) -> str:
    """The gate's answers are another story; an entry is told by what a person would see."""
    if isinstance(thing, Decided):
        return f"Decided({thing.action} {thing.name} for {thing.node})"
    if isinstance(thing, Save):
        what = [f"{one.entry.name}@{one.entry.revision}" for one in thing.records]
        what += [f"task {one.task_id} {one.status}" for one in thing.tasks]
        what += [f"forget {name}" for name in thing.forgotten]
        return f"Save({', '.join(what) or 'nothing: is the term still ours?'})"
    return shown(thing)


def story(name: str) -> Transcript:
    return Transcript(f"sync/{name}", Sync(5, lambda: 0.5), show)


def ready(name: str, *records: object) -> Transcript:
    told = story(name).at(0.0, Tick(), Restored(*records), LinkUp(False))
    for node in ("n1", "n2"):
        told.at(0.0, hello(node))
    return told


def hello(node: str) -> MessageHeard:
    return said(node, Digest({}, b"", 0, asking=False))


def said(node: str, part: object, life: int = 1) -> MessageHeard:
    return MessageHeard(node, SyncMessage(life=life, part=part), NOW_MS)


def asked(correlation: str, verb: SyncVerb = SyncVerb.PUT, key: str = "k", **how: object) -> Asked:
    if "value" in how:
        how["value"] = msgspec.msgpack.encode(how["value"])
    ask = SyncAsk(correlation=correlation, budget_s=how.pop("budget_s", 5.0), verb=verb, key=key, **how)
    return Asked("app", ask, NOW_MS)


def put(correlation: str, value: object, *targets: str, **how: object) -> Asked:
    return asked(correlation, value=value, targets=targets, level=STRONG, strategy=EVENT, **how)


def entry(value: object, sequence: int) -> Entry:
    return written(Entry("mine"), ("n1", 1, sequence), NOW_MS << 16, fields_in(value))


def test_a_strong_write_is_journaled_then_sent_then_acknowledged_then_answered():
    told = ready("strong-write")
    told.at(1.0, put("c1", 1, "n1", "n2"))
    told.at(1.1, Saved())
    told.at(1.2, said("n1", Ack(1)))
    told.at(1.3, said("n2", Ack(1)))
    told.at(2.0, Tick(), Saved())
    told.matches()


def test_a_majority_that_comes_too_late_finds_an_indeterminate_write_which_lands():
    told = ready("strong-write-too-late")
    told.at(1.0, put("c1", 1, "n1", "n2", required=Required.ALL, budget_s=3.0))
    told.at(1.1, Saved())
    told.at(1.2, said("n1", Ack(1)))
    told.at(4.0, Tick(), Saved())
    told.at(5.0, NodeChanged(NodeFact("n2", 1, NodeStatus.OFFLINE)))
    told.at(30.0, said("n2", Digest({}, b"", 0)))
    told.at(30.1, said("n2", Ack(2)))
    told.at(31.0, Tick(), Saved())
    told.matches()


def test_a_read_waits_until_the_term_is_confirmed():
    told = ready("strong-read")
    told.at(1.0, put("c1", 1, "n1"))
    told.at(1.1, asked("c2", SyncVerb.GET))
    told.at(1.2, Saved())
    told.at(1.3, Saved())
    told.at(2.0, said("n1", Call(1, "k", 5.0)))
    told.at(2.1, Saved())
    told.matches()


def test_a_cloud_whose_term_is_over_falls_silent():
    told = ready("fenced")
    told.at(1.0, put("c1", 1, "n1", "n2"))
    told.at(1.1, Fenced(6))
    told.at(2.0, asked("c2", SyncVerb.GET), said("n1", Ack(1)), said("n1", Push(1, (entry(1, 1),))))
    told.at(7.0, Tick())
    told.matches()


def test_a_save_that_fails_is_tried_again_and_the_application_learns_that_nobody_knows():
    told = ready("failed-save")
    told.at(1.0, put("c1", 1, "n1", budget_s=2.0))
    told.at(1.1, Failed(Load(), "not what is under way"))
    told.at(1.2, Failed(Save(5), "disk full"))
    told.at(2.0, Tick())
    told.at(2.1, Failed(Save(5), "disk full"))
    told.at(3.5, Tick(), Saved())
    told.at(4.0, said("n1", Ack(1)))
    told.matches()


def test_a_push_of_a_device_is_acknowledged_once_it_is_durable_and_goes_to_the_others():
    told = ready("device-write")
    told.at(1.0, said("n1", Push(1, (entry({"a": 1}, 1),))))
    told.at(1.1, said("n1", Push(1, (entry({"a": 1}, 1),))))
    told.at(1.2, Saved())
    told.at(1.3, Saved())
    told.at(2.0, asked("c1", key="mine", value={"a": 1, "b": 2}, targets=("n2",)))
    told.at(2.1, Saved())
    told.at(2.5, Tick())
    told.matches()


def test_what_a_device_may_not_write_is_refused_and_says_why():
    told = ready("refusals")
    told.at(1.0, put("c1", 1, "n2"), Saved())
    foreign = written(Entry("new"), ("n2", 1, 1), 1, fields_in(1))
    strong = written(Entry("k"), ("n1", 1, 1), 1, fields_in(2))
    ahead = written(Entry("late"), ("n1", 1, 1), (NOW_MS + 100_000) << 16, fields_in(1))
    told.at(2.0, said("n1", Push(1, (foreign, strong, ahead, Entry("Bad Name")))), Saved())
    told.at(3.0, said("n2", Push(1, (strong,))), Saved())
    told.at(4.0, said("n1", Call(1, "k", 5.0, value=b"\x01")))
    told.at(5.0, said("n1", Push(2, (foreign,)), life=0))
    told.matches()


def test_pull_waits_for_the_devices_digest_and_a_lost_link_is_nobodys_fault():
    told = ready("pull")
    told.at(1.0, asked("c1", value=1, targets=("n1",), strategy=SyncStrategy.PULL), Saved())
    told.at(5.0, Tick(), Saved())
    told.at(9.0, LinkDown(), Tick(), LinkUp(False))
    told.at(10.0, said("n1", Digest({}, b"", 0)))
    told.at(10.1, said("n1", Ack(1)))
    told.matches()
