"""A device's telemetry, told as stories: what is written, sent, repeated, forgotten, given up, and when."""

from edge.telemetry.core import Telemetry
from edge.telemetry.events import (
    AckArrived,
    Append,
    Appended,
    CloudSeen,
    Discard,
    Discarded,
    Durable,
    Forget,
    GaveWay,
    Kept,
    Load,
    Loaded,
    Lot,
    ReadSample,
    Recorded,
    Restored,
    SampleRead,
    StreamId,
    Trouble,
)
from edge.telemetry.limits import Limits
from shared.core import Failed, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.messages import CloudPresence, Grade, Sample, StreamAck, TelemetryAck
from shared.topics import STREAMS
from shared.wire import encode
from tests.transcript import Transcript

ROOM = StreamId(7, "room")
LIMITS = Limits(batch_min=3, batch_max=4, linger_s=2.0, window=8, memory=4, unwritten=6, bytes_max=1000)


class Steady:
    """Chance without surprises."""

    def random(self) -> float:
        return 0.0

    def uniform(self, a: float, b: float) -> float:
        return b


def device(**settings) -> Telemetry:
    settings = {"interval_s": 1e9, "limits": LIMITS, "next_read": 1e9, **settings}
    core = Telemetry("n1", 7, Steady(), {"alarm": Grade.CRITICAL, "raw": Grade.BULK}, **settings)
    core.step(Restored(()), 0.0)
    return core


def sample(number: int) -> Sample:
    return Sample(float(number), {"x": float(number)})


def recorded(number: int, stream: str = "room") -> Recorded:
    return Recorded(stream, sample(number))


def done(work: Append, bytes_each: int = 50) -> Appended:
    """The disk wrote it; each lot lies in a piece of its own."""
    kept = (
        Kept(lot.id, lot.first, lot.first + len(lot.samples), bytes_each * len(lot.samples))
        for lot in work.lots
    )
    return Appended(work.lots, tuple(kept))


def ack(until: int, *, stream: str = "room", epoch: int = 7, window: int = 8, ahead=(), missing=()):
    one = StreamAck(epoch=epoch, stream=stream, until=until, ahead=ahead, missing=missing)
    return AckArrived(TelemetryAck(window=window, streams=(one,)))


def cloud(online: bool, term: int = 1) -> CloudSeen:
    return CloudSeen(CloudPresence(online=online, term=term))


def write(core: Telemetry, count: int, stream: str = "room", now: float = 0.0, first: int = 0) -> None:
    """Recorded, and durable at once."""
    for number in range(first, first + count):
        for effect in core.step(recorded(number, stream), now):
            if isinstance(effect, Append):
                core.step(done(effect), now)


def published(effects) -> list[tuple[str, int, int]]:
    """Stream, first and count of each batch."""
    return [
        (effect.to.name.rpartition("/")[2], effect.message.first, len(effect.message.samples))
        for effect in effects
        if isinstance(effect, Publish) and effect.to.topic is not STREAMS
    ]


def reports(effects) -> list:
    return [one.message for one in effects if isinstance(one, Publish) and one.to.topic is STREAMS]


def test_a_sample_is_written_then_sent_then_forgotten():
    core = device()
    story = Transcript("telemetry/written-sent-forgotten", core)
    story.at(1.0, LinkUp(False), recorded(0))
    first = Append((_lot(0, 1),))
    story.at(1.1, recorded(1), recorded(2))
    story.at(1.2, done(first))
    story.at(1.3, done(Append((_lot(1, 3),))))
    story.at(1.4, ack(2)).at(1.5, ack(3)).matches()


def _lot(first: int, end: int) -> Lot:
    return Lot(ROOM, first, tuple(sample(number) for number in range(first, end)))


def test_a_lone_sample_waits_for_company_and_then_goes_alone():
    core = device()
    core.step(LinkUp(False), 0.0)
    write(core, 1)
    assert published(core.step(Tick(), 1.9)) == []
    assert published(core.step(Tick(), 2.0)) == [("room", 0, 1)]


