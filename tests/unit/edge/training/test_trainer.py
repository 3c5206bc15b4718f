"""Training in WebAssembly: the arithmetic, the limits, and what the neighbours notice of it."""

import asyncio
import time

import numpy as np
import pytest
import torch
from torch import nn

from cloud.compiler.training import compile_training
from edge.runtime import Limits, ModuleHost
from edge.training import trainer as module
from edge.training.examples import BadData, Examples
from edge.training.trainer import Lesson, Outcome, Trainer, TrainingFailed
from shared.learning import Task, TrainingPlan
from shared.package import pack
from shared.vectors import Layout
from tests.unit.edge.runtime.stories import story

BATCH, FEATURES, CLASSES = 8, 5, 3


@pytest.fixture(scope="module")
def package():
    """A small classifier, compiled once: (bytes, initial parameters)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    batch = torch.zeros(BATCH, FEATURES), torch.zeros(BATCH, dtype=torch.int64)
    made = compile_training(model, "cross_entropy", "sgd", batch, name="small")
    return pack(made.package), dict(made.initial)


def examples(n: int = 50, held: int = 13, seed: int = 1) -> Examples:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, n + held)
    x = rng.normal(size=(n + held, FEATURES)).astype(np.float32)
    x[np.arange(n + held), y] += 2.0
    return Examples(x[:n], y[:n], x[n:], y[n:])


def lesson(initial, task: Task = Task.TRAIN, budget_s: float = 30.0, lr: float = 0.1, **plan) -> Lesson:
    return Lesson(task, TrainingPlan(source="s", **plan), lr, "job/1/n1", budget_s, Layout.of(initial).hash)


async def learn(package, data: Examples, one: Lesson, stopped=lambda: False, start=None) -> Outcome:
    binary, initial = package
    async with ModuleHost(limits=Limits(deadline_s=10)) as host:
        await host.load("train", binary)
        async with await host.open_session("train") as session:
            vector = Layout.of(initial).flatten(initial) if start is None else start
            return await Trainer(session, data, one, time.monotonic, stopped).run(vector)


def sgd_delta(initial, x, y, mask, lr, mu=0.0, anchor=None):
    """One step of plain SGD in float64: softmax cross entropy, mean over the items that count."""
    w = {name: one.astype(np.float64) for name, one in initial.items()}
    hidden = np.maximum(x @ w["0.weight"].T + w["0.bias"], 0)
    logits = hidden @ w["2.weight"].T + w["2.bias"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    p *= mask[:, None] / mask.sum()
    back = (p @ w["2.weight"]) * (hidden > 0)
    gradient = {"2.weight": p.T @ hidden, "2.bias": p.sum(0), "0.weight": back.T @ x, "0.bias": back.sum(0)}
    return {name: -lr * (gradient[name] + mu * (w[name] - (anchor or w)[name])) for name in w}


@story
async def test_one_step_is_what_numpy_gives(package):
    data, initial = examples(n=6), package[1]  # one batch, its end masked
    outcome = await learn(package, data, lesson(initial, epochs=1))
    expected = sgd_delta(initial, data.x.astype(np.float64), data.y, np.ones(6), 0.1)
    layout = Layout.of(initial)
    np.testing.assert_allclose(
        outcome.delta, layout.flatten({k: v.astype(np.float32) for k, v in expected.items()}), atol=1e-5
    )
    assert (outcome.steps, outcome.weight, outcome.delta.dtype) == (1, 6, np.float32)


@story
async def test_the_loss_falls_and_the_metrics_are_of_the_model_before(package):
    data, initial = examples(), package[1]
    first = await learn(package, data, lesson(initial, epochs=20))
    assert first.steps == 20 * 7
    assert first.metrics["count"] == 13
    layout = Layout.of(initial)
    learned = layout.flatten(initial) + first.delta
    again = await learn(package, data, lesson(initial, task=Task.EVALUATE), start=learned)
    assert again.metrics["loss"] < 0.5 * first.metrics["loss"]
    assert again.metrics["hits"] > first.metrics["hits"]
    assert (again.delta, again.steps, again.weight) == (None, 0, 13)


@story
async def test_one_seed_gives_the_same_bits(package):
    one, other = [await learn(package, examples(), lesson(package[1], epochs=3)) for _ in range(2)]
    np.testing.assert_array_equal(one.delta, other.delta)


@story
async def test_fedprox_differs_as_its_formula_says(package):
    data, initial = examples(n=6), package[1]
    lr, mu, layout = 0.1, 0.7, Layout.of(package[1])
    plain = await learn(package, data, lesson(initial, steps=1, lr=lr))
    pulled = await learn(package, data, lesson(initial, steps=2, lr=lr, proximal=mu))
    start = layout.flatten(initial)
    after = {name: np.array(one) for name, one in layout.unflatten(start + plain.delta).items()}
    second = sgd_delta(after, data.x.astype(np.float64), data.y, np.ones(6), lr, mu, initial)
    # The first step starts at the anchor, where the pull is nothing; the second gains -lr mu (w - w_t).
    expected = plain.delta + layout.flatten({k: v.astype(np.float32) for k, v in second.items()})
    np.testing.assert_allclose(pulled.delta, expected, atol=1e-5)
    without = await learn(package, data, lesson(initial, steps=2, lr=lr))
    np.testing.assert_allclose(pulled.delta, without.delta - lr * mu * plain.delta, atol=1e-5)


@story
async def test_a_strong_pull_keeps_the_model_near(package):
    free = await learn(package, examples(), lesson(package[1], epochs=10))
    held = await learn(package, examples(), lesson(package[1], epochs=10, proximal=5.0))
    assert np.linalg.norm(held.delta) < 0.3 * np.linalg.norm(free.delta)


@story
async def test_time_ends_training_and_partial_work_counts(package):
    outcome = await learn(package, examples(), lesson(package[1], epochs=10**9, budget_s=0.3))
    assert 0 < outcome.steps < 10**6
    assert 0.05 < outcome.train_s < 3.0
    with pytest.raises(TrainingFailed, match="no time"):
        await learn(package, examples(), lesson(package[1], budget_s=0.0))


@story
async def test_a_cancelled_round_ends_between_two_blocks(package):
    stopped: list[bool] = []
    loop = asyncio.get_running_loop()
    loop.call_later(0.3, stopped.append, True)
    started = time.monotonic()
    with pytest.raises(TrainingFailed, match="cancelled"):
        await learn(package, examples(), lesson(package[1], epochs=10**9), lambda: bool(stopped))
    assert time.monotonic() - started < 5.0


@story
async def test_the_event_loop_goes_on_meanwhile(package):
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.create_task(beat())
    await learn(package, examples(2000), lesson(package[1], epochs=10**9, budget_s=1.0))
    beating.cancel()
    assert beats > 20


@story
async def test_training_that_diverges_is_not_sent(package):
    with pytest.raises(TrainingFailed, match="diverged at a learning rate of 1e\\+30"):
        await learn(package, examples(), lesson(package[1], epochs=5, lr=1e30))


@story
async def test_what_does_not_fit_is_said_with_what_would(package):
    data, one = examples(), lesson(package[1])
    wide = Examples(np.zeros((4, 9), np.float32), data.y[:4], data.x_held, data.y_held)
    with pytest.raises(BadData, match=r"x is float32\[n, 9\]; the package takes float32\[n, 5\]"):
        await learn(package, wide, one)
    real = Examples(data.x, data.y.astype(np.float32), data.x_held, data.y_held)
    with pytest.raises(BadData, match=r"y is float32\[n\]; the package takes int64\[n\]"):
        await learn(package, real, one)
    with pytest.raises(TrainingFailed, match="not those of the training package"):
        await learn(package, data, Lesson(one.task, one.plan, 0.1, "", 1.0, "another"))


def test_the_blocks_are_short():
    assert module.BLOCK_S <= 0.05


@story
async def test_the_session_is_called_for_batches_only(package, monkeypatch):
    binary, initial = package
    async with ModuleHost(limits=Limits(deadline_s=10)) as host:
        await host.load("train", binary)
        async with await host.open_session("train") as session:
            calls, steps = [], session.steps

            async def counted(work, *, deadline_s=None):
                calls.append(work)
                return await steps(work, deadline_s=deadline_s)

            monkeypatch.setattr(session, "steps", counted)
            monkeypatch.setattr(module, "BLOCK_S", 0.0)  # a block is over after one batch
            one = lesson(initial, epochs=1)
            trainer = Trainer(session, examples(n=2 * BATCH, held=0), one, time.monotonic, lambda: False)
            outcome = await trainer.run(Layout.of(initial).flatten(initial))
    assert (outcome.steps, outcome.metrics, len(calls)) == (2, {}, 2), "nothing was held out"
