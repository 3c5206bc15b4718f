"""Each route, with a fleet that answers."""

import inspect

import httpx
import pytest

from cloud.client import Fleet
from tests.unit.cloud.api.conftest import Tell, World
from tests.unit.cloud.api.fleet import FakeFleet


def public(of: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(method)
        for name, method in inspect.getmembers(of, inspect.isfunction)
        if not name.startswith("_")
    }


def test_the_fake_has_the_methods_of_the_real_client() -> None:
    assert public(FakeFleet) == public(Fleet)


def get(tell: Tell[httpx.Response], path: str) -> httpx.Response:
    async def story(world: World) -> httpx.Response:
        return await world.client.get(path)

    return tell(story)


def post(tell: Tell[httpx.Response], path: str, **body: object) -> httpx.Response:
    async def story(world: World) -> httpx.Response:
        return await world.client.post(path, **body)  # type: ignore[arg-type]

    return tell(story)


def test_nodes_are_listed_and_narrowed(tell: Tell[httpx.Response]) -> None:
    def names(query: str) -> list[str]:
        return [node["node"] for node in get(tell, f"/nodes{query}").json()]

    assert names("") == ["edge-1", "edge-2"]
    assert names("?status=offline") == ["edge-2"]
    assert names("?label=region=eu") == ["edge-1"]
    assert names("?label=region=eu&status=offline") == []
    assert names("?label=colour=") == []  # a label that is not there is not an empty one


def test_one_node_comes_with_its_evidence(tell: Tell[httpx.Response]) -> None:
    node = get(tell, "/nodes/edge-1").json()
    assert node["why"] == "heartbeat 0.2 s ago"
    assert node["labels"] == {"region": "eu"}


def test_a_command_answers_once_the_device_has(tell: Tell[httpx.Response]) -> None:
    assert post(tell, "/nodes/edge-1/commands/ping").json() == {
        "node": "edge-1",
        "verb": "ping",
        "status": "ok",
    }


def test_an_upload_says_where_its_model_is(tell: Tell[httpx.Response]) -> None:
    async def story(world: World) -> None:
        sent = await world.client.post("/models", content=b"package")
        assert sent.status_code == 201
        assert sent.json()["done"] is True
        found = await world.client.get(sent.headers["location"])
        assert [one["digest"] for one in found.json()] == [sent.json()["digest"]]
        assert (await world.client.get("/models")).json() == found.json()

    tell(story)


@pytest.mark.parametrize(("verb", "removed"), [("deploy", False), ("withdraw", True)])
def test_a_model_goes_to_a_target_and_comes_back(
    tell: Tell[httpx.Response], verb: str, removed: bool
) -> None:
    answer = post(tell, f"/models/digits/{verb}", json={"target": "region=eu"})
    assert answer.status_code == 202
    assert answer.json()["target"] == "region=eu"
    assert answer.json()["removed"] is removed


def test_deployments_overview_and_placements_are_read(tell: Tell[httpx.Response]) -> None:
    assert get(tell, "/deployments").json() == []
    assert get(tell, "/overview").json()["nodes"] == {"idle": 1, "offline": 1}
    why = get(tell, "/inference/why?id=api/c1").json()
    assert (why["request"], why["chosen"]) == ("api/c1", "edge-1")


def test_an_inference_answers_with_arrays(tell: Tell[httpx.Response], fleet: FakeFleet) -> None:
    body = {"inputs": [{"data": [[1, 2]]}], "node": "edge-2", "function": "go", "deadline_s": 3}
    answer = post(tell, "/models/double/infer", json=body).json()
    assert answer["node"] == "edge-2"
    assert answer["outputs"] == [{"data": [[2.0, 4.0]], "dtype": "float32", "shape": [1, 2]}]
    assert answer["request"] == "api/c1"
    assert fleet.asked == [{"model": "double", "function": "go", "node": "edge-2", "budget_s": 3.0}]


def test_an_inference_with_json_answers_with_json(tell: Tell[httpx.Response]) -> None:
    answer = post(tell, "/models/echo/infer", json={"json": {"deep": [1, None, "x"]}}).json()
    assert answer["json"] == {"deep": [1, None, "x"]}
    assert answer["outputs"] == []


def test_one_bad_item_of_a_batch_keeps_nothing_from_the_rest(tell: Tell[httpx.Response]) -> None:
    good, bad = {"inputs": [{"data": [3]}]}, {"inputs": [{"data": ["x"]}]}
    items = post(tell, "/models/double/infer/batch", json={"items": [good, bad, good, {"json": 1}]}).json()
    assert [item.get("code") for item in items] == [None, "bad-request", None, "no-such-model"]
    assert items[2]["result"]["outputs"][0]["data"] == [6.0]


def test_health_is_a_question_to_the_cloud_and_back(tell: Tell[httpx.Response]) -> None:
    assert get(tell, "/healthz").json() == {"ok": True, "term": 3, "version": "0.1.0"}


def test_metrics_are_prometheus_text(tell: Tell[httpx.Response]) -> None:
    answer = get(tell, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    for line in (
        'shoal_nodes{status="offline"} 1.0',
        'shoal_model_ready_nodes{model="digits"} 1.0',
        'shoal_requests_total{outcome="sent"} 5.0',
        "shoal_waiting 2.0",
        "shoal_term 3.0",
        'shoal_tasks{state="done"} 0.0',
        'shoal_events_total{part="ingest",what="samples"} 7.0',
        'shoal_events_total{part="sync",what="received"} 2.0',
    ):
        assert line in lines
    assert not any("waiting" in line and "outcome" in line for line in lines)


def test_names_of_outcomes_that_devices_invent_do_not_grow_the_metrics(
    tell: Tell[httpx.Response], fleet: FakeFleet
) -> None:
    async def many() -> object:
        overview = await FakeFleet().overview()
        overview.requests.update({f"junk-{number}": 1 for number in range(1000)})
        return overview

    fleet.overview = many  # type: ignore[method-assign, assignment]
    text = get(tell, "/metrics").text
    assert text.count("shoal_requests_total{") == 64
    assert 'outcome="sent"' in text


def test_the_pages_load_nothing_from_elsewhere(tell: Tell[httpx.Response]) -> None:
    async def story(world: World) -> None:
        for path in ("/docs", "/redoc"):
            page = (await world.client.get(path)).text
            links = [part.split('"')[0] for part in page.replace('href="', 'src="').split('src="')[1:]]
            assert len(links) >= 2
            for link in links:
                assert not link.startswith(("http", "//"))
                assert (await world.client.get(f"/{link}")).status_code == 200

    tell(story)
