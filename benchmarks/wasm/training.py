"""Train steps: forward, loss, backward and update of one batch, ours and torch's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import progress
from benchmarks.wasm.peers import TORCH, TORCH_COMPILE
from benchmarks.wasm.timing import Call, Candidate, Failure, attempt, interleaved
from benchmarks.zoo import ZOO
from cloud.compiler.passes import Precision
from cloud.compiler.training import compile_training

Row = dict[str, Any]
TrainStep = Callable[[], float]  # the mean loss before the update

LR = 0.01
CHECKED_STEPS = 20
WRONG_FROM = 1e-4  # relative, after so many steps


@dataclass(frozen=True, slots=True)
class Task:
    """Classification of one batch, again and again, by plain gradient descent."""

    model: str
    batch: int

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs, and classes as int64 [batch]."""
        x = ZOO[self.model].inputs(self.batch)
        return x, torch.arange(self.batch) % len(self.network()(x)[0])

    def network(self) -> nn.Module:
        return ZOO[self.model].build()


TASKS = (Task("mlp", 32), Task("cnn", 8))


def ours(precision: Precision, task: Task) -> TrainStep:
    x, y = task.data()
    trainable = compile_training(task.network(), "cross_entropy", example_batch=(x, y), precision=precision)
    trainer = trainable.load()
    return partial(trainer.step, x.numpy(), y.numpy(), LR)


def eager(task: Task) -> TrainStep:
    network = task.network().train()
    return _torch(task, network, network)


def compiled(task: Task) -> TrainStep:
    torch._dynamo.reset()
    network = task.network().train()
    return _torch(task, network, torch.compile(network, dynamic=False))


def _torch(task: Task, network: nn.Module, forward: Callable[[Tensor], Tensor]) -> TrainStep:
    x, y = task.data()
    optimiser = torch.optim.SGD(network.parameters(), lr=LR)

    def step() -> float:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


MAKERS: Mapping[str, Callable[[Task], TrainStep]] = {
    **{f"shoal {precision}": partial(ours, precision) for precision in (Precision.FAST, Precision.EXACT)},
    TORCH: eager,
    TORCH_COMPILE: compiled,
}


def measure(task: Task, peers: Sequence[str], rounds: int) -> list[Row]:
    """Microseconds a step of ours and of those peers that train."""
    progress(f"{task.model} x{task.batch}: train step, {rounds} rounds")
    expected = [step() for step in [eager(task)] for _ in range(CHECKED_STEPS)]
    candidates: dict[str, Candidate | Failure] = {
        name: attempt(partial(_checked, make, task, expected))
        for name, make in MAKERS.items()
        if name.startswith("shoal") or name in peers
    }
    return [_row(task, name, seconds) for name, seconds in interleaved(candidates, rounds).items()]


def _checked(make: Callable[[Task], TrainStep], task: Task, expected: Sequence[float]) -> Candidate:
    """Raises ``ValueError`` when its losses are not those of torch."""
    step = make(task)
    for number, loss in enumerate(expected):
        found = step()
        if not abs(found - loss) <= WRONG_FROM * abs(loss):
            raise ValueError(f"its loss at step {number} is {found:.6g}; torch's is {loss:.6g}")
    return Call(step)


def _row(task: Task, candidate: str, seconds: float | Failure) -> Row:
    row: Row = {"model": task.model, "batch": task.batch, "candidate": candidate, "us": None, "error": ""}
    return row | ({"error": seconds.reason} if isinstance(seconds, Failure) else {"us": seconds * 1e6})
