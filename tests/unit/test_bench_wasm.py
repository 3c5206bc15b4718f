"""The compiler's benchmark: its arithmetic, its tables, and one model through every part in this process."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks import bench_wasm
from benchmarks.measuring import machine
from benchmarks.wasm import inference, modules, tables, training
from benchmarks.wasm.cases import Case, arrays, relative_error
from benchmarks.wasm.goals import OURS, WASM_GOALS, overall, speedups, worst_error
from benchmarks.wasm.peers import ORT, ORT_WEB, TORCH
from benchmarks.wasm.timing import Call, Failure, attempt, attempted, first_line, interleaved, runs_for
from benchmarks.wasm.web import Node
from benchmarks.zoo import ZOO


class Steady:
    """A candidate whose runs take a known time by its own clock."""

    def __init__(self, run_s: float, fails_at: int = 10**9) -> None:
        self.run_s, self.calls, self.fails_at = run_s, 0, fails_at

    def seconds(self, runs: int) -> float:
        self.calls += 1
        if self.calls > self.fails_at:
            raise OSError("gone")
        return runs * self.run_s


# Timing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("run_s", "runs"), [(1e-3, 30), (0.5, 1), (1e-9, 100_000)])
def test_a_turn_is_filled_with_runs(run_s: float, runs: int) -> None:
    assert runs_for(Steady(run_s), target_s=0.03) == runs


def test_candidates_take_turns_and_the_median_counts() -> None:
    found = interleaved({"slow": Steady(2e-3), "quick": Steady(1e-3)}, rounds=3)
    assert found == {"slow": pytest.approx(2e-3), "quick": pytest.approx(1e-3)}


def test_one_that_fails_in_the_middle_is_told_and_the_rest_go_on() -> None:
    good = Steady(0.1)
    given = {"dies": Steady(0.1, fails_at=2), "never": Failure("no such peer"), "good": good}
    found = interleaved(given, rounds=5)
    assert found["dies"] == Failure("OSError: gone")
    assert found["never"] == Failure("no such peer")
    assert found["good"] == pytest.approx(0.1)
    assert good.calls == 6


def test_a_failure_keeps_its_first_line_only() -> None:
    assert first_line("\n  bad \n at x") == "bad"
    assert len(first_line("x" * 1000)) == 200
    assert attempt(lambda: 3) == 3
    assert attempted(Failure("before"), lambda _: 3) == Failure("before")


# The models and the peers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_a_model_of_the_zoo_is_the_same_each_time(name: str) -> None:
    zoo = ZOO[name]
    one, other = zoo.build(), zoo.build()
    assert not one.training
    assert all(
        a.equal(b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert zoo.inputs(2).equal(zoo.inputs(2))


@pytest.mark.parametrize("name", ZOO)
def test_what_a_model_answers_depends_on_its_input(name: str) -> None:
    zoo = ZOO[name]
    with torch.inference_mode():
        answer = arrays(zoo.build()(zoo.inputs(4)))
    for part in answer:
        assert len(part) == 4
        assert part.std(axis=0).max() > 0.01 * np.abs(part).max()


def test_batch_norms_have_statistics_of_their_own() -> None:
    layers = [one for one in ZOO["mobilenet"].build().modules() if isinstance(one, torch.nn.BatchNorm2d)]
    assert layers
    for layer in layers:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert layer.running_mean.std() > 0.01
        assert layer.running_var.std() > 0.1


def test_another_answer_than_torchs_is_not_timed(tmp_path: Path) -> None:
    case = Case(ZOO["mlp"], 2, tmp_path)
    case.check(case.expected)
    for wrong in (tuple(one * 1.1 for one in case.expected), tuple(one * np.nan for one in case.expected)):
        with pytest.raises(ValueError, match="from torch's"):
            case.check(wrong)


def test_errors_are_relative_to_the_largest_number() -> None:
    assert relative_error(arrays([[1.0, 4.5]]), arrays([[1.0, 5.0]])) == pytest.approx(0.1)


def test_node_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.wasm.web.HERE", tmp_path)
    with Node() as node:
        assert attempt(lambda: node.seconds(1)) == Failure(
            "FileNotFoundError: onnxruntime-web is not installed; `make bench-wasm` installs it with npm"
        )


def test_a_node_that_dies_is_a_failure_and_the_next_case_gets_a_new_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: Callable[[str], None]
) -> None:
    script("process.stdin.once('data', () => process.exit(3))")
    with Node() as node:
        assert attempt(lambda: node.seconds(1)) == Failure("RuntimeError: node ended with exit code 3")
        script("process.stdin.on('data', () => console.log('{\"seconds\": 2.5}'))")
        assert node.seconds(1) == 2.5
        script("process.stdin.on('data', () => console.log('{\"error\": \"no such operator\"}'))")
    with Node() as node:
        assert attempt(lambda: node.seconds(1)) == Failure("RuntimeError: no such operator")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Puts a script of ours in the place of web.mjs."""
    (tmp_path / "node_modules" / "onnxruntime-web").mkdir(parents=True)
    monkeypatch.setattr("benchmarks.wasm.web.HERE", tmp_path)
    return lambda text: (tmp_path / "web.mjs").write_text(text)  # type: ignore[func-returns-value,return-value]


