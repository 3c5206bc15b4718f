"""The device's residency: what it believes, what it decides, which heads of the cloud's log it follows."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.bus import Delivery, Link
from broker.guard import PASS, REFUSE
from edge.residency.core import (
    ASK_AGAIN_S,
    KEEP_EVERY_S,
    TELL_EVERY_S,
    UNTOLD_MAX,
    Residency,
    Signatures,
)
from edge.residency.events import (
    DecisionMade,
    HeadHeard,
    Kept,
    PlaceHeard,
    PolicyHeard,
    ProofHeard,
    Remember,
    Suspect,
)
from edge.residency.service import DeviceGate, DeviceResidency, kept_of, signatures
from shared.audit import (
    Decided,
    Decisions,
    HeadFact,
    PlaceFact,
    Point,
    PolicyFact,
    Proof,
    Witness,
    signed_place_bytes,
    signed_policy_bytes,
)
from shared.core import Effect, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.residency import OPEN, Action, DataClass, Place, PolicyText, Rule, Why
from shared.sync import PUBLISH, RECEIVE, Push, SyncMessage
from shared.tags import Label, Tag
from shared.topics import DECISIONS, SYNC_UP, WITNESS
from shared.transparency import Head, consistency_path, leaf_hash, root_of, subtrees
from shared.versions import Entry, Write, fields_in
from shared.wire import encode
from tests.support.audit import KEY, OTHER_KEY, PUBLIC
from tests.transcript import Transcript

LEAVES = [leaf_hash(b"%d" % number) for number in range(40)]
OTHER = [*LEAVES[:3], leaf_hash(b"changed"), *LEAVES[4:]]
EU = PolicyText(
    version=3,
    regions=("eu/de", "us"),
    data=(DataClass(keys=("patients/*",), label=Label.PERSONAL, allowed=("eu",)),),
    permit=(Rule(name="all"),),
)
BELIEVE = Signatures(*[lambda fact: getattr(fact, "signature", b"") != b"forged"] * 3)


def head(size: int, leaves: list[bytes] = LEAVES, log: str = "l1", **other: object) -> Head:
    return Head(log=log, number=size, size=size, root=root_of(leaves[:size]), at_unix_s=1.0, **other)


def shown(size: int, previous: int, leaves: list[bytes] = LEAVES) -> HeadHeard:
    path = consistency_path(previous, size, subtrees(leaves)) if previous else ()
    return HeadHeard(HeadFact(head=head(size, leaves), previous_size=previous, path=path))


def proof(old: int, size: int, leaves: list[bytes] = LEAVES) -> ProofHeard:
    path = consistency_path(old, size, subtrees(leaves))
    return ProofHeard(Proof(head=head(size, leaves), old=old, path=path))


def policy(version: int = 3, **other: object) -> PolicyHeard:
    text = msgspec.structs.replace(EU, version=version)
    return PolicyHeard(PolicyFact(policy=text, cloud_region="eu/de", **other))


def device(**kept: object) -> Residency:
    return Residency("n1", 7, BELIEVE, Kept(**kept))


def feed(core: Residency, *events: object, now: float = 0.0) -> list[Effect]:
    effects: list[Effect] = []
    for event in events:
        effects += core.step(event, now)  # type: ignore[arg-type]
        core.check()
    return effects


def witnesses(effects: list[Effect]) -> list[Witness]:
    return [one.message for one in effects if isinstance(one, Publish) and one.to == WITNESS.at(node="n1")]


def test_the_life_of_a_witness() -> None:
    core = device()
    transcript = Transcript("residency/device", core)
    transcript.at(0.0, LinkUp(False), policy(), PlaceHeard(PlaceFact(region="eu/de", serial=5)))
    transcript.at(1.0, shown(3, 0), shown(5, 3), shown(9, 7))
    transcript.at(2.0, proof(5, 9))
    transcript.at(3.0, DecisionMade(decided()), Tick())
    transcript.at(4.0, shown(12, 9, OTHER), proof(9, 12, OTHER), shown(15, 9))
    transcript.matches()


# What it believes -----------------------------------------------------------------------------------


def test_a_policy_or_place_without_our_clouds_signature_is_not_believed() -> None:
    core = device()
    effects = feed(core, policy(signature=b"forged"))
    effects += feed(core, PlaceHeard(PlaceFact(region="us", serial=9, signature=b"forged")))
    assert [type(one) for one in effects] == [Suspect, Suspect]
    assert core.policy is None
    assert core.place == Place("n1", "")


def test_an_older_policy_or_place_is_not_believed_any_more() -> None:
    core = device()
    feed(core, policy(4), PlaceHeard(PlaceFact(region="eu/de", serial=5)))
    effects = feed(core, policy(3), PlaceHeard(PlaceFact(region="us", serial=4)))
    assert [type(one) for one in effects] == [Ignore, Ignore]
    assert (core.policy.version if core.policy else 0, core.place.region) == (4, "eu/de")


def test_what_it_believed_survives_a_power_cut() -> None:
    core = device()
    effects = feed(core, policy(4), PlaceHeard(PlaceFact(region="eu/de", serial=5)), shown(3, 0))
    kept = [one.kept for one in effects if isinstance(one, Remember)][-1]
    again = Residency("n1", 8, BELIEVE, kept_of(_stored(kept)))
    assert (again.place.region, again.cloud.region) == ("eu/de", "eu/de")
    assert again.policy is not None
    assert again.kept.head == head(3)
    assert feed(again, policy(3))[0] == Ignore("policy 3 is older than 4")


def _stored(kept: Kept) -> dict[str, str]:
    import base64

    return {"kept": base64.b64encode(msgspec.msgpack.encode(kept)).decode()}


@pytest.mark.parametrize("saved", [None, {}, {"kept": "?"}, {"kept": 7}, {"kept": "AAAA"}])
def test_a_memory_that_can_not_be_read_is_none(saved: object) -> None:
    assert kept_of(saved) == Kept()  # type: ignore[arg-type]


def test_the_keys_signature_binds_a_place_to_its_node() -> None:
    fact = PlaceFact(region="eu", serial=1)
    fact = msgspec.structs.replace(fact, signature=KEY.sign(signed_place_bytes("n1", fact)))
    assert signatures(PUBLIC, "n1").place(fact)
    assert not signatures(PUBLIC, "n2").place(fact)
    rules = PolicyFact(policy=EU)
    forged = msgspec.structs.replace(rules, signature=OTHER_KEY.sign(signed_policy_bytes(rules)))
    assert not signatures(PUBLIC, "n1").policy(forged)


# The witness ----------------------------------------------------------------------------------------


def test_a_head_that_follows_is_taken_over_quietly() -> None:
    core = device()
    assert len(witnesses(feed(core, LinkUp(False), shown(3, 0)))) == 1
    assert feed(core, shown(5, 3)) == []
    assert core.kept.head == head(5)


def test_a_device_that_missed_heads_asks_until_it_gets_a_proof() -> None:
    core = device()
    feed(core, LinkUp(False), shown(3, 0))
    (witness,) = witnesses(feed(core, shown(9, 7), now=1.0))
    assert (witness.head, witness.wants) == (head(3), 9)
    assert witnesses(feed(core, shown(10, 9), Tick(), now=2.0)) == []
    assert witnesses(feed(core, Tick(), now=1.0 + ASK_AGAIN_S))[0].wants == 10
    (witness,) = witnesses(feed(core, proof(3, 10), now=40.0))
    assert (witness.head, witness.wants) == (head(10), 0)


@pytest.mark.parametrize(
    "fork",
    [
        [shown(4, 0), shown(4, 0, OTHER)],
        [shown(4, 0), shown(9, 4, OTHER), proof(4, 9, OTHER)],
        [shown(4, 0), HeadHeard(HeadFact(head=head(9, log="l2")))],
    ],
    ids=["another root", "does not follow", "another log"],
)
def test_a_fork_is_shown_to_everybody_and_not_followed(fork: list[object]) -> None:
    core = device()
    feed(core, LinkUp(False))
    effects = feed(core, *fork)
    assert any(isinstance(one, Suspect) for one in effects)
    witness = witnesses(effects)[-1]
    assert core.kept.head is not None
    assert witness.head == core.kept.head
    assert witness.forked not in (None, core.kept.head)
    assert witnesses(feed(core, LinkDown(), LinkUp(False))) == [witness], "and again at each link-up"


def test_a_log_that_became_shorter_is_told_to_the_cloud() -> None:
    core = device()
    feed(core, LinkUp(False), shown(9, 0))
    assert witnesses(feed(core, shown(5, 3), now=ASK_AGAIN_S))[0].head == head(9)
    assert core.kept.head == head(9)


def test_the_store_is_spared_and_the_broker_reminded() -> None:
    core = device()
    feed(core, LinkUp(False), shown(1, 0), now=0.0)
    effects = feed(core, *[shown(size, size - 1) for size in range(2, 20)], now=1.0)
    assert effects == []
    assert [type(one) for one in feed(core, Tick(), now=KEEP_EVERY_S)] == [Remember]
    assert witnesses(feed(core, Tick(), now=TELL_EVERY_S))[0].head == head(19)


steps = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(0, 39), st.booleans()).map(
        lambda drawn: shown(drawn[0], min(drawn[1], drawn[0]), OTHER if drawn[2] else LEAVES)
    ),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.booleans()).map(
        lambda drawn: proof(min(drawn[:2]), max(drawn[:2]), OTHER if drawn[2] else LEAVES)
    ),
    st.sampled_from([LinkUp(False), LinkDown(), Tick(), policy(3), policy(4)]),
)


@settings(deadline=None)
@given(st.lists(steps, max_size=25))
def test_in_any_history_the_held_head_only_grows_along_one_history(history: list[object]) -> None:
    core, last, now = device(), None, 0.0
    for event in history:
        now += 20.0
        feed(core, event, now=now)
        held = core.kept.head
        if last is not None:
            assert held is not None
            assert held.size >= last.size
            trunk = LEAVES if root_of(LEAVES[: held.size]) == held.root else OTHER
            assert root_of(trunk[: last.size]) == last.root
        last = held


# Decisions ------------------------------------------------------------------------------------------


def decided(allow: bool = False, policy: int = 3) -> Decided:
    return Decided(
        at_unix_s=1.0,
        point=Point.RECEIVE,
        action=Action(key="k"),
        tag=None,
        allow=allow,
        why=Why.PERMITTED if allow else Why.NO_TAG,
        policy=policy,
    )


def reports(effects: list[Effect]) -> list[Decisions]:
    return [one.message for one in effects if isinstance(one, Publish) and one.to == DECISIONS.at(node="n1")]


def test_decisions_are_reported_in_portions_and_numbered_on() -> None:
    core = device()
    feed(core, *[DecisionMade(decided())] * 100, Tick())
    told = reports(feed(core, LinkUp(False), Tick(), Tick(), Tick()))
    assert [(one.epoch, one.first, len(one.decided)) for one in told] == [(7, 0, 64), (7, 64, 36)]


def test_at_the_bound_the_oldest_decisions_are_lost_and_counted() -> None:
    core = device()
    feed(core, *[DecisionMade(decided())] * (UNTOLD_MAX + 5))
    (told,) = reports(feed(core, LinkUp(False), Tick()))
    assert (told.first, told.lost) == (5, 5)


def test_without_a_policy_only_refusals_are_news() -> None:
    core = device()
    feed(core, DecisionMade(decided(allow=True, policy=OPEN.version)), DecisionMade(decided(policy=0)))
    assert len(core.untold) == 1


def gate(core: Residency) -> tuple[DeviceGate, list[Decided]]:
    noted: list[Decided] = []
    return DeviceGate(core, lambda event: noted.append(event.decided), lambda: 5.0), noted


def test_the_receiver_decides_for_itself() -> None:
    core = device()
    asked, noted = gate(core)
    assert asked.allowed("n1", "patients/7", b"", RECEIVE).decision.why is Why.NO_POLICY
    feed(core, policy(), PlaceHeard(PlaceFact(region="us", serial=1)))
    assert asked.allowed("n1", "patients/7", b"", RECEIVE).decision.why is Why.OUTSIDE
    feed(core, PlaceHeard(PlaceFact(region="eu/de", serial=2)))
    assert asked.allowed("n1", "patients/7", b"", RECEIVE).allowed
    stricter = msgspec.msgpack.encode(Tag(label=Label.SENSITIVE, allowed=("us",)))
    assert asked.allowed("n1", "patients/7", stricter, RECEIVE).decision.why is Why.OUTSIDE
    assert asked.allowed("n1", "patients/7", b"\xc1", RECEIVE).decision.why is Why.UNREADABLE
    assert [one.allow for one in noted] == [False, False, True, False, False]


def test_nothing_leaves_for_a_cloud_that_may_not_have_it() -> None:
    core = device()
    asked, noted = gate(core)
    abroad = PolicyFact(policy=EU, cloud_region="us")
    feed(core, PolicyHeard(abroad), PlaceHeard(PlaceFact(region="eu/de", serial=1)))
    entry = Entry("patients/7", (Write("n1", 1, 1, 1, fields_in({"name": "Ada"})),), {"n1": (1, 1)})
    payload = encode(SyncMessage(life=1, part=Push(1, (entry,))))
    topic = SYNC_UP.at(node="n1").name
    assert asked.judge(topic, payload) == REFUSE
    assert not asked.allowed("@", "patients/7", b"", PUBLISH).allowed
    feed(core, policy(4))
    assert asked.judge(topic, payload) == PASS
    assert [(one.point, one.allow) for one in noted][0::2] == [(Point.PUBLISH, False), (Point.PUBLISH, True)]


class Wire:
    """A bus that only remembers."""

    def __init__(self) -> None:
        from broker.bus import BusStats

        self.stats, self.link, self.sent = BusStats(), Link(up=True), list[tuple[str, bytes]]()

    def publish(self, topic: str, payload: bytes, **_: object) -> bool:
        self.sent.append((topic, payload))
        return True


def test_the_whole_of_it_remembers_what_it_was_told() -> None:
    stored: dict[str, object] = {}
    wire = Wire()
    whole = DeviceResidency("n1", 1, wire, PUBLIC, saved=None, remember=stored.update)  # type: ignore[arg-type]
    fact = PolicyFact(policy=EU, cloud_region="eu/de")
    fact = msgspec.structs.replace(fact, signature=KEY.sign(signed_policy_bytes(fact)))
    delivered = Delivery("all/policy", encode(fact))
    whole.service._deliver(delivered)
    assert kept_of(stored).policy == fact
    assert whole.core.policy is not None
