"""OpenAPI schemas straight from the message types, so that the page can't differ from the wire.

FastAPI's own schemas come from pydantic; ours are msgspec Structs, which know their JSON schema as well.
Routes declare what they return and take with :func:`returns` and :func:`takes`; :func:`install` finds the
declarations on the routes and puts every type into the application's OpenAPI document.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from cloud.api.problems import PROBLEM_JSON, BadRequest, Problem, TooLargeBody

T = TypeVar("T")

JSON = "application/json"
OCTETS = "application/octet-stream"
BODY_BYTES_MAX = 32 << 20
_REF = "#/components/schemas/{name}"


class Schema(dict[str, Any]):
    """A JSON schema that remembers the type it describes."""

    def __init__(self, of: Any) -> None:
        (schema,), _ = msgspec.json.schema_components([of], ref_template=_REF)
        super().__init__(schema)
        self.of = of

    def become(self, schema: dict[str, Any]) -> None:
        """The same type as it is called among all the others: two of one name get longer ones."""
        self.clear()
        self.update(schema)


def returns(
    of: Any, status: int = 200, description: str = "Success", also: Sequence[str] = ()
) -> dict[int | str, dict[str, Any]]:
    """For a route's ``responses=``: the type of a success, and problem details for the rest.

    ``also``: media types in which the same may come.
    """
    content: dict[str, Any] = {JSON: {"schema": Schema(of)}, **{kind: {} for kind in also}}
    return {
        status: {"description": description, "content": content},
        "4XX": {"description": "Refused", "content": {PROBLEM_JSON: {"schema": Schema(Problem)}}},
        "5XX": {"description": "Not now", "content": {PROBLEM_JSON: {"schema": Schema(Problem)}}},
    }


def takes(of: Any) -> dict[str, Any]:
    """For a route's ``openapi_extra=``: the type of its body."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": Schema(of)}}}}


def takes_file() -> dict[str, Any]:
    """For a route's ``openapi_extra=``: its body is a file as it is."""
    file = {"type": "string", "format": "binary"}
    return {"requestBody": {"required": True, "content": {OCTETS: {"schema": file}}}}


def gives_file() -> dict[int | str, dict[str, Any]]:
    """For a route's ``responses=``: a success is a file as it is."""
    file = {"type": "string", "format": "binary"}
    return {**returns(str), 200: {"description": "Success", "content": {OCTETS: {"schema": file}}}}


async def body(request: Request, of: type[T]) -> T:
    """The request's body, typed. Raises a problem with the place of the mistake."""
    try:
        return msgspec.json.decode(await raw_body(request, BODY_BYTES_MAX), type=of)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(str(error)) from None


async def raw_body(request: Request, bytes_max: int) -> bytes:
    """The body's bytes. Refused unread when its Content-Length is over the limit, and without one as soon
    as it passes the limit."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > bytes_max:
        raise TooLargeBody(f"the body has {announced} bytes; the limit is {bytes_max}")
    pieces = bytearray()
    async for piece in request.stream():
        pieces += piece
        if len(pieces) > bytes_max:
            raise TooLargeBody(f"the body is over {bytes_max} bytes")
    return bytes(pieces)


def answer(value: Any, status: int = 200, **headers: str) -> Response:
    """A JSON response."""
    return Response(msgspec.json.encode(value), status, headers, JSON)


def install(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Make ``app.openapi()`` carry the schemas of everything that the routes of ``routers`` declare."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            declared = list(_declared(routers))
            types = [one.of for one in declared]
            schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
            for one, schema in zip(declared, schemas, strict=True):
                one.become(schema)
            document = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(components)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _declared(routers: Sequence[APIRouter]) -> Iterator[Schema]:
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                yield from _types(route.responses)
                yield from _types(route.openapi_extra)


def _types(tree: Any) -> Iterator[Schema]:
    if isinstance(tree, Schema):
        yield tree
    elif isinstance(tree, Mapping):
        for branch in tree.values():
            yield from _types(branch)
