"""Telemetry: samples by time, and the ledger of what was produced and what became of it."""

import time

from fastapi import APIRouter, Request, Response

from cloud.api.nodes import fleet_of
from cloud.api.problems import BadRequest
from cloud.api.schema import answer, returns
from cloud.times import moment, span_s
from shared.errors import ConfigError
from shared.telemetry import POINTS_MAX, LedgerRow, LetterView, Series

router = APIRouter(tags=["telemetry"])


@router.get(
    "/nodes/{node}/telemetry/{stream}", responses=returns(Series), summary="Samples of a stream, by time"
)
async def samples(
    request: Request,
    node: str,
    stream: str,
    since: str = "1h",
    until: str = "",
    every: str = "0",
    limit: int = POINTS_MAX,
) -> Response:
    """One point for each interval of ``every`` (``10s``, ``1m``; ``0``: each sample): how many samples, and
    the least, mean and greatest value of each field. ``since`` and ``until``: how long ago (``1h``), seconds
    since 1970, or ISO. ``next_unix_s`` in the answer says where to go on when ``limit`` was reached."""
    now = time.time()
    try:
        begin, end, step = moment(since, now), moment(until, now) if until else 0.0, span_s(every)
    except ConfigError as error:
        raise BadRequest(str(error)) from None
    return answer(await fleet_of(request).telemetry(node, stream, begin, end, step, limit))


@router.get("/nodes/{node}/ledger", responses=returns(list[LedgerRow]), summary="The ledger of one node")
async def ledger(request: Request, node: str) -> Response:
    """For each stream of each boot: produced, stored, dropped, lost, dead, duplicates, missing."""
    return answer(await fleet_of(request).ledger(node))


@router.get("/ledger", responses=returns(list[LedgerRow]), summary="The ledger of the fleet")
async def fleet_ledger(request: Request) -> Response:
    """As for one node, for all."""
    return answer(await fleet_of(request).ledger())


@router.get("/nodes/{node}/letters", responses=returns(list[LetterView]), summary="Dead letters of one node")
async def letters(request: Request, node: str, limit: int = 100) -> Response:
    """Telemetry that could not be taken, the newest first; ``payload`` is base64."""
    return answer(await fleet_of(request).letters(node, limit))