# One model through all of it ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> bench_wasm.Found:
    """The smallest model, two peers (of which one is not there), one round."""
    folder, zoo = tmp_path_factory.mktemp("bench"), ZOO["mlp"]
    ours = inference.compile_ours(zoo, (1,))
    with pytest.MonkeyPatch.context() as patched, Node() as node:
        patched.setattr("benchmarks.wasm.web.HERE", folder)
        timed, agreed = inference.measure(zoo, ours, 1, (TORCH, ORT_WEB), 1, node, folder)
    return {
        "machine": machine(),
        "inference": timed,
        "agreement": agreed,
        "modules": [modules.measure(zoo, ours["fast"], 1, folder)],
        "training": training.measure(training.TASKS[0], (TORCH,), 1),
    }


def test_every_candidate_has_a_row_and_a_figure_or_a_reason(mlp: bench_wasm.Found) -> None:
    rows = {row["candidate"]: row for row in mlp["inference"]}
    assert set(rows) == {OURS, tables.PRECISE, TORCH, ORT_WEB}
    assert rows[ORT_WEB]["us"] is None
    assert "not installed" in rows[ORT_WEB]["error"]
    assert all(row["us"] > 0 and not row["error"] for name, row in rows.items() if name != ORT_WEB)
    assert bench_wasm.failed(mlp)


def test_ours_agrees_with_torch(mlp: bench_wasm.Found) -> None:
    assert {row["precision"] for row in mlp["agreement"]} == {"fast", "exact"}
    assert worst_error(mlp, "exact") < 1e-6
    for row in mlp["agreement"]:  # three sides of one triangle
        assert 0 < row["from_torch"] <= (row["from_float64"] + row["torch_from_float64"]) * 1.01


def test_agreement_is_judged_on_the_distance_to_the_true_value() -> None:
    rounding = {"from_float64": 3e-7, "torch_from_float64": 1.2e-6, "from_torch": 1.3e-6}
    row = {"model": "cnn", "batch": 1, "error": ""} | rounding
    rows = [row | {"precision": one} for one in ("exact", "fast")]
    figures = {goal.what: figure for goal, figure in tables.figures({"agreement": rows})}
    assert figures["exact, difference from torch in float64"] == pytest.approx(0.3)
    assert figures["fast, difference from torch in float64"] == pytest.approx(0.3)
    assert not tables.missed({"agreement": rows})


def test_the_module_itself_is_measured(mlp: bench_wasm.Found) -> None:
    (row,) = mlp["modules"]
    assert not row["error"]
    assert all(row[name] > 0 for name in row if name not in ("model", "error"))


def test_train_steps_are_measured_once_their_losses_agree(mlp: bench_wasm.Found) -> None:
    rows = {row["candidate"]: row for row in mlp["training"]}
    assert set(rows) == {"shoal fast", "shoal exact", TORCH}
    assert {name: row["error"] for name, row in rows.items()} == dict.fromkeys(rows, "")
    assert all(row["us"] > 0 for row in rows.values())


def test_the_page_has_it_all(mlp: bench_wasm.Found) -> None:
    console = Console(file=StringIO(), width=180)
    console.print(tables.page(mlp))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "not installed" in text
    for goal in WASM_GOALS:
        assert goal.what in text


def test_the_page_of_the_docs_has_every_goal_and_model(mlp: bench_wasm.Found) -> None:
    text = tables.markdown(mlp)
    for goal in WASM_GOALS:
        assert f"| {goal.what} " in text
    assert "| mlp " in text
    assert "[green]" not in text


# Goals ----------------------------------------------------------------------------------------------


def row(model: str, candidate: str, us: float | None, batch: int = 1) -> dict[str, object]:
    return {"model": model, "batch": batch, "candidate": candidate, "us": us, "error": "" if us else "broken"}


def test_a_speedup_is_theirs_over_ours() -> None:
    results = {
        "inference": [row("a", OURS, 2.0), row("a", ORT, 4.0), row("b", OURS, 3.0), row("b", ORT, 3.0)]
    }
    assert speedups(results, ORT) == {"a x1": 2.0, "b x1": 1.0}
    assert overall(speedups(results, ORT, 1)) == pytest.approx(2**0.5)


def test_a_model_of_ours_that_fails_misses_its_goals_and_a_peer_that_fails_gives_no_verdict() -> None:
    failing = [row("a", OURS, None), row("a", TORCH, 4.0), row("a", ORT, None), row("a", tables.PRECISE, 1.0)]
    results = {
        "inference": failing,
        "agreement": [{"model": "a", "precision": "exact", "from_float64": None, "error": "broken"}],
        "training": [row("mlp", "shoal fast", None), row("mlp", TORCH, 5.0)],
        "modules": [{"model": "mobilenet", "error": "broken"}],
    }
    figures = {goal.what: figure for goal, figure in tables.figures(results)}
    missed = {goal.what for goal in tables.missed(results)}
    assert figures["native onnxruntime, batch 1, geometric mean"] is None
    assert figures["slowest against torch eager, batch 1"] == 0
    for what in (
        "slowest against torch eager, batch 1",
        "train step against torch eager, mlp",
        "exact, difference from torch in float64",
        "mobilenet, module",
        "interruption on against off, worst model",
    ):
        assert what in missed


def test_calls_in_this_process_are_counted() -> None:
    seen: list[int] = []
    assert Call(lambda: seen.append(1)).seconds(5) > 0
    assert len(seen) == 5
