"""Whatever goes wrong, the caller gets RFC 9457 problem details that say what to do."""

import json
from typing import Any

import httpx
import pytest

from shared.errors import Refused, TimedOut, Unavailable, Unreadable
from tests.unit.cloud.api.conftest import UPLOAD_BYTES_MAX, Tell, World
from tests.unit.cloud.api.fleet import FakeFleet


def ask(tell: Tell[httpx.Response], method: str, path: str, **options: Any) -> httpx.Response:
    async def story(world: World) -> httpx.Response:
        return await world.client.request(method, path, **options)

    return tell(story)


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    about: dict[str, Any] = answer.json()
    assert about["status"] == answer.status_code
    assert about["type"].startswith("urn:shoal:problem:")
    assert about["title"]
    assert about["instance"].startswith("/")
    return about


WRONG = [
    ("GET", "/nowhere", {}, 404, "not-found"),
    ("GET", "/nodes/edge-9", {}, 404, "no-such-node"),
    ("GET", "/models/nothing", {}, 404, "not-found"),
    ("GET", "/tasks/nothing", {}, 404, "not-found"),
    ("DELETE", "/tasks/nothing", {}, 404, "not-found"),
    ("PUT", "/nodes", {}, 405, "method-not-allowed"),
    ("GET", "/nodes?label=region", {}, 400, "bad-request"),
    ("GET", "/tasks?state=asleep", {}, 400, "bad-request"),
    ("GET", "/tasks/x?wait_s=1e9", {}, 400, "bad-request"),
    ("GET", "/tasks/x?wait_s=nan", {}, 400, "bad-request"),
    ("POST", "/nodes/edge-1/commands/explode", {}, 400, "bad-request"),
    ("POST", "/models/double/infer", {"content": b""}, 400, "bad-request"),
    ("POST", "/models/double/infer", {"content": b"{"}, 400, "bad-request"),
    ("POST", "/models/double/infer", {"content": b"\xff\xfe"}, 400, "bad-request"),
    ("POST", "/models/double/infer", {"content": b"[" * 100_000}, 400, "bad-request"),
    ("POST", "/models/double/infer", {"json": {}}, 400, "bad-request"),
    ("POST", "/models/double/infer", {"json": {"typo": 1}}, 400, "bad-request"),
    ("POST", "/models/double/infer", {"json": {"inputs": "x"}}, 400, "bad-request"),
    ("POST", "/models/double/infer", {"json": {"json": 1, "deadline_s": -1}}, 400, "bad-request"),
    ("POST", "/models/double/infer", {"json": {"json": 1, "deadline_s": 1e9}}, 400, "bad-request"),
    ("POST", "/models/double/infer/batch", {"json": {"items": [{}] * 1025}}, 400, "bad-request"),
    ("POST", "/models/unknown/infer", {"json": {"json": 1}}, 404, "no-such-model"),
    ("POST", "/models", {"content": b"x" * (UPLOAD_BYTES_MAX + 1)}, 413, "too-large"),
    ("POST", "/tasks", {"json": {"model": "double"}}, 400, "bad-request"),
    ("POST", "/tasks", {"json": {"json": 1}}, 400, "bad-request"),
]


