"""The sender core: one pass for many, paced, fair, and deaf to nonsense."""

import re
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.artifacts.sender import (
    ChunkSent,
    Known,
    Retired,
    SendChunk,
    Sender,
    SenderLimits,
    Wake,
    WantSeen,
    Woken,
)
from shared.core import Failed, Ignore, LinkDown, LinkUp, Tick
from shared.messages import Want
from tests.transcript import Transcript, shown

SIZES = {"a" * 64: 40, "b" * 64: 3}
A, B = SIZES


def want(node: str, digest: str, *ranges: tuple[int, int]) -> WantSeen:
    return WantSeen(node, Want(digest=digest, ranges=ranges))


def sender(**limits: object) -> Sender:
    core = Sender(replace(SenderLimits(gather_s=0.0), **limits))
    run(core, *(Known(digest, chunks, 1024) for digest, chunks in SIZES.items()), LinkUp(False))
    return core


def run(core: Sender, *events: object, now: float = 0.0) -> list[object]:
    effects: list[object] = []
    for event in events:
        effects += core.step(event, now)
        core.check()
    return effects


def sent(effects: list[object]) -> list[tuple[str, int]]:
    return [(one.digest[0], one.index) for one in effects if isinstance(one, SendChunk)]


def drain(core: Sender, effects: list[object], now: float = 0.0) -> list[tuple[str, int]]:
    """Let the broker acknowledge everything; what was sent, in order."""
    order, waiting = sent(effects), [one for one in effects if isinstance(one, SendChunk)]
    while waiting:
        work = waiting.pop(0)
        more = run(core, ChunkSent(work.digest, work.index), now=now)
        order += sent(more)
        waiting += [one for one in more if isinstance(one, SendChunk)]
    return order


def brief(thing: object) -> str:
    """Digests cut to one letter."""
    return re.sub(r"([ab])\1{63}", r"\1", shown(thing))


def test_many_devices_are_served_by_one_pass_and_a_late_one_by_what_it_missed():
    (
        Transcript("artifacts/one-pass", sender(window=2), brief)
        .at(0.0, want("n1", B, (0, 3)), want("n2", B, (0, 2)), want("n3", B, (1, 3)))
        .at(0.1, ChunkSent(B, 0), want("n4", B, (0, 3)), ChunkSent(B, 1), ChunkSent(B, 2))
        .at(0.2, want("n1", B))
        .at(5.0, want("n4", B, (0, 1)), ChunkSent(B, 0))
        .until(80.0)
        .matches()
    )


def test_a_thousand_devices_that_start_together_cost_one_pass():
    core = sender()
    effects = [effect for n in range(1000) for effect in core.step(want(f"n{n}", A, (0, 32)), 0.0)]
    core.check()
    assert sorted(drain(core, effects)) == [("a", index) for index in range(32)]


def test_never_more_than_a_window_is_unacknowledged():
    core = sender(window=4)
    assert len(sent(run(core, want("n1", A, (0, 40)), want("n1", B, (0, 3))))) == 4
    assert len(sent(run(core, ChunkSent(A, 0)))) == 1


def test_artifacts_take_turns():
    core = sender(window=1)
    run(core, LinkDown(), want("n1", A, (0, 4)), want("n2", B, (0, 3)))
    order = drain(core, run(core, LinkUp(False)))
    assert [digest for digest, _ in order] == ["a", "b", "a", "b", "a", "b", "a"]


def test_a_chunk_on_its_way_is_not_sent_twice_but_a_lost_one_is_sent_again():
    core = sender(resend_s=1.0)
    assert drain(core, run(core, want("n1", B, (0, 1)))) == [("b", 0)]
    assert sent(run(core, want("n1", B, (0, 1)), now=0.9)) == []
    assert sent(run(core, want("n1", B, (0, 1)), now=1.1)) == [("b", 0)]


def test_a_node_that_comes_a_moment_too_late_is_sent_the_chunk_again_without_asking_twice():
    core = sender(missed_s=0.2)
    drain(core, run(core, want("n1", B, (0, 1))))
    effects = run(core, want("n2", B, (0, 1)), now=0.1)
    assert sent(effects) == []
    assert Wake(0.2) in effects
    assert run(core, want("n3", B, (0, 1)), now=0.15) == [], "one wake-up, and one sending for both"
    assert sent(run(core, Woken(), now=0.3)) == [("b", 0)]


def test_devices_that_ask_together_are_waited_for_before_the_first_chunk():
    core = sender(gather_s=0.01)
    effects = run(core, want("n1", B, (0, 3)))
    assert (sent(effects), Wake(0.01) in effects) == ([], True)
    assert run(core, want("n2", B, (0, 3)), now=0.004) == []
    assert drain(core, run(core, Woken(), now=0.01), now=0.01) == [("b", 0), ("b", 1), ("b", 2)]
    assert sent(run(core, want("n3", B, (0, 1)), Woken(), now=0.2)) == [("b", 0)], "only the first one waits"


def test_when_all_who_were_told_to_have_asked_nobody_is_waited_for():
    core = sender(gather_s=0.01)
    run(core, Known(A, 2, 1024, readers=2))
    assert sent(run(core, want("n1", A, (0, 2)))) == []
    assert sent(run(core, want("n1", A, (0, 2)), now=0.001)) == [], "the same one again"
    assert drain(core, run(core, want("n2", A, (0, 2)), now=0.002), now=0.002) == [("a", 0), ("a", 1)]


def test_a_timer_that_rings_early_is_not_set_again():
    core = sender(gather_s=0.01)
    run(core, want("n1", B, (0, 1)))
    assert sent(run(core, Woken(), now=0.0092)) == [("b", 0)]


