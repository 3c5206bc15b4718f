"""Tasks: submit work, come back for the result."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from broker.service import Service
from cloud.api.arrays import JsonArray, to_array, to_json
from cloud.api.inference import DEADLINE_S_MAX, InferRequest
from cloud.api.problems import BadRequest, NotFound
from cloud.api.schema import answer, body, returns, takes
from cloud.tasks.core import CancelAsked, Event, Submitted, Task, Tasks, TaskSpec, TaskState
from shared.errors import TimedOut, Unavailable
from shared.tensors import pack_inputs, unpack_inputs

router = APIRouter(tags=["tasks"])

SAVE_S_MAX = 10.0
WAIT_S_MAX = 60.0
LISTED_MAX = 500
_OPEN = (TaskState.QUEUED, TaskState.RUNNING)


class TaskRequest(InferRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An inference to be done when the fleet can. ``deadline_s`` is that of one attempt."""

    model: str


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """One task. ``outputs`` (or ``json``, of a WASI module) are there once it is done."""

    id: str
    model: str
    state: TaskState
    attempts: int
    created_at_unix_s: float
    node: str = ""
    outputs: tuple[JsonArray, ...] = ()
    json: Any = None
    code: str = ""
    detail: str = ""


class TaskWaiters:
    """Who waits for the next durable version of a task."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[Task]]] = {}

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def announce(self, task: Task) -> None:
        """Wake them."""
        for future in self._waiting.pop(task.id, ()):
            if not future.done():
                future.set_result(task)

    @contextmanager
    def next_of(self, id: str) -> Iterator["asyncio.Future[Task]"]:
        """Within the block: a future of the next durable version. Whoever leaves is forgotten."""
        future: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(id, set()).add(future)
        try:
            yield future
        finally:
            others = self._waiting.get(id, set())
            others.discard(future)
            if not others:
                self._waiting.pop(id, None)


def _service(request: Request) -> Service[Event]:
    service: Service[Event] = request.app.state.tasks
    return service


def core_of(request: Request) -> Tasks:
    """The tasks themselves; read ``visible``, which is durable."""
    core = _service(request).core
    assert isinstance(core, Tasks)
    return core


def _waiters(request: Request) -> TaskWaiters:
    waiters: TaskWaiters = request.app.state.waiters
    return waiters


@router.post(
    "/tasks",
    status_code=202,
    responses=returns(TaskView, 202),
    openapi_extra=takes(TaskRequest),
    summary="Submit a task",
)
async def submit(request: Request) -> Response:
    """The answer comes once the task is durable: it survives a restart of the cloud."""
    wanted = await body(request, TaskRequest)
    if not core_of(request).room:
        raise Unavailable("as many tasks are kept as may be; fetch results, or try later")
    task = Task(secrets.token_hex(8), _spec(wanted), time.time())
    with _waiters(request).next_of(task.id) as saved:
        _service(request).feed(Submitted(task))
        try:
            async with asyncio.timeout(SAVE_S_MAX):
                task = await saved
        except TimeoutError:
            detail = f"the store did not take task {task.id} in time; look for it with GET /tasks"
            raise TimedOut("not-saved", detail) from None
    return answer(_view(task), 202, Location=f"/tasks/{task.id}")


@router.get("/tasks", responses=returns(list[TaskView]), summary="List the tasks")
async def tasks(request: Request, state: TaskState | None = None) -> Response:
    """The newest first, without their outputs; narrowed by ``state``."""
    found = [task for task in core_of(request).visible.values() if state in (None, task.state)]
    newest = sorted(found, key=lambda task: task.created_at_unix_s, reverse=True)[:LISTED_MAX]
    return answer([_view(task, outputs=False) for task in newest])


@router.get("/tasks/{id}", responses=returns(TaskView), summary="Show one task")
async def task(request: Request, id: str, wait_s: float = 0.0) -> Response:
    """``wait_s``: answer when the task ends, or after so many seconds as it is then."""
    if not 0 <= wait_s <= WAIT_S_MAX:
        raise BadRequest(f"wait_s must lie between 0 and {WAIT_S_MAX:g}")
    found = _find(request, id)
    if wait_s and found.state in _OPEN:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await _ended(request, id)
        found = _find(request, id)
    return answer(_view(found))


async def _ended(request: Request, id: str) -> None:
    while _find(request, id).state in _OPEN:
        with _waiters(request).next_of(id) as changed:
            await changed


@router.delete("/tasks/{id}", status_code=202, responses=returns(TaskView, 202), summary="Cancel a task")
async def cancel(request: Request, id: str) -> Response:
    """Nobody waits for it any more; a device that is at it finishes for nothing."""
    _find(request, id)
    _service(request).feed(CancelAsked(id))
    return answer(_view(core_of(request).tasks[id]), 202)


def _find(request: Request, id: str) -> Task:
    found = core_of(request).visible.get(id)
    if found is None:
        raise NotFound(f"no task {id[:80]!r}; results are kept for an hour")
    return found


def _spec(wanted: TaskRequest) -> TaskSpec:
    if not 0 < wanted.deadline_s <= DEADLINE_S_MAX:
        raise BadRequest(f"deadline_s is {wanted.deadline_s}; it must lie between 0 and {DEADLINE_S_MAX:g}")
    if not wanted.inputs and wanted.json is None:
        raise BadRequest("give inputs (arrays), or json for a WASI module")
    arrays = [to_array(one) for one in wanted.inputs]
    return TaskSpec(
        model=wanted.model,
        inputs=bytes(pack_inputs(arrays or msgspec.json.encode(wanted.json))),
        function=wanted.function,
        node=wanted.node,
        idempotent=wanted.idempotent,
        deadline_s=wanted.deadline_s,
    )


def _view(task: Task, *, outputs: bool = True) -> TaskView:
    arrays: tuple[JsonArray, ...] = ()
    document: Any = None
    if outputs and task.outputs:
        found = unpack_inputs(msgspec.Raw(task.outputs))
        if isinstance(found, bytes):
            document = msgspec.json.decode(found)
        else:
            arrays = tuple(to_json(one) for one in found)
    return TaskView(
        id=task.id,
        model=task.spec.model,
        state=task.state,
        attempts=task.attempts,
        created_at_unix_s=task.created_at_unix_s,
        node=task.node,
        outputs=arrays,
        json=document,
        code=task.code,
        detail=task.detail,
    )
