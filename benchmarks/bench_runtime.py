"""The WebAssembly runtime: call overhead, cold and cached load, the price of interruption, stop latency.

    python -m benchmarks.bench_runtime [--json PATH]

Run from the checkout on a quiet machine; medians of interleaved rounds.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from wasmtime import Store

from edge.runtime import Limits, ModuleHost, WasmError, measure
from edge.runtime.binary import NOTHING, Signature
from edge.runtime.fastcall import bind, find_raw_binding
from edge.runtime.sandbox import Sandbox
from tests.unit.edge.runtime import modules
from tests.unit.edge.runtime.modules import affine_package, rows, wasm

Rows = dict[str, float]
FOREVER = float("inf")
STOP_AFTER_S = 0.3

TIGHT = """(module (func (export "run") (param $n i32) (result i32) (local $sum i32)
  (loop $again
    (local.set $sum (i32.xor (i32.mul (local.get $sum) (i32.const 31)) (local.get $n)))
    (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))) (local.get $sum)))"""


def unrolled(times: int = 16) -> str:
    step = "(local.set $x (f32x4.add (f32x4.mul (local.get $x) (local.get $a)) (local.get $a)))" * times
    return f"""(module (func (export "run") (param $n i32) (result f32) (local $x v128) (local $a v128)
      (local.set $a (f32x4.splat (f32.const 0.5)))
      (loop $again {step}
        (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
      (f32x4.extract_lane 0 (local.get $x))))"""


def medians(candidates: Mapping[str, Callable[[], object]], rounds: int = 9, target_s: float = 0.03) -> Rows:
    """Seconds per call, rounds interleaved so that a drifting clock hits all alike."""
    counts = {}
    for name, call in candidates.items():
        call()
        started = time.perf_counter()
        call()
        counts[name] = max(1, int(target_s / max(time.perf_counter() - started, 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            started = time.perf_counter()
            for _ in range(counts[name]):
                call()
            samples[name].append((time.perf_counter() - started) / counts[name])
    return {name: statistics.median(times) for name, times in samples.items()}


def bench_calls() -> Rows:
    """Microseconds per call of an empty function."""
    raw = find_raw_binding()
    sandbox = Sandbox(Limits(), guarded=False, raw=raw)
    store = sandbox.open_store(0)
    module = sandbox.compile(wasm('(module (func (export "run")))'))
    run = sandbox.instantiate(store, module, (), FOREVER).exports(store)["run"]
    found = medians(
        {
            "call, public binding": bind(store, run, NOTHING, None),
            "call, fast": bind(store, run, NOTHING, raw),
            "call, fast, GIL held": bind(store, run, NOTHING, raw, hold_gil=True),
        }
    )
    return {name: seconds * 1e6 for name, seconds in found.items()}


def bench_calls_beside_a_busy_thread() -> Rows:
    """Microseconds per call of an empty function while another Python thread computes."""
    raw = find_raw_binding()
    sandbox = Sandbox(Limits(), guarded=False, raw=raw)
    store = sandbox.open_store(0)
    module = sandbox.compile(wasm('(module (func (export "run")))'))
    run = sandbox.instantiate(store, module, (), FOREVER).exports(store)["run"]
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=busy)
    thread.start()
    found = {}
    for name, hold in (("GIL released", False), ("GIL held", True)):
        call = bind(store, run, NOTHING, raw, hold_gil=hold)
        started, calls = time.perf_counter(), 0
        while time.perf_counter() - started < 0.5:
            call()
            calls += 1
        found[f"call beside a busy thread, {name}"] = (time.perf_counter() - started) / calls * 1e6
    stop.set()
    thread.join()
    return found


async def bench_host() -> Rows:
    """Microseconds per request of a tiny model through the host, with arrays in and out."""
    x = rows(1)
    found = {}
    async with ModuleHost(limits=Limits(deadline_s=10, inline_s_max=1e-3)) as host:
        await host.load("inline", affine_package(), trusted=True)
        await host.run("inline", [x])
        found["run_now, trusted"] = medians({"_": lambda: host.run_now("inline", [x])})["_"] * 1e6
        found["await run, inline"] = await _awaited(lambda: host.run("inline", [x]))
        await host.load("foreign", affine_package())
        found["await run, in a thread, guarded"] = await _awaited(lambda: host.run("foreign", [x]))
        await host.load("echo", modules.ECHO)
        found["await run, WASI echo"] = await _awaited(lambda: host.run("echo", b"[1]"))
        batch = [[x] for _ in range(256)]
        await host.load("batched", affine_package(1, 32), trusted=True)
        found["run_many, per item of 256"] = await _awaited(lambda: host.run_many("batched", batch), 20) / 256
    return found


async def _awaited(call: Callable[[], object], times: int = 500) -> float:
    samples = []
    for _ in range(times):
        started = time.perf_counter()
        await call()  # type: ignore[misc]
        samples.append(time.perf_counter() - started)
    return statistics.median(samples) * 1e6


async def bench_load() -> Rows:
    """Milliseconds to load a package, compiled now or taken from the cache of the last start."""
    package, samples = affine_package(1, 32), {"load, compiled": [], "load, from the cache": []}
    for _ in range(7):
        with tempfile.TemporaryDirectory() as directory:
            for name in samples:
                async with ModuleHost(Path(directory), b"k" * 32) as host:
                    started = time.perf_counter()
                    await host.load("model", package, trusted=True)
                    samples[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(times) for name, times in samples.items()}


def bench_interruption() -> Rows:
    """How many times as long a loop takes with epoch checks."""
    found = {}
    for name, wat, result in (("tight loop", TIGHT, "i32"), ("unrolled loop", unrolled(), "f32")):
        calls: dict[str, Callable[[], object]] = {}
        stores: list[Store] = []
        for guarded in (False, True):
            sandbox = Sandbox(Limits(), guarded=guarded, raw=find_raw_binding())
            store = sandbox.open_store(0)
            stores.append(store)
            module = sandbox.compile(wasm(wat))
            run = sandbox.instantiate(store, module, (), time.monotonic() + 3600).exports(store)["run"]
            bound = bind(store, run, Signature(("i32",), (result,)), sandbox.raw)
            if guarded:
                store.set_epoch_deadline(1 << 40)
            calls[str(guarded)] = lambda bound=bound: bound(1_000_000)
        seconds = medians(calls)
        found[f"guarded / trusted, {name}"] = seconds["True"] / seconds["False"]
    return found


async def bench_attacks() -> Rows:
    """Milliseconds past the deadline (or past the start, when stopped for another reason) until stopped."""
    attacks: dict[str, tuple[bytes, object]] = {
        "endless loop": (wasm(modules.ENDLESS), ()),
        "WASI endless loop": (modules.SPIN, b"1"),
        "WASI flood of empty writes": (modules.FLOOD_OF_NOTHING, b"1"),
        "WASI flood": (modules.FLOOD, b"1"),
        "WASI sleep": (modules.SLEEP, b"1"),
        "deep recursion": (wasm(modules.RECURSION), ()),
        "memory bomb": (wasm(modules.MEMORY_BOMB), ()),
    }
    found = {}
    async with ModuleHost(limits=Limits(deadline_s=STOP_AFTER_S)) as host:
        for name, (binary, inputs) in attacks.items():
            await host.load("hostile", binary)
            delays = []
            for _ in range(5):
                started = time.perf_counter()
                try:
                    await host.run("hostile", inputs)
                except WasmError as error:
                    past = time.perf_counter() - started - (STOP_AFTER_S if error.code == "deadline" else 0)
                    delays.append(past * 1e3)
            found[f"{name}, worst of 5"] = max(delays)
        started = time.perf_counter()
        try:
            await host.load("hostile", wasm(modules.ENDLESS_START))
        except WasmError:
            found["endless start function"] = (time.perf_counter() - started - STOP_AFTER_S) * 1e3
    return found


async def bench_neighbour() -> Rows:
    """Milliseconds of a neighbour's request, alone and while an attack loops."""
    found = {}
    async with ModuleHost(limits=Limits(deadline_s=10)) as host:
        await host.load("neighbour", affine_package())
        for name in ("alone", "beside an endless loop"):
            attack = None
            if name != "alone":
                await host.load("hostile", wasm(modules.ENDLESS))
                attack = asyncio.create_task(host.run("hostile", (), deadline_s=2.0))
            samples = []
            for _ in range(1000):
                started = time.perf_counter()
                await host.run("neighbour", [rows(1)])
                samples.append((time.perf_counter() - started) * 1e3)
            found[f"neighbour p99, {name}"] = statistics.quantiles(samples, n=100)[98]
            if attack is not None:
                attack.cancel()
                await asyncio.gather(attack, return_exceptions=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    path = parser.parse_args().json
    measured = measure(1.0)
    sections: dict[str, tuple[str, Rows]] = {
        "calls": ("us", bench_calls() | bench_calls_beside_a_busy_thread()),
        "host": ("us", asyncio.run(bench_host())),
        "load": ("ms", asyncio.run(bench_load())),
        "interruption": ("x", bench_interruption()),
        "stopped after": ("ms", asyncio.run(bench_attacks())),
        "neighbour": ("ms", asyncio.run(bench_neighbour())),
        "device": ("GFLOP/s", {"SIMD multiply-add, one thread": measured.gflops}),
    }
    table = Table("what", "unit", "median", title="WebAssembly runtime")
    for unit, found in sections.values():
        for name, value in found.items():
            table.add_row(name, unit, f"{value:.3g}")
        table.add_section()
    Console().print(table)
    if path is not None:
        path.write_text(
            json.dumps({name: {"unit": unit, **found} for name, (unit, found) in sections.items()})
        )


if __name__ == "__main__":
    main()
