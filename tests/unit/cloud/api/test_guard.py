"""Pages of other sites, and bodies without end, stay outside."""

import asyncio
from typing import Any

import httpx
import pytest

from cloud.api.guard import Guard, allowed_hosts
from tests.unit.cloud.api.conftest import Tell, World

LOCAL = allowed_hosts("127.0.0.1")


def asked(world: World, hosts: Any = LOCAL, **limits: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(Guard(world.app, hosts, **limits), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost:8080")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:9", "LOCALHOST:1"])
def test_the_machine_itself_may_ask(tell: Tell[int], host: str) -> None:
    async def story(world: World) -> int:
        return (await asked(world).get("/nodes", headers={"host": host})).status_code

    assert tell(story) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "[::", "0.0.0.0"]
)
def test_a_name_that_was_made_to_point_here_is_refused(tell: Tell[httpx.Response], host: str) -> None:
    async def story(world: World) -> httpx.Response:
        return await asked(world).get("/nodes", headers={"host": host})

    answer = tell(story)
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8080", 200),
        ("http://evil.example", 403),
        ("http://localhost:9999", 403),  # another program's page on this machine
        ("null", 403),
    ],
)
def test_only_our_own_pages_may_send(tell: Tell[httpx.Response], origin: str, status: int) -> None:
    async def story(world: World) -> httpx.Response:
        return await asked(world).post("/nodes/edge-1/commands/drain", headers={"origin": origin})

    answer = tell(story)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_an_api_that_others_can_reach_goes_by_any_name() -> None:
    assert allowed_hosts("0.0.0.0") is None
    assert allowed_hosts("api.example") is None
    assert allowed_hosts("localhost") == allowed_hosts("::1") == LOCAL


def test_all_bodies_together_have_a_limit_and_give_their_room_back(tell: Tell[None]) -> None:
    async def story(world: World) -> None:
        client = asked(world, bodies_bytes_max=1000)
        more = asyncio.Event()

        async def slow() -> Any:
            yield b"x" * 600
            await more.wait()

        first = asyncio.create_task(client.post("/models", content=slow()))
        await asyncio.sleep(0.05)
        refused = await client.post("/models", content=b"x" * 600)
        assert (refused.status_code, refused.json()["title"]) == (503, "unavailable")
        more.set()
        assert (await first).status_code == 201
        assert (await client.post("/models", content=b"x" * 600)).status_code == 201

    tell(story)


def test_a_body_that_never_ends_is_given_up(tell: Tell[None]) -> None:
    async def story(world: World) -> None:
        async def endless() -> Any:
            yield b"x"
            await asyncio.Event().wait()

        answer = await asked(world, body_s_max=0.05).post("/models", content=endless())
        assert answer.status_code == 503
        assert "did not arrive" in answer.json()["detail"]

    tell(story)


def test_waiting_for_a_result_is_not_a_slow_body(tell: Tell[None]) -> None:
    async def story(world: World) -> None:
        world.fleet.hold = lambda: asyncio.sleep(0.2)
        answer = await asked(world, body_s_max=0.05).post("/models/echo/infer", json={"json": 1})
        assert answer.status_code == 200

    tell(story)
