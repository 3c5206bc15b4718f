"""``shoal compile`` and ``shoal inspect``, on models in a folder of their own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cloud.cli.compile import DIFFERENCE_MAX, _difference
from cloud.cli.inspect import TENSORS_SHOWN
from cloud.cli.torch_source import example_input, parse_input
from shared.errors import ConfigError
from shared.package import unpack
from tests.unit.cloud.cli.conftest import Shoal

MODELS = """
import torch
from torch import nn

net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
number = 3

def build():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), nn.Dropout(0.5))

def broken():
    return nn.Linear("six", 5)

class Strange(nn.Module):
    def forward(self, x):
        return torch.linalg.inv(x)

def strange():
    return Strange()

def constant():
    layer = nn.Linear(6, 5)
    nn.init.zeros_(layer.weight)
    return layer

def deep():
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(9)))
"""


@pytest.fixture
def models(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The name of a fresh module in the current folder: Python imports each name only once."""
    name = "models_" + re.sub(r"\W", "_", request.node.name)
    (tmp_path / f"{name}.py").write_text(MODELS)
    return name


def test_a_function_that_builds_a_model_becomes_a_file(shoal: Shoal, models: str) -> None:
    said = shoal(
        "compile", f"{models}:build", "--input", "1x6", "-o", "net.shoal", "--batch", "1", "--batch", "4"
    )
    assert said.code == 0, said.err
    package = unpack(Path("net.shoal").read_bytes())
    assert (package.info.name, package.info.version, sorted(package.modules)) == ("net", "1", [1, 4])
    assert "shoal deploy net.shoal" in said.out
    assert "compiling for batch 1, 4" in said.err  # progress is no result


def test_a_model_needs_no_function_and_json_is_all_there_is(shoal: Shoal, models: str) -> None:
    arguments = ("--name", "n", "--version", "7", "--precision", "fast", "--json")
    said = shoal("compile", f"{models}:net", "-i", "2x6", "-o", "other.shoal", *arguments)
    assert (said.code, said.err) == (0, "")
    view = json.loads(said.out)
    assert (view["file"], view["package"]["name"], view["package"]["version"]) == ("other.shoal", "n", "7")
    assert list(view["run_ms"]) == ["2"]
    assert view["difference"] < 1e-6
    assert view["package"]["parameter_count"] == 6 * 5 + 5 + 5 * 3 + 3


def test_the_same_model_gives_the_same_file(shoal: Shoal, models: str) -> None:
    for name in ("a", "b"):
        options = ("--name", "same", "-o", f"{name}.shoal")
        assert shoal("compile", f"{models}:build", "-i", "1x6", *options).code == 0
    assert Path("a.shoal").read_bytes() == Path("b.shoal").read_bytes()


def test_an_operator_without_a_kernel_is_named_with_its_line(shoal: Shoal, models: str) -> None:
    said = shoal("compile", f"{models}:strange", "-i", "1x3x3", "-o", "x.shoal")
    assert (said.code, said.out) == (1, "")
    assert "aten.linalg_inv" in said.err
    assert f"{models}.py:17" in said.err
    assert "Traceback" not in said.err
    assert not Path("x.shoal").exists()


WRONG = [
    ("nowhere:build", "1x6", "no module nowhere"),
    ("{models}:missing", "1x6", "has no missing"),
    ("{models}", "1x6", "give module:name"),
    ("{models}:number", "1x6", "is a int, not a torch.nn.Module"),
    ("{models}:broken", "1x6", "{models}.py:13"),
    ("{models}:build", "1x0x6", "--input 1x0x6: give the shape"),
    ("{models}:build", "1x6:float64", "one of float32"),
    ("{models}:build", "1x7", "does not run with --input 1x7"),
]


