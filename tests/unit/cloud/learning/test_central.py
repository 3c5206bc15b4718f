"""The same training with all the data in one place, in WebAssembly; and who deals the data."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cloud.learning.central import accuracy_of, gathered, passes_per_round, train_centrally
from cloud.learning.local import Dealer, Record, Run
from shared.errors import ConfigError
from shared.learning import TrainingPlan
from shared.package import unpack
from tests.unit.cloud.learning.fake import finished

FOLDER = Path(__file__).parents[4] / "examples" / "digits"
PLAN = TrainingPlan(source="digits", epochs=2, lr=0.2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return Dealer(FOLDER).deal(tmp_path_factory.mktemp("shards"), 8, alpha=0.5, seed=1)


def test_the_shares_come_together_again(shards: list[Path]) -> None:
    data, held = gathered(shards), gathered(shards, held_out=True)
    assert len(data.x) + len(held.x) == 1297
    assert sorted(np.bincount(np.concatenate([data.y, held.y])).tolist())[0] > 100


def test_all_data_in_one_place_learns_the_digits(shards: list[Path]) -> None:
    package = unpack((FOLDER / "digits-train.shoal").read_bytes())
    data, test = gathered(shards), Dealer(FOLDER).test(shards)
    found = train_centrally(package, PLAN, 3, data, test, seed=1, shards=8)
    assert found.passes == 6
    assert found.accuracy > 0.9
    assert found == train_centrally(package, PLAN, 3, data, test, seed=1, shards=8)


def test_a_served_model_is_measured_on_the_same_data(shards: list[Path]) -> None:
    """The accuracy that torch found when it made the file."""
    package, served = (
        unpack((FOLDER / name).read_bytes()) for name in ("digits-train.shoal", "digits.shoal")
    )
    test = Dealer(FOLDER).test(shards)
    with np.load(FOLDER / "heldout.npz") as file:
        expected = float((file["predictions"] == file["labels"]).mean())
    assert accuracy_of(package, served, test) == pytest.approx(expected)


def test_steps_are_counted_in_passes() -> None:
    assert passes_per_round(PLAN, 100, 32) == 2
    assert passes_per_round(TrainingPlan(source="x", steps=20), 320, 32) == 2


def test_a_folder_without_test_data_is_measured_on_what_devices_hold_out(
    tmp_path: Path, shards: list[Path]
) -> None:
    (tmp_path / "shards.py").write_text("def write_shards(folder, devices, *, alpha, seed): return []\n")
    dealer = Dealer(tmp_path)
    assert dealer.deal(tmp_path, 2, alpha=1, seed=0) == []
    assert np.array_equal(dealer.test(shards).y, gathered(shards, held_out=True).y)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("x = 1", "no function write_shards"),
        ("def write_shards(*a, **k): raise ValueError('too many')", "too many"),
    ],
)
def test_a_dealer_that_does_not_work_says_why(tmp_path: Path, code: str, says: str) -> None:
    (tmp_path / "shards.py").write_text(code + "\n")
    with pytest.raises(ConfigError, match=says):
        Dealer(tmp_path).deal(tmp_path, 2, alpha=1, seed=0)


def test_data_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        gathered([tmp_path / "missing.npz"])


def test_nothing_of_it_needs_torch() -> None:
    """The demo runs where the compiler's extra is not installed."""
    parts = ("cloud.demo.scenario", "cloud.cli.learn_run", "cloud.learning.local", "cloud.learning.files")
    code = f"import sys; sys.modules['torch'] = None; import {', '.join(parts)}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_nobody_waits_for_a_comparison_that_is_not_wanted(shards: list[Path]) -> None:
    package = unpack((FOLDER / "digits-train.shoal").read_bytes())
    data, test = gathered(shards), Dealer(FOLDER).test(shards)
    found = train_centrally(package, PLAN, 10**6, data, test, seed=1, shards=8, stopped=lambda: True)
    assert found.passes == 1


def test_a_resumed_run_deals_as_it_did(tmp_path: Path) -> None:
    record, first = Record(tmp_path / "digits"), Run(devices=3, alpha=0.1, seed=7)
    with pytest.raises(ConfigError, match="no run to go on with"):
        record.begin(first, resume=True)
    assert record.begin(first, resume=False) == first
    (record.folder / "old").touch()
    assert record.begin(Run(devices=8, alpha=0.5, seed=1), resume=True) == first
    assert record.begin(Run(devices=8, alpha=0.5, seed=1), resume=False).devices == 8
    assert not (record.folder / "old").exists()


def test_a_record_keeps_the_report_and_the_model(tmp_path: Path) -> None:
    from cloud.learning.report import tally

    record = Record(tmp_path)
    with pytest.raises(ConfigError, match=r"report\.json"):
        record.read_report()
    report = tally(*finished(), [])
    record.write_report(report)
    assert record.read_report() == report
    assert record.keep_model("digits", "a" * 64) is None
    stored = tmp_path / "fleet" / "cloud" / "artifacts"
    stored.mkdir(parents=True)
    (stored / f"{'a' * 64}.shoal").write_bytes(b"learned")
    kept = record.keep_model("digits", "a" * 64)
    assert kept is not None
    assert kept.read_bytes() == b"learned"
