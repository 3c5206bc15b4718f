import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.balancer import core as limits
from cloud.balancer.core import Balancer
from cloud.balancer.facade import EdgeLoadBalancer
from cloud.balancer.request import NEXT, START, Phase
from cloud.balancer.score import STEPS, STEPS_PER_DOUBLING, Kind, step_of, why_not
from cloud.facts import NodeForgotten, NodeStatus
from shared.config import BalancerSection
from shared.core import Ignore, LinkDown, LinkUp, Tick
from shared.errors import InvalidTransition
from shared.messages import ModelState, ReplyStatus
from tests.unit.cloud.balancer.nodes import ask, code_of, declined, fact, reply, sent_to, watching


def test_every_phase_is_reachable_and_every_dead_end_is_meant() -> None:
    reachable, frontier = set(), set(START)
    while frontier:
        reachable |= frontier
        frontier = {after for phase in frontier for after in NEXT[phase]} - reachable
    assert reachable == set(Phase) == set(NEXT)
    ends = {phase for phase in Phase if not NEXT[phase]}
    assert ends == {Phase.ANSWERED, Phase.DIED, Phase.DECLINED, Phase.EXPIRED, Phase.SHED}


def test_a_move_that_the_table_forbids_stops_the_service() -> None:
    core = watching(fact("a"))
    core.step(ask("c1", model="nothing"), 1.0)
    with pytest.raises(InvalidTransition, match="shed -> answered"):
        core._records["app", "c1"].enter(Phase.ANSWERED)


def test_equal_nodes_share_equally() -> None:
    core = watching(*(fact(f"n{number}") for number in range(5)))
    chosen: Counter[str] = Counter()
    for number in range(500):
        node = sent_to(core.step(ask(f"c{number}"), number * 0.1))
        core.step(reply(node, f"c{number}"), number * 0.1 + 0.012)
        chosen[node] += 1
    assert set(chosen.values()) == {100}


def test_slots_and_speed_decide_how_much_a_busy_node_gets() -> None:
    """Four times the speed and twice the slots: under load it carries most, but not all."""
    core = watching(fact("big", gflops=8.0, slots=2), fact("small", gflops=2.0))
    chosen = Counter(sent_to(core.step(ask(f"c{number}"), 1.0)) for number in range(18))
    assert chosen["big"] > 3 * chosen["small"] > 0


def test_a_node_that_others_use_is_not_idle() -> None:
    core = watching(fact("a", gflops=8.0, in_flight=3, status=NodeStatus.BUSY), fact("b", gflops=2.0))
    assert sent_to(core.step(ask("c1"), 1.0)) == "b"


def test_our_own_requests_are_not_counted_twice_by_a_late_heartbeat() -> None:
    core = watching(fact("a"))
    for number in range(3):
        core.step(ask(f"c{number}"), 1.0)
    for number in range(3):
        core.step(reply("a", f"c{number}"), 1.1)
    core.step(fact("a", heartbeat=2, in_flight=3, status=NodeStatus.BUSY), 1.2)
    assert core.fleet.nodes["a"].load == 0


def test_a_suspect_node_is_used_only_when_it_pays() -> None:
    core = watching(fact("a", suspect=True), fact("b"))
    assert [sent_to(core.step(ask(f"c{number}"), 1.0)) for number in range(5)] == [*"bbbb", "a"]


def test_a_black_hole_stops_receiving_requests() -> None:
    """It heartbeats, is the fastest, and answers nothing."""
    core = watching(fact("hole", gflops=100.0), fact("b"))
    lost = 0
    for number in range(50):
        now = 1.0 + number
        core.step(Tick(), now)
        node = sent_to(core.step(ask(f"c{number}", budget_s=0.4), now))
        if node == "b":
            core.step(reply("b", f"c{number}"), now + 0.01)
        lost += node == "hole"
        core.step(Tick(), now + 0.5)
    assert lost == 3


def test_a_node_that_recovers_is_forgiven() -> None:
    core = watching(fact("a", gflops=100.0), fact("b"))
    core.fleet.nodes["a"].strike(4)
    core.fleet.rank(core.fleet.nodes["a"])
    assert core.preview("digits") == "b"
    core.step(fact("a", gflops=100.0, heartbeat=2), 10.0)
    core.step(fact("a", gflops=100.0, heartbeat=3), 20.0)
    assert core.preview("digits") == "a"


def test_a_slow_fleet_is_not_made_slower_by_second_tries() -> None:
    core = watching(*(fact(f"n{number}") for number in range(4)), section=BalancerSection(waiting_max=10_000))
    for number in range(4000):
        core.step(ask(f"c{number}", budget_s=3000.0), 1.0)
    now = 1.0
    while now < 1200.0:
        now += 0.9
        core.step(Tick(), now)
    paid = limits.SPARE_MAX + 4000 * limits.SPARE_PER_ASK
    assert 0 < core.counts["rescued from silence"] <= paid
    core.check()


