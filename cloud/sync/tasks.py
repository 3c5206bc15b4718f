"""Writes on their way, and who waits for them.

    PENDING ──saved──> SYNCING ──every target──> DONE
       │                  ├──STRONG, too few at the deadline──> INDETERMINATE ──enough──> SYNCING
       │                  └──a target refuses──> FAILED ──it has it after all──> DONE
       └──not saved in time──> INDETERMINATE
    CONFLICT, CANCELLED: ended before anything was written

A task's id is the id of the operation. Whoever repeats an operation finds its task and waits for that one, so
a write that was answered with "nobody knows" can be repeated without being done twice.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from cloud.sync.records import NEXT, SyncKind, SyncTask, TaskStatus
from shared.core import Effect, Publish
from shared.errors import InvalidTransition
from shared.messages import Reply, ReplyStatus
from shared.sync import ConsistencyLevel, Outcome, Result, Status, SyncMessage
from shared.sync_views import PutResult
from shared.topics import APP_REPLY, SYNC_DOWN
from shared.wire import packed

TASKS_MAX = 10_000
KEPT_S = 3600.0
WAITERS_MAX = 10_000

_CODES = {
    TaskStatus.CONFLICT: Status.CONFLICT,
    TaskStatus.CANCELLED: Status.REFUSED,
    TaskStatus.INDETERMINATE: Status.INDETERMINATE,
    TaskStatus.FAILED: Status.INDETERMINATE,
}


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who is answered. An application by ``correlation``, a device by its ``life`` and ``sequence``."""

    deadline: float
    app: str = ""
    correlation: str = ""
    node: str = ""
    sequence: int = 0
    term: int = 0
    life: int = 0

    def answer(self, task: SyncTask, status: Status, detail: str = "") -> Effect:
        """The reply to this waiter."""
        if self.node:
            outcome = Outcome(
                status=status, revision=task.revision, code=task.code, detail=detail or task.detail
            )
            part = Result(self.sequence, outcome, task.name_for(self.node))
            message = SyncMessage(life=self.term, part=part, to=self.life)
            return Publish(SYNC_DOWN.at(node=self.node), message)
        return Publish(APP_REPLY.at(app=self.app), self._reply(task, status, detail))

    def _reply(self, task: SyncTask, status: Status, detail: str) -> Reply:
        match status:
            case Status.OK:
                return Reply(correlation=self.correlation, body=packed(put_result(task)))
            case Status.INDETERMINATE:
                code, how = "indeterminate", ReplyStatus.FAILED
            case _:
                code, how = task.code or status.value, ReplyStatus.REFUSED
        return Reply(correlation=self.correlation, status=how, code=code, detail=detail or task.detail)


def put_result(task: SyncTask) -> PutResult:
    """What an application is told of a write that succeeded."""
    return PutResult(
        task_id=task.task_id,
        key=task.key,
        status=task.status.value,
        revision=task.revision,
        acked=task.acked,
        targets=task.targets,
    )


def _moved(task: SyncTask, node: str) -> str:
    """What a task moves to a node, as acknowledgements name it."""
    return f"model/{task.task_id}" if task.kind is SyncKind.MODEL else task.name_for(node)


