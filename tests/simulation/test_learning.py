"""Devices that learn together, in trouble: the coordinator's and the devices' own cores, real training."""

import json
from pathlib import Path

import pytest

from cloud.learning.jobfile import JobFile, read_job
from shared.learning import Codec, CodecName, ReceiptStatus, Stop
from simulation.federation.troubles import Troubles
from simulation.federation.world import Outcome, Setting, story
from simulation.learn import main, play

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
TROUBLED = Troubles(drop=0.2, duplicate=0.1, late=0.1, poison=0.1, skew_s=5.0, kill=True)


def job(rounds: int, **changed: object) -> JobFile:
    fields: dict[str, object] = {
        "rounds": rounds,
        "clients": 20,
        "quorum": 5,
        "over_select": 1.5,
        "stop": Stop(),
        "clip": 1.0,
        "norm_ratio_max": 3.0,
        "deadline_s_min": 3.0,
        "deadline_s_max": 60.0,
        "seed": 1,
    }
    return read_job(DIGITS).replace(**{**fields, **changed})


def run(one: JobFile, devices: int = 50, troubles: Troubles | None = None, seed: int = 1) -> Outcome:
    setting = Setting(spec=one.spec, devices=devices, seed=seed, troubles=troubles or Troubles())
    return play(setting, one, None, None)


def sound(outcome: Outcome) -> None:
    """It came to its end, and the journal, the receipts and what devices sent agree."""
    assert outcome.phase == "completed", outcome.detail
    assert outcome.complaints == ()
    assert outcome.version == len(outcome.rounds)


# The quick ones -------------------------------------------------------------------------------------------


def test_fifty_devices_in_trouble_learn_what_they_would_have_learned() -> None:
    """In each round a fifth of them is lost, a tenth lies, a tenth is late, and the coordinator dies."""
    clean, troubled = run(job(12)), run(job(12), troubles=TROUBLED)
    sound(clean)
    sound(troubled)
    # A small share of one kind of digit can carry an honest device off, too: by its norm, or in a coordinate.
    assert clean.receipts.keys() <= {ReceiptStatus.ACCEPTED, ReceiptStatus.LATE, "norm", "out-of-range"}
    assert clean.receipts[ReceiptStatus.ACCEPTED] == 12 * 40
    assert troubled.kills >= 12
    assert troubled.receipts[ReceiptStatus.DUPLICATE] > 0
    assert troubled.receipts[ReceiptStatus.LATE] > 0
    assert {"not-finite", "out-of-range", "norm"} <= troubled.receipts.keys()
    assert troubled.accuracy > clean.accuracy - 0.03  # of 12 rounds; the benchmark has 30, and its promise


def test_the_same_seed_gives_the_same_model_and_another_one_does_not() -> None:
    short = job(3)
    first, again, other = (
        run(short, troubles=TROUBLED),
        run(short, troubles=TROUBLED),
        run(short, troubles=TROUBLED, seed=2),
    )
    assert story(first) == story(again)
    assert first.digest != other.digest


def test_artifacts_and_disks_stay_bounded_however_long_a_job_is() -> None:
    outcome = run(job(30, clients=4, quorum=2, over_select=1.0), devices=6)
    sound(outcome)
    assert outcome.artifacts_max <= 8  # two packages, the version that is asked for and the one before


@pytest.mark.parametrize("strategy", ["trimmed-mean", "multi-krum", "fednova", "fedadam"])
def test_every_way_to_add_up_survives_the_coordinator(strategy: str) -> None:
    outcome = run(
        job(3, strategy=strategy, options={}), troubles=Troubles(drop=0.1, duplicate=0.1, kill=True)
    )
    sound(outcome)
    assert outcome.kills >= 3


def test_an_asynchronous_job_takes_late_updates_and_counts_each_once() -> None:
    one = job(12, strategy="fedbuff", options={}, clients=6, over_select=3.0, codec=Codec(name=CodecName.F32))
    outcome = run(one, troubles=Troubles(drop=0.1, duplicate=0.2, late=0.3, kill=True))
    sound(outcome)
    assert outcome.stale > 5


def test_the_command_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(DIGITS), "--devices", "20", "--rounds", "2", "--clients", "4", "--seed", "3", "--json"]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert len(first["rounds"]) == first["version"] == 2
    assert first.pop("run")["wall_s"] > 0
    assert again.pop("run")
    assert first == again


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--kill-coordinator" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--drop", "1.5"], "share"),
        (["--devices", "0"], "--devices"),
        (["--set", "round=3"], "rounds"),
        (["--strategy", "nonsense"], "there are fedavg"),
    ],
)
def test_what_cannot_be_played_is_said(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(DIGITS), *words]) == 2
    assert complaint in capsys.readouterr().err


# The long ones --------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 6))
def test_trouble_costs_a_point_at_most(seed: int) -> None:
    clean, troubled = run(job(40), seed=seed), run(job(40), troubles=TROUBLED, seed=seed)
    sound(clean)
    sound(troubled)
    assert round(clean.accuracy - troubled.accuracy, 6) <= 0.01  # five images of the five hundred


@pytest.mark.long
def test_a_thousand_devices_for_ten_rounds() -> None:
    outcome = run(job(10, clients=32, over_select=1.3), devices=1000, troubles=TROUBLED)
    sound(outcome)
