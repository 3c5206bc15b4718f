"""What a simulated federation is made of: who has which examples, what goes wrong, how time passes."""

from pathlib import Path

import numpy as np
import pytest

from edge.training.trainer import Lesson
from shared.learning import Task, TrainingPlan
from shared.package import unpack
from shared.parameters import decode_parameters
from shared.vectors import Layout
from simulation.federation.gym import OPENING_S, Gym
from simulation.federation.shares import deal, pool
from simulation.federation.troubles import Poison, Troubles, fate, natures, spoiled
from simulation.network import Clock, Member, Network

DIGITS = Path(__file__).parents[3] / "examples" / "digits"
PACKAGE = (DIGITS / "digits-train.shoal").read_bytes()


@pytest.fixture(scope="module")
def examples():
    return pool(DIGITS)[0]


@pytest.mark.parametrize("devices", [1, 50, 1000])
def test_everybody_has_examples_and_nothing_held_out_is_trained_on(examples, devices):
    shares = [share.read() for share in deal(examples, devices, 0.5, seed=3)]
    assert len(shares) == devices
    assert min(len(share.x) for share in shares) >= 4
    assert min(len(share.x_held) for share in shares) >= 2
    held = {one.tobytes() for share in shares for one in share.x_held}
    assert not held & {one.tobytes() for share in shares for one in share.x}


def test_a_small_fleet_shares_the_pool_without_copies(examples):
    shares = [share.read() for share in deal(examples, 20, 0.5, seed=3)]
    assert sum(len(share.x) for share in shares) == len(examples.x)


def test_small_alpha_makes_devices_differ(examples):
    def classes(alpha: float) -> float:
        shares = deal(examples, 20, alpha, seed=3)
        return float(np.mean([len(np.unique(share.read().y)) for share in shares]))

    assert classes(0.1) < 6 < 9 < classes(100.0)


def test_the_share_that_lies_is_exact_and_the_ways_to_lie_take_turns():
    nodes = [f"n{number}" for number in range(30)]
    found = natures(Troubles(poison=0.1, skew_s=5.0), 7, nodes)
    lies = [one.poison for one in found.values() if one.poison]
    assert sorted(lies) == sorted(Poison)
    assert found == natures(Troubles(poison=0.1, skew_s=5.0), 7, list(reversed(nodes)))  # any order
    assert 0 < max(one.clock_s for one in found.values()) <= 5.0


def test_fates_follow_their_shares_and_do_not_move_each_other():
    drawn = [fate(Troubles(drop=0.2), 1, f"n{number}", "job", 3) for number in range(2000)]
    assert sum(one.dropped is not None for one in drawn) == pytest.approx(400, rel=0.15)
    with_late = [fate(Troubles(drop=0.2, late=0.1), 1, f"n{number}", "job", 3) for number in range(2000)]
    assert [one.dropped for one in drawn] == [one.dropped for one in with_late]
    assert sum(one.late > 0 for one in with_late) == pytest.approx(200, rel=0.2)


def test_lies_are_what_they_are_called():
    delta = np.linspace(-1, 1, 100, dtype=np.float32)
    assert np.isnan(spoiled(Poison.NAN, delta)).any()
    assert np.abs(spoiled(Poison.HUGE, delta)).max() > 1e5
    assert (spoiled(Poison.FLIPPED, delta) == -10 * delta).all()
    assert spoiled(None, delta) is delta


def test_training_takes_a_devices_own_time_and_ends_when_its_budget_does(examples):
    initial = decode_parameters(unpack(PACKAGE).parameters)
    layout, share = Layout.of(initial), deal(examples, 20, 0.5, seed=3)[0].read()
    vector, gym = layout.flatten(initial), Gym()
    plan = TrainingPlan(source="digits", steps=10, lr=0.1)

    def train(budget_s: float, step_s: float):
        lesson = Lesson(Task.TRAIN, plan, 0.1, "seed", budget_s, layout.hash)
        return gym.train("digits", PACKAGE, share, lesson, vector, step_s)

    try:
        whole, slow = train(60.0, 0.1), train(1.0, 0.2)
    finally:
        gym.close()
    assert whole.outcome is not None
    assert slow.outcome is not None
    assert whole.outcome.steps == 10
    assert whole.seconds == pytest.approx(OPENING_S + 0.1 * 10, abs=0.2)
    assert 0 < slow.outcome.steps < 10, "partial work counts"
    assert slow.seconds <= 1.0 + 0.2


class Listener:
    """Remembers the order of what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def step(self, event: object, now: float) -> list[object]:
        self.heard.append(event)
        return []

    def check(self) -> None:
        """Nothing."""


@pytest.mark.parametrize("seed", range(5))
def test_facts_reach_a_subscriber_in_their_order_also_when_they_are_repeated(seed):
    from shared.learning import Phase, RoundFact
    from shared.topics import ROUND

    clock, listener = Clock(seed), Listener()
    net = Network(clock, loss=0.0, repetition=0.5, delay_s=(0.0, 5.0), ordered=True)
    member = Member(net, "n1", listener, lambda _: None)
    member.hears(ROUND, lambda _, fact: fact.round)
    member.connect()
    for number in range(20):
        net.publish(ROUND.at(job="j"), RoundFact(job="j", round=number, term=1, phase=Phase.TRAINING))
    clock.run(1000.0)
    heard = [one for one in listener.heard if isinstance(one, int)]
    assert len(heard) > 20
    assert heard == sorted(heard)
