"""Clients that cannot speak MQTT: they register here, read the open round, and hand in what they learned.

    PUT  /federated/clients/thermostat           what it could contribute
    GET  /federated/jobs/heat/round              who is asked, with which package, from which model
    GET  /artifacts/{digest}                     the package, the model
    POST /federated/jobs/heat/rounds/3/updates   the encoded change; the answer is its receipt

The API publishes for them what a device publishes for itself; the coordinator tells no difference.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from cloud.api.federated import learning_of
from cloud.api.problems import BadRequest, NotFound
from cloud.api.schema import OCTETS, answer, body, gives_file, raw_body, returns, takes, takes_file
from cloud.learning.client import LearningClient
from shared.artifacts import is_digest
from shared.errors import Unavailable
from shared.ids import is_id
from shared.learning import (
    PART_BYTES,
    UPDATE_BYTES_MAX,
    Learner,
    LearnerView,
    Power,
    Receipt,
    RoundFact,
    Source,
    Task,
    UpdateHeader,
    UpdatePart,
)
from shared.package import SUFFIX

router = APIRouter(tags=["federated"])

TEXT_CHARS_MAX = 128


class ClientRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``sources``: by name, how many examples it has. ``epoch``: another one with each of its starts."""

    sources: dict[str, Source]
    epoch: int = 0
    room: int = 1
    power: Power = Power.UNKNOWN
    battery_ratio: float = 1.0
    codecs: tuple[str, ...] = ("f32", "int8", "topk")
    link: str = ""


class ClientDone(msgspec.Struct, frozen=True, kw_only=True):
    """``registered``: false once it has left."""

    client: str
    registered: bool


class UpdateQuery(BaseModel):
    """What an update says of itself; its bytes are the body. ``weight``: the examples that it counts for.

    ``loss``, ``hits``, ``count``: sums over its held-out examples, of the model that it was given.
    """

    model_config = ConfigDict(extra="forbid")

    client: str = Field(max_length=64)
    version: int = Field(description="of the model that it started from")
    layout_hash: str = Field(max_length=TEXT_CHARS_MAX)
    n_params: int
    weight: int
    steps: int = 0
    codec: str = Field("f32", max_length=TEXT_CHARS_MAX)
    task: Task = Task.TRAIN
    epoch: int = Field(0, description="as it registered")
    train_s: float = 0.0
    loss: float | None = None
    hits: float | None = None
    count: float | None = None


@router.get("/federated/clients", responses=returns(list[LearnerView]), summary="List the clients")
async def clients(request: Request) -> Response:
    """Every device and client that could take part, and what it has done so far."""
    return answer(await learning_of(request).learners())


@router.put(
    "/federated/clients/{client}",
    responses=returns(ClientDone),
    openapi_extra=takes(ClientRequest),
    summary="Register a client",
)
async def register(request: Request, client: str) -> Response:
    """A client that cannot speak MQTT takes part from now on; again with other numbers, it changes them."""
    wanted = await body(request, ClientRequest)
    learner = Learner(**{name: getattr(wanted, name) for name in wanted.__struct_fields__})
    await learning_of(request).register(_client(client), learner)
    return answer(ClientDone(client=client, registered=True))


@router.delete("/federated/clients/{client}", responses=returns(ClientDone), summary="Remove a client")
async def remove(request: Request, client: str) -> Response:
    """It is asked no more."""
    await learning_of(request).register(_client(client), None)
    return answer(ClientDone(client=client, registered=False))


@router.get("/federated/jobs/{job}/round", responses=returns(RoundFact), summary="Show the open round")
async def open_round(request: Request, job: str) -> Response:
    """What devices are told: the cohort, the plan, digests of package and model, the time that is left."""
    learning = learning_of(request)
    await learning.job(job)
    fact = await learning.open_round(job)
    if fact is None:
        raise Unavailable(f"{job} has not opened a round yet")
    return answer(fact)


@router.post(
    "/federated/jobs/{job}/rounds/{number}/updates",
    responses=returns(Receipt),
    openapi_extra=takes_file(),
    summary="Hand in an update",
)
async def update(request: Request, job: str, number: int, about: Annotated[UpdateQuery, Query()]) -> Response:
    """The body is the encoded change (none for an evaluation). The receipt says whether it counts."""
    data = await raw_body(request, UPDATE_BYTES_MAX)
    header = _header(about, data)
    receipt = await _send(learning_of(request), job, number, about, header, data)
    return answer(receipt)


@router.get(
    "/artifacts/{digest}",
    responses=gives_file(),
    summary="Fetch an artifact",
)
async def artifact(request: Request, digest: str) -> Response:
    """A package, or a version of a model that a round names, as it is. Its SHA-256 is its name."""
    path = _stored(request.app.state.artifacts, digest)
    return FileResponse(path, media_type=OCTETS, headers={"Cache-Control": "immutable, max-age=31536000"})


def _stored(folders: Sequence[Path], digest: str) -> Path:
    """Raises :class:`NotFound`. A path is only ever made from what is a digest."""
    for folder in folders if is_digest(digest) else ():
        path = folder / f"{digest}{SUFFIX}"
        if path.is_file():
            return path
    raise NotFound(f"no artifact {digest[:80]!r} here")


def _client(name: str) -> str:
    if not is_id(name):
        raise BadRequest(f"{name[:80]!r} is no name of a client: 1 to 64 of a-z, 0-9 and '-'")
    return name


def _header(about: UpdateQuery, data: bytes) -> UpdateHeader:
    metrics = {name: getattr(about, name) for name in ("loss", "hits", "count")}
    return UpdateHeader(
        task=about.task,
        version=about.version,
        codec=about.codec,
        n_params=about.n_params,
        layout_hash=about.layout_hash,
        size_bytes=len(data),
        digest=sha256(data).hexdigest(),
        weight=about.weight,
        steps=about.steps,
        train_s=about.train_s,
        metrics={name: value for name, value in metrics.items() if value is not None},
    )


async def _send(
    learning: LearningClient, job: str, number: int, about: UpdateQuery, header: UpdateHeader, data: bytes
) -> Receipt:
    """Part by part, each when the one before has arrived. A receipt that comes early ends it."""
    count = max(1, -(-len(data) // PART_BYTES))
    for index in range(count):
        part = UpdatePart(
            epoch=about.epoch,
            digest=header.digest,
            index=index,
            count=count,
            header=None if index else header,
            data=data[index * PART_BYTES : (index + 1) * PART_BYTES],
        )
        receipt = await learning.send_part(_client(about.client), job, number, part)
        if receipt is not None:
            return receipt
    raise Unavailable("the update has arrived, but nobody has judged it; hand it in again")
