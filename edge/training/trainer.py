"""One round's work in WebAssembly: evaluate, train, and say what changed.

    vector x_v ──> session ──evaluate on held-out examples──> loss, hits, count
                      │
                      └─train_step, block by block, until the plan or the time is over──> delta = x - x_v

A block is some milliseconds of steps in one of the host's threads; between two of them the event loop and
the calls of inference have their turn, and a cancelled round is noticed. The optimiser's states are the
module's and begin at zero with each round.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge.runtime.parameters import DTYPES
from edge.runtime.session import Steps
from edge.training.examples import Array, BadData, Examples
from shared.abi import Function, Tensor
from shared.errors import ShoalError
from shared.learning import Task, TrainingPlan
from shared.vectors import F32, Layout, Vector

T = TypeVar("T")
Tensors = Mapping[str, Array]

BLOCK_S = 0.02
STEP_S_MAX = 60.0
EVALUATION_SHARE = 0.5  # of the time, at most, before training
STATISTICS = ("running_mean", "running_var")  # of batch norm: no gradient moves them


class TrainingFailed(ShoalError):
    """The round can't be answered. The message says why."""


class TrainingSession(Protocol):
    """The part of the runtime's session that training uses."""

    @property
    def batch_size(self) -> int:
        """Of the module."""
        ...

    def describe(self, function: str) -> Function | None:
        """Inputs and outputs."""
        ...

    async def parameters(self) -> dict[str, Array]:
        """Copies, by name."""
        ...

    async def set_parameters(self, tensors: Mapping[str, Array]) -> None:
        """Replace them all."""
        ...

    async def steps(self, work: Callable[[Steps], T], *, deadline_s: float | None = None) -> T:
        """``work`` in the session's thread."""
        ...


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is to be done. ``seed``: everything that decides the order of examples; ``budget_s``: in all."""

    task: Task
    plan: TrainingPlan
    lr: float
    seed: str
    budget_s: float
    layout_hash: str


@dataclass(slots=True)
class Outcome:
    """``delta`` [n_params] float32: None for an evaluation. ``metrics``: sums over the held-out examples."""

    delta: Vector | None
    steps: int
    weight: int
    train_s: float
    metrics: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Does one lesson in one session. ``clock``: seconds; ``stopped``: whether to give up between blocks."""

    def __init__(
        self,
        session: TrainingSession,
        examples: Examples,
        lesson: Lesson,
        clock: Callable[[], float],
        stopped: Callable[[], bool],
    ) -> None:
        """Raises :class:`TrainingFailed` and :class:`BadData` where package, plan and data don't fit."""
        self._session, self._lesson, self._clock, self._stopped = session, lesson, clock, stopped
        self._train = _inputs(session, "train_step", ("x", "y", "mask", "lr"))
        evaluate = _inputs(session, "evaluate", ("x", "y", "mask"))
        self._x, self._y = _fit(examples.x, "x", self._train), _fit(examples.y, "y", self._train)
        self._x_held, self._y_held = (
            _fit(examples.x_held, "x", evaluate),
            _fit(examples.y_held, "y", evaluate),
        )
        self._evaluate_order, self._train_order = tuple(evaluate), tuple(self._train)
        self._until = 0.0

    async def run(self, vector: Vector) -> Outcome:
        """Answer the round from the global model ``vector`` [n_params]."""
        lesson, started = self._lesson, self._clock()
        layout, tensors = await self._start_from(vector)
        share = 1.0 if lesson.task is Task.EVALUATE else EVALUATION_SHARE
        metrics = await self._evaluated(started + share * lesson.budget_s)
        if lesson.task is Task.EVALUATE:
            if not metrics:
                raise TrainingFailed("no time was left for a single batch")
            return Outcome(None, 0, int(metrics["count"]), 0.0, metrics)
        began = self._clock()
        steps = await self._trained(tensors, started + lesson.budget_s)
        if not steps:
            raise TrainingFailed("no time was left for a single step")
        delta = layout.flatten(_floats(await self._session.parameters()))
        np.subtract(delta, vector, out=delta)
        if not np.isfinite(delta).all():
            raise TrainingFailed(f"training diverged at a learning rate of {lesson.lr:g}")
        return Outcome(delta, steps, len(self._x), self._clock() - began, metrics)

    async def _start_from(self, vector: Vector) -> tuple[Layout, Tensors]:
        """Put the global model into the session; gives its tensors."""
        have = await self._session.parameters()
        layout = Layout.of(_floats(have))
        if layout.hash != self._lesson.layout_hash:
            raise TrainingFailed("the model's parameters are not those of the training package")
        tensors = layout.unflatten(vector)
        await self._session.set_parameters({**have, **tensors})
        return layout, tensors

    async def _evaluated(self, until: float) -> dict[str, float]:
        """Sums of loss, hits and count over the held-out examples, or those there is time for."""
        sums, batches = np.zeros(3), self._batches(self._x_held, self._y_held, np.arange(len(self._x_held)))

        def one(steps: Steps, batch: dict[str, Array]) -> None:
            outputs = steps.call("evaluate", [batch[name] for name in self._evaluate_order])
            sums[:] += [float(output) for output in outputs]

        await self._in_blocks(batches, one, until)
        return dict(zip(("loss", "hits", "count"), map(float, sums), strict=True)) if sums[2] else {}

    async def _trained(self, anchors: Tensors, until: float) -> int:
        lr, mu = np.array(self._lesson.lr, np.float32), self._lesson.plan.proximal

        def one(steps: Steps, batch: dict[str, Array]) -> None:
            inputs = {**batch, "lr": lr}
            before = steps.parameters() if mu else {}
            steps.call("train_step", [inputs[name] for name in self._train_order])
            if mu:
                steps.set_parameters(_pulled(steps.parameters(), before, anchors, float(lr) * mu))

        return await self._in_blocks(self._shuffled(), one, until)

    async def _in_blocks(
        self,
        batches: Iterator[dict[str, Array]],
        one: Callable[[Steps, dict[str, Array]], None],
        until: float,
    ) -> int:
        """Run ``one`` for each batch until they or the time are over; gives how many were done."""
        done, batch = 0, next(batches, None)

        def block(steps: Steps) -> None:
            nonlocal done, batch
            block_until = min(self._clock() + BLOCK_S, until)
            while batch is not None:
                one(steps, batch)
                done, batch = done + 1, next(batches, None)
                if self._clock() >= block_until:
                    return

        while batch is not None and self._clock() < until:
            if self._stopped():
                raise TrainingFailed("cancelled")
            await self._session.steps(block, deadline_s=STEP_S_MAX)
        return done

    def _shuffled(self) -> Iterator[dict[str, Array]]:
        """``steps`` batches, or ``epochs`` passes; each pass in an order of its own."""
        plan, number = self._lesson.plan, 0
        generator = generator_of(self._lesson.seed)
        left = plan.steps if plan.steps > 0 else plan.epochs * -(-len(self._x) // self._session.batch_size)
        while left > 0 and len(self._x):
            for batch in self._batches(self._x, self._y, generator.permutation(len(self._x))):
                yield batch
                number += 1
                if number == left:
                    return

    def _batches(self, x: Array, y: Array, order: NDArray[np.int64]) -> Iterator[dict[str, Array]]:
        """Whole batches; the last one is filled up with zeros, which the mask leaves out."""
        size = self._session.batch_size
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            mask = np.zeros(size, np.float32)
            mask[: len(chosen)] = 1.0
            yield {"x": _filled(x[chosen], size), "y": _filled(y[chosen], size), "mask": mask}


def generator_of(seed: str) -> np.random.Generator:
    """Reproducible: the same text gives the same numbers."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(sha256(seed.encode()).digest(), "little")))


def _pulled(after: Tensors, before: Tensors, anchors: Tensors, rate: float) -> dict[str, Array]:
    """FedProx (Li et al. 2020): the gradient gains mu (w - w_t), and so a step of SGD gains -lr mu (w - w_t).

    ``rate`` is lr mu. Exact for SGD without momentum; with another optimiser the pull stays beside it, as
    AdamW's weight decay does (Loshchilov and Hutter, 2019).
    """
    pulled = dict(after)
    for name, anchor in anchors.items():
        if not name.endswith(STATISTICS):
            pulled[name] = (after[name] - np.float32(rate) * (before[name] - anchor)).astype(F32)
    return pulled


def _floats(tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    return {name: one for name, one in tensors.items() if one.dtype == F32}


def _inputs(session: TrainingSession, function: str, names: Sequence[str]) -> dict[str, Tensor]:
    """By name, in the module's own order."""
    described = session.describe(function)
    if described is None or sorted(one.name for one in described.inputs) != sorted(names):
        raise TrainingFailed(f"a training package has the function {function}({', '.join(names)})")
    return {one.name: one for one in described.inputs}


def _fit(array: Array, name: str, inputs: Mapping[str, Tensor]) -> Array:
    """The array in the module's type. Raises :class:`BadData` that says what would fit."""
    tensor = inputs[name]
    dtype, shape = DTYPES[tensor.dtype], tensor.shape[1:]
    if array.shape[1:] != shape or (dtype.kind in "iub" and array.dtype.kind == "f"):
        have = ", ".join(["n", *map(str, array.shape[1:])])
        want = ", ".join(["n", *map(str, shape)])
        raise BadData(f"{name} is {array.dtype}[{have}]; the package takes {dtype}[{want}]")
    return array.astype(dtype, copy=False)


def _filled(items: Array, size: int) -> Array:
    if len(items) == size:
        return items
    return np.concatenate([items, np.zeros((size - len(items), *items.shape[1:]), items.dtype)])