@pytest.mark.parametrize(("model", "shape", "names"), WRONG, ids=lambda value: str(value))
def test_a_mistake_is_told_without_a_traceback(
    shoal: Shoal, models: str, model: str, shape: str, names: str
) -> None:
    said = shoal("compile", model.format(models=models), "--input", shape, "-o", "x.shoal")
    assert (said.code, said.out) == (1, "")
    (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert said.err.endswith(f"{line}\n")
    assert names.format(models=models) in line
    assert not Path("x.shoal").exists()


def test_a_folder_that_is_not_there_is_told_before_the_work(shoal: Shoal) -> None:
    said = shoal("compile", "anything:build", "-i", "1x6", "-o", "missing/x.shoal")
    assert said.code == 1
    assert said.err.startswith("error: missing is no folder")


def test_a_long_list_of_tensors_is_cut_until_it_is_asked_for(shoal: Shoal, models: str) -> None:
    assert shoal("compile", f"{models}:deep", "-i", "1x4", "-o", "deep.shoal").code == 0
    text = shoal("inspect", "deep.shoal").out
    assert f"and {18 - TENSORS_SHOWN} more" in text
    assert "8.bias" not in text
    assert "8.bias f32(4)" in shoal("inspect", "deep.shoal", "--tensors").out


def test_weights_do_not_change_the_digest_of_the_module(shoal: Shoal, models: str) -> None:
    for name in ("net", "build"):
        assert shoal("compile", f"{models}:{name}", "-i", "1x6", "-o", f"{name}.shoal").code == 0
    one, other = (json.loads(shoal("inspect", f"{name}.shoal", "--json").out) for name in ("net", "build"))
    assert one["digest"] != other["digest"]
    assert one["modules"][0]["arena_bytes"] < one["modules"][0]["memory_bytes"]
    assert (one["layout_hash"], one["modules"][0]["digest"]) == (
        other["layout_hash"],
        other["modules"][0]["digest"],
    )


def test_agreement_on_a_constant_is_called_no_proof(shoal: Shoal, models: str) -> None:
    for name, telling in (("constant", False), ("build", True)):
        said = shoal("compile", f"{models}:{name}", "-i", "1x6", "-o", "net.shoal", "--json")
        assert json.loads(said.out)["is_telling"] is telling
    text = shoal("compile", f"{models}:constant", "-i", "1x6", "-o", "net.shoal").out
    assert "another input gets the same answer" in " ".join(text.split())


def test_the_cost_is_said_in_operations_and_time(shoal: Shoal, models: str) -> None:
    assert shoal("compile", f"{models}:build", "-i", "1x6", "-o", "net.shoal").code == 0
    assert "floating-point operations an item; at least 0.0 us" in " ".join(
        shoal("inspect", "net.shoal").out.split()
    )


def test_shapes_and_their_numbers() -> None:
    assert parse_input("1x3x96x96") == ((1, 3, 96, 96), "float32")
    assert parse_input("4x32:int64") == ((4, 32), "int64")
    assert example_input("1x3", 5).shape == (5, 3)
    assert example_input("1x3").equal(example_input("1x3"))
    assert not example_input("1x3:int64").any()
    for text in ("", "x3", "3x", "1,3", "-1x3", "1x3:", "1x3:complex64"):
        with pytest.raises(ConfigError, match="--input"):
            parse_input(text)


def test_a_wrong_answer_is_never_small() -> None:
    right = np.array([1.0, -4.0, np.inf, np.nan], np.float32)
    assert _difference(right, right.copy()) == 0
    assert _difference(right + np.float32([0.004, 0, 0, 0]), right) == pytest.approx(0.001, rel=1e-3)
    for wrong in ([1.0, -4.0, 5.0, np.nan], [1.0, np.nan, np.inf, np.nan], [1.0, -4.0, -np.inf, np.nan]):
        assert _difference(np.float32(wrong), right) > DIFFERENCE_MAX
    assert _difference((right, np.array([2])), (right, np.array([3]))) == 0
    with pytest.raises(ValueError, match="zip"):
        _difference((right, right), right)