def test_whoever_comes_while_a_chunk_is_on_its_way_is_waited_for_until_it_was_sent():
    core = sender(missed_s=0.2)
    run(core, want("n1", B, (0, 1)))
    run(core, want("n2", B, (0, 1)))
    assert Wake(0.2) in run(core, Woken(), now=0.2), "the first one is still under way"
    run(core, ChunkSent(B, 0), now=0.3)
    assert sent(run(core, Woken(), now=0.6)) == [("b", 0)]


def test_a_node_that_heard_it_after_all_is_not_sent_it_again():
    core = sender(missed_s=0.2)
    drain(core, run(core, want("n1", B, (0, 1))))
    run(core, want("n2", B, (0, 1)), now=0.1)
    run(core, want("n2", B), now=0.15)
    assert sent(run(core, Woken(), Tick(), now=1.1)) == []


def test_what_was_retired_is_sent_to_nobody_and_forgotten_once_nothing_of_it_is_on_its_way():
    core = sender(window=1)
    run(core, want("n1", A, (0, 3)), want("n2", A, (1, 3)))
    assert run(core, Retired(A), Retired(B)) == []
    assert B not in core.known
    assert run(core, want("n3", A, (0, 1))) == [Ignore("n3 wants an unknown artifact")]
    assert sent(run(core, ChunkSent(A, 0), now=1.0)) == []
    run(core, Tick(), now=5.0)
    assert not core.passes
    assert A not in core.known
    assert not core.retired


def test_devices_in_step_do_not_have_everything_sent_twice():
    core = sender(resend_s=1.0)
    run(core, LinkDown(), want("n1", A, (0, 4)), want("n2", A, (0, 4)))
    order = drain(core, run(core, LinkUp(False)))
    for index in range(4, 40):
        order += drain(core, run(core, want("n1", A, (index, index + 1)), now=0.01), now=0.01)
        order += drain(core, run(core, want("n2", A, (index, index + 1)), now=0.01), now=0.01)
    order += drain(core, run(core, Tick(), now=2.0), now=2.0)
    assert sorted(order) == [("a", index) for index in range(40)]


def test_nonsense_is_ignored_with_the_reason():
    core = sender()
    asks = (want("n1", "c" * 64, (0, 1)), want("n1", B, (0, 4)), want("n1", B, (2, 1)), want("n1", B))
    effects = run(core, *asks)
    assert [type(one) for one in effects] == [Ignore] * 4
    assert core.passes == {}


def test_one_node_can_not_ask_for_more_than_its_share():
    core = sender(asked_max=8, window=1)
    effects = run(core, want("greedy", A, (0, 40)), want("modest", A, (20, 22)))
    assert Ignore("greedy wants 32 chunks more than it may wait for") in effects
    assert {index for _, index in drain(core, effects)} == {*range(8), 20, 21}


def test_a_node_that_is_refused_for_want_of_room_gets_its_turn_later():
    core = sender(nodes_max=1, waiter_deadline_s=60.0)
    run(core, want("n1", B, (0, 1)))
    assert sent(run(core, want("n2", B, (1, 2)))) == []
    run(core, Tick(), now=61.0)
    assert sent(run(core, want("n2", B, (1, 2)), now=62.0)) == [("b", 1)]


def test_with_the_link_down_nothing_is_sent_and_who_went_away_is_forgotten():
    core = sender()
    run(core, LinkDown())
    assert sent(run(core, want("n1", B, (0, 3)), want("n2", B, (2, 3)))) == []
    run(core, want("n1", B))  # n1 has all of it after all
    assert sent(run(core, LinkUp(False), now=1.0)) == [("b", 2)]
    run(core, LinkDown(), want("n1", B, (0, 3)), now=2.0)
    run(core, Tick(), now=70.0)
    assert sent(run(core, LinkUp(False), now=71.0)) == []


def test_a_chunk_that_could_not_be_sent_frees_its_place_in_the_window():
    core = sender(window=1)
    run(core, want("n1", B, (0, 2)))
    effects = run(core, Failed(SendChunk(B, 0, 1024), "the outbox is full"))
    assert sent(effects) == [("b", 1)]
    assert Ignore("chunk 0 was not sent: the outbox is full") in effects


edges = st.integers(-1, 41)
asks = st.builds(
    lambda node, digest, ranges: want(node, digest, *ranges),
    st.sampled_from(["n1", "n2", "n3"]),
    st.sampled_from([*SIZES, "c" * 64]),
    st.lists(st.tuples(edges, edges), max_size=2).map(sorted),
)
steps = st.one_of(asks, st.sampled_from(["sent", "failed", "wait", "long", LinkUp(False), LinkDown()]))


@settings(deadline=None)
@given(st.lists(steps, max_size=60))
def test_any_history_keeps_the_bounds_and_ends_with_nothing_remembered(history):
    core = sender(window=3, nodes_max=4, asked_max=10)
    now, flying = 0.0, []
    for step in history:
        event = step
        if isinstance(step, str):
            now += {"long": 70.0, "wait": 0.6}.get(step, 0.0)
            event = Tick()
            if step in ("sent", "failed") and flying:
                work = flying.pop(0)
                event = ChunkSent(work.digest, work.index) if step == "sent" else Failed(work, "no")
        new = [one for one in run(core, event, now=now) if isinstance(one, SendChunk)]
        flying += new
        assert len({(one.digest, one.index) for one in flying}) == len(flying) <= 3
    drain(core, [*flying, *run(core, LinkUp(False), now=now)], now=now)
    run(core, Tick(), now=now + 100.0)
    assert core.passes == {}
