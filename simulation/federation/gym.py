"""Where simulated devices train: in one WebAssembly session, one after the other, each on its own clock.

The trainer is the device's own (edge/training/trainer.py). Its clock is a stopwatch that a step advances by
what a step takes on *that* device: budgets, partial work and deadlines are real, and the same every time.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple, TypeVar

from edge.runtime import Limits, ModuleHost
from edge.runtime.parameters import Array
from edge.runtime.session import Session, Steps
from edge.training.examples import Examples
from edge.training.trainer import Lesson, Outcome, Trainer, TrainingFailed
from shared.abi import Function
from shared.learning import Task, TrainingPlan
from shared.vectors import Vector

T = TypeVar("T")

PACKAGES_MAX = 4
CALL_S_MAX = 60.0  # of real time
OPENING_S = 0.05  # of virtual time: what a session costs a device before its first step


class Trained(NamedTuple):
    """What came out, after so many seconds of the device's time. ``outcome`` None: ``problem`` says why."""

    outcome: Outcome | None
    seconds: float
    problem: str = ""


class Gym:
    """Close it. Packages are opened once, and the one opened first goes when there are too many."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._runner = self._stack.enter_context(asyncio.Runner())
        self._host = self._runner.run(_host())
        self._sessions: dict[str, Session] = {}

    def close(self) -> None:
        """Free the sessions, the threads and the loop."""
        self._runner.run(self._host.close())
        self._stack.close()

    def train(
        self, digest: str, package: bytes, examples: Examples, lesson: Lesson, vector: Vector, step_s: float
    ) -> Trained:
        """What a device with these examples, whose steps take ``step_s``, makes of ``vector`` [n]."""
        watch = _Watch(self._session(digest, package), step_s)
        try:
            trainer = Trainer(watch, examples, lesson, watch.read, lambda: False)
            outcome = self._runner.run(trainer.run(vector))
        except TrainingFailed as error:
            return Trained(None, watch.seconds, str(error))
        return Trained(outcome, watch.seconds)

    def accuracy(
        self, digest: str, package: bytes, examples: Examples, vector: Vector, layout_hash: str
    ) -> float:
        """Of the model ``vector`` on the held-out examples."""
        lesson = Lesson(Task.EVALUATE, TrainingPlan(source=""), 0.0, "", float("inf"), layout_hash)
        trained = self.train(digest, package, examples, lesson, vector, 0.0)
        assert trained.outcome is not None, trained.problem
        return trained.outcome.metrics["hits"] / trained.outcome.metrics["count"]

    def _session(self, digest: str, package: bytes) -> Session:
        if digest not in self._sessions:
            if len(self._sessions) >= PACKAGES_MAX:
                oldest = next(iter(self._sessions))
                self._runner.run(self._sessions.pop(oldest).close())
                self._host.unload(oldest)
            self._runner.run(self._host.load(digest, package))
            self._sessions[digest] = self._runner.run(self._host.open_session(digest))
        return self._sessions[digest]


async def _host() -> ModuleHost:
    """A host belongs to the loop that it is made in."""
    return ModuleHost(limits=Limits(deadline_s=CALL_S_MAX), workers=1)


class _Watch:
    """A session with a stopwatch: see :class:`edge.training.trainer.TrainingSession`."""

    def __init__(self, session: Session, step_s: float) -> None:
        self._session, self._step_s, self.seconds = session, step_s, OPENING_S if step_s else 0.0

    def read(self) -> float:
        """Seconds since the device began."""
        return self.seconds

    @property
    def batch_size(self) -> int:
        """Of the module."""
        return self._session.batch_size

    def describe(self, function: str) -> Function | None:
        """Inputs and outputs."""
        return self._session.describe(function)

    async def parameters(self) -> dict[str, Array]:
        """Copies, by name."""
        return await self._session.parameters()

    async def set_parameters(self, tensors: Mapping[str, Array]) -> None:
        """Replace them all."""
        await self._session.set_parameters(tensors)

    async def steps(self, work: Callable[[Steps], T], *, deadline_s: float | None = None) -> T:
        """``work``, whose calls take this device's time."""
        return await self._session.steps(
            lambda steps: work(_TimedSteps(steps, self._tick)), deadline_s=deadline_s
        )

    def _tick(self) -> None:
        self.seconds += self._step_s


class _TimedSteps(Steps):
    """Steps, each of which is told to a stopwatch."""

    def __init__(self, steps: Steps, tick: Callable[[], None]) -> None:
        self._steps, self._tick = steps, tick

    def call(self, function: str, inputs: Sequence[Array]) -> list[Array]:
        """One step."""
        self._tick()
        return self._steps.call(function, inputs)

    def parameters(self) -> dict[str, Array]:
        """Copies of all parameters, by name."""
        return self._steps.parameters()

    def set_parameters(self, tensors: Mapping[str, Array]) -> None:
        """Replace all parameters."""
        self._steps.set_parameters(tensors)
