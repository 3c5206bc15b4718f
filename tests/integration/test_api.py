"""The REST API of a real fleet: everything below goes over HTTP, MQTT and into WebAssembly, and back."""

import asyncio
import base64
import hashlib
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.fleet import EXAMPLE, RunningFleet, until


@pytest.fixture(scope="module")
def http(with_digits: RunningFleet) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=with_digits.api, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    with np.load(EXAMPLE / "heldout.npz", allow_pickle=False) as file:
        return file["images"].astype(np.float32) / 16, file["predictions"]


def classes(result: dict[str, Any]) -> list[int]:
    return [int(np.argmax(row)) for row in result["outputs"][0]["data"]]


def test_the_nodes_and_their_machines_are_listed(http: httpx.Client) -> None:
    nodes = http.get("/nodes").json()
    assert [node["node"] for node in nodes] == ["edge-1", "edge-2"]
    assert all(node["status"] in ("idle", "busy") and node["capabilities"]["cores"] for node in nodes)
    one = http.get("/nodes/edge-1").json()
    assert one["models"]["digits"]["state"] == "ready"
    assert [node["node"] for node in http.get("/nodes?label=region=eu").json()] == ["edge-2"]
    assert http.get("/overview").json()["models"]["digits"] == 2


def test_a_device_answers_a_command(http: httpx.Client) -> None:
    assert http.post("/nodes/edge-1/commands/ping").json()["node"] == "edge-1"


