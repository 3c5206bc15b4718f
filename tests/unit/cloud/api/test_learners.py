"""Clients without MQTT: they register, read the open round, fetch what it names, and hand in updates."""

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from shared.errors import Refused
from shared.learning import PART_BYTES, UPDATE_BYTES_MAX, Phase, ReceiptStatus, Source, UpdateHeader
from tests.unit.cloud.api.conftest import Tell, World
from tests.unit.cloud.api.fleet import FakeFleet
from tests.unit.cloud.learning.fake import finished

ABOUT = {"client": "plc-1", "version": 3, "layout_hash": "ab" * 32, "n_params": 10, "weight": 40}
UPDATES = "/federated/jobs/digits/rounds/2/updates"


def ask(tell: Tell[Any], method: str, path: str, **given: Any) -> httpx.Response:
    async def story(world: World) -> httpx.Response:
        return await world.client.request(method, path, **given)

    answer: httpx.Response = tell(story)
    return answer


def test_a_client_registers_changes_its_numbers_and_leaves(fleet: FakeFleet, tell: Tell[None]) -> None:
    async def story(world: World) -> None:
        where = "/federated/clients/plc-1"
        for samples in (10, 20):
            body = {"sources": {"digits": {"samples": samples}}, "power": "ac"}
            done = await world.client.put(where, json=body)
            assert (done.status_code, done.json()) == (200, {"client": "plc-1", "registered": True})
            assert fleet.learning.clients["plc-1"].sources == {"digits": Source(samples=samples)}
        listed = (await world.client.get("/federated/clients")).json()
        assert [(one["client"], one["learner"]["power"]) for one in listed] == [("plc-1", "ac")]
        assert (await world.client.delete(where)).json() == {"client": "plc-1", "registered": False}
        assert fleet.learning.clients == {}

    tell(story)


@pytest.mark.parametrize(
    ("where", "body", "says"),
    [
        ("A_B", {"sources": {}}, "no name"),
        ("plc-1", {}, "sources"),
        ("plc-1", {"sources": {"x": {"samples": "many"}}}, "samples"),
        ("plc-1", {"sources": {}, "colour": "red"}, "colour"),
    ],
)
def test_what_is_no_registration_is_refused(
    fleet: FakeFleet, tell: Tell[Any], where: str, body: object, says: str
) -> None:
    answer = ask(tell, "PUT", f"/federated/clients/{where}", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert says in answer.json()["detail"]
    assert fleet.learning.clients == {}


def test_the_open_round_is_what_devices_are_told(fleet: FakeFleet, tell: Tell[Any]) -> None:
    view = msgspec.structs.replace(finished()[0], phase=Phase.TRAINING, round=2)
    fleet.learning.put(view)
    found = ask(tell, "GET", "/federated/jobs/digits/round").json()
    assert (found["round"], found["phase"]) == (2, "training")
    fleet.learning.put(msgspec.structs.replace(view, round=-1))
    assert ask(tell, "GET", "/federated/jobs/digits/round").status_code == 503
    assert ask(tell, "GET", "/federated/jobs/nobody/round").status_code == 404


def test_an_update_goes_in_parts_and_comes_back_as_a_receipt(fleet: FakeFleet, tell: Tell[Any]) -> None:
    data = bytes(range(256)) * (PART_BYTES // 256) + b"and a little more"
    answer = ask(tell, "POST", UPDATES, params={**ABOUT, "codec": "int8", "loss": 1.5}, content=data)
    assert (answer.status_code, answer.json()["status"]) == (200, "accepted")
    (first, second) = (part for _, _, _, part in fleet.learning.parts)
    assert first.data + second.data == data
    assert [(client, job, number) for client, job, number, _ in fleet.learning.parts] == [
        ("plc-1", "digits", 2)
    ] * 2
    assert first.header == UpdateHeader(
        task="train",
        version=3,
        codec="int8",
        n_params=10,
        layout_hash="ab" * 32,
        size_bytes=len(data),
        digest=sha256(data).hexdigest(),
        weight=40,
        steps=0,
        metrics={"loss": 1.5},
    )
    assert (second.header, second.digest) == (None, first.digest)


def test_an_evaluation_has_no_bytes(fleet: FakeFleet, tell: Tell[Any]) -> None:
    metrics = {"loss": 12.5, "hits": 30, "count": 40}
    answer = ask(tell, "POST", UPDATES, params={**ABOUT, **metrics, "task": "evaluate"})
    assert answer.status_code == 200
    ((_, _, _, part),) = fleet.learning.parts
    assert part.header is not None
    assert (part.header.metrics, part.data, part.count) == (metrics, b"", 1)


def test_a_late_update_is_told_so(fleet: FakeFleet, tell: Tell[Any]) -> None:
    fleet.learning.receipt = ReceiptStatus.LATE
    answer = ask(tell, "POST", UPDATES, params=ABOUT, content=b"change")
    assert (answer.status_code, answer.json()["status"]) == (200, "late")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"client": "A B"}, "no name"),
        ({"version": "new"}, "version"),
        ({"weight": None}, "weight"),
        ({"task": "dance"}, "task"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_update_that_says_nonsense_of_itself_is_refused(
    fleet: FakeFleet, tell: Tell[Any], change: dict[str, object], says: str
) -> None:
    params = {name: value for name, value in {**ABOUT, **change}.items() if value is not None}
    answer = ask(tell, "POST", UPDATES, params=params, content=b"change")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert says in answer.json()["detail"]
    assert fleet.learning.parts == []


def test_a_body_over_the_limit_is_not_read(fleet: FakeFleet, tell: Tell[Any]) -> None:
    headers = {"content-length": str(UPDATE_BYTES_MAX + 1)}
    answer = ask(tell, "POST", UPDATES, params=ABOUT, content=b"x", headers=headers)
    assert answer.status_code == 413
    assert fleet.learning.parts == []


def test_an_update_of_somebody_else_is_refused(fleet: FakeFleet, tell: Tell[Any]) -> None:
    fleet.learning.failing = Refused("not-yours", "plc-1 was registered by till")
    answer = ask(tell, "POST", UPDATES, params=ABOUT, content=b"x")
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:shoal:problem:not-yours")


def test_artifacts_come_as_they_are(tell: Tell[Any], tmp_path: Path) -> None:
    digest = sha256(b"package").hexdigest()
    (tmp_path / f"{digest}.shoal").write_bytes(b"package")
    (tmp_path / "secret.shoal").write_bytes(b"secret")
    found = ask(tell, "GET", f"/artifacts/{digest}")
    assert (found.content, found.headers["content-type"]) == (b"package", "application/octet-stream")
    for wrong in ("0" * 64, "secret", "..%2Fsecret", digest.upper()):
        assert ask(tell, "GET", f"/artifacts/{wrong}").status_code == 404, wrong


def test_nothing_is_left_behind(fleet: FakeFleet, tell: Tell[None]) -> None:
    async def story(world: World) -> None:
        await asyncio.gather(
            *(world.client.post(UPDATES, params=ABOUT, content=b"x" * 1000) for _ in range(8))
        )
        assert len(fleet.learning.parts) == 8

    tell(story)