def test_what_is_critical_waits_for_nobody_and_goes_first():
    core = device(window=4)
    write(core, 3, "raw")
    write(core, 3, "room")
    write(core, 1, "alarm")
    assert published(core.step(LinkUp(False), 0.0)) == [("alarm", 0, 1), ("room", 0, 3)]


def test_the_window_bounds_what_is_under_way():
    core = device()
    write(core, 20)
    assert published(core.step(LinkUp(False), 0.0)) == []  # the oldest are read back first
    first = core.step(Loaded(ROOM, 0, 4, {number: sample(number) for number in range(4)}), 0.1)
    assert published(first) == [("room", 0, 4)]
    assert [effect for effect in first if isinstance(effect, Load)] == [Load(ROOM, 4, 8)]
    second = core.step(Loaded(ROOM, 4, 8, {number: sample(number) for number in range(4, 8)}), 0.2)
    assert published(second) == [("room", 4, 4)]
    assert not any(isinstance(effect, Load) for effect in second), "eight are under way"
    assert isinstance(core.step(ack(4), 0.3)[-1], Load)


def test_silence_is_answered_with_one_probe_at_a_time_at_growing_intervals():
    core = device()
    story = Transcript("telemetry/silence", core).at(0.0, LinkUp(False))
    for number in range(3):
        for effect in core.step(recorded(number), 0.0):
            if isinstance(effect, Append):
                story.at(0.0, done(effect))
    story.until(60.0, every_s=0.5).at(61.0, ack(3)).until(64.0, every_s=0.5).matches()


def test_a_gap_is_sent_again_and_what_arrived_is_not():
    core = device()
    core.step(LinkUp(False), 0.0)
    write(core, 4)
    for number in range(4, 8):
        write(core, 1, first=number)
    core.step(Tick(), 2.0)
    assert sum(flight.end - first for first, flight in _room(core).flights.items()) == 8
    answer = core.step(ack(0, ahead=((3, 8),), missing=((0, 3),)), 3.0)
    assert [(e.first, e.end) for e in answer if isinstance(e, Load)] == [(0, 3)]
    sent = core.step(Loaded(ROOM, 0, 3, {number: sample(number) for number in range(3)}), 3.1)
    assert published(sent) == [("room", 0, 3)]
    assert published(core.step(Tick(), 4.0)) == []


def _room(core: Telemetry):
    return core.streams[7, "room"]


def test_while_the_cloud_is_offline_only_critical_streams_are_sent():
    core = device()
    core.step(LinkUp(False), 0.0)
    core.step(cloud(online=False), 0.0)
    write(core, 3)
    write(core, 1, "alarm")
    assert [name for name, *_ in published(core.step(Tick(), 3.0))] == []
    assert core.streams[7, "alarm"].flights
    back = core.step(cloud(online=True, term=2), 6.0)
    assert len(reports(back)) == 1, "it says first what it holds"
    assert published(back) == [("room", 0, 3)]
    assert core.step(cloud(online=True, term=2), 36.0) == [], "a presence that says nothing new"


def test_what_earlier_boots_left_waits_for_the_clouds_word():
    old = StreamId(5, "room")
    core = Telemetry("n1", 7, Steady(), limits=LIMITS, interval_s=1e9, next_read=1e9)
    story = Transcript("telemetry/after-a-power-cut", core)
    story.at(0.0, Restored((Kept(old, 10, 14, 200), Kept(old, 16, 20, 200)), (Kept(old, 14, 16, 0),)))
    story.at(1.0, LinkUp(False))
    story.at(1.2, ack(12, epoch=5))
    held = {number: sample(number) for number in range(12, 20)}
    story.at(1.3, Loaded(old, 12, 14, held), Loaded(old, 16, 20, held))
    story.at(1.5, ack(20, epoch=5)).matches()
    assert core.streams == {}


