"""Inference: one request, a batch, and why it went where it went."""

import asyncio
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from cloud.api.arrays import JsonArray, to_array, to_json
from cloud.api.nodes import fleet_of
from cloud.api.problems import BadRequest
from cloud.api.schema import answer, body, returns, takes
from cloud.client import Answer, Fleet
from shared.errors import RequestFailed
from shared.views import Explanation

router = APIRouter(tags=["inference"])

BATCH_MAX = 1024
IN_FLIGHT_MAX = 32  # of one batch; the fleet has other users
DEADLINE_S_MAX = 300.0


class InferRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``inputs``: the module's arrays, with their batch axis; or ``json`` for a WASI module.

    ``deadline_s``: after that the answer is useless and nobody computes it. ``idempotent``: may be tried on
    a second node when the first one dies.
    """

    inputs: tuple[JsonArray, ...] = ()
    json: Any = None
    function: str = "run"
    node: str = ""
    idempotent: bool = True
    deadline_s: float = 10.0


class InferResult(msgspec.Struct, frozen=True, kw_only=True):
    """``request`` names this inference for ``GET /inference/why``."""

    node: str
    service_s: float
    request: str
    outputs: tuple[JsonArray, ...] = ()
    json: Any = None


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Many requests; each is placed on its own."""

    items: tuple[InferRequest, ...]


class BatchItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One result, or the code and detail of why there is none."""

    result: InferResult | None = None
    code: str = ""
    detail: str = ""


@router.post(
    "/models/{model}/infer",
    responses=returns(InferResult),
    openapi_extra=takes(InferRequest),
    summary="Infer",
)
async def infer(request: Request, model: str) -> Response:
    """Ask the fleet; the balancer picks the node."""
    return answer(await ask(fleet_of(request), model, await body(request, InferRequest)))


@router.post(
    "/models/{model}/infer/batch",
    responses=returns(list[BatchItem]),
    openapi_extra=takes(BatchRequest),
    summary="Infer a batch",
)
async def infer_batch(request: Request, model: str) -> Response:
    """Results in the order of the items; an item that fails says why, the rest go on."""
    wanted = await body(request, BatchRequest)
    if len(wanted.items) > BATCH_MAX:
        raise BadRequest(f"{len(wanted.items)} items; at most {BATCH_MAX} in one batch")
    fleet, room = fleet_of(request), asyncio.Semaphore(IN_FLIGHT_MAX)

    async def one(item: InferRequest) -> BatchItem:
        async with room:
            try:
                return BatchItem(result=await ask(fleet, model, item))
            except RequestFailed as error:
                return BatchItem(code=error.code, detail=error.detail)
            except BadRequest as error:
                return BatchItem(code="bad-request", detail=str(error))

    return answer(await asyncio.gather(*(one(item) for item in wanted.items)))


@router.get("/inference/why", responses=returns(Explanation), summary="Explain a placement")
async def why(request: Request, id: str = "last") -> Response:
    """Which nodes were considered for a request, their scores, and who was left out and why."""
    return answer(await fleet_of(request).why(id))


async def ask(fleet: Fleet, model: str, wanted: InferRequest) -> InferResult:
    """One inference, from JSON to JSON."""
    if not 0 < wanted.deadline_s <= DEADLINE_S_MAX:
        raise BadRequest(f"deadline_s is {wanted.deadline_s}; it must lie between 0 and {DEADLINE_S_MAX:g}")
    if not wanted.inputs and wanted.json is None:
        raise BadRequest("give inputs (arrays), or json for a WASI module")
    arrays = [to_array(one) for one in wanted.inputs]
    found = await fleet.infer(
        model,
        *arrays,
        json=None if arrays else msgspec.json.encode(wanted.json),
        function=wanted.function,
        node=wanted.node,
        idempotent=wanted.idempotent,
        budget_s=wanted.deadline_s,
    )
    return as_result(found)


def as_result(found: Answer) -> InferResult:
    """What a device computed, as JSON."""
    if isinstance(found.outputs, bytes):
        document = msgspec.json.decode(found.outputs)
        return InferResult(node=found.node, service_s=found.service_s, request=found.request, json=document)
    outputs = tuple(to_json(one) for one in found.outputs)
    return InferResult(node=found.node, service_s=found.service_s, request=found.request, outputs=outputs)
