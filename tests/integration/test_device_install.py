"""A device installs the wheel with the extra ``edge`` and nothing heavy, and everything it needs is there.

Needs the package registry (or pip's cache): where neither can be reached this fails and says so, because a
release that a device can't install is broken whatever else works.
"""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOO_HEAVY = {"torch", "fastapi", "sqlalchemy", "scikit-learn", "uvicorn", "alembic", "nicegui"}
IMPORT_ALL = """
import importlib, json, pkgutil
failed = {}
for name in ("shared", "broker", "edge"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + ".", onerror=lambda name: None):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except BaseException as error:
                failed[module.name] = repr(error)
print(json.dumps(failed))
"""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a clean environment with ``shoal[edge]`` from a wheel, outside of the checkout."""
    folder = tmp_path_factory.mktemp("device")
    source = folder / "source"
    copied(source)
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("shoal-*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip(python, "install", f"{wheel}[edge]")
    return python


def copied(target: Path) -> None:
    """What a wheel is made of, so that no build folder is left behind in the checkout."""
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    for package in ("shared", "broker", "cloud", "edge"):
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))


def pip(python: Path | str, *arguments: str) -> None:
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, (
        f"pip {arguments[0]} failed (is the package registry reachable?):\n{done.stderr}"
    )


def said(python: Path, *arguments: str) -> str:
    done = subprocess.run(
        [python, *arguments], cwd=python.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_heavy_comes_with_a_device(device: Path) -> None:
    names = {one["name"].lower() for one in json.loads(said(device, "-m", "pip", "list", "--format=json"))}
    assert "shoal" in names
    assert "wasmtime" in names
    assert names & TOO_HEAVY == set()


def test_every_module_of_a_device_imports_there(device: Path) -> None:
    assert json.loads(said(device, "-c", IMPORT_ALL)) == {}


@pytest.mark.parametrize("program", ["edge", "broker"])
def test_the_programs_of_a_device_start_there(device: Path, program: str) -> None:
    text = said(device, "-m", program, "--help")
    assert "--config" in text