def test_the_clouds_word_is_not_waited_for_for_ever():
    old = StreamId(5, "room")
    core = Telemetry("n1", 7, Steady(), limits=LIMITS, interval_s=1e9, next_read=1e9)
    core.step(Restored((Kept(old, 0, 4, 200),)), 0.0)
    assert not any(isinstance(effect, Load) for effect in core.step(LinkUp(False), 1.0))
    assert any(isinstance(effect, Load) for effect in core.step(Tick(), 4.1))


def test_damage_is_reported_as_lost():
    old = StreamId(5, "room")
    core = Telemetry("n1", 7, Steady(), limits=LIMITS, interval_s=1e9, next_read=1e9)
    core.step(Restored((Kept(old, 0, 9, 400),), (), ((old, ((3, 5),)),)), 0.0)
    (report,) = reports(core.step(LinkUp(False), 0.0))
    assert report.streams[0].lost == ((3, 5),)
    core.step(ack(0, epoch=5), 0.1)
    core.step(Loaded(old, 0, 3, {0: sample(0), 2: sample(2)}), 0.2)
    (report,) = reports(core.step(Tick(), 2.0))
    assert report.streams[0].lost == ((1, 2), (3, 5)), "found out while it was read"


def test_the_oldest_of_the_lowest_grade_gives_way_and_the_cloud_hears_of_it():
    core = device()
    write(core, 8, "room")
    write(core, 4, "raw")
    effects = []
    for number in range(9):
        for effect in core.step(recorded(number, "alarm"), 1.0):
            if isinstance(effect, Append):
                effects += core.step(done(effect), 1.0)
    discard = next(effect for effect in effects if isinstance(effect, Discard))
    assert (discard.kept.id.stream, discard.kept.first) == ("raw", 0), "bulk before normal"
    core.step(Discarded(discard.kept), 1.1)
    assert core.streams[7, "raw"].dropped == ((0, discard.kept.end),)
    (report,) = reports(core.step(LinkUp(False), 2.0))
    told = {one.stream: one.dropped for one in report.streams}
    assert told == {"room": (), "raw": ((0, discard.kept.end),), "alarm": ()}
    core.step(ack(discard.kept.end, stream="raw"), 3.0)
    assert core.streams[7, "raw"].dropped == (), "the cloud has settled it"


def test_a_disk_that_refuses_is_said_and_the_samples_are_sent_from_memory():
    core = device()
    story = Transcript("telemetry/the-disk-refuses", core).at(0.0, LinkUp(False))
    story.at(0.0, recorded(0), recorded(1), recorded(2))
    story.at(0.1, Failed(Append((_lot(0, 1),)), "no space left on device"))
    story.at(0.5, ack(1)).until(3.0, every_s=0.5)
    story.at(4.0, done(Append((_lot(1, 3),)))).matches()


def test_while_the_disk_refuses_memory_is_bounded_and_what_gives_way_is_known():
    core = device()
    core.step(recorded(0, "raw"), 0.0)
    core.step(Failed(Append((_lot(0, 1),)), "read-only"), 0.0)
    effects = []
    for number in range(1, 20):
        effects += core.step(recorded(number, "raw"), 0.0)
        core.check()
    assert [(e.first, e.end) for e in effects if isinstance(e, GaveWay)] == [(n, n + 1) for n in range(14)]
    (report,) = reports(core.step(LinkUp(False), 0.1))
    assert report.streams[0].dropped == ((0, 14),)


def test_what_is_not_here_any_more_is_owned_up_to():
    core = device()
    core.step(LinkUp(False), 0.0)
    core.step(ack(0, epoch=3, stream="gone", missing=((4, 9),)), 1.0)
    (report,) = reports(core.step(Tick(), 2.5))
    assert [(one.epoch, one.stream, one.lost) for one in report.streams] == [(3, "gone", ((4, 9),))]
    assert core.step(ack(9, epoch=3, stream="gone"), 3.0) == [Forget(StreamId(3, "gone"), 9, whole=True)]
    assert core.streams == {}