def test_an_upload_is_the_same_model_every_time(http: httpx.Client) -> None:
    package = (EXAMPLE / "digits.shoal").read_bytes()
    answers = [http.post("/models", content=package) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["digest"] == hashlib.sha256(package).hexdigest()
    versions = http.get(answers[0].headers["location"]).json()
    assert [one["digest"] for one in versions] == [answers[0].json()["digest"]]


def test_what_is_no_package_is_refused(http: httpx.Client) -> None:
    answer = http.post("/models", content=b"not a package at all")
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:shoal:problem:not-a-model")


def test_deployments_show_their_progress(http: httpx.Client) -> None:
    answer = http.post("/models/digits/deploy", json={"target": "region=eu"})
    assert (answer.status_code, answer.json()["nodes"]) == (202, ["edge-2"])
    rules = {rule["target"]: rule for rule in http.get("/deployments").json()}
    assert rules["region=eu"]["nodes"] == ["edge-2"]
    assert rules["region=eu"]["ready"] + rules["all"]["ready"] == 2  # the newer rule has its node
    assert http.post("/models/digits/withdraw", json={"target": "region=eu"}).json()["removed"] is True
    assert {rule["target"] for rule in http.get("/deployments").json()} == {"all"}


def test_digits_are_classified_as_torch_does(
    http: httpx.Client, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, expected = digits
    lists = {"inputs": [{"data": images[:40].tolist()}]}
    packed = {
        "data": base64.b64encode(images[:40].tobytes()).decode(),
        "dtype": "float32",
        "shape": [40, 64],
    }
    answers = [http.post("/models/digits/infer", json=body) for body in (lists, {"inputs": [packed]})]
    assert [classes(answer.json()) for answer in answers] == [expected[:40].tolist()] * 2


def test_a_request_is_explained_by_its_own_name(
    http: httpx.Client, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    body = {"inputs": [{"data": digits[0][:1].tolist()}], "node": "edge-2"}
    answer = http.post("/models/digits/infer", json=body).json()
    why = http.get("/inference/why", params={"id": answer["request"]}).json()
    assert (answer["node"], why["chosen"], why["model"]) == ("edge-2", "edge-2", "digits")


def test_a_batch_keeps_its_order(http: httpx.Client, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, expected = digits
    items: list[dict[str, Any]] = [{"inputs": [{"data": [image.tolist()]}]} for image in images[:100]]
    items[7] = {"inputs": [{"data": [[1, 2, 3]]}]}
    found = http.post("/models/digits/infer/batch", json={"items": items}).json()
    assert found[7]["code"] == "bad-input", found[7]
    right = [classes(one["result"])[0] for number, one in enumerate(found) if number != 7]
    assert right == np.delete(expected[:100], 7).tolist()


def test_many_callers_at_once_are_all_answered(
    with_digits: RunningFleet, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, expected = digits

    async def all_of_them() -> list[int]:
        async with httpx.AsyncClient(base_url=with_digits.api, timeout=30) as client:
            bodies = ({"inputs": [{"data": [image.tolist()]}]} for image in images[:150])
            asked = (client.post("/models/digits/infer", json=body) for body in bodies)
            return [classes(answer.json())[0] for answer in await asyncio.gather(*asked)]

    assert asyncio.run(all_of_them()) == expected[:150].tolist()


def test_a_task_is_done_while_nobody_waits(http: httpx.Client, digits: tuple[np.ndarray, np.ndarray]) -> None:
    body = {"model": "digits", "inputs": [{"data": digits[0][:2].tolist()}]}
    at = http.post("/tasks", json=body).headers["location"]
    done = http.get(at, params={"wait_s": 20}).json()
    assert (done["state"], classes(done)) == ("done", digits[1][:2].tolist())
    assert done["id"] in [one["id"] for one in http.get("/tasks?state=done").json()]


def test_a_task_for_a_model_that_nobody_has_fails_with_the_reason(http: httpx.Client) -> None:
    at = http.post("/tasks", json={"model": "nothing", "json": 1}).headers["location"]
    failed = http.get(at, params={"wait_s": 20}).json()
    assert (failed["state"], failed["code"]) == ("failed", "no-such-model")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"inputs": [{"data": [[1.0]]}]}, 422),
        ({"inputs": [{"data": [[0] * 64], "dtype": "int32"}]}, 422),
        ({"inputs": [{"data": [[0.0] * 64]}], "function": "nothing"}, 422),
        ({"inputs": [{"data": [[0.0] * 64]}], "node": "edge-77"}, 503),
        ({"json": {"a": 1}}, 422),
        ({"inputs": []}, 400),
    ],
)
def test_what_a_device_can_not_do_is_a_problem(http: httpx.Client, body: object, status: int) -> None:
    answer = http.post("/models/digits/infer", json=body)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == status, answer.text


def test_bytes_that_are_no_http_do_not_stop_it(with_digits: RunningFleet, http: httpx.Client) -> None:
    host, port = with_digits.api.removeprefix("http://").split(":")
    for junk in (
        b"\0" * 100,
        b"GET / HTTP/9\r\n\r\n",
        b"POST /models HTTP/1.1\r\nContent-Length: 99999\r\n\r\nx",
    ):
        with socket.create_connection((host, int(port)), 5) as raw:
            raw.sendall(junk)
    assert http.get("/healthz").json()["ok"] is True


def test_a_page_of_another_site_is_kept_out(http: httpx.Client) -> None:
    assert http.get("/nodes", headers={"host": "evil.example"}).status_code == 403
    drain = http.post("/nodes/edge-1/commands/drain", headers={"origin": "https://evil.example"})
    assert drain.status_code == 403


def test_metrics_count_what_the_fleet_did(http: httpx.Client) -> None:
    def lines() -> list[str]:
        return http.get("/metrics").text.splitlines()

    until("the metrics count both nodes", lambda: 'shoal_model_ready_nodes{model="digits"} 2.0' in lines())
    sent = next(line for line in lines() if line.startswith('shoal_requests_total{outcome="sent"}'))
    assert float(sent.split()[-1]) >= 1
    assert any(line.startswith('shoal_tasks{state="done"}') for line in lines())
    heard = next(
        line for line in lines() if line.startswith('shoal_events_total{part="registry",what="received"}')
    )
    assert float(heard.split()[-1]) >= 2


def test_the_page_and_its_scripts_come_from_here(http: httpx.Client) -> None:
    assert "docs/static/swagger-ui-bundle.js" in http.get("/docs").text
    assert "SwaggerUIBundle" in http.get("/docs/static/swagger-ui-bundle.js").text
