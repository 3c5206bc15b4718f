"""Replicated keys over REST, down to the real core and three devices in a simulated world."""

from typing import Any

import httpx
import pytest

from tests.unit.cloud.api.conftest import Tell
from tests.unit.cloud.api.fleet import FakeFleet

ALL = ["n1", "n2", "n3"]
STRONG: dict[str, Any] = {"level": "strong", "strategy": "event-driven", "targets": ALL}


def call(tell: Tell[httpx.Response], method: str, path: str, **json: Any) -> httpx.Response:
    body = {"json": json} if json else {}
    return tell(lambda world: world.client.request(method, path, **body))


def test_a_strong_key_is_written_read_and_erased_with_its_revision(
    tell: Tell[httpx.Response], fleet: FakeFleet
):
    said = call(tell, "PUT", "/sync/keys/room/limits", value={"max": 21.5}, **STRONG)
    assert said.status_code == 200
    assert said.json() | {"task_id": ""} == {
        "task_id": "",
        "key": "room/limits",
        "status": "done",
        "revision": 1,
        "acked": ALL,
        "targets": ALL,
    }
    assert fleet.world.devices["n2"].get("room/limits") == {"max": 21.5}
    found = call(tell, "GET", "/sync/keys/room/limits").json()
    assert (found["value"], found["level"], found["revision"]) == ({"max": 21.5}, "strong", 1)
    task = call(tell, "GET", f"/sync/tasks/{said.json()['task_id']}").json()
    assert {node: one["state"] for node, one in task["replicas"].items()} == dict.fromkeys(ALL, "acked")
    assert call(tell, "DELETE", "/sync/keys/room/limits?expected=1").json()["revision"] == 2
    assert call(tell, "GET", "/sync/keys/room/limits").json()["erased"]
    assert [one["key"] for one in call(tell, "GET", "/sync/keys?prefix=room/").json()] == ["room/limits"]
    assert len(call(tell, "GET", "/sync/tasks").json()) == 2


def test_a_stale_write_is_a_conflict_and_a_late_one_is_indeterminate(
    tell: Tell[httpx.Response], fleet: FakeFleet
):
    call(tell, "PUT", "/sync/keys/k", value=1, **STRONG)
    stale = call(tell, "PUT", "/sync/keys/k", value=2, expected=7)
    assert (stale.status_code, stale.json()["type"]) == (409, "urn:shoal:problem:conflict")
    assert stale.json().get("definite", True)
    fleet.world.partition("n3")
    late = call(tell, "PUT", "/sync/keys/k", value=2, deadline_s=2, operation=[5, 1])
    assert (late.status_code, late.json()["definite"]) == (504, False)
    assert "2 of 3 targets have it" in late.json()["detail"]
    fleet.world.heal("n3")
    again = call(tell, "PUT", "/sync/keys/k", value=2, operation=[5, 1])
    assert again.json()["revision"] == 2


def test_configuration_is_set_for_each_node_and_what_they_report_is_read(
    tell: Tell[httpx.Response], fleet: FakeFleet
):
    assert call(tell, "PUT", "/sync/desired/interval", value=30, targets=["n1", "n2"]).status_code == 200
    fleet.world.run(1)
    device = fleet.world.devices["n1"]
    assert device.get("desired/n1/interval") == 30
    device.put("reported/n1/interval", 29)
    fleet.world.run(1)
    assert call(tell, "GET", "/sync/keys/reported/n1/interval").json()["value"] == 29


def test_conflicts_are_listed_until_somebody_writes(tell: Tell[httpx.Response], fleet: FakeFleet):
    call(tell, "PUT", "/sync/keys/k", value={"a": 0}, targets=ALL)
    fleet.world.run(1)
    for node in ("n1", "n2"):
        fleet.world.partition(node)
        fleet.world.devices[node].put("k", {"a": node})
        fleet.world.run(1)
    for node in ("n1", "n2"):
        fleet.world.heal(node)
    fleet.world.until(lambda: fleet.world.converged)
    (conflict,) = call(tell, "GET", "/sync/conflicts").json()
    assert conflict == {"key": "k", "field": "a", "won_by": "n2", "won": "n2", "lost": {"n1": "n1"}}


def test_a_model_is_a_task_whose_targets_are_waited_for(tell: Tell[httpx.Response]):
    done = call(tell, "POST", "/sync/models", model="digits", targets=["n1"]).json()
    task = call(tell, "GET", f"/sync/tasks/{done['task_id']}").json()
    assert (task["kind"], task["status"], task["lag"]) == ("model", "syncing", 1)


@pytest.mark.parametrize(
    ("method", "path", "json", "status", "code"),
    [
        ("GET", "/sync/keys/nowhere", {}, 404, "no-such-key"),
        ("DELETE", "/sync/keys/nowhere", {}, 404, "no-such-key"),
        ("GET", "/sync/tasks/nobody", {}, 404, "no-such-task"),
        ("PUT", "/sync/keys/Bad%20Key", {"value": 1}, 400, "bad-key"),
        ("PUT", "/sync/keys/model/x", {"value": 1}, 400, "bad-key"),
        ("PUT", "/sync/desired/models", {"value": 1, "targets": ["n1"]}, 400, "bad-key"),
        ("PUT", "/sync/desired/rate", {"value": 1}, 400, "bad-request"),
        ("PUT", "/sync/keys/k", {"value": 1, "targets": ["Not A Node"]}, 400, "bad-request"),
        ("PUT", "/sync/keys/k", {"value": 1, "expected": 3}, 400, "bad-request"),
        ("PUT", "/sync/keys/k", {"value": 1, "deadline_s": 0}, 400, "bad-request"),
        ("PUT", "/sync/keys/k", {"value": 1, "level": "loose"}, 400, "bad-request"),
        ("PUT", "/sync/keys/k", {"value": "x" * 5_000_000}, 413, "too-large"),
        ("POST", "/sync/models", {"model": "digits", "targets": []}, 400, "bad-request"),
    ],
)
def test_what_makes_no_sense_is_a_problem_that_says_so(tell, method, path, json, status, code):
    said = call(tell, method, path, **json)
    assert (said.status_code, said.json()["type"]) == (status, f"urn:shoal:problem:{code}")
    assert len(said.json()["detail"]) > 10


def test_a_key_keeps_the_level_that_it_was_made_with(tell: Tell[httpx.Response]):
    call(tell, "PUT", "/sync/keys/k", value=1, **STRONG)
    said = call(tell, "PUT", "/sync/keys/k", value=1, level="weak")
    assert (said.status_code, said.json()["title"]) == (409, "level")
