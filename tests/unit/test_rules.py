"""The rules that keep the house in order are kept, and would be noticed if they were not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PACKAGES = ("shared", "broker", "cloud", "edge")


def ran(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the code, to do forbidden things in."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.wasm")
        )
    return tmp_path


def plant(path: Path, line: str) -> None:
    """Put an import where imports stand."""
    head, quotes, body = path.read_text().partition('"""\n')
    assert quotes, f"{path} has no docstring"
    path.write_text(f"{head}{quotes}\n{line}\n{body}")


def test_layers_and_rooms_of_heavy_libraries_are_kept() -> None:
    result = ran(BIN / "lint-imports", "--no-cache", cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("module", ["time", "random", "asyncio", "logging"])
def test_a_core_that_reaches_for_the_world_is_noticed(house: Path, module: str) -> None:
    core = house / "cloud/registry/core.py"
    before = ran(BIN / "ruff", "check", "--no-cache", "--select", "TID251", "cloud/registry", cwd=house)
    assert before.returncode == 0, before.stdout
    plant(core, f"import {module}")
    after = ran(BIN / "ruff", "check", "--no-cache", "--select", "TID251", "cloud/registry", cwd=house)
    assert after.returncode == 1
    assert "TID251" in after.stdout
    assert module in after.stdout


def test_forbidden_imports_are_noticed(house: Path) -> None:
    """One of each kind at once: the tool reads the whole house for every question."""
    plant(house / "edge/agent/core.py", "import threading")
    plant(house / "edge/telemetry/core.py", "import cloud.facts")
    plant(house / "broker/bus.py", "import tinydb")
    plant(house / "shared/wire.py", "import torch")
    result = ran(BIN / "lint-imports", "--no-cache", cwd=house)
    assert result.returncode == 1
    for broken in (
        "edge.agent.core -> threading",
        "edge.telemetry.core -> cloud.facts",
        "broker.bus -> tinydb",
        "shared.wire -> torch",
    ):
        assert broken in result.stdout, result.stdout
