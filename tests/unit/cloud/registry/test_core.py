from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.facts import NodeChanged, NodeStatus
from cloud.registry.core import NEXT, START, Registry
from cloud.registry.events import Enrol, Forget
from shared.core import LinkDown, LinkUp, Tick
from shared.errors import InvalidTransition
from shared.messages import ModelState, NodeState
from tests.unit.cloud.registry.devices import ABLE, beat, birth, presence, reported, status, watching


def test_every_status_is_reachable_and_none_is_a_dead_end() -> None:
    reachable, frontier = set(), set(START)
    while frontier:
        reachable |= frontier
        frontier = {after for before in frontier for after in NEXT[before]} - reachable
    assert reachable == set(NodeStatus) == set(NEXT)
    assert all(NEXT[one] for one in NodeStatus)
    assert not any(one in NEXT[one] for one in NodeStatus)


def test_a_move_that_the_table_forbids_stops_the_service() -> None:
    core = watching()
    core.step(beat("pi", 0), 1.0)
    with pytest.raises(InvalidTransition, match="pi: idle -> idle"):
        core._enter(core._nodes["pi"], NodeStatus.IDLE, "again")


def test_a_heartbeat_that_was_overtaken_is_ignored() -> None:
    core = watching()
    core.step(beat("pi", 5, state=NodeState.BUSY), 1.0)
    [ignored] = core.step(beat("pi", 4), 2.0)
    assert "heard, or overtaken" in str(ignored)
    assert status(core, "pi") is NodeStatus.BUSY


def test_a_shorter_interval_is_judged_by_its_own_measure() -> None:
    """The node is armed for the default interval first; the birth must move its judgement forward."""
    core = watching()
    core.step(presence("pi"), 1.0)
    core.step(birth("pi", heartbeat_s=1.0), 1.0)
    core.step(beat("pi", 0), 1.0)
    changes = [(now, *core.step(Tick(), float(now))) for now in range(2, 12)]
    told = [(now, effect.fact.status, effect.fact.suspect) for now, *effects in changes for effect in effects]
    assert told == [(4, NodeStatus.IDLE, True), (7, NodeStatus.OFFLINE, False)]


def test_the_overview_counts_live_nodes_only() -> None:
    core = watching()
    for node in ("a", "b", "c"):
        core.step(birth(node), 1.0)
        core.step(beat(node, 0, in_flight=1, state=NodeState.BUSY), 1.0)
        core.step(reported(node, "digits"), 1.0)
    core.step(reported("b", "digits", state=ModelState.LOADING), 2.0)
    core.step(presence("c", online=False), 3.0)
    core.step(presence("d"), 3.0)
    overview = core.overview()
    assert overview.by_status == {"offline": 1, "idle": 0, "busy": 2, "error": 0, "unknown": 1}
    assert (overview.nodes, overview.cores, overview.slots, overview.in_flight) == (4, 8, 4, 2)
    assert overview.cpu_ratio_mean == 0.25
    assert overview.models_ready == {"digits": 1}
    assert overview.watched_s == 3.0
    core.step(LinkDown(), 4.0)
    assert core.overview().watched_s is None


def test_a_node_is_shown_with_its_evidence() -> None:
    core = watching()
    core.step(birth("pi"), 1.0)
    core.step(beat("pi", 0), 2.0)
    core.step(Tick(), 4.5)
    view = core.node("pi")
    assert view is not None
    assert view.why == "its heartbeat said idle"
    assert (view.heartbeat_age_s, view.status_age_s, view.heartbeats_missed) == (2.5, 2.5, 0)
    assert core.node("nobody") is None


def test_strangers_over_the_bound_are_counted() -> None:
    core = watching(nodes_max=2)
    for number in range(5):
        core.step(beat(f"n{number}", 0), 1.0)
    core.step(beat("Bad Name", 0), 1.0)
    assert len(core) == 2
    assert core.overview().strangers == 4


def test_a_node_that_plays_with_its_interval_cannot_fill_the_heap() -> None:
    core = watching(nodes_max=4)
    core.step(beat("pi", 0), 0.0)
    for step in range(1000):
        core.step(presence("pi", step + 2), 0.0)
        core.step(birth("pi", step + 2, heartbeat_s=3600.0 - step), 0.0)
        core.check()


def test_a_tick_touches_only_the_nodes_whose_time_has_come() -> None:
    core = watching(nodes_max=1000)
    for number in range(1000):
        core.step(beat(f"n{number}", 0), number / 100)
    judged = Counter(len(core.step(Tick(), float(now))) for now in range(11, 41))
    assert judged[0] == 19  # nothing at all until the first is suspect, 30 s after its heartbeat
    assert sum(count * ticks for count, ticks in judged.items()) == 1000


NODES = st.sampled_from(["a", "b", "c", "d", "X!"])
EPOCHS = st.integers(0, 3)
EVENTS = st.one_of(
    st.builds(Tick),
    st.builds(LinkUp, st.booleans()),
    st.builds(LinkDown),
    st.builds(presence, NODES, EPOCHS, online=st.booleans()),
    st.builds(birth, NODES, EPOCHS, heartbeat_s=st.sampled_from([0.0, 1.0, 10.0, 60.0])),
    st.builds(beat, NODES, st.integers(-1, 9), EPOCHS, state=st.sampled_from(NodeState)),
    st.builds(reported, NODES, st.sampled_from(["m", "Bad Name"]), epoch=EPOCHS),
    st.builds(Enrol, NODES, st.just(""), st.just(ABLE)),
    st.builds(Forget, NODES),
)
HISTORIES = st.lists(st.tuples(st.floats(0.0, 20.0), EVENTS), max_size=60)


@given(HISTORIES)
@settings(max_examples=200, deadline=None)
def test_no_history_breaks_the_books(history: list[tuple[float, object]]) -> None:
    core, now = Registry(nodes_max=3), 0.0
    for wait_s, event in history:
        now += wait_s
        core.step(event, now)
        core.check()


@given(HISTORIES)
@settings(max_examples=200, deadline=None)
def test_nobody_is_called_offline_by_silence_that_we_did_not_listen_to(
    history: list[tuple[float, object]],
) -> None:
    """The naive rule, kept beside the core: when did we last hear it, and since when do we listen?"""
    core, now, up_since = Registry(), 0.0, float("inf")
    for wait_s, event in history:
        now += wait_s
        before = {view.fact.node: view for view in core.nodes()}
        effects = core.step(event, now)
        if isinstance(event, LinkUp | LinkDown):
            up_since = now if isinstance(event, LinkUp) else float("inf")
        if not isinstance(event, Tick):
            continue
        for effect in effects:
            assert isinstance(effect, NodeChanged)
            if effect.fact.status is NodeStatus.OFFLINE:
                window_s = 6 * before[effect.fact.node].interval_s
                assert now - up_since >= window_s - 1e-6
