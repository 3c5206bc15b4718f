"""Replicated keys: read and write them, see who has what, and where writers disagree."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from cloud.api.nodes import fleet_of
from cloud.api.problems import BadRequest
from cloud.api.schema import answer, body, returns, takes
from cloud.sync.client import How
from shared.sync import ConsistencyLevel, Required, SyncStrategy
from shared.sync_views import ConflictView, KeyView, PutResult, SyncTaskView

router = APIRouter(tags=["sync"])

DEADLINE_S_MAX = 600.0


class WriteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One write. What is absent stays as the key has it; a new key is eventual and pushed.

    ``expected`` (strong): only if the key is at this revision; 0: only if it is new. ``operation``: (epoch,
    sequence) of a write that had no answer, to repeat it without doing it twice.
    """

    value: Any
    targets: tuple[str, ...] = ()
    level: ConsistencyLevel | None = None
    strategy: SyncStrategy | None = None
    required: Required = Required.ALL
    expected: int = -1
    priority: int = 5
    operation: tuple[int, int] = (0, 0)
    deadline_s: float = 10.0

    def how(self) -> How:
        """The same, for the client."""
        return How(
            self.level, self.strategy, self.required, self.expected, self.priority, operation=self.operation
        )


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Have nodes hold a model of the catalog (``name`` or ``name@version``)."""

    model: str
    targets: tuple[str, ...]
    level: ConsistencyLevel | None = None
    strategy: SyncStrategy | None = None
    required: Required = Required.ALL
    deadline_s: float = 60.0


@router.get("/sync/keys", responses=returns(list[KeyView]), summary="List the keys")
async def keys(request: Request, prefix: str = "") -> Response:
    """Every key that begins with ``prefix``, by name."""
    return answer(await fleet_of(request).sync.keys(prefix))


@router.get("/sync/keys/{key:path}", responses=returns(KeyView), summary="Read one key")
async def get(request: Request, key: str) -> Response:
    """A strong key as it is now, for everybody; others as the cloud has them."""
    return answer(await fleet_of(request).sync.get(key))


@router.put(
    "/sync/keys/{key:path}",
    responses=returns(PutResult),
    openapi_extra=takes(WriteRequest),
    summary="Write one key",
)
async def put(request: Request, key: str) -> Response:
    """Answers as the key's level promises. A stale ``expected`` is 409; `definite: false` means that too few
    targets have it yet: it may still land, and then exactly once."""
    wanted = await body(request, WriteRequest)
    done = await fleet_of(request).sync.put(
        key, wanted.value, wanted.targets, wanted.how(), budget_s=_deadline(wanted.deadline_s)
    )
    return answer(done)


@router.put(
    "/sync/desired/{key}",
    responses=returns(PutResult),
    openapi_extra=takes(WriteRequest),
    summary="Set one key of the nodes' configuration",
)
async def put_desired(request: Request, key: str) -> Response:
    """The desired state of each of ``targets``; what they report is the key ``reported/{node}/{key}``."""
    wanted = await body(request, WriteRequest)
    done = await fleet_of(request).sync.put(
        key, wanted.value, wanted.targets, wanted.how(), config=True, budget_s=_deadline(wanted.deadline_s)
    )
    return answer(done)


@router.delete("/sync/keys/{key:path}", responses=returns(PutResult), summary="Erase one key")
async def erase(request: Request, key: str, expected: int = -1) -> Response:
    """Everywhere. Answers as the key's level promises."""
    return answer(await fleet_of(request).sync.erase(key, (), How(expected=expected)))


@router.post(
    "/sync/models",
    responses=returns(PutResult),
    openapi_extra=takes(ModelRequest),
    summary="Have nodes hold a model",
)
async def model(request: Request) -> Response:
    """Strong: answers when as many targets as required are ready to infer with it."""
    wanted = await body(request, ModelRequest)
    how = How(wanted.level, wanted.strategy, wanted.required)
    budget_s = _deadline(wanted.deadline_s)
    return answer(await fleet_of(request).sync.model(wanted.model, wanted.targets, how, budget_s=budget_s))


@router.get("/sync/tasks", responses=returns(list[SyncTaskView]), summary="Writes on their way")
async def tasks(request: Request) -> Response:
    """The newest first; what ended is kept for an hour."""
    return answer(await fleet_of(request).sync.tasks())


@router.get("/sync/tasks/{task}", responses=returns(SyncTaskView), summary="One write, target by target")
async def status(request: Request, task: str) -> Response:
    """State, attempts, each target's acknowledgement, lag and conflicts."""
    return answer(await fleet_of(request).sync.status(task))


@router.get("/sync/conflicts", responses=returns(list[ConflictView]), summary="Where writers disagree")
async def conflicts(request: Request, prefix: str = "") -> Response:
    """What readers see of each such field, and the values that lost. Writing the field settles it."""
    return answer(await fleet_of(request).sync.conflicts(prefix))


def _deadline(wanted_s: float) -> float:
    if not 0 < wanted_s <= DEADLINE_S_MAX:
        raise BadRequest(f"deadline_s must lie between 0 and {DEADLINE_S_MAX:g}")
    return wanted_s