@dataclass(slots=True)
class Tasks:
    """All tasks by id; the open ones also by what they move where."""

    tasks: dict[str, SyncTask] = field(default_factory=dict)
    moving: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    waiters: dict[str, list[Waiter]] = field(default_factory=dict)
    forget_at: dict[str, float] = field(default_factory=dict)
    unsaved: set[str] = field(default_factory=set)
    unsaved_gone: set[str] = field(default_factory=set)
    saving: tuple[set[str], set[str]] = (set(), set())
    begun: set[str] = field(default_factory=set)  # never saved yet: nobody can have acknowledged them
    later: set[str] = field(default_factory=set)  # progress, which may wait for a save of somebody else

    def __contains__(self, task_id: str) -> bool:
        return task_id in self.tasks

    @property
    def room(self) -> bool:
        """Whether one more may begin; for that, one that ended, or that nobody waits for, is forgotten."""
        return len(self.waiters) < WAITERS_MAX and (len(self.tasks) < TASKS_MAX or self._spare() is not None)

    def _spare(self) -> str | None:
        if self.forget_at:
            return next(iter(self.forget_at))
        return next((one for one, task in self.tasks.items() if self._is_spare(task)), None)

    def _is_spare(self, task: SyncTask) -> bool:
        return task.level is not ConsistencyLevel.STRONG and task.task_id not in self.waiters

    @property
    def dirty(self) -> bool:
        """Whether something is to be saved."""
        return bool(self.unsaved or self.unsaved_gone)

    # The life of one ----------------------------------------------------------------------------------

    def remember(self, task: SyncTask, now: float) -> None:
        """A task that ended at once and is worth no save (WEAK)."""
        self._make_room()
        self.tasks[task.task_id] = task
        self._close(task, now)

    def begin(self, task: SyncTask, waiter: Waiter | None) -> None:
        """A new task; the waiter hears of it when it is as durable as its level promises."""
        self._make_room()
        self.tasks[task.task_id] = task
        self.unsaved.add(task.task_id)
        self.begun.add(task.task_id)
        if waiter is not None:
            self.waiters.setdefault(task.task_id, []).append(waiter)

    def _make_room(self) -> None:
        spare = self._spare() if len(self.tasks) >= TASKS_MAX else None
        if spare is not None:
            self._forget(spare)

    def repeated(self, task_id: str, waiter: Waiter) -> list[Effect]:
        """The same operation again: the answer it had, or will have."""
        task = self.tasks[task_id]
        if task_id in self.begun or not self._answered(task):
            self.waiters.setdefault(task_id, []).append(waiter)
            return []
        return [waiter.answer(task, _CODES.get(task.status, Status.OK))]

    def restore(self, tasks: Iterable[SyncTask], now: float) -> None:
        """What the store held."""
        for task in tasks:
            if task.status is TaskStatus.PENDING:
                task = msgspec.structs.replace(task, status=TaskStatus.SYNCING)
            self.tasks[task.task_id] = task
            self._index(task, now)

    def acked(self, node: str, names: Iterable[str]) -> list[Effect]:
        """``node`` has the newest state of these on its disk."""
        effects: list[Effect] = []
        for name in names:
            for task_id in sorted(self.moving.pop((node, name), ())):
                effects += self._acked(self.tasks[task_id], node)
        return effects

    def refused(self, node: str, name: str, reason: str) -> None:
        """``node`` will not have it: a dead letter."""
        for task_id in self.moving.get((node, name), ()):
            task = self.tasks[task_id]
            refused = {**task.refused, node: reason}
            status = task.status if task.status is TaskStatus.PENDING else TaskStatus.FAILED
            self._put(task, status, refused=refused, code="dead-letter", detail=f"{node}: {reason}")

    def deployed(self, task_id: str, digest: str) -> None:
        """The rule of a model stands."""
        if task_id in self.tasks:
            task = self.tasks[task_id]
            self._put(task, task.status, digest=digest)

    def failed(self, task_id: str, code: str, detail: str, now: float) -> list[Effect]:
        """It can't be done at all."""
        task = self.tasks[task_id]
        self._put(task, TaskStatus.FAILED, code=code, detail=detail)
        self._close(task, now)
        return [one.answer(self.tasks[task_id], Status.REFUSED) for one in self.waiters.pop(task_id, ())]

    def _acked(self, task: SyncTask, node: str) -> list[Effect]:
        acked = tuple(sorted({*task.acked, node}))
        refused = {other: why for other, why in task.refused.items() if other != node}
        task = msgspec.structs.replace(task, acked=acked, refused=refused)
        status = task.status
        if len(acked) == len(task.targets):
            status = TaskStatus.DONE
        elif status is TaskStatus.INDETERMINATE and task.enough:
            status = TaskStatus.SYNCING
        self._put(task, status)
        return self._tell(task.task_id)

    # Answers ------------------------------------------------------------------------------------------

    def _answered(self, task: SyncTask) -> bool:
        """Whether its writer may hear how it went."""
        if task.status in (TaskStatus.CONFLICT, TaskStatus.CANCELLED, TaskStatus.DONE):
            return True
        return task.enough if task.level is ConsistencyLevel.STRONG else task.status is not TaskStatus.PENDING

    def _tell(self, task_id: str) -> list[Effect]:
        task = self.tasks[task_id]
        if not self._answered(task):
            return []
        status = (
            _CODES.get(task.status, Status.OK) if task.level is not ConsistencyLevel.STRONG else Status.OK
        )
        if task.status in (TaskStatus.CONFLICT, TaskStatus.CANCELLED):
            status = _CODES[task.status]
        return [one.answer(task, status) for one in self.waiters.pop(task_id, ())]

    def expire(self, now: float) -> list[Effect]:
        """At each tick: who has waited long enough learns that nobody knows, what ended long ago is
        forgotten, progress is saved."""
        effects: list[Effect] = []
        for task_id, waiting in list(self.waiters.items()):
            late = [one for one in waiting if now >= one.deadline]
            if late:
                effects += self._late(task_id, late)
                self.waiters[task_id] = [one for one in waiting if now < one.deadline]
                if not self.waiters[task_id]:
                    del self.waiters[task_id]
        while self.forget_at and now >= (oldest := next(iter(self.forget_at.items())))[1]:
            self._forget(oldest[0])
        self.unsaved |= self.later
        self.later.clear()
        return effects

    def _late(self, task_id: str, late: list[Waiter]) -> list[Effect]:
        task = self.tasks[task_id]
        have = f"{len(task.acked)} of {len(task.targets)} targets have it"
        detail = (
            f"{have}, {task.required.of(len(task.targets))} are required; it may still land, exactly once"
        )
        if task.status is TaskStatus.PENDING:
            detail = "the cloud's store has not confirmed it; it may still happen"
        if task.status in (TaskStatus.PENDING, TaskStatus.SYNCING):
            self._put(task, TaskStatus.INDETERMINATE, detail=detail)
        return [one.answer(self.tasks[task_id], Status.INDETERMINATE, detail) for one in late]

    # The store ----------------------------------------------------------------------------------------

    def take(self) -> tuple[tuple[SyncTask, ...], tuple[str, ...]]:
        """What the next save has to write and to delete."""
        self.saving = (self.unsaved | self.later, self.unsaved_gone)
        self.unsaved, self.unsaved_gone, self.later = set(), set(), set()
        changed = tuple(self.tasks[one] for one in sorted(self.saving[0]) if one in self.tasks)
        return changed, tuple(sorted(self.saving[1]))

    def saved(self, now: float) -> list[Effect]:
        """It is durable: what waited for that goes on."""
        (changed, _), self.saving = self.saving, (set(), set())
        effects: list[Effect] = []
        for task_id in sorted(changed & self.tasks.keys()):
            if task_id in self.begun:
                self._journaled(self.tasks[task_id])
            self._index(self.tasks[task_id], now)
            effects += self._tell(task_id)
        return effects

    def _journaled(self, task: SyncTask) -> None:
        self.begun.discard(task.task_id)
        if task.status in (TaskStatus.PENDING, TaskStatus.INDETERMINATE):
            self._put(task, TaskStatus.SYNCING)
            if not task.targets or task.level is ConsistencyLevel.WEAK:
                self._put(self.tasks[task.task_id], TaskStatus.DONE)

    def give_back(self) -> None:
        """The save failed."""
        changed, gone = self.saving
        self.unsaved |= changed
        self.unsaved_gone |= gone
        self.saving = (set(), set())

    def _put(self, task: SyncTask, status: TaskStatus, **changes: object) -> None:
        if status is not task.status and status not in NEXT[task.status]:
            raise InvalidTransition(f"{task.status} -> {status}")
        self.tasks[task.task_id] = msgspec.structs.replace(task, status=status, **changes)
        self.later.add(task.task_id)

    def _index(self, task: SyncTask, now: float) -> None:
        """Who has to acknowledge it. Only what is durable: an acknowledgement can't be of anything else."""
        if not task.is_open:
            self._close(task, now)
            return
        for node in task.targets:
            if node not in task.acked and task.level is not ConsistencyLevel.WEAK:
                self.moving.setdefault((node, _moved(task, node)), set()).add(task.task_id)

    def _close(self, task: SyncTask, now: float) -> None:
        self.forget_at.setdefault(task.task_id, now + KEPT_S)

    def _forget(self, task_id: str) -> None:
        self.forget_at.pop(task_id, None)
        task = self.tasks.pop(task_id)
        for kept in (self.unsaved, self.later, self.begun):
            kept.discard(task_id)
        self.unsaved_gone.add(task_id)
        for node in task.targets:
            place = (node, _moved(task, node))
            self.moving.get(place, set()).discard(task_id)
            if place in self.moving and not self.moving[place]:
                del self.moving[place]

    def check(self) -> None:
        """Invariants."""
        assert len(self.tasks) <= TASKS_MAX
        assert self.unsaved <= self.tasks.keys()
        assert self.forget_at.keys() <= self.tasks.keys()
        assert self.waiters.keys() <= self.tasks.keys()
        for task in self.tasks.values():
            assert set(task.acked) <= set(task.targets)
            assert task.status is not TaskStatus.DONE or not task.refused
