"""The audit log over REST: whoever keeps a head can check everything with what these routes give."""

import base64
from pathlib import Path

import httpx
import pytest

from shared.transparency import consistent, included
from tests.support.audit import filled
from tests.unit.cloud.api.conftest import Tell, World
from tests.unit.cloud.api.fleet import FakeFleet


@pytest.fixture
def ask(tell: Tell[httpx.Response], fleet: FakeFleet, tmp_path: Path) -> object:
    """GET from an API whose cloud has a log of 20 records."""
    fleet.localisation.log = filled(tmp_path / "audit", 20)

    def asked(path: str) -> httpx.Response:
        async def story(world: World) -> httpx.Response:
            return await world.client.get(path)

        return tell(story)

    return asked


def test_what_is_in_force_is_shown(ask) -> None:
    view = ask("/residency").json()
    assert (view["policy"]["version"], view["cloud_region"], view["records"]) == (0, "eu", 20)


def test_the_log_is_read_in_pages_and_from_its_end(ask) -> None:
    assert [one.get("index", 0) for one in ask("/audit?first=17").json()["records"]] == [17, 18, 19]
    assert [one["index"] for one in ask("/audit?first=-2").json()["records"]] == [18, 19]
    assert ask("/audit").json()["size"] == 20


def test_a_record_is_proved_to_be_in_the_log(ask) -> None:
    head, proof = ask("/audit/head").json()["head"], ask("/audit/proof?index=7").json()
    root = base64.b64decode(head["root"])
    path = [bytes.fromhex(one) for one in proof["path"]]
    assert proof["record"]["task"] == "t7"
    assert included(bytes.fromhex(proof["leaf"]), 7, head["size"], root, path)


def test_the_log_is_proved_to_have_only_grown(ask) -> None:
    proof = ask("/audit/consistency?old=7&size=20").json()
    path = [bytes.fromhex(one) for one in proof["path"]]
    assert consistent(7, bytes.fromhex(proof["old_root"]), 20, bytes.fromhex(proof["root"]), path)


@pytest.mark.parametrize(
    "path", ["/audit/proof?index=20", "/audit/consistency?old=0", "/audit/proof?index=1&size=99"]
)
def test_there_is_no_proof_of_what_is_not_there(ask, path: str) -> None:
    found = ask(path)
    assert found.status_code == 404
    assert found.json()["type"] == "urn:shoal:problem:no-such-record"
