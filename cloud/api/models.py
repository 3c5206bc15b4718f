"""Models: the catalog, uploads, deployments."""

import msgspec
from fastapi import APIRouter, Request, Response

from cloud.api.nodes import fleet_of
from cloud.api.problems import NotFound
from cloud.api.schema import answer, body, raw_body, returns, takes, takes_file
from shared.deploys import DeployResult
from shared.replies import UploadProgress
from shared.views import DeploymentView, ModelView

router = APIRouter(tags=["models"])


class DeployRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``target``: ``all``, node ids separated by commas, or ``label=value`` terms."""

    target: str = "all"


@router.get("/models", responses=returns(list[ModelView]), summary="List the catalog")
async def models(request: Request) -> Response:
    """Every version of every model."""
    return answer(await fleet_of(request).models())


@router.post(
    "/models",
    status_code=201,
    responses=returns(UploadProgress, 201),
    openapi_extra=takes_file(),
    summary="Upload a package",
)
async def upload(request: Request) -> Response:
    """The body is a ``.shoal`` file as it is. The same file twice is the same model."""
    package = await raw_body(request, request.app.state.upload_bytes_max)
    done = await fleet_of(request).upload(package)
    return answer(done, 201, Location=f"/models/{done.name}")


@router.get("/models/{model}", responses=returns(list[ModelView]), summary="Show one model")
async def model(request: Request, model: str) -> Response:
    """Every version of one model, the newest last."""
    found = [one for one in await fleet_of(request).models() if one.name == model]
    if not found:
        raise NotFound(f"no model {model[:80]!r}; GET /models lists them")
    return answer(found)


@router.post(
    "/models/{model}/deploy",
    status_code=202,
    responses=returns(DeployResult, 202),
    openapi_extra=takes(DeployRequest),
    summary="Deploy a model",
)
async def deploy(request: Request, model: str) -> Response:
    """A standing rule: the nodes that match hold the newest version, those that join later too."""
    wanted = await body(request, DeployRequest)
    return answer(await fleet_of(request).deploy(model, wanted.target), 202)


@router.post(
    "/models/{model}/withdraw",
    status_code=202,
    responses=returns(DeployResult, 202),
    openapi_extra=takes(DeployRequest),
    summary="Withdraw a model",
)
async def withdraw(request: Request, model: str) -> Response:
    """End the rule with this target; nodes that no other rule covers drop the model."""
    wanted = await body(request, DeployRequest)
    return answer(await fleet_of(request).deploy(model, wanted.target, remove=True), 202)


@router.get("/deployments", responses=returns(list[DeploymentView]), summary="List the deployments")
async def deployments(request: Request) -> Response:
    """The standing rules and how far the fleet is with each."""
    return answer(await fleet_of(request).deployments())
