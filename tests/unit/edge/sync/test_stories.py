"""The device's sync core, told as transcripts; and any history of it keeps its invariants."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edge.sync.core import DeviceSync
from edge.sync.events import (
    Answer,
    CloudSeen,
    DesiredHeard,
    MessageHeard,
    PutAsked,
    ReadAsked,
    Restored,
    Save,
    Saved,
)
from shared.core import Failed, LinkDown, LinkUp, Tick
from shared.entries import traits_of
from shared.messages import CloudPresence
from shared.sync import (
    UNDECIDED,
    Ack,
    ConsistencyLevel,
    Decision,
    Digest,
    Offer,
    Offered,
    Outcome,
    Pull,
    Push,
    Refusal,
    Result,
    Setting,
    Status,
    SyncMessage,
    SyncStrategy,
)
from shared.versions import CLOUD_ORIGIN, Entry, fields_in, value_of, written
from tests.transcript import Transcript, shown

NOW_MS = 1_800_000_000_000
STRONG, EVENTUAL, WEAK = ConsistencyLevel.STRONG, ConsistencyLevel.EVENTUAL, ConsistencyLevel.WEAK


def show(thing: object) -> str:
    """A save is told by its keys."""
    if isinstance(thing, Save):
        what = [f"{one.name}={value_of(one)}" for one in thing.entries]
        what += [f"dirty {name}" for name in sorted(thing.dirty)]
        what += [f"clean {name}" for name in sorted(thing.clean)]
        what += [f"forget {name}" for name in thing.forgotten]
        return f"Save({', '.join(what)}, term {thing.term}, cleared {thing.cleared})"
    return shown(thing)


def story(name: str) -> Transcript:
    return Transcript(f"sync/device-{name}", DeviceSync("n1", 3, lambda: 0.5), show)


def put(ref: int, value: object, name: str = "k", **how: object) -> PutAsked:
    return PutAsked(ref, name, {} if value is None else fields_in(value), NOW_MS, **how)


def said(part: object, term: int = 5) -> MessageHeard:
    return MessageHeard(SyncMessage(life=term, part=part), NOW_MS)


def pushed(
    number: int, value: object, name: str = "k", level: ConsistencyLevel = EVENTUAL, term: int = 5
) -> Push:
    entry = written(Entry(name), (CLOUD_ORIGIN, term, number), NOW_MS << 16, fields_in(value))
    traits = traits_of(level, SyncStrategy.EVENT_DRIVEN, NOW_MS << 16)
    return Push(number, (Entry(name, entry.writes, entry.vector, traits, number if level is STRONG else 0),))


def test_a_write_without_a_network_is_answered_when_durable_and_leaves_with_the_link():
    told = story("offline-write").at(0.0, Restored())
    told.at(1.0, put(1, {"a": 1}))
    told.at(1.1, put(2, {"a": 2}))
    told.at(1.2, Saved())
    told.at(1.3, Saved())
    told.at(9.0, LinkUp(False))
    told.at(9.1, said(Ack(1)))
    told.at(10.0, Tick(), Saved())
    told.matches()


def test_what_the_cloud_pushes_is_acknowledged_when_it_is_on_the_disk():
    told = story("pushed").at(0.0, Restored(), LinkUp(False))
    told.at(1.0, said(pushed(1, 1)), said(pushed(1, 1)))
    told.at(1.1, Saved())
    told.at(1.2, Saved())
    told.at(2.0, said(pushed(2, 2), term=4))
    told.at(
        2.1,
        DesiredHeard("rate", Setting(life=5, number=3, entry=pushed(3, 9, "desired/n1/rate").entries[0]), 0),
    )
    told.at(
        2.2,
        DesiredHeard("rate", Setting(life=5, number=4, entry=pushed(4, 9, "desired/n2/rate").entries[0]), 0),
    )
    told.at(2.3, Saved())
    told.at(3.0, said(Offer(5, (Offered("k", b"other", 100), Offered("new", b"x", 10)))))
    told.matches()


def test_a_strong_call_is_repeated_until_it_is_answered_and_no_longer_than_its_budget():
    told = story("calls").at(0.0, Restored())
    told.at(1.0, put(1, "never sent", level=STRONG, budget_s=2.0))
    told.at(3.0, Tick())
    told.at(4.0, LinkUp(False))
    told.at(5.0, put(2, "x", level=STRONG, expected=4, budget_s=5.0), ReadAsked(3, "k", 5.0))
    told.at(7.5, Tick())
    told.at(8.0, said(Result(2, Outcome(status=Status.CONFLICT, revision=6), "k")))
    told.at(10.0, Tick())
    told.matches()


def test_a_refused_write_is_written_anew_where_that_helps_and_a_dead_letter_where_it_does_not():
    told = story("refused").at(0.0, Restored(), LinkUp(False))
    told.at(
        1.0,
        put(1, 1, strategy=SyncStrategy.EVENT_DRIVEN),
        put(2, 2, "other", strategy=SyncStrategy.EVENT_DRIVEN),
    )
    told.at(1.1, Saved(), Saved())
    cloud = (NOW_MS - 3_600_000) << 16
    told.at(2.0, said(Ack(1, (Refusal("k", "ahead", "an hour"),), stamp=cloud)))
    told.at(2.1, said(Ack(2, (Refusal("other", "not-shared", "it belongs to others"),), stamp=cloud)))
    told.at(2.2, Saved())
    told.at(3.0, said(Ack(3)))
    told.matches()


def test_a_weak_write_is_handed_over_or_dropped_and_never_saved():
    told = story("weak").at(0.0, Restored())
    told.at(1.0, put(1, 1, level=WEAK))
    told.at(2.0, LinkUp(False))
    told.at(3.0, put(2, 2))
    told.at(4.0, said(Offer(0, (Offered("other", b"", 10),))))
    told.matches()


def test_a_reset_drops_what_the_cloud_has_and_keeps_what_is_our_own():
    told = story("reset").at(0.0, Restored(), LinkUp(False))
    told.at(1.0, said(pushed(1, "old")), put(1, "mine", "own"), Saved(), Saved())
    told.at(2.0, said(Digest({}, b"", 0, asking=False, cleared=7, reset=True, stamp=NOW_MS << 16)))
    told.at(2.1, Saved())
    told.at(3.0, Tick())
    told.matches()


def test_a_disk_that_refuses_is_told_to_the_writer_and_tried_again():
    told = story("full-disk").at(0.0, Restored(), LinkUp(False))
    told.at(1.0, put(1, 1))
    told.at(1.1, Failed(Save(), "no space"))
    told.at(2.0, Tick(), Saved())
    told.matches()


def test_before_the_policy_is_known_nothing_is_taken_and_nothing_is_sent():
    class Unsure:
        def allowed(self, node: str, name: str, tag: bytes, action: str) -> Decision:
            return Decision(False, UNDECIDED)

    core = DeviceSync("n1", 3, lambda: 0.5, gate=Unsure())
    told = Transcript("sync/device-undecided", core, show).at(0.0, Restored(), LinkUp(False))
    told.at(1.0, said(pushed(1, 1)), put(1, 2), Saved(), Tick())
    told.matches()


def test_a_presence_of_an_older_term_is_not_believed():
    told = story("terms").at(0.0, Restored(term=5))
    told.at(1.0, LinkUp(False), CloudSeen(CloudPresence(online=False, term=4)))
    told.at(2.0, CloudSeen(CloudPresence(online=False, term=5)), put(1, 1), Saved(), Tick())
    told.at(3.0, CloudSeen(CloudPresence(online=True, term=6)))
    told.matches()


# Any history ----------------------------------------------------------------------------------------

keys = st.sampled_from(["k", "j", "desired/n1/rate", "reported/n1/rate", "desired/n2/rate", "Bad"])
values = st.sampled_from([None, 1, {"a": 1}, {"a": 2, "b": 1}])
levels = st.sampled_from([None, None, None, STRONG, EVENTUAL, WEAK])
numbers = st.integers(1, 8)
parts = st.one_of(
    st.builds(pushed, numbers, values, keys, st.sampled_from([EVENTUAL, STRONG, WEAK])),
    st.builds(
        lambda number, name, code: Ack(number, (Refusal(name, code),)),
        numbers,
        keys,
        st.sampled_from(["ahead", "foreign", "strong"]),
    ),
    st.builds(Ack, numbers),
    st.builds(
        lambda asking, reset, number: Digest({}, b"", 0, asking, NOW_MS << 16, number, reset),
        st.booleans(),
        st.booleans(),
        numbers,
    ),
    st.builds(lambda number, name: Offer(number - 1, (Offered(name, b"x", 1),)), numbers, keys),
    st.builds(lambda name: Pull((name,)), keys),
    st.builds(lambda number: Result(number, Outcome(status=Status.OK)), numbers),
)
events = st.one_of(
    st.builds(
        lambda ref, value, name, level: put(ref, value, name, level=level),
        st.integers(1, 10**6),
        values,
        keys,
        levels,
    ),
    st.builds(lambda part, term: said(part, term), parts, st.integers(4, 7)),
    st.sampled_from(
        [
            Tick(),
            LinkUp(False),
            LinkDown(),
            CloudSeen(CloudPresence(online=False, term=6)),
            CloudSeen(CloudPresence(online=True, term=6)),
        ]
    ),
    st.just("disk"),
    st.just("disk"),
    st.just("broken disk"),
)


class Life:
    """One boot, a disk that answers when it is asked to, and programs that are answered once."""

    def __init__(self) -> None:
        self.core, self.now = DeviceSync("n1", 3, lambda: 0.5), 0.0
        self.saving: Save | None = None
        self.asked: set[int] = set()
        self.answered: set[int] = set()
        self.feed(Restored())

    def feed(self, event: object) -> None:
        self.now += 0.7
        for effect in self.core.step(event, self.now):
            if isinstance(effect, Save):
                assert self.saving is None, "one save at a time"
                self.saving = effect
            elif isinstance(effect, Answer):
                assert effect.ref in self.asked - self.answered
                self.answered.add(effect.ref)
        self.core.check()

    def disk(self, *, good: bool) -> None:
        saving, self.saving = self.saving, None
        if saving is not None:
            self.feed(Saved() if good else Failed(saving, "no"))

    def take(self, event: object) -> None:
        if event in ("disk", "broken disk"):
            self.disk(good=event == "disk")
        elif not (isinstance(event, PutAsked) and event.ref in self.asked):
            self.asked |= {event.ref} if isinstance(event, PutAsked) else set()
            self.feed(event)


@settings(max_examples=300, deadline=None)
@given(st.lists(events, max_size=50))
def test_any_history_keeps_the_invariants_and_answers_everybody_once(history):
    life = Life()
    for event in history:
        life.take(event)
    for _ in range(100):
        life.disk(good=True)
        life.feed(Tick())
    assert life.answered == life.asked
