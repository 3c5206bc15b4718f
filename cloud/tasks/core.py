"""The life of tasks, journaled before it is acknowledged.

    QUEUED ──room──> RUNNING ──answer──> DONE
       │               ├──refused, or no attempts left──> FAILED
       └──cancel───────┴──cancel──> CANCELLED

A submitted task is saved before its submitter hears of it, RUNNING is saved before a device is asked, and an
end is saved before anyone can read it. One save of a task is under way at a time, so that none overtakes.
A task that was running when the cloud died is run again when it is idempotent; otherwise it ends FAILED as
``interrupted``, because nobody knows. An attempt that failed for want of a node, or without a definite
answer, is tried again with growing pauses while attempts and time are left.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Tick, Work
from shared.errors import InvalidTransition

KEPT_S = 3600.0
ATTEMPTS_MAX = 5
PAUSE_S_FIRST = 1.0
TASKS_MAX = 10_000
RUNNING_MAX = 16

# Refusals that another moment may cure; any other (no such model, bad input) would only repeat.
WORTH_A_RETRY = frozenset(
    {
        "no-node",
        "no-capacity",
        "overloaded",
        "draining",
        "node-died",
        "deadline",
        "outbox-full",
        "unavailable",
    }
)


class TaskState(StrEnum):
    """Where a task is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


NEXT: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.QUEUED: frozenset({TaskState.RUNNING, TaskState.CANCELLED, TaskState.FAILED}),
    TaskState.RUNNING: frozenset({TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED, TaskState.QUEUED}),
    TaskState.DONE: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.CANCELLED: frozenset(),
}


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done. ``inputs``: packed as in :class:`shared.messages.InferAsk`."""

    model: str
    inputs: bytes
    function: str = "run"
    node: str = ""
    idempotent: bool = True
    deadline_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Task:
    """One task as it is stored. ``outputs``: packed as in a reply's body."""

    id: str
    spec: TaskSpec
    created_at_unix_s: float
    state: TaskState = TaskState.QUEUED
    attempts: int = 0
    node: str = ""
    outputs: bytes = b""
    code: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Submitted:
    """Somebody wants a task done. ``task`` is QUEUED and its id is new."""

    task: Task


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Somebody no longer wants it."""

    id: str


@dataclass(frozen=True, slots=True)
class Restored:
    """What the journal held when the cloud started."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class SaveTask(Work):
    """Make this version of the task durable. Answer: :class:`Saved`."""

    task: Task


@dataclass(frozen=True, slots=True)
class Saved:
    """It is."""

    task: Task


@dataclass(frozen=True, slots=True)
class RunTask(Work):
    """Ask the fleet once. Answer: :class:`Answered` or :class:`Refused`."""

    id: str
    spec: TaskSpec


