"""A federation in one process, without a network: the device's trainer, the coordinator's aggregation.

Devices   one WebAssembly session that is each device in turn: parameters in, edge/training/trainer.py,
          change out. Nothing else lasts between two rounds but what a codec left out.
Cloud     header and bytes -> gate -> accumulator or robust rule -> server step
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from cloud.federated.accumulator import Accumulator, check_bounds
from cloud.federated.gate import Expected, Norms, Rejection, check_bytes, check_delta, check_header, norm_of
from cloud.federated.robust import combine
from cloud.federated.strategies import (
    Strategy,
    Tally,
    apply,
    client_weight,
    finish,
    limited,
    weight_max,
)
from edge.runtime.host import ModuleHost
from edge.runtime.session import Session
from edge.training.examples import Array, Examples
from edge.training.trainer import Lesson, Outcome, Trainer, TrainingFailed
from shared.codecs import decode, encode
from shared.learning import UPDATE_BYTES_MAX, Codec, Reject, Task, TrainingPlan, UpdateHeader
from shared.vectors import F32, Layout, Vector

TRAIN_S_MAX = 600.0


class Devices(AbstractAsyncContextManager["Devices"]):
    """``package``: the bytes of a training package."""

    def __init__(self, package: bytes) -> None:
        self._package, self._host = package, ModuleHost(workers=1)
        self._session: Session | None = None

    async def __aenter__(self) -> "Devices":
        await self._host.load("training", self._package)
        self._session = await self._host.open_session("training")
        self.start = await self._session.parameters()
        self.layout = Layout.of(_floats(self.start))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._host.close()

    async def train(self, x: Array, y: Array, model: Vector, plan: TrainingPlan, seed: str) -> Outcome | None:
        """What a device with these examples makes of the model; None when its training diverged."""
        examples = Examples(x, y, x[:0], y[:0])
        try:
            return await self._trainer(examples, Task.TRAIN, plan, seed).run(model)
        except TrainingFailed:
            return None

    async def accuracy(self, x: Array, y: Array, model: Vector) -> float:
        """The share of these examples that the model gets right."""
        examples = Examples(x[:0], y[:0], x, y)
        outcome = await self._trainer(examples, Task.EVALUATE, TrainingPlan(source=""), "").run(model)
        return outcome.metrics["hits"] / outcome.metrics["count"]

    def _trainer(self, examples: Examples, task: Task, plan: TrainingPlan, seed: str) -> Trainer:
        assert self._session is not None
        lesson = Lesson(task, plan, plan.lr, seed, TRAIN_S_MAX, self.layout.hash)
        return Trainer(self._session, examples, lesson, time.monotonic, lambda: False)


def _floats(tensors: Mapping[str, Array]) -> dict[str, Vector]:
    return {name: one.astype(F32) for name, one in tensors.items() if one.dtype == F32}


@dataclass
class Uplink:
    """Writes a device's changes with a codec; keeps what that left out until the next one."""

    codec: Codec
    layout: Layout
    rests: dict[int, Vector | None] = field(default_factory=dict)

    def write(
        self, device: int, outcome: Outcome, delta: Vector, version: int, rng: np.random.Generator
    ) -> tuple[UpdateHeader, bytes]:
        """``delta``: what the device sends; honest ones send ``outcome.delta``."""
        data, self.rests[device] = encode(self.codec, delta, self.rests.get(device), rng)
        header = UpdateHeader(
            task=Task.TRAIN,
            version=version,
            codec=self.codec.name,
            n_params=delta.size,
            layout_hash=self.layout.hash,
            size_bytes=len(data),
            digest=sha256(data).hexdigest(),
            weight=outcome.weight,
            steps=outcome.steps,
            train_s=outcome.train_s,
        )
        return header, data


@dataclass
class Cloud:
    """``model`` [n]: of ``version``. ``rejected``: how often the gate said what."""

    strategy: Strategy
    layout: Layout
    model: Vector
    clients: int
    samples_max: int
    clip: float = 16.0
    norm_ratio_max: float = 10.0
    version: int = 0
    rejected: dict[Reject, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_bounds(weight_max(self.strategy, self.samples_max) * self.clients, self.clip)
        self._state: Mapping[str, Vector] = {}
        self._norms = Norms()
        self._open()

    def _open(self) -> None:
        self._usual = self._norms.median  # as it is when a round opens
        self._sum, self._tally = Accumulator(self.layout.n_params), Tally()
        self._kept: list[Vector] = []

    def receive(self, header: UpdateHeader, data: bytes) -> None:
        """Judge one update, and count it or its reason."""
        expected = Expected(
            Task.TRAIN,
            self.version,
            self.layout.hash,
            self.layout.n_params,
            frozenset({header.codec}),
            self.samples_max,
            UPDATE_BYTES_MAX,
        )
        problem = check_header(header, expected) or check_bytes(header, data) or self._add(header, data)
        if problem is not None:
            self.rejected[problem.reason] = self.rejected.get(problem.reason, 0) + 1

    def _add(self, header: UpdateHeader, data: bytes) -> Rejection | None:
        delta = decode(header.codec, data, self.layout.n_params)
        norm = norm_of(delta)
        problem = check_delta(delta, norm, self.clip, self._usual, self.norm_ratio_max)
        if problem is not None:
            return problem
        self._norms.add(norm)
        delta = limited(self.strategy, delta, self._usual)
        self._tally = self._tally.plus(self.strategy, header)
        if self.strategy.kind == "robust":
            self._kept.append(delta)
        else:
            self._sum.add(delta, client_weight(self.strategy, header))
        return None

    def close(self) -> bool:
        """The next version; False when nothing was accepted, and the version stays."""
        accepted = self._tally.clients
        if accepted:
            change = finish(self.strategy, self._change(), self._tally)
            self.model, self._state = apply(self.strategy, self.model, change, self._state)
            self.version += 1
        self._open()
        return accepted > 0

    def _change(self) -> Vector:
        if self.strategy.kind != "robust":
            return self._sum.mean()
        rows = np.stack(self._kept)
        weights: Sequence[int] = [1] * len(rows)
        return combine(self.strategy, lambda start, stop: rows[:, start:stop], weights, self.layout.n_params)
