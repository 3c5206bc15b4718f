"""What the compiler promises (`make bench-wasm`).

A model of ours that failed counts as infinitely slow, or as wrong; a peer that failed leaves the goal
without a figure.
"""

from collections.abc import Iterator, Mapping
from math import inf
from statistics import geometric_mean

from benchmarks.goals import Goal, Results

OURS = "shoal fast"
SMALL = ("mlp", "gru", "transformer")


def _timed(rows: list[Results], candidate: str, **where: object) -> float:
    """Microseconds. Raises KeyError where there are none; infinite for ours."""
    wanted = {"candidate": candidate, **where}
    for row in rows:
        if all(row[key] == value for key, value in wanted.items()):
            if row["us"] is not None:
                return float(row["us"])
            if candidate.startswith("shoal"):
                return inf
    raise KeyError(candidate)


def speedups(results: Results, peer: str, batch: int | None = None, ours: str = OURS) -> dict[str, float]:
    """ "model xbatch" -> how many times as fast as the peer ours is. ``batch``: None for all."""
    rows: list[Results] = results["inference"]
    cases = dict.fromkeys((row["model"], row["batch"]) for row in rows if batch in (None, row["batch"]))
    if not cases:
        raise KeyError(peer)
    return {
        f"{model} x{size}": _timed(rows, peer, model=model, batch=size)
        / _timed(rows, ours, model=model, batch=size)
        for model, size in cases
    }


def overall(factors: Mapping[str, float]) -> float:
    """The geometric mean; nothing if one of them is nothing."""
    return geometric_mean(factors.values()) if min(factors.values()) > 0 else 0.0


def step_speedup(results: Results, model: str) -> float:
    """How many times as fast as torch eager our train step is."""
    rows: list[Results] = results["training"]
    return _timed(rows, "torch", model=model) / _timed(rows, OURS, model=model)


def worst_error(results: Results, precision: str) -> float:
    """The largest difference over all models from torch in float64, relative to the output's scale."""
    rows = [row for row in results["agreement"] if row["precision"] == precision]
    return max(inf if row["from_float64"] is None else float(row["from_float64"]) for row in rows)


def module_of(results: Results, model: str) -> Results:
    """The figures of one module, all of them infinite if it has none."""
    row: Results = next(row for row in results["modules"] if row["model"] == model)
    return _Failed() if row["error"] else row


class _Failed(dict[str, float]):
    def __missing__(self, key: str) -> float:
        return inf


def interruptions(results: Results) -> Iterator[float]:
    """Of each model."""
    return (float(module_of(results, row["model"])["interruption"]) for row in results["modules"])


WASM_GOALS = (
    Goal(
        "slowest against onnxruntime-web, batch 1 and 32",
        lambda r: min(speedups(r, "onnxruntime-web").values()),
        1,
        "x",
        at_least=True,
    ),
    Goal(
        "onnxruntime-web, batch 1 and 32, geometric mean",
        lambda r: overall(speedups(r, "onnxruntime-web")),
        3,
        "x",
        at_least=True,
    ),
    Goal(
        "native onnxruntime, batch 1, geometric mean",
        lambda r: overall(speedups(r, "onnxruntime", 1)),
        0.7,
        "x",
        at_least=True,
    ),
    Goal(
        f"native onnxruntime, batch 1, slowest of {', '.join(SMALL)}",
        lambda r: min(speedups(r, "onnxruntime", 1)[f"{model} x1"] for model in SMALL),
        1,
        "x",
        at_least=True,
    ),
    Goal(
        "slowest against torch eager, batch 1",
        lambda r: min(speedups(r, "torch", 1).values()),
        1,
        "x",
        at_least=True,
    ),
    Goal("train step against torch eager, mlp", lambda r: step_speedup(r, "mlp"), 3, "x", at_least=True),
    Goal("train step against torch eager, cnn", lambda r: step_speedup(r, "cnn"), 0.75, "x", at_least=True),
    Goal(
        "exact, difference from torch in float64",
        lambda r: worst_error(r, "exact") * 1e6,
        1,
        "x 1e-6 of the scale",
    ),
    Goal(
        "fast, difference from torch in float64",
        lambda r: worst_error(r, "fast") * 1e6,
        50,
        "x 1e-6 of the scale",
    ),
    Goal("mobilenet, module", lambda r: module_of(r, "mobilenet")["module_bytes"] / 1000, 100, "KB"),
    Goal("mobilenet, emit", lambda r: module_of(r, "mobilenet")["emit_ms"], 100, "ms"),
    Goal("mobilenet, compile on the device", lambda r: module_of(r, "mobilenet")["compile_ms"], 60, "ms"),
    Goal("mobilenet, cached start", lambda r: module_of(r, "mobilenet")["cached_start_ms"], 1, "ms"),
    Goal("interruption on against off, worst model", lambda r: max(interruptions(r)), 1.1, "x"),
)