@dataclass(frozen=True, slots=True)
class Answered:
    """A device did it."""

    id: str
    node: str
    outputs: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The attempt brought nothing. ``definite``: it certainly did not happen."""

    id: str
    code: str
    detail: str
    definite: bool


@dataclass(frozen=True, slots=True)
class Forget(Effect):
    """Delete a task that ended long ago."""

    id: str


@dataclass(frozen=True, slots=True)
class Announce(Effect):
    """This version of the task is durable: tell whoever waits for it."""

    task: Task


Event = Submitted | CancelAsked | Restored | Saved | Answered | Refused | Failed | Tick | LinkUp | LinkDown

_ENDED = frozenset(state for state, after in NEXT.items() if not after)


@dataclass(slots=True)
class Tasks:
    """All tasks. ``visible`` holds what is durable; ``tasks`` may be one save ahead."""

    tasks: dict[str, Task] = field(default_factory=dict)
    visible: dict[str, Task] = field(default_factory=dict)
    saving: set[str] = field(default_factory=set)
    queue: dict[str, float] = field(default_factory=dict)  # durably queued -> not to be run before
    running: set[str] = field(default_factory=set)
    paused: dict[str, float] = field(default_factory=dict)  # to be queued again -> not before
    forget_at: dict[str, float] = field(default_factory=dict)

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        match event:
            case Submitted(task):
                return self._submit(task)
            case Saved(task):
                return self._saved(task, now)
            case Answered(id, node, outputs):
                return self._end(id, TaskState.DONE, node=node, outputs=outputs)
            case Refused():
                return self._refused(event, now)
            case CancelAsked(id):
                return self._cancel(id)
            case Failed(work, reason):
                return self._failed(work, reason, now)
            case Tick():
                return self._forget(now) + self._start(now)
            case Restored(tasks):
                return self._restore(tasks, now)
            case _:
                return []

    @property
    def room(self) -> bool:
        """Whether one more may be submitted."""
        return len(self.tasks) < TASKS_MAX

    def _submit(self, task: Task) -> list[Effect]:
        if not self.room or task.id in self.tasks:
            return [Ignore(f"no room for task {task.id}")]
        return self._keep(task)

    def _keep(self, task: Task) -> list[Effect]:
        self.tasks[task.id] = task
        if task.id in self.saving:
            return []  # the next save takes it along
        self.saving.add(task.id)
        return [SaveTask(task)]

    def _saved(self, task: Task, now: float) -> list[Effect]:
        if task.id not in self.tasks:
            return [Ignore(f"task {task.id} was forgotten meanwhile")]
        self.visible[task.id] = task
        latest = self.tasks[task.id]
        if latest is not task:
            return [Announce(task), SaveTask(latest)]
        self.saving.discard(task.id)
        effects: list[Effect] = [Announce(task)]
        match task.state:
            case TaskState.QUEUED:
                self.queue[task.id] = self.paused.pop(task.id, 0.0)
            case TaskState.RUNNING:
                effects.append(RunTask(task.id, task.spec))
            case _:
                self.forget_at[task.id] = now + KEPT_S
        return effects + self._start(now)

    def _start(self, now: float) -> list[Effect]:
        room = RUNNING_MAX - len(self.running)
        due = [id for id, at in self.queue.items() if at <= now][:room]
        effects: list[Effect] = []
        for id in due:
            del self.queue[id]
            self.running.add(id)
            task = self.tasks[id]
            effects += self._keep(self._moved(task, TaskState.RUNNING, attempts=task.attempts + 1))
        return effects

    def _end(self, id: str, state: TaskState, **result: object) -> list[Effect]:
        task = self.tasks.get(id)
        if task is None or state not in NEXT[task.state]:
            return [Ignore(f"task {id} is {task.state if task else 'unknown'}: not {state} any more")]
        for waiting in (self.queue, self.paused):
            waiting.pop(id, None)
        self.running.discard(id)
        return self._keep(self._moved(task, state, **result))

    def _refused(self, event: Refused, now: float) -> list[Effect]:
        task = self.tasks.get(event.id)
        if task is None or task.state is not TaskState.RUNNING:
            self.running.discard(event.id)
            return [Ignore(f"task {event.id} does not run")]
        safe = event.definite or task.spec.idempotent
        if event.code in WORTH_A_RETRY and safe and task.attempts < ATTEMPTS_MAX:
            self.running.discard(event.id)
            self.paused[event.id] = now + PAUSE_S_FIRST * 2 ** (task.attempts - 1)
            return self._keep(self._moved(task, TaskState.QUEUED, code=event.code, detail=event.detail))
        return self._end(event.id, TaskState.FAILED, code=event.code, detail=event.detail)

    def _cancel(self, id: str) -> list[Effect]:
        return self._end(id, TaskState.CANCELLED, code="cancelled", detail="cancelled on request")

    def _failed(self, work: Work, reason: str, now: float) -> list[Effect]:
        match work:
            case RunTask(id=id):
                return self._refused(Refused(id, "runner-error", reason, definite=False), now)
            case SaveTask(task):
                latest = self.tasks[task.id]
                return [Ignore(f"saving task {task.id} failed, trying again: {reason}"), SaveTask(latest)]
            case _:
                return [Ignore(reason)]

    def _restore(self, tasks: tuple[Task, ...], now: float) -> list[Effect]:
        effects: list[Effect] = []
        for task in tasks:
            self.tasks[task.id] = self.visible[task.id] = task
            if task.state in _ENDED:
                self.forget_at[task.id] = now + KEPT_S
            elif task.state is TaskState.QUEUED:
                self.queue[task.id] = now
            elif task.spec.idempotent:
                effects += self._keep(self._moved(task, TaskState.QUEUED))
            else:
                detail = "the cloud stopped while a device may have been at it"
                effects += self._end(task.id, TaskState.FAILED, code="interrupted", detail=detail)
        return effects + self._start(now)

    def _forget(self, now: float) -> list[Effect]:
        old = [id for id, at in self.forget_at.items() if at <= now]
        for id in old:
            for kept in (self.tasks, self.visible, self.forget_at):
                kept.pop(id, None)
        return [Forget(id) for id in old]

    def _moved(self, task: Task, state: TaskState, **changes: object) -> Task:
        if state not in NEXT[task.state]:
            raise InvalidTransition(f"{task.state} -> {state}")
        return replace(task, state=state, **changes)  # type: ignore[arg-type]

    def check(self) -> None:
        """Invariants."""
        assert len(self.tasks) <= TASKS_MAX
        assert len(self.running) <= RUNNING_MAX
        assert self.visible.keys() <= self.tasks.keys()
        assert self.forget_at.keys() <= self.tasks.keys()
        assert all(self.tasks[id].state is TaskState.QUEUED for id in self.queue)
        assert not self.queue.keys() & self.running
        assert self.saving <= self.tasks.keys()
        for id in self.running:
            assert self.tasks[id].state in (TaskState.RUNNING, *_ENDED)
