"""Edge nodes: the list, one, the overview, commands."""

import msgspec
from fastapi import APIRouter, Request, Response

from cloud.api.problems import BadRequest
from cloud.api.schema import answer, returns
from cloud.client import Fleet
from shared.messages import CommandVerb
from shared.views import NodeView, Overview

router = APIRouter(tags=["nodes"])


class CommandDone(msgspec.Struct, frozen=True, kw_only=True):
    """The device answered."""

    node: str
    verb: str
    status: str


def fleet_of(request: Request) -> Fleet:
    """The application's client of the fleet."""
    fleet: Fleet = request.app.state.fleet
    return fleet


@router.get("/nodes", responses=returns(list[NodeView]), summary="List the nodes")
async def nodes(request: Request, status: str | None = None, label: str | None = None) -> Response:
    """Every node the cloud knows; narrowed by ``status`` or by one ``label`` written ``name=value``."""
    found = await fleet_of(request).nodes()
    if label is not None and "=" not in label:
        raise BadRequest("label: write name=value")
    name, _, value = (label or "=").partition("=")
    return answer(
        [
            node
            for node in found
            if status in (None, node.status) and (label is None or node.labels.get(name) == value)
        ]
    )


@router.get("/nodes/{node}", responses=returns(NodeView), summary="Show one node")
async def node(request: Request, node: str) -> Response:
    """One node, with the evidence for its status."""
    return answer(await fleet_of(request).node(node))


@router.post("/nodes/{node}/commands/{verb}", responses=returns(CommandDone), summary="Command one node")
async def command(request: Request, node: str, verb: CommandVerb) -> Response:
    """``ping``, ``announce`` or ``drain``; answers once the device has."""
    reply = await fleet_of(request).command(node, verb)
    return answer(CommandDone(node=reply.node, verb=verb, status=reply.status))


@router.get("/overview", responses=returns(Overview), summary="The fleet in numbers")
async def overview(request: Request) -> Response:
    """Counts by status, machines, load, models."""
    return answer(await fleet_of(request).overview())
