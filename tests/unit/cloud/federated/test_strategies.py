"""Every strategy through whole rounds: the model that devices get is the one that the paper says."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.federated.accumulator import Accumulator
from cloud.federated.strategies import STRATEGIES
from shared.codecs import SUM, encode_sum
from shared.learning import LearnVerb, Phase, Task, TrainingPlan, UpdateHeader
from shared.messages import ReplyStatus
from tests.unit.cloud.federated.world import (
    LAYOUT,
    RAW,
    World,
    digest_of,
    learned,
    parameters,
    parts,
    same_bits,
    spec,
    statuses,
    weight_of,
)

CLIENTS = tuple("abcde")
START = LAYOUT.flatten(parameters(1)).astype(np.float64)


def world_of(tmp_path, name: str, devices=CLIENTS, **changes) -> World:
    world = World(tmp_path / name, devices)
    asked = {"strategy": name, "codec": RAW, "clients": len(devices), "quorum": 3, "norm_ratio_max": 100.0}
    world.create(**{**asked, **changes})
    return world


def deltas(number: int) -> np.ndarray:
    """[clients, n] of a round."""
    return np.stack([learned(client, number).astype(np.float64) for client in CLIENTS])


def weights() -> np.ndarray:
    return np.array([weight_of(client) for client in CLIENTS], np.float64)


def mean_of(number: int) -> np.ndarray:
    return (weights() @ deltas(number)) / weights().sum()


def fedavgm(rounds: int) -> np.ndarray:
    x, m = START.copy(), np.zeros_like(START)
    for number in range(1, rounds + 1):
        m = 0.9 * m + mean_of(number)
        x = x + m
    return x


def adaptive(rounds: int, lr: float, second) -> np.ndarray:
    x, m, v = START.copy(), np.zeros_like(START), np.full_like(START, 1e-6)
    for number in range(1, rounds + 1):
        delta = mean_of(number)
        m = 0.9 * m + 0.1 * delta
        v = second(v, delta**2)
        x = x + lr * m / (np.sqrt(v) + 1e-3)
    return x


def adagrad(rounds: int) -> np.ndarray:
    x, v = START.copy(), np.full_like(START, 1e-6)
    for number in range(1, rounds + 1):
        delta = mean_of(number)
        v = v + delta**2
        x = x + 0.1 * delta / (np.sqrt(v) + 1e-3)
    return x


def trimmed(rows: np.ndarray) -> np.ndarray:
    return np.sort(rows, axis=0)[1:-1].mean(axis=0)


def summed(rounds: int, each) -> np.ndarray:
    return START + sum(each(deltas(number)) for number in range(1, rounds + 1))


ORACLES = {
    "fedavg": lambda n: START + sum(mean_of(number) for number in range(1, n + 1)),
    "fedavgm": fedavgm,
    "fedadagrad": adagrad,
    "fedadam": lambda n: adaptive(n, 0.01, lambda v, square: 0.99 * v + 0.01 * square),
    "fedyogi": lambda n: adaptive(n, 0.01, lambda v, sq: v - 0.01 * sq * np.sign(v - sq)),
    # Everybody took the same number of steps, so normalising by them changes nothing.
    "fednova": lambda n: START + sum(mean_of(number) for number in range(1, n + 1)),
    "fedbuff": lambda n: summed(n, lambda rows: rows.mean(axis=0)),
    "trimmed-mean": lambda n: summed(n, trimmed),
    "median": lambda n: summed(n, lambda rows: np.median(rows, axis=0)),
}


def test_every_strategy_is_tried_here():
    assert set(STRATEGIES) == {*ORACLES, "multi-krum", "norm-clipping"}


@pytest.mark.parametrize("name", ORACLES)
def test_three_rounds_give_the_model_of_the_paper(tmp_path, name):
    world = world_of(tmp_path, name)
    world.run()
    assert world.state().closed
    assert np.abs(world.vector() - ORACLES[name](3)).max() < 2e-5
    world.executor.close()


def test_fednova_weighs_a_client_by_its_steps(tmp_path):
    """Wang et al. 2020: who took more steps has a longer change, and that must not count twice."""
    world = world_of(tmp_path, "fednova", rounds=1)
    steps = {client: 2 + 3 * index for index, client in enumerate(CLIENTS)}
    for client in CLIENTS:
        world.send(client, steps=steps[client])
    share = weights() / weights().sum()
    taken = np.array([steps[client] for client in CLIENTS], np.float64)
    expected = START + (share @ taken) * ((share / taken) @ deltas(1))
    assert np.abs(world.vector() - expected).max() < 1e-3  # samples / steps has ten fractional bits
    world.executor.close()


def test_norm_clipping_shortens_what_is_longer_than_usual(tmp_path):
    world = world_of(tmp_path, "norm-clipping", rounds=2)
    world.everybody()
    before = world.vector().astype(np.float64)
    usual = np.median(world.state().norms)
    for client in CLIENTS[:-1]:
        world.send(client)
    assert statuses(world.send(CLIENTS[-1], delta=learned(CLIENTS[-1], 2) * 20)) == ["e: accepted"]
    rows = deltas(2)
    rows[-1] *= 20
    lengths = np.linalg.norm(rows, axis=1)
    rows *= np.minimum(1.0, usual / lengths)[:, None]
    assert np.abs(world.vector() - (before + weights() @ rows / weights().sum())).max() < 1e-5
    world.executor.close()


@pytest.mark.parametrize("name", ["trimmed-mean", "median", "multi-krum"])
def test_a_liar_does_not_move_a_robust_rule_far(tmp_path, name):
    clients = tuple("abcdefghi")
    world = world_of(tmp_path, name, clients, rounds=1, options={"byzantine": 0.2} if "krum" in name else {})
    for client in clients[:-1]:
        world.send(client)
    world.send(clients[-1], delta=np.full(LAYOUT.n_params, 5.0, np.float32))
    honest = np.stack([learned(client, 1) for client in clients[:-1]]).mean(axis=0)
    assert world.state().version.ref.version == 1
    assert np.abs(world.vector() - START - honest).max() < 0.15
    world.executor.close()


def test_a_robust_rule_with_too_few_updates_is_an_error_that_says_how_many_it_needs(tmp_path):
    world = world_of(tmp_path, "multi-krum", tuple("abcd"), options={"byzantine": 0.3})
    world.everybody()
    assert world.fact().phase is Phase.ERROR
    assert "needs 5 of them" in world.job_fact().detail
    world.executor.close()


# The same bits, whatever happens on the way -------------------------------------------------------------


@given(order=st.permutations(CLIENTS))
@settings(max_examples=10, deadline=None)
def test_the_order_of_arrival_changes_no_bit(tmp_path_factory, order):
    for name in ("fedavg", "fednova", "median", "fedbuff"):
        one, other = (world_of(tmp_path_factory.mktemp(name), name, rounds=1) for _ in range(2))
        one.everybody()
        other.everybody(order)
        assert one.state().version.ref == other.state().version.ref
        one.executor.close()
        other.executor.close()


def gateway_sum(members: tuple[str, ...], world: World) -> list:
    """What a gateway sends for its devices: exact, and never their updates."""
    total = Accumulator(LAYOUT.n_params)
    for member in members:
        total.add(learned(member, 1), weight_of(member))
    data = encode_sum(total.total)
    ref = world.fact().model
    header = UpdateHeader(
        task=Task.TRAIN,
        version=ref.version,
        codec=SUM,
        n_params=ref.n_params,
        layout_hash=ref.layout_hash,
        size_bytes=len(data),
        digest=digest_of(data),
        weight=total.weight,
        steps=5,
        clients=len(members),
        members=members,
    )
    return parts(header, data)


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedyogi"])
def test_a_gateway_that_adds_up_for_its_devices_changes_no_bit(tmp_path, strategy):
    plain = world_of(tmp_path / "plain", strategy, rounds=1)
    plain.run()
    world = world_of(tmp_path / "gateway", strategy, rounds=1, gateways=("gate",))
    world.feed_parts("gate", gateway_sum(("b", "d", "e"), world))
    assert statuses(world.receipts) == ["gate: accepted"]
    assert statuses(world.send("b")) == ["b: rejected too-many"], "its gateway has answered for it"
    world.send("a")
    world.send("c")
    assert same_bits(plain.vector(), world.vector())
    (view,) = world.core.jobs["digits"].views
    assert view.row.accepted == 5
    assert {row.client: row.reason for row in view.clients if row.reason} == {
        "b": "gate",
        "d": "gate",
        "e": "gate",
    }
    plain.executor.close()
    world.executor.close()


def test_a_device_that_calls_itself_a_gateway_is_not_one(tmp_path):
    world = world_of(tmp_path, "fedavg", rounds=1)
    world.feed_parts("a", gateway_sum(("b", "c"), world))
    assert statuses(world.receipts) == ["a: rejected unreadable"]
    world.executor.close()


def test_strategies_that_look_at_single_updates_take_no_gateways(tmp_path):
    world = World(tmp_path)
    wanted = spec(strategy="median", gateways=("gate",))
    reply = world.ask(LearnVerb.CREATE, wanted.job, wanted)
    assert reply.status is ReplyStatus.REFUSED
    assert "gateways can't add them up" in reply.detail
    world.executor.close()


# Asynchronous ----------------------------------------------------------------------------------------------


def test_an_update_to_an_older_version_counts_less_in_an_asynchronous_job(tmp_path):
    """Nguyen et al. 2022: weight 1 / sqrt(1 + staleness), over the number of updates."""
    world = world_of(tmp_path, "fedbuff", clients=3, over_select=2.0, rounds=2)
    first = world.fact()
    assert first.overlap
    for client in "abc":
        world.send(client, first)
    second, before = world.fact(), world.vector().astype(np.float64)
    assert (second.round, second.model.version) == (2, 1)
    assert statuses(world.send("d", first)) == ["d: accepted"], "of round 1, one version behind"
    for client in "ab":
        world.send(client, second)
    late = learned("d", 1) / np.sqrt(2.0)
    expected = before + (late + learned("a", 2) + learned("b", 2)) / 3
    assert np.abs(world.vector() - expected).max() < 1e-4
    world.executor.close()


def test_too_old_an_update_is_stale_and_the_same_one_again_a_duplicate(tmp_path):
    world = world_of(
        tmp_path, "fedbuff", clients=3, over_select=2.0, rounds=9, options={"staleness_max": 1.0}
    )
    first = world.fact()
    for _ in range(3):
        fact = world.fact()
        for client in "abc":
            world.send(client, fact)
    assert statuses(world.send("d", first)) == ["d: stale"]
    assert statuses(world.send("a", fact)) == ["a: duplicate"]
    world.crash()
    assert statuses(world.send("a", fact)) == ["a: duplicate"], "a restart does not forget it"
    assert statuses(world.send("b", first)) == ["b: duplicate"], "nor one that counted long ago"
    assert statuses(world.send("d", first)) == ["d: stale"]
    world.executor.close()


def test_an_update_that_comes_during_an_evaluation_waits_for_the_next_round(tmp_path):
    world = world_of(tmp_path, "fedbuff", clients=3, over_select=2.0, evaluate_every=1)
    first = world.fact()
    for client in "abc":
        world.send(client, first)
    assert world.fact().task is Task.EVALUATE
    assert world.send("d", first) == [], "no receipt: it will send it again"
    world.everybody()
    assert world.fact().round == 2
    assert statuses(world.send("d", first)) == ["d: accepted"]
    world.executor.close()


def test_rounds_of_a_synchronous_job_do_not_overlap(tmp_path):
    world = world_of(tmp_path, "fedavg", clients=3, over_select=2.0)
    first = world.fact()
    assert not first.overlap
    for client in "abc":
        world.send(client, first)
    assert statuses(world.send("d", first)) == ["d: late"]
    world.executor.close()


def test_proximal_training_is_the_devices_matter_and_the_plan_reaches_them(tmp_path):
    plan = TrainingPlan(source="digits", proximal=0.1)
    world = world_of(tmp_path, "fedavg", plan=plan)
    assert world.fact().plan == plan
    world.executor.close()


def test_the_state_of_the_server_step_survives_a_restart(tmp_path):
    plain = world_of(tmp_path / "plain", "fedyogi")
    plain.run()
    world = world_of(tmp_path / "other", "fedyogi")
    while not world.state().closed:
        world.everybody()
        world.crash()
    assert same_bits(plain.vector(), world.vector())
    assert msgspec.structs.replace(plain.state().version.ref) == world.state().version.ref
    plain.executor.close()
    world.executor.close()
