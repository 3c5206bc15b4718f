"""Ours beside every peer: how long a run takes, and how far its answer is from torch's."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import progress
from benchmarks.wasm.cases import Case, arrays, relative_error
from benchmarks.wasm.peers import PEERS
from benchmarks.wasm.timing import Call, Candidate, Failure, attempt, attempted, interleaved
from benchmarks.wasm.web import Node
from benchmarks.zoo import ZooModel
from cloud.compiler import Compiled, Runner, compile_model

Row = dict[str, Any]
PRECISIONS = ("fast", "exact")

Ours = Mapping[str, Compiled | Failure]  # by precision


def compile_ours(zoo: ZooModel, batches: Sequence[int]) -> Ours:
    """One package for each precision, with a module for each batch size."""
    return {precision: attempt(partial(_compile, zoo, batches, precision)) for precision in PRECISIONS}


def _compile(zoo: ZooModel, batches: Sequence[int], precision: str) -> Compiled:
    progress(f"{zoo.name}: compiling ({precision})")
    example = (zoo.inputs(1),)
    return compile_model(zoo.build(), example, name=zoo.name, batch_sizes=batches, precision=precision)


def measure(
    zoo: ZooModel, ours: Ours, batch: int, peers: Sequence[str], rounds: int, node: Node, folder: Path
) -> tuple[list[Row], list[Row]]:
    """Microseconds of each candidate, and the differences of ours."""
    case = Case(zoo, batch, folder)
    runners = {one: attempted(ours[one], lambda compiled: compiled.load()) for one in PRECISIONS}
    candidates: dict[str, Candidate | Failure] = {
        f"shoal {precision}": attempted(runner, lambda runner: _timed(runner, case))
        for precision, runner in runners.items()
    }
    for name in peers:
        progress(f"{zoo.name} x{batch}: {name}")
        candidates[name] = attempt(partial(PEERS[name], case, node))
    progress(f"{zoo.name} x{batch}: {rounds} rounds")
    found = interleaved(candidates, rounds)
    rows = [_row(zoo.name, batch, name, seconds) for name, seconds in found.items()]
    return rows, [_agreement(case, precision, runner) for precision, runner in runners.items()]


def _timed(runner: Runner, case: Case) -> Candidate:
    """numpy in, numpy out, both copied."""
    x = case.x.numpy()
    case.check(arrays(runner(x)))
    return Call(lambda: runner(x))


def _row(model: str, batch: int, candidate: str, seconds: float | Failure) -> Row:
    row: Row = {"model": model, "batch": batch, "candidate": candidate, "us": None, "error": ""}
    return row | ({"error": seconds.reason} if isinstance(seconds, Failure) else {"us": seconds * 1e6})


def _agreement(case: Case, precision: str, runner: Runner | Failure) -> Row:
    """Relative to the output's scale: ours and torch's float32 from torch in float64, and ours from torch's.

    A failure has no figure in any of them.
    """
    row: Row = {"model": case.zoo.name, "batch": case.batch, "precision": precision, "error": ""}
    answer = attempted(runner, lambda runner: arrays(runner(case.x.numpy())))
    if isinstance(answer, Failure):
        return row | {"from_float64": None, "error": answer.reason}
    return row | {
        "from_torch": relative_error(answer, case.expected),
        "from_float64": relative_error(answer, case.true),
        "torch_from_float64": relative_error(case.expected, case.true),
    }
