"""The real ``shoal learn``: on a fleet that is there, on one of its own, resumed; and over REST."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fleet import (
    EXAMPLE,
    SHOAL,
    RunningFleet,
    Said,
    clean_environ,
    left_in,
    running_fleet,
    until,
)

ROUNDS = 4
MANY = 60  # an interruption comes in the midst of them


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningFleet, Said]]:
    """A fleet whose three devices have shares of the digits, and a job that has come to its end."""
    folder = tmp_path_factory.mktemp("learn")
    with running_fleet(folder, 3, "--data", str(EXAMPLE)) as running:
        yield running, running.shoal("learn", EXAMPLE, "--rounds", ROUNDS, "--json")


def test_a_job_on_a_fleet_that_is_there(learned: tuple[RunningFleet, Said]) -> None:
    fleet, said = learned
    result = said.json
    assert (result["phase"], result["rounds"], result["devices"]) == ("completed", ROUNDS, 3)
    assert result["metrics"]["accuracy"] > 0.3
    assert result["next"][0] == "shoal deploy digits --to all"
    versions = [one["version"] for one in fleet.shoal("models", "--json").json if one["name"] == "digits"]
    assert versions == ["1", result["model_version"]]


READS = [
    (["jobs"], {"spec", "phase", "round", "version", "metrics", "model"}),
    (["status", "digits"], {"spec", "phase", "round", "version", "metrics", "model"}),
    (["rounds", "digits"], {"round", "phase", "asked", "accepted", "bytes_up", "bytes_down", "metrics"}),
    (["round", "digits", "2"], {"row", "clients"}),
    (["learners"], {"client", "learner", "accepted", "rejected"}),
    (["report", "digits"], {"files", "report"}),
]


@pytest.mark.parametrize(("arguments", "keys"), READS, ids=[arguments[0] for arguments, _ in READS])
def test_json_has_the_promised_keys_and_nothing_else_is_printed(
    learned: tuple[RunningFleet, Said], arguments: list[str], keys: set[str]
) -> None:
    fleet, _ = learned
    said = fleet.shoal("learn", *arguments, "--json")
    found = said.json[0] if isinstance(said.json, list) else said.json
    assert keys <= found.keys()
    assert said.err == ""


def test_a_round_says_who_took_part(learned: tuple[RunningFleet, Said]) -> None:
    fleet, _ = learned
    found = fleet.shoal("learn", "round", "digits", 1, "--json").json
    assert [(one["client"], one["status"]) for one in found["clients"]] == [
        (f"edge-{number}", "accepted") for number in (1, 2, 3)
    ]
    assert sum(one["bytes_up"] for one in found["clients"]) == found["row"]["bytes_up"]


def test_the_same_over_rest(learned: tuple[RunningFleet, Said]) -> None:
    fleet, said = learned

    def get(path: str) -> httpx.Response:
        return httpx.get(f"{fleet.api}/federated{path}", timeout=20)

    assert [one["spec"]["job"] for one in get("/jobs").json()] == ["digits"]
    assert [row["round"] for row in get("/jobs/digits/rounds").json()] == [1, 2, 3, 4]
    assert get("/jobs/digits/report").json()["bytes_up"] == said.json["bytes_up"]
    assert get("/jobs/digits/report?format=png").content[:4] == b"\x89PNG"
    assert {one["client"] for one in get("/clients").json()} == {"edge-1", "edge-2", "edge-3"}
    assert get("/jobs/nobody").status_code == 404
    round_ = get("/jobs/digits/round").json()
    assert (round_["phase"], round_["cohort"]) == ("completed", [])
    with httpx.stream("GET", f"{fleet.api}/federated/events", timeout=20) as events:
        lines = events.iter_lines()
        assert next(line for line in lines if line.startswith("event: ")) == "event: job"
        assert json.loads(next(lines).removeprefix("data: "))["phase"] == "completed"


def test_a_client_without_mqtt_takes_part(learned: tuple[RunningFleet, Said]) -> None:
    """It registers a source of its own, and answers the round over HTTP with a change of nothing."""
    fleet, _ = learned
    spec = {
        "job": "quiet",
        "package": fleet.shoal("learn", "status", "digits", "--json").json["spec"]["package"],
        "plan": {"source": "quiet-digits"},
        "rounds": 1,
        "clients": 1,
        "evaluate_every": 0,
        "codec": {"name": "f32"},
    }
    with httpx.Client(base_url=fleet.api, timeout=20) as http:
        done = http.put("/federated/clients/plc-1", json={"sources": {"quiet-digits": {"samples": 7}}})
        assert done.status_code == 200, done.text
        assert http.post("/federated/jobs", json=spec).status_code == 201
        asked: dict[str, Any] = {}

        def is_asked() -> bool:
            asked.update(http.get("/federated/jobs/quiet/round").json())
            return asked.get("cohort") == ["plc-1"]

        until("the client is asked", is_asked)
        model = asked["model"]
        assert http.get(f"/artifacts/{asked['package']}").status_code == 200
        assert http.get(f"/artifacts/{model['snapshot']}").status_code == 200
        about = {
            "client": "plc-1",
            "version": model["version"],
            "layout_hash": model["layout_hash"],
            "n_params": model["n_params"],
            "weight": 7,
            "steps": 1,
        }
        where = f"/federated/jobs/quiet/rounds/{asked['round']}/updates"
        data = nothing(model["n_params"])
        receipts = [http.post(where, params=about, content=data).json() for _ in range(2)]
        assert [one["status"] for one in receipts] == ["accepted", "duplicate"]
        until(
            "the job is done",
            lambda: http.get("/federated/jobs/quiet").json()["phase"] == "completed",
        )
        assert http.delete("/federated/jobs/quiet").status_code == 200
        assert http.delete("/federated/clients/plc-1").status_code == 200


def nothing(n_params: int) -> bytes:
    """A change of zero, as the codec f32 writes it."""
    import numpy as np

    from shared.codecs import encode
    from shared.learning import Codec, CodecName

    codec = Codec(name=CodecName.F32)
    return encode(codec, np.zeros(n_params, np.float32), None, np.random.default_rng(0)).data


def test_a_job_of_that_name_is_not_begun_again(learned: tuple[RunningFleet, Said]) -> None:
    fleet, _ = learned
    said = fleet.shoal("learn", EXAMPLE)
    assert said.code == 1
    assert "--resume" in said.err


# On a fleet of its own -----------------------------------------------------------------------------------


def test_a_fleet_of_its_own_leaves_a_model_a_report_and_no_process(tmp_path: Path) -> None:
    result = shoal(tmp_path, "learn", EXAMPLE, "--devices", 3, "--rounds", ROUNDS, "--json").json
    assert result["phase"] == "completed"
    assert result["central_accuracy"] > 0.9
    assert 0.3 < result["test_accuracy"] < 1
    assert (tmp_path / result["package"]).stat().st_size > 10_000
    assert left_in(tmp_path) == []
    report = shoal(tmp_path, "learn", "report", "digits", "--out", "report", "--json").json
    assert report["report"]["central_accuracy"] == result["central_accuracy"]
    assert (tmp_path / "report" / "digits-report.html").exists()


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    job = ["learn", str(EXAMPLE), "--devices", "2", "--rounds", str(MANY), "--no-compare"]
    running = subprocess.Popen(
        [SHOAL, *job],
        cwd=tmp_path,
        env=clean_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background of a shell ignores SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("round 5:"):
            break
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (130, "")
    assert "--resume" in err
    assert left_in(tmp_path) == []
    result = shoal(tmp_path, "learn", EXAMPLE, "--resume", "--no-compare", "--json").json
    assert result["devices"] == 2
    assert (result["phase"], result["rounds"]) == ("completed", MANY)
    report = shoal(tmp_path, "learn", "report", "digits", "--json").json["report"]
    assert [row["round"] for row in report["rounds"]] == list(range(1, MANY + 1))


def shoal(folder: Path, *arguments: object) -> Said:
    """The real command in a folder of its own."""
    done = subprocess.run(
        [SHOAL, *map(str, arguments)],
        cwd=folder,
        env=clean_environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)
