"""Whatever a device or an application sends, the core lives on, and believes no lies."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.sync.core import Sync
from cloud.sync.events import Asked, MessageHeard, ReportedHeard, Restored, Save, Saved
from edge.sync import events as edge
from edge.sync.core import DeviceSync
from shared.core import LinkUp, Publish, Tick
from shared.errors import RemoteError
from shared.sync import (
    Ack,
    Branch,
    Call,
    ConsistencyLevel,
    Digest,
    Leaf,
    Offer,
    Offered,
    Outcome,
    Part,
    Pull,
    Push,
    Refusal,
    Result,
    Setting,
    Status,
    SyncAsk,
    SyncMessage,
    SyncVerb,
    Walk,
)
from shared.topics import APP_SYNC, REPORTED_KEY, SYNC_DOWN, SYNC_UP
from shared.versions import Entry, Write, fields_in, value_of, written
from shared.wire import decode, encode

NOW_MS = 1_800_000_000_000
integers = st.one_of(st.integers(-5, 20), st.sampled_from([-(2**63), 2**63 - 1, 2**53, 2**62, NOW_MS << 16]))
names = st.one_of(
    st.sampled_from(
        [
            "secret",
            "secret",
            "k",
            "mine",
            "desired/n1/rate",
            "reported/n1/rate",
            "reported/n2/rate",
            "",
            "@",
            "../x",
        ]
    ),
    st.text(max_size=5),
    st.integers(0, 9).map(lambda number: "x" * 199 + str(number)),
    st.just("\N{FIRE}" * 10_000),
)
origins = st.sampled_from(["n1", "n2", "@", "", "Not A Node"])
values = st.one_of(
    st.sampled_from(
        [b"\x01", b"\x81\xa1a\x01", b"", b"\xc1", b"\x91" * 2000, b"\x81\x01\x02", b"\xd6\xff\0\0\0\0"]
    ),
    st.binary(max_size=8),
)
marks = st.tuples(integers, integers)
writes = st.builds(
    Write,
    origins,
    integers,
    integers,
    integers,
    st.dictionaries(st.sampled_from(["", "a", "@parcel"]), values, max_size=2),
)
traits = st.tuples(
    integers,
    st.sampled_from(["", "strong", "eventual", "weak", "no"]),
    st.sampled_from(["", "push", "pull", "x"]),
)
plausible = st.builds(
    lambda name, origin, number: written(Entry(name), (origin, 1, number), NOW_MS << 16, fields_in("lie")),
    names,
    st.sampled_from(["n1", "n1", "n2", "@"]),
    st.integers(1, 9),
)
entries = plausible | st.builds(
    Entry,
    names,
    st.lists(writes, max_size=3).map(tuple),
    st.dictionaries(origins, marks, max_size=3),
    traits,
    integers,
)
prints = st.dictionaries(names, st.binary(max_size=8), max_size=3)
several = st.lists(names, max_size=3).map(tuple)
parts: st.SearchStrategy[Part] = st.one_of(
    st.builds(
        Push, integers, st.lists(entries, max_size=3).map(tuple), st.dictionaries(names, values, max_size=2)
    ),
    st.builds(
        Ack, integers, st.lists(st.builds(Refusal, names, names), max_size=2).map(tuple), several, integers
    ),
    st.builds(
        Digest,
        st.dictionaries(origins, marks, max_size=3),
        values,
        integers,
        st.booleans(),
        integers,
        integers,
        st.booleans(),
    ),
    st.builds(
        Walk,
        st.lists(st.builds(Branch, names, st.lists(values, max_size=17).map(tuple)), max_size=2).map(tuple),
        st.lists(st.builds(Leaf, names, prints), max_size=2).map(tuple),
    ),
    st.builds(Pull, several),
    st.builds(Offer, integers, st.lists(st.builds(Offered, names, values, integers), max_size=2).map(tuple)),
    st.builds(
        Call,
        integers,
        names,
        st.sampled_from([1.0, -1.0, float("nan"), float("inf")]),
        st.none() | values,
        st.booleans(),
        integers,
    ),
    st.builds(
        Result, integers, st.builds(lambda value: Outcome(status=Status.OK, value=value), st.none() | values)
    ),
)
messages = st.builds(lambda life, part: SyncMessage(life=life, part=part), integers, parts)
settings_ = st.builds(
    lambda life, number, entry: Setting(life=life, number=number, entry=entry), integers, integers, entries
)
asks = st.builds(
    lambda verb, key, value, targets, expected, level, budget_s, setting, operation: SyncAsk(
        correlation="c",
        budget_s=budget_s,
        verb=verb,
        key=key,
        value=value,
        targets=targets,
        expected=expected,
        level=level,
        setting=setting,
        operation=operation,
    ),
    st.sampled_from(list(SyncVerb)),
    names,
    values,
    st.lists(st.sampled_from(["n1", "n2", "", "Not A Node"]), max_size=3).map(tuple),
    integers,
    st.none() | st.sampled_from(list(ConsistencyLevel)),
    st.sampled_from([1.0, -1.0, float("nan"), float("inf")]),
    st.sampled_from(["", "desired", "reported", "x"]),
    marks,
)


def over_the_wire(topic: Any, message: Any) -> Any:
    """What the other side hears; None: it would not decode, or not even encode."""
    try:
        return decode(topic, encode(message))
    except (RemoteError, OverflowError, UnicodeEncodeError, msgspec.MsgspecError):
        return None


def cloud_event(message: Any) -> Any:
    topic, event = {
        SyncMessage: (SYNC_UP, lambda got: MessageHeard("n1", got, NOW_MS)),
        Setting: (REPORTED_KEY, lambda got: ReportedHeard("n1", "rate", got, NOW_MS)),
        SyncAsk: (APP_SYNC, lambda got: Asked("app", got, NOW_MS)),
    }[type(message)]
    got = over_the_wire(topic, message)
    return None if got is None else event(got)


from_devices = st.lists(st.one_of(messages, messages, settings_, asks), max_size=12)


@settings(max_examples=60, deadline=None)
@given(from_devices)
def test_the_cloud_lives_through_anything_and_others_keys_stay_theirs(sent):
    cloud_lives_through(sent)


@pytest.mark.long
@settings(max_examples=3_000, deadline=None)
@given(from_devices)
def test_the_cloud_lives_through_anything_for_long(sent):
    cloud_lives_through(sent)


def fits(effect: object) -> bool:
    """What a service would refuse to publish, and stop."""
    if not isinstance(effect, Publish):
        return True
    return len(encode(effect.message)) <= effect.to.topic.bytes_max


def cloud_lives_through(sent: list[Any]) -> None:
    core = Sync(5, lambda: 0.5)
    secret = written(Entry("secret"), ("n2", 1, 1), NOW_MS << 16, fields_in("s3cr3t"))
    told: list[object] = []
    said = [MessageHeard("n2", SyncMessage(life=1, part=Push(1, (secret,))), NOW_MS), *map(cloud_event, sent)]
    for now, event in enumerate([Tick(), Restored(), LinkUp(False), *said]):
        effects = [] if event is None else core.step(event, float(now))
        for answer in (Saved(), Tick()):
            saving = any(isinstance(one, Save) for one in effects) or answer != Saved()
            effects = core.step(answer, now + 0.5) if saving else effects
            told += effects
        core.check()
    assert all(map(fits, told))
    applications = any(isinstance(one, SyncAsk) and one.key == "secret" for one in sent)  # they may
    assert applications or value_of(core.journal.read("secret")) == "s3cr3t"
    assert applications or core.fleet.sharing["secret"].targets == ("n2",)
    assert applications or not [one for one in told if "s3cr3t" in str(one) and "node/n1" in str(one)]


@settings(max_examples=60, deadline=None)
@given(st.lists(messages, max_size=12))
def test_a_device_lives_through_anything(sent):
    core = DeviceSync("n1", 3, lambda: 0.5)
    for now, event in enumerate(
        [edge.Restored(), LinkUp(False), *(over_the_wire(SYNC_DOWN, one) for one in sent)]
    ):
        if isinstance(event, SyncMessage):
            event = edge.MessageHeard(event, NOW_MS)
        effects = [] if event is None else core.step(event, float(now))
        if any(isinstance(one, edge.Save) for one in effects):
            assert all(map(fits, core.step(edge.Saved(), now + 0.5)))
        assert all(map(fits, effects))
        assert all(map(fits, core.step(Tick(), now + 0.6)))
        core.check()
        for name in core.journal.replica.entries:
            core.read(name)


def test_the_largest_answers_fit_their_messages() -> None:
    """Hundreds of keys with the longest names: all refused, all offered, all differing, all pulled."""
    long = [f"{number:03d}" + "x" * 197 for number in range(600)]
    lies = tuple(written(Entry(name), ("n2", 1, 1), NOW_MS << 16, fields_in(1)) for name in long[:256])
    truths = [written(Entry(name), ("n1", 1, 1), NOW_MS << 16, fields_in(1)) for name in long]
    branch = Branch("", tuple(bytes([digit]) * 8 for digit in range(16)))
    leaf = Leaf("", {f"{number:03d}" + "y" * 197: b"print" for number in range(400)})
    offered = tuple(Offered(name, b"new", 9) for name in leaf.prints)
    parts: list[Part] = [
        Push(1, lies),
        *(Push(2 + at, tuple(truths[at * 100 : at * 100 + 100])) for at in range(6)),
        Walk((branch, *(Branch(f"{digit:x}", branch.children) for digit in range(16)))),
        Walk((), (leaf,)),
        Offer(9, offered),
        Pull(tuple(long[:512])),
        Digest({}, b"", 0),
        Push(10, lies * 3),
    ]
    told = []
    core = Sync(5, lambda: 0.5)
    events = [Tick(), Restored(), LinkUp(False)]
    for now, event in enumerate(
        [*events, *(MessageHeard("n1", SyncMessage(life=1, part=one), NOW_MS) for one in parts)]
    ):
        effects = core.step(event, float(now))  # type: ignore[arg-type]
        if any(isinstance(one, Save) for one in effects):
            effects += core.step(Saved(), now + 0.5)
        told += effects
        core.check()
    assert len(core.fleet.sharing) == 600
    assert all(map(fits, told))
    assert max(len(encode(one.message)) for one in told if isinstance(one, Publish)) > 1_000


def test_a_device_whose_boot_has_the_number_nought_is_served_like_any_other() -> None:
    core = Sync(5, lambda: 0.5)
    for now, event in enumerate([Tick(), Restored(), LinkUp(False)]):
        core.step(event, float(now))  # type: ignore[arg-type]
    call = SyncMessage(life=0, part=Call(1, "k", 5.0, value=b"\x01"))
    assert any(isinstance(one, Save) for one in core.step(MessageHeard("n1", call, NOW_MS), 4.0))
