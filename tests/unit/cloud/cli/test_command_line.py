"""What the command line promises without any broker: help, one line for every mistake, a quick start."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

from cloud.cli import act
from cloud.cli.__main__ import build
from cloud.cli.processes import MODULES, PROGRAMS
from cloud.cli.reference import page
from shared.messages import CommandVerb
from shared.package import SUFFIX
from tests.unit.cloud.cli.conftest import Shoal

ROOT = Path(__file__).parents[4]


def parts(name: str, command: Any) -> list[str]:
    """A command's own name, or a group's commands, as they are typed."""
    return [f"{name} {part}" for part in command.commands] if hasattr(command, "commands") else [name]


COMMANDS = sorted(get_command(build()).commands)  # type: ignore[attr-defined]
OURS = [name for name in COMMANDS if name not in MODULES]
READING = [  # up prints how to use it; it has no data
    part
    for name in OURS
    if name != "up"
    for part in parts(name, get_command(build()).commands[name])  # type: ignore[attr-defined]
]


def test_every_promised_command_is_there() -> None:
    promised = {"up", "broker", "cloud", "edge", "nodes", "node", "deploy", "infer", "watch", "doctor"}
    assert promised | {"why", "inspect", "enrol", "demo"} <= set(COMMANDS)


@pytest.mark.parametrize("command", OURS)
def test_help_shows_an_example(shoal: Shoal, command: str) -> None:
    said = shoal(command, "--help")
    assert said.code == 0
    assert "Example" in said.out
    assert f"shoal {command}" in said.out.split("Example")[1]


@pytest.mark.parametrize("module", MODULES)
def test_help_of_a_process_is_its_own_and_shows_an_example(module: str) -> None:
    command = [sys.executable, "-m", PROGRAMS.get(module, module), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    assert f"shoal {module} --" in done.stdout.split("example")[1]


@pytest.mark.parametrize("command", READING)
def test_every_command_that_prints_data_prints_json(shoal: Shoal, command: str) -> None:
    assert "--json" in shoal(*command.split(), "--help").out


def test_without_a_command_the_help_is_shown(shoal: Shoal) -> None:
    said = shoal()
    assert said.code == 0
    assert "shoal demo" in said.out


def test_the_version_is_printed(shoal: Shoal) -> None:
    said = shoal("--version")
    assert (said.code, said.out) == (0, "0.1.0\n")


WRONG = [
    (["bogus"], "No such command 'bogus'"),
    (["nodes", "--bogus"], "No such option"),
    (["node"], "Missing argument"),
    (["infer", "digits"], "--input"),
    (["infer", "digits", "-i", "missing.npy"], "missing.npy"),
    (["infer", "digits", "-i", "text.npy"], "numpy.save"),
    (["infer", "digits", "-i", "broken.json"], "broken.json"),
    (["infer", "digits", "-i", "several.npz"], "several arrays"),
    (["infer", "digits", "-i", "text.npy", "--deadline", "0"], "--deadline"),
    (["deploy", "missing.shoal"], "missing.shoal"),
    (["inspect", "missing.shoal"], "missing.shoal"),
    (["inspect", "text.npy"], "not a .shoal package"),
    (["nodes", "--config", "missing.toml"], "missing.toml"),
    (["nodes", "--config", "text.npy"], "TOML"),
    (["nodes", "--broker", "http://x"], "mqtt://host:1883"),
    (["nodes", "--broker", "mqtt://127.0.0.1:1"], "shoal up"),
    (["nodes", "--fleet", "A B"], "fleet"),
    (["command", "edge-1", "explode"], "ping"),
    (["enrol", "edge-9"], "shoal up"),
    (["up", "--fleet", "A B"], "--fleet"),
    (["up", "--port", "99999"], "--port"),
    (["demo", "--examples", "nowhere"], "nowhere"),
]


@pytest.mark.parametrize(("arguments", "names"), WRONG, ids=lambda value: str(value))
def test_a_mistake_is_one_line_that_names_it(shoal: Shoal, arguments: list[str], names: str) -> None:
    Path("text.npy").write_text("not an array")
    Path("broken.json").write_text("{")
    np.savez("several.npz", a=np.zeros(1), b=np.zeros(1))
    said = shoal(*arguments)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert names in said.err


def test_a_password_in_the_address_is_not_repeated(shoal: Shoal) -> None:
    said = shoal("nodes", "--broker", "mqtt://operator:secret@127.0.0.1:1")
    assert said.code == 1
    assert "secret" not in said.err


def test_a_package_is_inspected(shoal: Shoal) -> None:
    file = str(ROOT / "examples/digits/digits.shoal")
    view = json.loads(shoal("inspect", file, "--json").out)
    assert (view["name"], view["kind"], view["operators"]) == ("digits", "tensor", {"matmul": 3})
    assert view["digest"] == (ROOT / "examples/digits/digits.sha256").read_text().split()[0]
    assert view["parameter_bytes"] >= 4 * sum(int(np.prod(one["shape"])) for one in view["tensors"])
    assert [module["batch"] for module in view["modules"]] == [1, 32]
    (function,) = view["modules"][0]["functions"]
    assert (function["inputs"][0]["shape"], function["outputs"][0]["shape"]) == ([1, 64], [1, 10])
    text = shoal("inspect", file).out
    assert view["digest"] in text
    assert "0.weight f32(128, 64)" in text


def test_help_loads_nothing_heavy() -> None:
    """What makes `shoal --help` answer at once, said in a way that a busy machine does not change."""
    heavy = ("numpy", "cryptography", "fastapi", "sqlalchemy", "mqtt5", "wasmtime", "torch", "uvloop")
    code = f"import sys, cloud.cli.__main__ as m; m.build(); print([h for h in {heavy} if h in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_words_that_help_repeats_are_those_of_the_vocabulary() -> None:
    assert set(act.Verb.__args__) == set(CommandVerb)  # type: ignore[attr-defined]
    assert act.SUFFIX == SUFFIX


def test_the_page_of_commands_is_up_to_date() -> None:
    assert (ROOT / "docs/cli.md").read_text() == page(), "python -m cloud.cli.reference > docs/cli.md"


def test_the_page_has_every_command_and_option() -> None:
    text = page()
    for name, command in get_command(build()).commands.items():  # type: ignore[attr-defined]
        section = text.split(f"\n## shoal {name}\n")[1].split("\n## ")[0]
        if name not in MODULES:
            assert all(
                option.opts[-1] in section or option.name.upper() in section for option in command.params
            )
            assert "```\nshoal " in section
