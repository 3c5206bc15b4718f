"""``shoal learn`` before a fleet that answers: what it prints, what it asks, what it makes of mistakes."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.main import get_command

from cloud.cli.__main__ import build
from shared.config import Config
from shared.errors import Refused
from shared.learning import JobSpec, JobView, Phase
from tests.unit.cloud.api.fleet import FakeFleet
from tests.unit.cloud.cli.conftest import Said, Shoal
from tests.unit.cloud.learning.fake import FakeLearning, finished, learner, row, spec

ROOT = Path(__file__).parents[4]
DIGITS = str(ROOT / "examples" / "digits")
GROUP: Any = get_command(build()).commands["learn"]  # type: ignore[attr-defined]
COMMANDS = sorted(GROUP.commands)
BROKER = ("--broker", "mqtt://127.0.0.1:1")


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    """What every command finds behind any broker."""
    found = FakeFleet()

    @asynccontextmanager
    async def connected(config: Config, app: str, **_: object) -> AsyncIterator[FakeFleet]:
        yield found

    monkeypatch.setattr("cloud.client.connected", connected)
    return found


@pytest.fixture
def done(fleet: FakeFleet) -> FakeFleet:
    view, rows = finished()
    fleet.learning.put(view, *rows)
    fleet.learning.clients["edge-1"] = learner()
    return fleet


@pytest.mark.parametrize("command", COMMANDS)
def test_every_part_shows_an_example_and_prints_json(shoal: Shoal, command: str) -> None:
    said = shoal("learn", command, "--help")
    assert said.code == 0
    assert "shoal learn" in said.out.split("Example")[1]
    assert "--json" in said.out


SHOWS = [
    (["jobs"], "digits"),
    (["status", "digits"], "fedavg"),
    (["rounds", "digits"], "80.0%"),
    (["round", "digits", "1"], "norm"),
    (["learners"], "digits 10+0"),
    (["report", "digits"], "digits-report.png"),
    (["stop", "digits"], "stopped"),
    (["reset", "digits"], "initializing"),
    (["delete", "digits"], "deleted"),
]


@pytest.mark.parametrize(("arguments", "shows"), SHOWS, ids=[arguments[0] for arguments, _ in SHOWS])
def test_people_get_a_page_of_80_columns(
    shoal: Shoal, done: FakeFleet, monkeypatch: pytest.MonkeyPatch, arguments: list[str], shows: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = shoal("learn", *arguments, *BROKER)
    assert (said.code, said.err) == (0, "")
    assert shows in said.out
    assert max(map(len, said.out.splitlines())) <= 80


@pytest.mark.parametrize(("arguments", "shows"), SHOWS, ids=[arguments[0] for arguments, _ in SHOWS])
def test_programs_get_json(shoal: Shoal, done: FakeFleet, arguments: list[str], shows: str) -> None:
    said = shoal("learn", *arguments, *BROKER, "--json")
    assert (said.code, said.err) == (0, "")
    assert json.loads(said.out)


def test_an_empty_fleet_says_how_to_begin(shoal: Shoal, fleet: FakeFleet) -> None:
    assert "shoal learn FOLDER" in shoal("learn", "jobs", *BROKER).out
    assert "[training.sources]" in shoal("learn", "learners", *BROKER).out


def test_a_job_that_nobody_knows_is_one_line(shoal: Shoal, fleet: FakeFleet) -> None:
    said = shoal("learn", "status", "nobody", *BROKER)
    assert (said.code, said.out, said.err) == (1, "", "error: no-such-job: no job 'nobody'\n")


WRONG = [
    (["nowhere"], "learn.toml"),
    ([DIGITS, "--rouds", "3"], "--rouds"),
    ([DIGITS, "--set", "round=3"], "did you mean rounds?"),
    ([DIGITS, "--set", "plan"], "KEY=VALUE"),
    ([DIGITS, "--set", "rounds=many"], "rounds"),
    ([DIGITS, "--devices", "1000"], "--simulate"),
    ([DIGITS, "--devices", "0"], "--devices"),
    (["report", "A B"], "name"),
]


@pytest.mark.parametrize(("arguments", "names"), WRONG, ids=lambda value: str(value)[-40:])
def test_a_mistake_is_one_line_that_names_it(shoal: Shoal, arguments: list[str], names: str) -> None:
    said = shoal("learn", *arguments)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert names in said.err


def test_a_folder_without_shards_says_whose_devices_could_learn(shoal: Shoal, tmp_path: Path) -> None:
    (tmp_path / "learn.toml").write_text(f'job = "mine"\npackage = "{"a" * 64}"\n[plan]\nsource = "x"\n')
    said = shoal("learn", str(tmp_path))
    assert said.code == 1
    assert "shards.py" in said.err


def test_a_thousand_devices_are_handed_to_the_simulation(
    shoal: Shoal, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[list[str]] = []

    def execv(_: str, arguments: list[str]) -> None:
        became.append(arguments)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    options = ["--devices", "1000", "--rounds", "3", "--clients", "20", "--alpha", "0.1"]
    options += ["--codec", "topk", "--set", "plan.lr=0.1", "--json", "--drop", "0.1"]
    shoal("learn", DIGITS, "--simulate", *options)
    assert became == [[sys.executable, "-m", "simulation.learn", DIGITS, *options]]


# A job on a fleet that is there ---------------------------------------------------------------------------


class PlayedLearning(FakeLearning):
    """Plays the job's rounds once it is there. ``ends``: in which phase."""

    def __init__(self, ends: Phase) -> None:
        super().__init__()
        self.ends = ends
        self.playing: asyncio.Task[None] | None = None

    async def create(self, spec: JobSpec) -> JobView:
        view = await super().create(spec)
        self.playing = asyncio.create_task(self._play(view))
        return view

    async def _play(self, view: JobView) -> None:
        for number in range(view.spec.rounds):
            await asyncio.sleep(0)
            self.put(msgspec.structs.replace(view, phase=Phase.TRAINING, round=number))
            await asyncio.sleep(0)
            last = number == view.spec.rounds - 1
            phase = self.ends if last else Phase.INITIALIZING
            metrics = row(number).metrics
            model = "d" * 64 if phase == Phase.COMPLETED else ""
            self.put(
                msgspec.structs.replace(
                    view,
                    phase=phase,
                    round=number,
                    version=number + 1,
                    metrics=metrics,
                    best=metrics["accuracy"],
                    model=model,
                    model_version="2" if model else "",
                    detail="no quorum: 1 of 3 answered" if phase == Phase.ERROR else "",
                ),
                row(number),
            )


