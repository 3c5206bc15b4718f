"""Errors as RFC 9457 problem details: a type to switch on, a sentence that says what to do."""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from shared.errors import RequestFailed, ShoalError, Unavailable, Unreadable

PROBLEM_JSON = "application/problem+json"

# A refusal's code -> the HTTP status that says it best; anything else is 409: the fleet can't, as it is.
_CODES: Mapping[HTTPStatus, str] = {
    HTTPStatus.BAD_REQUEST: "bad-request bad-key bad-target bad-job not-registered",
    HTTPStatus.FORBIDDEN: "not-yours",
    HTTPStatus.NOT_FOUND: "no-such-node no-such-model no-such-deployment no-such-request unknown-module "
    "no-such-job no-such-round no-such-client no-such-record no-such-key no-such-task",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too-large",
    HTTPStatus.UNPROCESSABLE_ENTITY: "bad-input not-a-model bad-module bad-digest bad-piece not-usable",
    # The module on the device failed; asking again would only repeat it.
    HTTPStatus.BAD_GATEWAY: "bad-output output-too-large runtime-error out-of-memory stack-overflow "
    "table-limit out-of-bounds division-by-zero unreachable illegal-operation denied exit",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded outbox-full no-capacity no-node no-room not-stored draining "
    "busy stopped starting too-many-jobs not-removed",
    HTTPStatus.GATEWAY_TIMEOUT: "deadline node-died not-saved",
}
_STATUS = {code: status for status, codes in _CODES.items() for code in codes.split()}


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457. ``definite``: false when nobody knows whether it happened; retry only what is idempotent."""

    type: str
    title: str
    status: int
    detail: str = ""
    instance: str = ""
    definite: bool = True


class BadRequest(ShoalError):
    """The request's body or parameters are not what the route takes."""


class TooLargeBody(ShoalError):
    """The body is over the limit."""


class NotFound(ShoalError):
    """What the path names does not exist."""


def problem(request: Request, status: int, code: str, detail: str, *, definite: bool = True) -> Response:
    """One problem as a response."""
    about = Problem(
        type=f"urn:shoal:problem:{code}",
        title=code.replace("-", " "),
        status=status,
        detail=detail,
        instance=request.url.path,
        definite=definite,
    )
    retry = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return Response(msgspec.json.encode(about), status, retry, PROBLEM_JSON)


def install(app: FastAPI) -> None:
    """Every error that leaves the application is a problem."""

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestFailed)
        default = HTTPStatus.CONFLICT if error.definite else HTTPStatus.GATEWAY_TIMEOUT
        status = _STATUS.get(error.code, default)
        return problem(request, status, error.code, error.detail, definite=error.definite)

    async def ours(request: Request, error: Exception) -> Response:
        for kind, status, code in (
            (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
            (NotFound, HTTPStatus.NOT_FOUND, "not-found"),
            (TooLargeBody, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large"),
            (Unreadable, HTTPStatus.BAD_GATEWAY, "unreadable-reply"),
        ):
            if isinstance(error, kind):
                return problem(request, status, code, str(error))
        return problem(request, HTTPStatus.BAD_REQUEST, "bad-request", str(error))

    async def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        about = problem(request, error.status_code, code, str(error.detail))
        about.headers.update(error.headers or {})
        return about

    async def parameters(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        detail = "; ".join(
            f"{'.'.join(str(at) for at in one['loc'])}: {one['msg']}" for one in error.errors()
        )
        return problem(request, HTTPStatus.BAD_REQUEST, "bad-request", detail)

    async def bug(request: Request, _: Exception) -> Response:
        detail = "a bug in the API; its log has the traceback"
        return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "bug", detail, definite=False)

    app.add_exception_handler(Exception, bug)
    app.add_exception_handler(RequestFailed, failed)
    app.add_exception_handler(ShoalError, ours)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, parameters)
