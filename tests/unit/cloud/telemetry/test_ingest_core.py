"""The worker that takes telemetry in, told as stories: a transaction at a time, then the acknowledgement."""

import pytest

from cloud.telemetry.core import Ingest, IngestLimits
from cloud.telemetry.events import (
    Arrived,
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
from cloud.telemetry.memory import MemoryTelemetry
from cloud.telemetry.store import BatchItem, Letter, Outcome, Position, ReportItem, StreamKey
from shared.core import Failed, Ignore, LinkUp, Publish, Tick
from tests.transcript import Transcript


def key(node: str = "n1", stream: str = "room", epoch: int = 7) -> StreamKey:
    return StreamKey(node, epoch, stream)


ROOM = key()


def batch(first: int, count: int = 5, of: StreamKey = ROOM, at: float = 100.0) -> BatchItem:
    return BatchItem(of, first, count, at, at, b"\xc0" * count, at)


def arrived(*items, size: int = 100) -> Arrived:
    return Arrived(items, size)


class Desk:
    """The core beside a store that does at once what it is told, or refuses."""

    def __init__(self, **limits) -> None:
        self.core, self.store = Ingest(IngestLimits(**{"gather_s": 0.0, **limits})), MemoryTelemetry()

    def feed(self, event, now: float = 0.0) -> list:
        """Step; work is left to be done."""
        effects = self.core.step(event, now)
        self.core.check()
        return effects

    def work(self, effects, now: float = 0.0) -> list:
        """Do the work among ``effects``, and what follows, and return everything else."""
        rest = []
        for effect in effects:
            match effect:
                case Store(items):
                    rest += self.work(self.feed(Stored(self.store.ingest(items)), now), now)
                case Look(keys):
                    found = self.store.positions(keys)
                    rest += self.work(self.feed(Looked(tuple(found.values())), now), now)
                case _:
                    rest.append(effect)
        return rest


def acks(effects) -> dict[str, list[tuple[str, int, tuple]]]:
    """Node -> (stream, until, missing) of each."""
    return {
        one.to.name.split("/")[1]: [(ack.stream, ack.until, ack.missing) for ack in one.message.streams]
        for one in effects
        if isinstance(one, Publish)
    }


def test_what_comes_while_a_transaction_runs_goes_into_the_next():
    core = Ingest()
    story = Transcript("ingest/group-commit", core)
    story.at(0.0, arrived(batch(0)))
    story.at(0.1, arrived(batch(5)), arrived(batch(0, of=key("n2"))))
    store = MemoryTelemetry()
    story.at(0.2, Stored(store.ingest([batch(0)])))
    story.at(0.3, Stored(store.ingest([batch(5), batch(0, of=key("n2"))]))).matches()


def test_a_lone_message_is_stored_at_once_and_the_next_waits_for_company():
    desk = Desk(gather_s=0.01, gather_items=3)
    desk.work(desk.feed(arrived(batch(0)), 1.0), 1.0)
    assert desk.feed(arrived(batch(5)), 1.002) == [Gather(pytest.approx(0.008))]
    assert desk.feed(arrived(batch(10)), 1.004) == [], "one wait for both"
    (store,) = desk.feed(Gathered(), 1.01)
    assert len(store.items) == 2
    desk.work([store], 1.01)
    for first in (15, 20):
        desk.feed(arrived(batch(first)), 1.012)
    assert isinstance(desk.feed(arrived(batch(25)), 1.013)[0], Store), "that is company enough"


def test_nothing_is_acknowledged_before_the_commit():
    desk = Desk()
    effects = desk.feed(arrived(batch(0)))
    assert acks(effects) == {}
    assert acks(desk.work(effects)) == {"n1": [("room", 5, ())]}


def test_a_gap_is_asked_for_when_time_has_not_closed_it():
    desk = Desk(grace_s=2.0)
    assert acks(desk.work(desk.feed(arrived(batch(0)), 0.0))) == {"n1": [("room", 5, ())]}
    assert acks(desk.work(desk.feed(arrived(batch(10)), 0.1), 0.1)) == {"n1": [("room", 5, ())]}
    assert desk.feed(Tick(), 2.0) == []
    assert acks(desk.work(desk.feed(Tick(), 2.2), 2.2)) == {"n1": [("room", 5, ((5, 10),))]}
    assert desk.feed(Tick(), 6.0) == [], "it is asked again, ever less often"
    assert acks(desk.work(desk.feed(Tick(), 6.3), 6.3)) == {"n1": [("room", 5, ((5, 10),))]}
    assert acks(desk.work(desk.feed(arrived(batch(5)), 7.0), 7.0)) == {"n1": [("room", 15, ())]}
    assert desk.feed(Tick(), 1000.0) == []
    assert desk.core.gaps == {}


def test_a_gap_that_another_worker_closed_is_not_asked_for():
    desk = Desk()
    desk.work(desk.feed(arrived(batch(10)), 0.0))
    desk.store.ingest([batch(0, 10)])
    assert acks(desk.work(desk.feed(Tick(), 5.0), 5.0)) == {}
    assert desk.core.gaps == {}


def test_a_boot_that_does_not_list_a_stream_is_asked_for_the_rest_of_it():
    desk = Desk()
    old = key(epoch=5)
    desk.store.ingest([batch(0, of=old), ReportItem(old, 9, 1.0)])
    listed = {key(): 9}
    assert desk.feed(Reported("n1", 7, listed)) == [LookAt("n1", listed)]
    assert desk.feed(Reported("n1", 7, listed)) == [], "once a boot"
    position = desk.store.positions([old])[old]
    asked = desk.work(desk.feed(LookedAt((position,)), 1.0), 1.0)
    assert acks(asked) == {"n1": [("room", 5, ((5, 9),))]}
    desk.work(desk.feed(arrived(ReportItem(old, 0, 2.0, lost=((5, 9),))), 2.0), 2.0)
    assert desk.core.gaps == {}
    assert desk.feed(Reported("n1", 7, listed), 601.0) == [LookAt("n1", listed)], "now and then all the same"
    desk.feed(LinkUp(False))
    assert desk.feed(Reported("n1", 7, listed), 602.0) == [LookAt("n1", listed)], "who knows what we missed"


def test_a_report_of_an_earlier_boot_is_not_believed():
    desk, listed = Desk(), {key(): 9}
    assert desk.feed(Reported("n1", 7, listed), 1.0) == [LookAt("n1", listed)]
    assert desk.feed(Reported("n1", 6, listed), 7.0) == [LookAt("n1", {})]
    assert desk.feed(Reported("n1", 5, listed), 8.0) == [], "not too often"
    assert desk.feed(Reported("n1", 7, listed), 9.0) == [LookAt("n1", listed)], "but with the next one"
    assert desk.feed(Reported("n1", 7, listed), 10.0) == []
    desk.feed(Failed(LookAt("n1", listed), "locked"), 11.0)
    assert desk.feed(Reported("n1", 7, listed), 70.0) == [LookAt("n1", listed)]


def test_a_store_that_fails_is_tried_again_and_one_bad_item_does_not_stop_the_others():
    desk, poison, now = Desk(tries=2), batch(0, of=key("poison")), 0.0

    def work(effects: list) -> None:
        """The store takes everything but the poison."""
        for effect in effects:
            if isinstance(effect, Store):
                bad = any(getattr(item, "key", None) == poison.key for item in effect.items)
                answer = Failed(effect, "out of range") if bad else Stored(desk.store.ingest(effect.items))
                tried.append(len(effect.items))
                work(desk.feed(answer, now))

    tried: list[int] = []
    first = desk.feed(arrived(batch(0)))
    desk.feed(arrived(poison, batch(0, of=key("n3")), batch(0, of=key("n4"))))
    work(first)
    while desk.core.queue or desk.core.writing:
        now += 10.0
        work(desk.feed(Tick(), now))
    assert tried == [1, 3, 1, 1, 1, 2], "all together, then the first by itself, its letter, and the rest"
    assert {row.key.node for row in desk.store.ledger()} == {"n1", "n3", "n4"}
    (letter,) = desk.store.letters()
    assert (letter.node, letter.reason) == ("poison", "the store did not take it: out of range")


def test_what_does_not_fit_is_left_to_its_device():
    desk = Desk(queue_items=3, queue_bytes=1000)
    for number in range(4):
        desk.feed(arrived(batch(number * 5)))
    (refusal,) = desk.feed(arrived(batch(20)))
    assert isinstance(refusal, Ignore)
    assert desk.core.counts["no room"] == 1
    assert desk.core.full
    (refusal,) = Desk(queue_bytes=50).feed(arrived(batch(0)))
    assert isinstance(refusal, Ignore)


def test_the_fuller_the_queue_the_smaller_the_window():
    desk = Desk(queue_bytes=1000, window_max=1000, window_min=10, items=1)
    first = desk.feed(arrived(batch(0), size=400))
    desk.feed(arrived(batch(5), size=400))
    desk.feed(arrived(batch(10), size=400))
    (ack,) = [one for one in desk.feed(Stored(desk.store.ingest(first[0].items))) if isinstance(one, Publish)]
    assert ack.message.window == pytest.approx(200, abs=1)


def test_one_device_can_not_fill_the_store_with_streams_or_letters():
    desk = Desk(streams=10, letters=5)
    for number in range(30):
        desk.work(desk.feed(arrived(batch(0, of=key(stream=f"s{number}")))))
        desk.work(desk.feed(arrived(Letter("n1", "x", "nonsense", b"?", 1.0))))
    desk.work(desk.feed(arrived(batch(5, of=key(stream="s3")))))
    assert len(desk.store.ledger()) == 10
    assert desk.store.positions([key(stream="s3")])[key(stream="s3")].stored == 10, "what is known goes on"
    assert len(desk.store.letters()) == 5
    desk.feed(Tick(), 61.0)
    desk.work(desk.feed(arrived(Letter("n1", "x", "nonsense", b"?", 1.0)), 61.0))
    desk.work(desk.feed(arrived(batch(0, of=key(stream="s30"))), 61.5), 61.5)
    assert (len(desk.store.letters()), len(desk.store.ledger())) == (6, 11), "the next minute is a new one"
    desk.work(desk.feed(arrived(batch(0, of=key("n2"))), 62.0), 62.0)
    assert len(desk.store.ledger()) == 12, "another device is not its prisoner"


def test_a_plain_device_gets_no_acknowledgement():
    desk = Desk()
    assert acks(desk.work(desk.feed(arrived(batch(0, of=key(epoch=0)))))) == {}
    assert desk.store.ledger()[0].stored == 5


def test_many_streams_of_a_node_are_acknowledged_in_a_few_messages():
    desk = Desk()
    positions = tuple(Position(key(stream=f"s{number:03}"), settled=1, produced=1) for number in range(250))
    effects = desk.feed(Stored(Outcome(positions, (), ())))
    assert [len(one.message.streams) for one in effects if isinstance(one, Publish)] == [100, 100, 50]
