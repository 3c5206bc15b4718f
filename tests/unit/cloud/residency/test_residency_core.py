"""The residency core: what is written down when, policies and places, devices that report, witnesses."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.residency.core import (
    DEVICE_RECORDS_BURST,
    HEAD_RECORDS,
    QUEUE_MAX,
    TOLD_PER_TICK,
    Remembered,
    Residency,
    digest_of,
)
from cloud.residency.events import (
    Alarm,
    AnnouncePlace,
    AnnouncePolicy,
    Append,
    Appended,
    DecisionsHeard,
    Noted,
    PlacesRead,
    PolicyRead,
    Prove,
    Proved,
    Reconsider,
    Release,
    Sign,
    Signed,
    WitnessHeard,
)
from shared.audit import Decided, Decisions, HeadFact, Point, Proof, Witness
from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.residency import OPEN, Action, Place, PolicyText, Rule, Why
from shared.topics import AUDIT_HEAD
from shared.transparency import Head
from tests.support.audit import record
from tests.transcript import Transcript

FIRST = PolicyText(version=1, regions=("eu/de", "us"), permit=(Rule(name="all"),))
SECOND = PolicyText(version=2, regions=("eu/de", "us"), permit=(Rule(name="eu", regions=("eu",)),))
WALL = 1_800_000_000.0


def core(**remembered: object) -> Residency:
    return Residency(Remembered(**remembered), lambda head: head.signature == b"ours", cloud_region="eu")


def head(size: int, *, number: int = 1, log: str = "l1", signature: bytes = b"ours") -> Head:
    return Head(log=log, number=number, size=size, root=b"r" * 32, at_unix_s=WALL, signature=signature)


def fact(size: int, previous: int = 0, **other: object) -> HeadFact:
    return HeadFact(head=head(size, **other), previous_size=previous)


def feed(residency: Residency, *events: object, now: float = 0.0) -> list[Effect]:
    effects: list[Effect] = []
    for event in events:
        effects += residency.step(event, now)
        residency.check()
    return effects


def kinds(effects: list[Effect]) -> list[str]:
    return [type(one).__name__ for one in effects]


def test_the_life_of_a_log() -> None:
    residency = core()
    transcript = Transcript("residency/life", residency)
    transcript.at(0.0, LinkUp(False), PolicyRead(FIRST, WALL), PlacesRead({"n1": "eu/de"}, WALL))
    transcript.at(0.1, Appended(1), Noted(record(1), 7), Appended(2), Appended(3))
    transcript.at(0.2, Noted(record(2), 8), Noted(record(4), 9), Appended(4), Appended(5))
    transcript.until(12.0)
    transcript.at(12.5, Signed(fact(5)))
    transcript.at(13.0, WitnessHeard("n1", Witness(head=head(2), wants=5), WALL))
    transcript.at(13.1, Proved("n1", Proof(head=head(5), old=2, path=(b"p" * 32,))))
    transcript.at(14.0, PolicyRead(SECOND, WALL), Appended(6), PolicyRead(FIRST, WALL), Appended(7))
    transcript.matches()


# The log --------------------------------------------------------------------------------------------


def test_nothing_may_happen_before_its_record_is_durable() -> None:
    residency = core()
    first = feed(residency, Noted(record(1), 5), Noted(record(2), 6))
    assert kinds(first) == ["Append"]
    second = feed(residency, Appended(1))
    assert second[0] == Release((5,))
    assert isinstance(second[1], Append), "what came meanwhile is the next batch"
    assert feed(residency, Appended(2)) == [Release((6,))]


def test_a_batch_that_failed_is_tried_again_in_order_and_releases_nothing() -> None:
    residency = core()
    (append,) = feed(residency, Noted(record(1), 5))
    feed(residency, Noted(record(2), 6))
    assert kinds(feed(residency, Failed(append, "disk full"))) == ["Ignore"]
    assert feed(residency, Noted(record(3), 7)) == [], "not before the next tick"
    (again,) = feed(residency, Tick(), now=1.0)
    assert isinstance(again, Append)
    assert [one.task for one in again.records] == ["t1", "t2", "t3"]
    assert feed(residency, Appended(3)) == [Release((5, 6, 7))]


def test_at_the_bound_decisions_are_refused_and_not_lost_silently() -> None:
    residency = core()
    (append,) = feed(residency, Noted(record(1)))
    residency.step(Failed(append, "disk full"), 0.0)
    for _ in range(QUEUE_MAX):
        residency.step(Noted(record(2)), 0.0)
    assert not residency.room
    assert kinds(feed(residency, Noted(record(3)))) == ["Ignore"]
    assert residency.counts["records refused: no room"] == 2


def test_a_head_is_signed_after_enough_records_or_enough_time() -> None:
    residency = core()
    assert kinds(feed(residency, Noted(record(1)), Appended(1))) == ["Append"]
    assert feed(residency, Tick(), now=9.0) == []
    assert kinds(feed(residency, Tick(), now=10.0)) == ["Sign"]
    assert feed(residency, Tick(), now=30.0) == [], "one at a time"
    feed(residency, Signed(fact(1)), now=30.0)
    feed(residency, Noted(record(2)), now=30.0)
    assert kinds(feed(residency, Appended(1 + HEAD_RECORDS), now=30.1)) == ["Sign"]
    assert feed(residency, Tick(), now=99.0) == []


def test_a_quiet_log_signs_nothing_new() -> None:
    residency = core(size=5, head=fact(5))
    assert feed(residency, *[Tick()] * 100, now=1000.0) == []


def test_a_failed_signature_is_tried_again() -> None:
    residency = core()
    feed(residency, Noted(record(1)), Appended(1))
    (sign,) = feed(residency, Tick(), now=10.0)
    feed(residency, Failed(sign, "disk full"), now=10.0)
    feed(residency, Noted(record(2)), Appended(2), now=11.0)
    assert kinds(feed(residency, Tick(), now=30.0)) == ["Sign"]


# Policy and places ----------------------------------------------------------------------------------


def test_a_policy_comes_into_force_once_and_only_with_a_larger_number() -> None:
    residency = core()
    feed(residency, LinkUp(False))
    assert kinds(feed(residency, PolicyRead(SECOND, WALL))) == ["Reconsider", "AnnouncePolicy", "Append"]
    assert feed(residency, PolicyRead(SECOND, WALL)) == []
    other = msgspec.structs.replace(SECOND, forbid=(Rule(name="x"),))
    effects = feed(residency, PolicyRead(other, WALL), PolicyRead(FIRST, WALL))
    assert kinds(effects) == ["Alarm", "Ignore"]
    assert residency.policy.text == SECOND


def test_a_restart_remembers_which_policy_was_in_force() -> None:
    residency = core(size=1, policy=(2, digest_of(SECOND)))
    assert kinds(feed(residency, PolicyRead(FIRST, WALL))) == ["Alarm", "Append"]
    assert residency.policy is OPEN
    assert kinds(feed(residency, PolicyRead(SECOND, WALL))) == ["Reconsider"], "no second record of it"
    assert residency.policy.version == 2


def test_where_a_node_is_is_what_was_enrolled_and_what_the_policy_knows() -> None:
    residency = core()
    feed(residency, PolicyRead(FIRST, WALL), PlacesRead({"n1": "eu/de", "n2": "mars"}, WALL))
    assert residency.place("n1") == Place("n1", "eu/de")
    assert residency.place("n2") == Place("n2", "")
    assert residency.place("n3") == Place("n3", "")


def test_only_changed_places_are_written_down_and_told() -> None:
    residency = core(regions={"n1": "eu", "n2": "us"})
    feed(residency, LinkUp(False))
    effects = feed(residency, PlacesRead({"n1": "eu", "n3": "us"}, WALL))
    told = {(one.node, one.region) for one in effects if isinstance(one, AnnouncePlace)}
    assert told == {("n2", ""), ("n3", "us")}
    (append,) = [one for one in effects if isinstance(one, Append)]
    assert {one.outcomes[0].places[0].node for one in append.records} == {"n2", "n3"}
    assert Reconsider() in effects


def test_a_large_fleet_is_told_its_places_in_portions() -> None:
    residency = core(regions={f"n{number}": "eu" for number in range(TOLD_PER_TICK + 5)})
    first = feed(residency, LinkUp(False))
    assert sum(isinstance(one, AnnouncePlace) for one in first) == TOLD_PER_TICK
    assert len(feed(residency, Tick())) == 5
    assert feed(residency, Tick()) == []


def test_everything_retained_is_said_again_when_the_link_is_back() -> None:
    residency = core(size=3, head=fact(3), regions={"n1": "eu"})
    feed(residency, PolicyRead(FIRST, WALL), Appended(4))
    effects = feed(residency, LinkUp(False), LinkDown(), LinkUp(True))
    assert effects.count(AnnouncePolicy(FIRST)) == 2
    assert effects.count(Publish(AUDIT_HEAD.at(), fact(3))) == 2
    assert effects.count(AnnouncePlace("n1", "eu")) == 2


# Devices --------------------------------------------------------------------------------------------


def decided(count: int) -> tuple[Decided, ...]:
    one = Decided(
        at_unix_s=WALL, point=Point.RECEIVE, action=Action(key="k"), tag=None, allow=False, why=Why.NO_TAG
    )
    return (one,) * count


def written(effects: list[Effect]) -> int:
    return sum(len(one.records) for one in effects if isinstance(one, Append))


def test_what_a_device_reports_is_written_once_under_its_name() -> None:
    residency = core(regions={"n1": "eu"})
    report = Decisions(epoch=9, first=0, decided=decided(2))
    effects = feed(residency, DecisionsHeard("n1", report), DecisionsHeard("n1", report), Appended(2))
    (append,) = [one for one in effects if isinstance(one, Append)]
    assert {(one.by, one.point, one.outcomes[0].places) for one in append.records} == {
        ("n1", Point.RECEIVE, (Place("n1", "eu"),))
    }
    assert len(append.records) == 2
    more = Decisions(epoch=9, first=1, decided=decided(3))
    assert written(feed(residency, DecisionsHeard("n1", more))) == 2
    old = Decisions(epoch=8, first=0, decided=decided(3))
    assert kinds(feed(residency, DecisionsHeard("n1", old))) == ["Ignore"]


def test_a_device_can_not_fill_the_log() -> None:
    residency = core()
    total = 0
    for number in range(100):
        report = Decisions(epoch=1, first=64 * number, decided=decided(64))
        total += written(feed(residency, DecisionsHeard("n1", report)))
        feed(residency, Appended(total))
    assert total == DEVICE_RECORDS_BURST
    assert residency.counts["decisions of devices not kept"] == 6400 - total


def test_a_device_can_not_claim_another_kind_of_record() -> None:
    residency = core()
    claim = msgspec.structs.replace(decided(1)[0], point=Point.POLICY)
    (append,) = feed(residency, DecisionsHeard("n1", Decisions(epoch=1, first=0, decided=(claim,))))
    assert isinstance(append, Append)
    assert append.records[0].point is Point.RECEIVE


def test_a_witness_that_is_behind_gets_a_proof() -> None:
    residency = core(size=9, head=fact(9, number=2))
    feed(residency, LinkUp(False))
    ask = WitnessHeard("n1", Witness(head=head(4), wants=9), WALL)
    assert feed(residency, ask) == [Prove("n1", 4)]
    assert kinds(feed(residency, ask)) == ["Ignore"], "one at a time"


def test_a_fork_in_the_hands_of_a_device_is_an_alarm_and_a_record() -> None:
    residency = core(size=9, head=fact(9))
    forged = Witness(head=head(4), forked=head(9, signature=b"theirs"))
    assert kinds(feed(residency, WitnessHeard("n1", forged, WALL))) == ["Ignore"], "anybody can claim that"
    effects = feed(residency, WitnessHeard("n1", Witness(head=head(4), forked=head(9, number=2)), WALL))
    assert kinds(effects) == ["Alarm", "Append"]
    assert feed(residency, WitnessHeard("n1", Witness(forked=head(9, number=2)), WALL))[0] == Ignore(
        effects[0].what if isinstance(effects[0], Alarm) else ""
    )


def test_a_log_that_was_cut_back_is_noticed() -> None:
    residency = core(size=9, head=fact(9))
    assert kinds(feed(residency, WitnessHeard("n1", Witness(head=head(9)), WALL))) == []
    assert kinds(feed(residency, WitnessHeard("n1", Witness(head=head(10)), WALL))) == ["Alarm", "Append"]
    assert kinds(feed(residency, WitnessHeard("n2", Witness(head=head(3, log="l0")), WALL))) == ["Alarm"]


# Any history ----------------------------------------------------------------------------------------

events = st.one_of(
    st.just(Tick()),
    st.just(LinkUp(False)),
    st.just(LinkDown()),
    st.integers(1, 99).map(lambda ticket: Noted(record(ticket), ticket)),
    st.sampled_from([PolicyRead(FIRST, WALL), PolicyRead(SECOND, WALL)]),
    st.dictionaries(st.sampled_from(["n1", "n2"]), st.sampled_from(["eu/de", "us"])).map(
        lambda regions: PlacesRead(regions, WALL)
    ),
    st.integers(1, 20).map(lambda size: WitnessHeard("n1", Witness(head=head(size), wants=size), WALL)),
    st.integers(0, 5).map(
        lambda first: DecisionsHeard("n1", Decisions(epoch=1, first=first, decided=decided(3)))
    ),
    st.sampled_from(["done", "failed"]),
)


@settings(deadline=None)
@given(st.lists(events, max_size=40))
def test_in_any_history_each_record_is_durable_once_and_in_order(history: list[object]) -> None:
    """A small model of the disk performs the work, or fails to."""
    residency, durable, work, noted = core(), list[str](), list[Effect](), 0
    now = 0.0
    for event in [*history, *["done"] * 3]:
        now += 0.5
        if event in ("done", "failed"):
            for one in list(work):
                work.remove(one)
                answer: object = Failed(one, "disk") if event == "failed" else _performed(one, durable)
                work += [new for new in residency.step(answer, now) if isinstance(new, Append | Sign | Prove)]
                residency.check()
        else:
            noted += isinstance(event, Noted)
            work += [new for new in residency.step(event, now) if isinstance(new, Append | Sign | Prove)]
            residency.check()
    assert sum(isinstance(one, Append) for one in work) <= 1
    queued = [one.record.task for one in (*residency.appending, *residency.queue)]
    notes = [one.record.task for one in history if isinstance(one, Noted)]
    assert [task for task in (*durable, *queued) if task] == notes
    assert residency.size == len(durable)


def _performed(work: Effect, durable: list[str]) -> object:
    match work:
        case Append(records):
            durable += [one.task for one in records]
            return Appended(len(durable))
        case Prove(node, old):
            return Proved(node, Proof(head=head(len(durable)), old=old, path=()))
    return Signed(fact(len(durable)))
