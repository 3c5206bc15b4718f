"""How fast updates are added up, with how much memory, and whether FedAvg is FedAvg.

    python -m benchmarks.federated.aggregation [--params N ...] [--rounds N] [--json PATH]

Bytes that are counted. Ours: one ``Accumulator.add`` reads a float32 update and an int64 sum and writes the
sum, 4 + 8 + 8 = 20 a parameter, however often its scratch is touched. numpy's, on arrays of the same length
and types: ``add(sum, sum2, out=sum)`` of int64, 24 a parameter, and ``add(update, update2, out=update)`` of
float32, 12 a parameter; the faster of the two is the bandwidth. Neither counts the line that a store may have
to read first. The three alternate, each call takes another update, and medians count.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.federated.flower.environment import BIN, ROOT, installed, variables
from benchmarks.federated.tables import told
from benchmarks.measuring import Found, machine, progress, write_json
from cloud.federated.accumulator import Accumulator

PARAMS = (199_210, 1_000_000, 16_000_000)
ROUNDS = 41
UPDATES = 4  # different ones, so that the next one isn't in a cache when a model is large
OURS_BYTES, INT64_BYTES, FLOAT32_BYTES = 20, 24, 12  # a parameter
CALL_S_MIN = 2e-3  # calls are repeated up to this: the clock and the loop must not matter
MEMORY_PARAMS, MEMORY_CLIENTS = 1_000_000, (10, 100, 1000)
AGREE_PARAMS, AGREE_CLIENTS = 199_210, 50
FLOWER_S_MAX = 120.0


def updates_of(n_params: int, count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """As training gives them: small numbers, a few of them not."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(n_params, np.float32) * np.float32(0.02) for _ in range(count)]


# Bandwidth --------------------------------------------------------------------------------------------


def _seconds(call: Callable[[int], object], repeats: int) -> float:
    began = time.perf_counter()
    for index in range(repeats):
        call(index)
    return (time.perf_counter() - began) / repeats


