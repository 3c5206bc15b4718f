"""Learning over REST, with a fleet that answers: jobs, rounds, reports, clients, events."""

import asyncio
import inspect
from typing import Any

import httpx
import msgspec
import pytest

from cloud.api.federated import STREAMS_MAX
from cloud.learning.client import JobNews, LearningClient
from shared.errors import TimedOut
from shared.learning import Phase
from tests.unit.cloud.api.conftest import Tell, World
from tests.unit.cloud.api.fleet import FakeFleet
from tests.unit.cloud.learning.fake import FakeLearning, finished, spec


def public(of: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(method)
        for name, method in inspect.getmembers(of, inspect.isfunction)
        if not name.startswith("_")
    }


def test_the_fake_has_the_methods_of_the_real_client() -> None:
    fake = public(FakeLearning)
    assert {name: fake[name] for name in public(LearningClient)} == public(LearningClient)


def get(tell: Tell[httpx.Response], path: str) -> httpx.Response:
    async def story(world: World) -> httpx.Response:
        return await world.client.get(path)

    return tell(story)


@pytest.fixture
def done(fleet: FakeFleet) -> FakeFleet:
    """A fleet whose job "digits" has four rounds behind it."""
    view, rows = finished()
    fleet.learning.put(view, *rows)
    return fleet


def test_a_job_is_begun_stopped_reset_and_forgotten(fleet: FakeFleet, tell: Tell[None]) -> None:
    async def story(world: World) -> None:
        begun = await world.client.post("/federated/jobs", content=msgspec.json.encode(spec()))
        assert (begun.status_code, begun.headers["location"]) == (201, "/federated/jobs/digits")
        assert begun.json()["phase"] == "initializing"
        stopped = await world.client.post("/federated/jobs/digits/stop")
        assert (stopped.status_code, stopped.json()["phase"]) == (202, "completed")
        assert (await world.client.post("/federated/jobs/digits/reset")).json()["phase"] == "initializing"
        assert [one["spec"]["job"] for one in (await world.client.get("/federated/jobs")).json()] == [
            "digits"
        ]
        assert (await world.client.delete("/federated/jobs/digits")).status_code == 200
        assert (await world.client.get("/federated/jobs")).json() == []

    tell(story)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "truncated"),
        (b'{"job": "digits"}', "package"),
        (b'{"job": "digits", "package": "a", "plan": {"source": 5}}', "$.plan.source"),
    ],
)
def test_what_is_no_job_is_refused_with_the_place_of_the_mistake(
    tell: Tell[httpx.Response], body: bytes, says: str
) -> None:
    async def story(world: World) -> httpx.Response:
        return await world.client.post("/federated/jobs", content=body)

    answer = tell(story)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert says in answer.json()["detail"]


def test_a_round_says_who_was_asked_and_why_one_did_not_count(done: FakeFleet, tell: Tell[Any]) -> None:
    assert [row["round"] for row in get(tell, "/federated/jobs/digits/rounds?after=1").json()] == [2, 3]
    found = get(tell, "/federated/jobs/digits/rounds/1").json()
    assert [(one["client"], one["status"], one["reason"]) for one in found["clients"]] == [
        ("edge-1", "accepted", ""),
        ("edge-2", "accepted", ""),
        ("edge-3", "rejected", "norm"),
    ]


@pytest.mark.parametrize(
    "path",
    ["", "/rounds", "/rounds/7", "/report", "/report?format=png", "/events"],
    ids=lambda path: path[1:],
)
def test_a_job_that_nobody_knows_is_a_404(tell: Tell[Any], path: str) -> None:
    answer = get(tell, f"/federated/jobs/nobody{path}")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:shoal:problem:no-such-job")


def test_a_round_that_never_was_is_a_404(done: FakeFleet, tell: Tell[Any]) -> None:
    assert get(tell, "/federated/jobs/digits/rounds/99").json()["type"] == "urn:shoal:problem:no-such-round"


def test_an_indefinite_failure_says_so(fleet: FakeFleet, tell: Tell[Any]) -> None:
    fleet.learning.failing = TimedOut("deadline", "no reply")
    answer = get(tell, "/federated/jobs")
    assert (answer.status_code, answer.json()["definite"]) == (504, False)


def test_the_report_comes_as_numbers_as_a_page_and_as_a_picture(done: FakeFleet, tell: Tell[Any]) -> None:
    numbers = get(tell, "/federated/jobs/digits/report").json()
    assert (numbers["bytes_up"], numbers["bytes_down"]) == (160_000, 240_000)
    picture = get(tell, "/federated/jobs/digits/report?format=png")
    assert (picture.headers["content-type"], picture.content[:8]) == ("image/png", b"\x89PNG\r\n\x1a\n")
    page = get(tell, "/federated/jobs/digits/report?format=html")
    assert page.headers["content-type"].startswith("text/html")
    assert page.text.startswith("<!doctype html>")
    assert get(tell, "/federated/jobs/digits/report?format=pdf").status_code == 400


# Events -------------------------------------------------------------------------------------------------


def events_of(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.split("\n\n"):
        if block.startswith("event: "):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), msgspec.json.decode(data.removeprefix("data: "))))
    return found


def test_a_job_is_followed_until_it_is_deleted(fleet: FakeFleet, tell: Tell[httpx.Response]) -> None:
    view, rows = finished()

    async def story(world: World) -> httpx.Response:
        fleet.learning.put(msgspec.structs.replace(view, phase=Phase.TRAINING))
        following = asyncio.create_task(world.client.get("/federated/jobs/digits/events"))
        while not fleet.learning.watching:
            await asyncio.sleep(0)
        fleet.learning.put(view, *rows)
        await fleet.learning.delete("digits")
        return await following

    answer = tell(story)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [(name, data.get("phase")) for name, data in events_of(answer.text)] == [
        ("job", "training"),
        ("job", "completed"),
        ("deleted", None),
    ]
    assert fleet.learning.watching == 0


def test_whoever_follows_everything_hears_of_every_job(fleet: FakeFleet, tell: Tell[None]) -> None:
    async def story(world: World) -> None:
        heard = await first_events(world, "/federated/events", 2)
        assert [data["job"] for _, data in heard] == ["digits", "words"]
        while fleet.learning.watching:  # it hung up, and its seat is free again
            await asyncio.sleep(0)

    for name in ("digits", "words"):
        fleet.learning.put(finished(name)[0])
    tell(story)


def test_streams_are_bounded(fleet: FakeFleet, tell: Tell[None]) -> None:
    async def story(world: World) -> None:
        fleet.learning.put(finished()[0])
        open_ = [
            asyncio.create_task(world.client.get("/federated/jobs/digits/events")) for _ in range(STREAMS_MAX)
        ]
        while fleet.learning.watching < STREAMS_MAX:
            await asyncio.sleep(0)
        refused = await world.client.get("/federated/events")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        fleet.learning.tell(JobNews("digits", None))
        await asyncio.gather(*open_)

    tell(story)


async def first_events(world: World, path: str, count: int) -> list[tuple[str, Any]]:
    """The application without httpx, which would wait for the end of the stream; then we hang up."""
    text, enough = bytearray(), asyncio.Event()

    async def receive() -> dict[str, object]:
        if not receive_calls:
            receive_calls.append(1)
            return {"type": "http.request", "body": b"", "more_body": False}
        await enough.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        text.extend(message.get("body", b""))
        if len(events_of(text.decode())) >= count:
            enough.set()

    receive_calls: list[int] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "scheme": "http",
        "http_version": "1.1",
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }
    await world.app(scope, receive, send)
    return events_of(text.decode())