def test_a_confused_cloud_can_not_fill_memory_nor_skip_samples():
    core = device()
    write(core, 2)
    core.step(LinkUp(False), 0.0)
    core.step(ack(10_000), 0.1)
    assert (_room(core).settled, core.produced("room")) == (2, 2)
    for epoch in range(1, 6):
        for number in range(100):
            core.step(ack(0, epoch=epoch, stream=f"s{number}", missing=((0, 1),)), 0.2)
    core.step(ack(0, epoch=99, stream="future", missing=((0, 1),)), 0.2)
    assert len(core.streams) <= LIMITS.strangers + 1
    core.check()


def test_a_report_of_very_many_boots_comes_in_several_messages():
    core = Telemetry("n1", 5000, Steady(), limits=LIMITS, interval_s=1e9, next_read=1e9)
    holes = tuple((2 * number, 2 * number + 1) for number in range(150))
    ids = [StreamId(epoch, "room") for epoch in range(1, 1500)]
    kept = tuple(Kept(id, 0, 300, 1) for id in ids)
    core.step(Restored(kept, (), tuple((id, holes) for id in ids[:100])), 0.0)
    told = reports(core.step(LinkUp(False), 0.0))
    assert len(told) > 1
    assert sum(len(one.streams) for one in told) == len(core.streams)
    assert max(len(encode(one)) for one in told) < STREAMS.bytes_max


def test_many_small_files_give_way_like_big_ones():
    core = Telemetry("n1", 50, Steady(), limits=Limits(pieces=5), interval_s=1e9, next_read=1e9)
    kept = tuple(Kept(StreamId(epoch, "room"), 0, 1, 1) for epoch in range(1, 9))
    effects, gone = core.step(Restored(kept), 0.0), []
    while effects:
        (discard,) = effects
        gone.append(discard.kept.id.epoch)
        effects = core.step(Discarded(discard.kept), 0.0)
    assert gone == [1, 2, 3]


def test_too_many_streams_are_refused():
    core = device(limits=Limits(streams=2))
    write(core, 1, "a")
    write(core, 1, "b")
    (refusal,) = core.step(recorded(0, "c"), 0.0)
    assert isinstance(refusal, Ignore)
    assert core.keeping.refused == 1


def test_a_reading_that_fails_is_counted_and_the_next_one_comes():
    core = device(interval_s=1.0, next_read=0.0)
    assert core.step(Tick(), 0.0) == [ReadSample()]
    core.step(Failed(ReadSample(), "no /proc"), 0.0)
    assert core.read_failures == 1
    assert core.step(Tick(), 1.0) == [ReadSample()]
    (append,) = core.step(SampleRead(sample(1)), 1.0)
    assert append.lots[0].id == StreamId(7, "system")


def test_a_read_that_fails_is_tried_again_later():
    core = device()
    write(core, 8)
    (load,) = [one for one in core.step(LinkUp(False), 0.0) if isinstance(one, Load)]
    assert core.step(Failed(load, "out of memory"), 0.1)
    assert not any(isinstance(one, Load) for one in core.step(Tick(), 0.2))
    assert any(isinstance(one, Load) for one in core.step(Tick(), 6.0))
    assert _room(core).lost == ()


def test_nothing_is_sent_while_the_link_is_down_and_no_link_is_no_silence():
    core = device()
    core.step(LinkUp(False), 0.0)
    write(core, 3)
    assert _room(core).flights
    core.step(LinkDown(), 1.0)
    for now in range(2, 100):
        assert core.step(Tick(), float(now)) == []
    assert core.silence == 0
    assert published(core.step(LinkUp(False), 100.0)) == [("room", 0, 3)]


def test_trouble_is_over_when_the_disk_writes_again():
    core = device()
    (append,) = core.step(recorded(0), 0.0)
    assert Trouble("full") in core.step(Failed(append, "full"), 0.0)
    (append,) = [one for one in core.step(Tick(), 2.0) if isinstance(one, Append)]
    effects = core.step(done(append), 2.1)
    assert Trouble("") in effects
    assert Durable(ROOM, 0, 1) in effects