@pytest.mark.parametrize(("method", "path", "options", "status", "code"), WRONG)
def test_a_mistake_of_the_caller_is_a_problem(
    tell: Tell[httpx.Response], method: str, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    about = problem_of(ask(tell, method, path, **options))
    assert (about["status"], about["type"]) == (status, f"urn:shoal:problem:{code}")
    assert about["detail"]
    assert "definite" not in about  # true is the default: it certainly did not happen


def test_a_wrong_method_says_which_are_right(tell: Tell[httpx.Response]) -> None:
    assert "GET" in ask(tell, "PUT", "/nodes").headers["allow"]


def test_the_place_of_the_mistake_is_named(tell: Tell[httpx.Response]) -> None:
    body = {"inputs": [{"data": [1]}, {"data": {}}]}
    assert "$.inputs[1].data" in ask(tell, "POST", "/models/double/infer", json=body).json()["detail"]


FAILURES = [
    (Refused("no-such-node", "who?"), 404, True),
    (Refused("bad-target", "?"), 400, True),
    (Refused("bad-input", "shape"), 422, True),
    (Refused("too-large", "!"), 413, True),
    (Refused("overloaded", "slow down"), 503, True),
    (Refused("no-node", "none"), 503, True),
    (Refused("never-heard-of", "it"), 409, True),
    (TimedOut("deadline", "no reply"), 504, False),
    (TimedOut("node-died", "gone"), 504, False),
    (Unavailable("the link is down"), 503, True),
    (Unreadable("not a reply"), 502, True),
]


@pytest.mark.parametrize(("failure", "status", "definite"), FAILURES)
def test_a_failure_of_the_fleet_keeps_its_meaning(
    tell: Tell[httpx.Response], fleet: FakeFleet, failure: Exception, status: int, definite: bool
) -> None:
    fleet.failing = failure
    answer = ask(tell, "POST", "/models/echo/infer", json={"json": 1})
    assert problem_of(answer)["status"] == status
    assert answer.json().get("definite", True) is definite
    assert ("retry-after" in answer.headers) is (status == 503)


def test_a_bug_is_a_problem_too_and_nobody_knows_what_happened(
    tell: Tell[httpx.Response], fleet: FakeFleet
) -> None:
    fleet.failing = ZeroDivisionError("secret detail")
    answer = ask(tell, "GET", "/nodes")
    assert problem_of(answer)["definite"] is False
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_a_body_that_announces_too_much_is_not_read(tell: Tell[httpx.Response]) -> None:
    read: list[int] = []

    async def pieces() -> Any:
        read.append(1)
        yield b"x"

    answer = ask(tell, "POST", "/models", content=pieces(), headers={"content-length": "999999999"})
    assert problem_of(answer)["status"] == 413
    assert read == []


def test_a_body_that_announces_nothing_is_stopped_at_the_limit(tell: Tell[httpx.Response]) -> None:
    read: list[int] = []

    async def pieces() -> Any:
        for number in range(1000):
            read.append(number)
            yield b"x" * 100

    assert problem_of(ask(tell, "POST", "/models", content=pieces()))["status"] == 413
    assert len(read) < 20


# The document ---------------------------------------------------------------------------------------


def references(tree: Any) -> set[str]:
    if isinstance(tree, dict):
        own = {tree["$ref"]} if isinstance(tree.get("$ref"), str) else set()
        return own.union(*map(references, tree.values()))
    return set().union(*map(references, tree)) if isinstance(tree, list) else set()


def test_every_reference_of_the_openapi_document_leads_somewhere(tell: Tell[httpx.Response]) -> None:
    document = ask(tell, "GET", "/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    found = references(document)
    assert found
    assert {reference.removeprefix("#/components/schemas/") for reference in found} <= schemas.keys()
    for name in ("NodeView", "Overview", "InferRequest", "InferResult", "TaskRequest", "TaskView", "Problem"):
        # Where two types share a name, each is called by its module as well.
        same = [schema for called, schema in schemas.items() if called.split(".")[-1] == name]
        assert same, name
        assert all(schema["properties"] for schema in same), name


def test_every_operation_says_what_it_takes_and_returns_and_how_it_fails(tell: Tell[httpx.Response]) -> None:
    document = ask(tell, "GET", "/openapi.json").json()
    operations = [(path, verb, one) for path, of in document["paths"].items() for verb, one in of.items()]
    assert len(operations) >= 18
    ids = [one["operationId"] for _, _, one in operations]
    assert len(set(ids)) == len(ids)
    for path, verb, one in operations:
        assert one["summary"], path
        assert one["description"], path
        success = next(body for status, body in one["responses"].items() if status.startswith("2"))
        assert success["content"], path
        if path == "/metrics":
            continue
        assert "application/problem+json" in one["responses"]["4XX"]["content"], path
        if "application/octet-stream" in success["content"]:
            continue
        assert success["content"]["application/json"]["schema"], path
        if verb == "post" and not path.endswith(("/{verb}", "/stop", "/reset")):
            assert one["requestBody"]["content"], path


def test_the_document_is_json_and_the_same_every_time(tell: Tell[httpx.Response]) -> None:
    first, second = (ask(tell, "GET", "/openapi.json").content for _ in range(2))
    assert json.loads(first) == json.loads(second)
    assert first == second