def played(shoal: Shoal, fleet: FakeFleet, *arguments: str, ends: Phase = Phase.COMPLETED) -> Said:
    fleet.learning = PlayedLearning(ends)
    return shoal("learn", DIGITS, "--rounds", "3", *BROKER, *arguments)


def test_a_job_runs_to_its_end_and_says_what_to_do_next(shoal: Shoal, fleet: FakeFleet) -> None:
    said = played(shoal, fleet, "--codec", "topk", "--set", "plan.lr=0.01", "--strategy", "fedadam")
    assert said.code == 0, said.err
    assert "shoal deploy digits" in said.out
    assert "round 2: completed" in said.err
    wanted = fleet.learning.views["digits"].spec
    assert (wanted.rounds, wanted.strategy, wanted.codec.name, wanted.plan.lr) == (3, "fedadam", "topk", 0.01)
    uploaded = {model.digest for model in fleet.catalog}
    assert {wanted.package, wanted.serve} == uploaded


def test_a_job_for_which_nobody_has_data_says_so(shoal: Shoal, fleet: FakeFleet) -> None:
    said = played(shoal, fleet)
    assert "0 devices have data called 'digits', and the quorum is 3" in said.err


def test_with_json_it_prints_one_object(shoal: Shoal, fleet: FakeFleet) -> None:
    said = played(shoal, fleet, "--json")
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)
    assert (found["rounds"], found["metrics"]["accuracy"], found["model"]) == (3, 0.7, "d" * 64)
    assert found["next"] == ["shoal deploy digits --to all", "shoal learn report digits"]


def test_a_job_that_fails_says_why_and_how_it_goes_on(
    shoal: Shoal, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.learning.follow.ERROR_S_MAX", 0.0)
    said = played(shoal, fleet, "--json", ends=Phase.ERROR)
    assert (said.code, said.out) == (1, "")
    assert "no quorum" in said.err
    assert "shoal learn reset digits" in said.err


def test_a_job_that_is_there_already_is_not_begun_twice(shoal: Shoal, fleet: FakeFleet) -> None:
    fleet.learning.put(finished()[0])
    said = shoal("learn", DIGITS, *BROKER)
    assert said.code == 1
    assert "there is a job" in said.err
    assert "shoal learn delete digits" in said.err


def test_whoever_interrupts_is_told_how_the_job_goes_on(shoal: Shoal, fleet: FakeFleet) -> None:
    class Interrupted(FakeLearning):
        async def job(self, job: str) -> JobView:
            raise KeyboardInterrupt

    fleet.learning = Interrupted()
    said = shoal("learn", DIGITS, *BROKER)
    assert (said.code, said.out) == (130, "")
    assert "goes on in the cloud" in said.err
    assert "shoal learn stop digits" in said.err


def test_a_resumed_job_is_only_watched(shoal: Shoal, done: FakeFleet) -> None:
    said = shoal("learn", DIGITS, "--resume", "--json", *BROKER)
    assert said.code == 0
    assert json.loads(said.out)["rounds"] == 4
    assert done.catalog == []


def test_a_refusal_of_the_job_is_one_line(shoal: Shoal, fleet: FakeFleet) -> None:
    fleet.learning.failing = Refused("bad-request", "rounds 0: 1 to 100000 are possible")
    said = shoal("learn", DIGITS, *BROKER)
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "rounds 0" in said.err


def test_the_report_is_written_where_it_is_wanted(shoal: Shoal, done: FakeFleet, tmp_path: Path) -> None:
    said = shoal("learn", "report", "digits", "--out", "reports", "--json", *BROKER)
    files = [Path(one) for one in json.loads(said.out)["files"]]
    assert files == [Path("reports/digits-report.html"), Path("reports/digits-report.png")]
    assert all(one.stat().st_size > 1000 for one in files)


def test_specs_of_the_tests_are_such_as_the_vocabulary_has() -> None:
    assert spec().rounds == 4