def throughput(n_params: int, rounds: int) -> Found:
    """GB/s (1e9 bytes) of the three, medians of interleaved rounds."""
    progress(f"adding {n_params:,} parameters")
    updates = updates_of(n_params, UPDATES)
    accumulator = Accumulator(n_params)
    wide, wide_too = np.zeros(n_params, np.int64), np.ones(n_params, np.int64)
    narrow = updates[0].copy()
    calls: dict[str, tuple[Callable[[int], object], int]] = {
        "ours": (lambda index: accumulator.add(updates[index % UPDATES], 100 + index), OURS_BYTES),
        "int64": (lambda _: np.add(wide, wide_too, out=wide), INT64_BYTES),
        "float32": (lambda index: np.add(narrow, updates[index % UPDATES], out=narrow), FLOAT32_BYTES),
    }
    repeats = {name: max(1, round(CALL_S_MIN / _seconds(call, 3))) for name, (call, _) in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (call, _bytes) in calls.items():
            taken[name].append(_seconds(call, repeats[name]))
    seconds = {name: median(taken[name]) for name in calls}
    speeds = {name: size * n_params / seconds[name] / 1e9 for name, (_, size) in calls.items()}
    bandwidth = max(speeds["int64"], speeds["float32"])
    return {
        "params": n_params,
        "rounds": rounds,
        "ours_gb_s": speeds["ours"],
        "numpy_int64_gb_s": speeds["int64"],
        "numpy_float32_gb_s": speeds["float32"],
        "share": speeds["ours"] / bandwidth,
        "update_ms": seconds["ours"] * 1e3,
    }


# Memory -----------------------------------------------------------------------------------------------


def memory(n_params: int, clients: int) -> Found:
    """The most that was allocated at a time, beside the one update that is being added."""
    update = updates_of(n_params, 1)[0]
    tracemalloc.start()
    try:
        accumulator = Accumulator(n_params)
        for weight in range(1, clients + 1):
            accumulator.add(update, weight)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return {"params": n_params, "clients": accumulator.clients, "peak_bytes": peak}


# Agreement --------------------------------------------------------------------------------------------


def agreement(n_params: int, clients: int) -> Found:
    """The largest difference of the new global model to numpy's in float64, and to Flower's FedAvg.

    Flower averages models, ours averages changes; both start from the same model.
    """
    progress(f"FedAvg of {clients} clients against numpy's and Flower's")
    rng = np.random.default_rng(1)
    start = rng.standard_normal(n_params, np.float32) * np.float32(0.1)
    models = np.stack([start + delta for delta in updates_of(n_params, clients, 2)])
    weights = rng.integers(1, 1000, clients)
    accumulator = Accumulator(n_params)
    for model, weight in zip(models, weights, strict=True):
        accumulator.add(model - start, int(weight))
    ours = start + accumulator.mean()
    exact = np.average(models.astype(np.float64), axis=0, weights=weights)
    theirs = flower_mean(models, weights)
    return {
        "params": n_params,
        "clients": clients,
        "from_numpy_float64": float(np.abs(ours - exact).max()),
        "from_flower": None if theirs is None else float(np.abs(ours - theirs).max()),
        "flower_from_numpy_float64": None if theirs is None else float(np.abs(theirs - exact).max()),
    }


def flower_mean(models: NDArray[np.float32], weights: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """What Flower's own FedAvg makes of the models [clients, n]; None without its environment."""
    if not installed():
        progress("Flower is not installed: make bench-federated installs it")
        return None
    with tempfile.TemporaryDirectory(prefix="shoal-flower-") as name:
        home = Path(name)
        np.savez(home / "in.npz", models=models, weights=weights)
        command = [str(BIN / "python"), "-m", "benchmarks.federated.flower.aggregate"]
        command += [str(home / "in.npz"), str(home / "out.npy")]
        subprocess.run(command, cwd=ROOT, env=variables(home), timeout=FLOWER_S_MAX, check=True)
        result: NDArray[np.float32] = np.load(home / "out.npy")
    return result


# The run ----------------------------------------------------------------------------------------------


def run(params: Sequence[int], rounds: int) -> Found:
    return {
        "machine": machine(),
        "throughput": [throughput(n_params, rounds) for n_params in params],
        "memory": [memory(MEMORY_PARAMS, clients) for clients in MEMORY_CLIENTS],
        "agreement": agreement(AGREE_PARAMS, AGREE_CLIENTS),
    }


def tables(found: Found) -> list[Table]:
    speed = Table(title="adding one update (GB/s of 1e9 bytes)")
    for name in ("parameters", "ours", "numpy int64", "numpy float32", "ours / faster", "ms an update"):
        speed.add_column(name, justify="right")
    for row in found["throughput"]:
        speeds = (row[name] for name in ("ours_gb_s", "numpy_int64_gb_s", "numpy_float32_gb_s"))
        shown = (*(f"{one:.1f}" for one in speeds), f"{row['share']:.2f}", f"{row['update_ms']:.3f}")
        speed.add_row(f"{row['params']:,}", *shown)
    held = Table("parameters", "clients", "peak MB", "bytes a parameter", title="memory of the sum")
    for row in found["memory"]:
        peak = row["peak_bytes"]
        held.add_row(
            f"{row['params']:,}", f"{row['clients']:,}", f"{peak / 1e6:.2f}", f"{peak / row['params']:.2f}"
        )
    agreed = Table("FedAvg", "largest difference", title="the new global model, values near 0.1")
    for name, what in (
        ("from_numpy_float64", "ours from numpy in float64"),
        ("from_flower", "ours from Flower"),
        ("flower_from_numpy_float64", "Flower from numpy in float64"),
    ):
        value = found["agreement"][name]
        agreed.add_row(what, "not measured" if value is None else f"{value:.1e}")
    return [speed, held, agreed]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", nargs="+", type=int, default=list(PARAMS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = run(arguments.params, arguments.rounds)
    write_json(arguments.json, found)
    return told("aggregation", found, tables(found))


if __name__ == "__main__":
    sys.exit(main())