def test_inputs_kept_for_a_second_try_are_bounded_in_bytes() -> None:
    core = watching(fact("a"), fact("b"), waiting_bytes_max=len(ask("c").ask.inputs))
    first = sent_to(core.step(ask("c1"), 1.0))
    second = sent_to(core.step(ask("c2"), 1.0))
    assert {first, second} == {"a", "b"}
    core.check()
    [failed] = core.step(fact(second, status=NodeStatus.OFFLINE), 1.1)
    assert code_of([failed]) == "node-died"
    assert sent_to(core.step(fact(second, heartbeat=2), 1.2) + core.step(ask("c3"), 1.2)) == second


def test_a_stranger_cannot_answer_for_a_node() -> None:
    core = watching(fact("a"), fact("mallory", status=NodeStatus.ERROR))
    core.step(ask("c1"), 1.0)
    assert core.step(reply("mallory", "c1"), 1.1) == [Ignore("mallory was not asked")]
    assert core.waiting == 1


def test_what_a_device_claims_about_its_speed_is_bounded_by_the_clock() -> None:
    core = watching(fact("a"))
    for number, lie in enumerate((float("nan"), -1.0, 1e9, 0.0)):
        core.step(ask(f"c{number}"), float(number))
        core.step(reply("a", f"c{number}", service_s=lie), number + 0.25)
    assert core.fleet.nodes["a"].held["digits"].service_s == pytest.approx(0.25)


def test_an_unlucky_first_answer_does_not_banish_a_node() -> None:
    core = watching(fact("a"), fact("b"))
    for node, now, service_s in (("a", 1.0, 1.0), ("b", 3.0, 0.01)):
        assert sent_to(core.step(ask(f"for-{node}"), now)) == node
        core.step(reply(node, f"for-{node}", service_s=service_s), now + service_s + 0.002)
    beats = 0
    while core.preview("digits") == "b":
        beats += 1
        core.step(ask(f"c{beats}"), 10.0 * beats)
        core.step(reply("b", f"c{beats}"), 10.0 * beats + 0.012)
        for node in ("a", "b"):
            core.step(fact(node, heartbeat=beats + 1), 10.0 * beats + 1)
    assert 20 < beats < 60  # a hundred times slower is tried again in minutes, not in seconds
    sent_to(core.step(ask("again"), 1000.0))
    core.step(reply("a", "again", service_s=0.008), 1000.01)
    assert core.fleet.nodes["a"].held["digits"].service_s == 0.008


def test_one_slow_answer_does_not_have_everything_refused_for_ever() -> None:
    core = watching(fact("only"))
    core.step(ask("cold", budget_s=10.0), 1.0)
    core.step(reply("only", "cold", service_s=5.0), 6.0)
    assert core.preview("digits", budget_s=2.0) is None
    for beats in range(10):
        core.step(fact("only", heartbeat=beats + 2), 10.0 * beats + 10)
    assert core.preview("digits", budget_s=2.0) == "only"


def test_an_answer_that_is_too_late_teaches_all_the_same() -> None:
    core = watching(fact("slow"))
    core.step(ask("c1", budget_s=0.5), 1.0)
    core.step(Tick(), 1.6)
    assert core.outcome("app", "c1") is Phase.EXPIRED
    core.step(reply("slow", "c1", service_s=0.9), 2.0)
    assert core.preview("digits", budget_s=0.5) is None
    assert core.fleet.nodes["slow"].strikes == 0


def test_a_choice_is_explained() -> None:
    core = watching(
        fact("a"), fact("b", gflops=1.0), fact("c", status=NodeStatus.OFFLINE), fact("d", models=())
    )
    core.step(ask("c1"), 1.0)
    facade = EdgeLoadBalancer(core)
    why = facade.explain("app", "c1")
    assert why is not None
    assert (why["chosen"], why["outcome"], why["retried"]) == ("a", "sent", False)
    assert [candidate["node"] for candidate in why["candidates"]] == ["a", "b"]
    assert why["candidates"][0]["why"] == "idle: service 10 ms, round trip 1.8 ms, 0 in flight on 1 slots"
    assert why["excluded"] == {"offline": 1, "model absent": 1}
    core.step(reply("a", "c1"), 1.1)
    again = facade.explain("app", "c1")
    assert again is not None
    assert again["outcome"] == "answered"
    assert facade.explain("app", "c2") is None
    assert facade.select_node("digits") in ("a", "b")
    assert facade.select_node("digits", budget_s=1e-6) is None
    assert facade.get_statistics() == {"sent": 1, "ok": 1, "waiting": 0}


