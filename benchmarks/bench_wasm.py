"""The compiler against torch, onnxruntime and onnxruntime-web, in one interleaved run.

    python -m benchmarks.bench_wasm [--models mlp ...] [--peers torch ...] [--rounds N] [--json PATH] [--docs]

Run from the checkout on a quiet machine (`make bench-wasm` also installs the peers): medians of interleaved
rounds, one thread each. The exit code is 1 when something failed or a goal is missed.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.goals import Results
from benchmarks.measuring import Found, machine, progress, write_json
from benchmarks.wasm import inference, modules, tables, training
from benchmarks.wasm.peers import PEERS
from benchmarks.wasm.web import Node
from benchmarks.zoo import ZOO

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks-compiler.md"
ROUNDS, BATCHES = 9, (1, 32)
TABLE_COLUMNS = 180  # where standard output is no terminal


def run(models: Sequence[str], batches: Sequence[int], peers: Sequence[str], rounds: int) -> Found:
    """Everything, model by model."""
    results: Found = {"machine": machine(), "inference": [], "agreement": [], "modules": [], "training": []}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name, Node() as node:
        folder = Path(name)
        for zoo in (ZOO[one] for one in models):
            ours = inference.compile_ours(zoo, batches)
            for batch in batches:
                timed, agreed = inference.measure(zoo, ours, batch, peers, rounds, node, folder)
                results["inference"] += timed
                results["agreement"] += agreed
            progress(f"{zoo.name}: the module itself")
            results["modules"].append(modules.measure(zoo, ours["fast"], rounds, folder))
    for task in training.TASKS:
        if task.model in models:
            results["training"] += training.measure(task, peers, rounds)
    return results


def failed(results: Results) -> bool:
    """Whether a row has no figure."""
    sections = ("inference", "agreement", "modules", "training")
    return any(row["error"] for section in sections for row in results[section])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=ZOO, default=list(ZOO))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true", help=f"renew {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    results = run(arguments.models, arguments.batches, arguments.peers, arguments.rounds)
    write_json(arguments.json, results)
    if arguments.docs:
        PAGE.write_text(tables.markdown(results))
    console = Console()
    if not console.is_terminal:
        console.width = TABLE_COLUMNS
    console.print(tables.page(results))
    return 1 if failed(results) or tables.missed(results) else 0


if __name__ == "__main__":
    sys.exit(main())