def test_explanations_are_bounded() -> None:
    core = watching(fact("a"))
    for number in range(limits.RECORDS_MAX + 10):
        core.step(ask(f"c{number}"), 1.0)
        core.step(reply("a", f"c{number}"), 1.0)
    core.check()
    assert core.explain("app", "c9") is None
    assert core.explain("app", "c10") is not None


# The index against a full scan ----------------------------------------------------------------------


def naive_place(core: Balancer, model: str) -> int | None:
    """The lowest place over all nodes, computed from nothing but the rule."""
    places = []
    for node in core.fleet.nodes.values():
        if model in node.held and not why_not(node.fact, model):
            places.append(node.held[model].weigh(BalancerSection()).place)
    return min(places, default=None)


@given(st.integers(0, 2**32), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_the_index_chooses_what_a_full_scan_would(seed: int, size: int) -> None:
    rng = random.Random(seed)
    core, now, flying = watching(), 0.0, []
    for step in range(150):
        now += rng.uniform(0, 0.05)
        dice = rng.random()
        if dice < 0.3:
            core.step(random_fact(rng, size, step), now)
        elif dice < 0.6 and flying:
            node, correlation = flying.pop(rng.randrange(len(flying)))
            core.step(reply(node, correlation, service_s=rng.uniform(0.001, 0.05)), now)
        else:
            for node in core.fleet.nodes.values():
                core.fleet.rank(node)  # guesses move without a touch; the scan sees them at once
            expected = naive_place(core, "digits")
            effects = core.step(ask(f"c{step}", budget_s=100.0, idempotent=False), now)
            if expected is None:
                assert code_of(effects) in ("no-node", "no-such-model")
                continue
            flying.append((sent_to(effects), f"c{step}"))
            chosen = next(
                one for one in core._records["app", f"c{step}"].candidates if one.node == flying[-1][0]
            )
            assert chosen.place == expected
        core.check()


def random_fact(rng: random.Random, size: int, heartbeat: int) -> object:
    return fact(
        f"n{rng.randrange(size)}",
        status=rng.choice([NodeStatus.IDLE, NodeStatus.IDLE, NodeStatus.BUSY, NodeStatus.ERROR]),
        gflops=rng.choice([0.0, 1.0, 1.1, 4.0]),
        slots=rng.choice([1, 2]),
        heartbeat=heartbeat,
        suspect=rng.random() < 0.1,
        in_flight=rng.choice([0, 0, 2]),
        models=rng.choice([("digits",), ("digits", "other"), ("other",)]),
        state=rng.choice([ModelState.READY] * 4 + [ModelState.LOADING]),
    )


@given(st.floats(1e-5, 4000), st.floats(1e-5, 4000), st.sampled_from(Kind))
def test_one_step_of_cost_is_nine_percent(one: float, other: float, kind: Kind) -> None:
    if step_of(one) == step_of(other):
        assert max(one, other) / min(one, other) <= 2 ** (1 / STEPS_PER_DOUBLING) + 1e-9
    else:
        assert (one < other) == (step_of(one) < step_of(other))
    assert 0 <= step_of(one) < STEPS


# Any history ----------------------------------------------------------------------------------------

NODES = st.sampled_from(["a", "b", "c"])
CORRELATIONS = st.integers(0, 12).map(lambda number: f"c{number}")
MODELS = st.sampled_from(["digits", "other", "nothing"])
EVENTS = st.one_of(
    st.builds(Tick),
    st.builds(LinkUp, st.booleans()),
    st.builds(LinkDown),
    st.builds(
        fact,
        NODES,
        status=st.sampled_from(NodeStatus),
        epoch=st.integers(1, 3),
        heartbeat=st.integers(0, 9),
        models=st.sampled_from([(), ("digits",), ("digits", "other")]),
        state=st.sampled_from(ModelState),
        draining=st.booleans(),
        suspect=st.booleans(),
        slots=st.integers(1, 3),
    ),
    st.builds(
        ask,
        CORRELATIONS,
        model=MODELS,
        budget_s=st.sampled_from([0.0, 0.001, 0.5, 3.0]),
        idempotent=st.booleans(),
        node=st.sampled_from(["", "", "a"]),
    ),
    st.builds(reply, NODES, CORRELATIONS, status=st.sampled_from(ReplyStatus)),
    st.builds(declined, NODES, CORRELATIONS),
    st.builds(NodeForgotten, NODES),
)


@given(st.lists(st.tuples(st.floats(0, 1.0), EVENTS), max_size=80))
@settings(max_examples=300, deadline=None)
def test_no_history_breaks_the_books_and_no_request_waits_for_ever(
    history: list[tuple[float, object]],
) -> None:
    core, now = Balancer(BalancerSection(waiting_max=4), waiting_bytes_max=40), 0.0
    for wait_s, event in history:
        now += wait_s
        core.step(event, now)
        core.check()
    core.step(Tick(), now + 4.0)
    assert core.waiting == 0
