"""The WebAssembly runtime: call overhead, cold and cached load, the price of interruption, stop latency.

    python -m benchmarks.bench_runtime [--json PATH]

Run from the checkout on a quiet machine; medians of interleaved rounds.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from wasmtime import Config, Engine, Instance, Module, Store

from edge.__main__ import SWITCH_S
from edge.runtime import Limits, ModuleHost, WasmError, measure
from edge.runtime.binary import NOTHING, Signature
from edge.runtime.fastcall import bind, find_raw_binding
from edge.runtime.sandbox import Sandbox
from tests.unit.edge.runtime import modules
from tests.unit.edge.runtime.modules import SPINS_ON_13, affine_package, moody_package, rows, wasm

Rows = dict[str, float]
STOP_AFTER_S = 0.3
DIGITS = Path("examples/digits/digits.shoal")
IN_THREADS = Limits(deadline_s=10, inline_s_max=1e-9)  # nothing is that quick

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
    with closing(Sandbox(Limits(), raw=raw)) as sandbox, sandbox.open_store(0) as store:
        module = sandbox.compile(wasm('(module (func (export "run")))'))
        deadline = time.monotonic() + 3600
        run = sandbox.instantiate(store, module, (), deadline).exports(store)["run"]
        public, fast = bind(store, run, NOTHING, None), bind(store, run, NOTHING, raw)
        found = medians({"call, public binding": public, "call, fast": fast})
    return {name: seconds * 1e6 for name, seconds in found.items()}


async def bench_beside_a_busy_thread() -> Rows:
    """Microseconds per inline call beside a Python thread that computes, by switch interval."""
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            sum(range(1000))

    found, before = {}, sys.getswitchinterval()
    async with ModuleHost(limits=Limits(deadline_s=10, inline_s_max=0.1)) as host:
        await host.load("affine", affine_package())
        thread = threading.Thread(target=busy)
        thread.start()
        try:
            for switch_s in (0.005, SWITCH_S):
                sys.setswitchinterval(switch_s)
                started, calls = time.perf_counter(), 0
                while time.perf_counter() - started < 0.5:
                    host.run_now("affine", [rows(1)])
                    calls += 1
                seconds = (time.perf_counter() - started) / calls
                found[f"run_now beside a busy thread, switching after {switch_s * 1e3:g} ms"] = seconds * 1e6
        finally:
            stop.set()
            thread.join()
            sys.setswitchinterval(before)
    return found


async def bench_host() -> Rows:
    """Microseconds per request of a tiny model through the host, with arrays in and out."""
    x, found = rows(1), {}
    async with ModuleHost(limits=Limits(deadline_s=10, inline_s_max=1e-3)) as host:
        await host.load("inline", affine_package())
        calls: dict[str, Callable[[], object]] = {"run_now, affine": lambda: host.run_now("inline", [x])}
        await host.load("digits", DIGITS)
        image = np.zeros((1, 64), np.float32)
        calls["run_now, digits"] = lambda: host.run_now("digits", [image])
        found |= {name: seconds * 1e6 for name, seconds in medians(calls).items()}
        found["run_now, digits, ticker asleep"] = await _woken(host, calls["run_now, digits"])
        found["await run, inline"] = await _awaited(lambda: host.run("inline", [x]))
        await host.load("echo", modules.ECHO)
        found["await run, WASI echo"] = await _awaited(lambda: host.run("echo", b"[1]"))
        batch = [[x] for _ in range(256)]
        await host.load("batched", affine_package(1, 32))
        found["run_many, per item of 256"] = await _awaited(lambda: host.run_many("batched", batch), 20) / 256
    async with ModuleHost(limits=IN_THREADS) as host:
        await host.load("threaded", affine_package())
        found["await run, in a thread"] = await _awaited(lambda: host.run("threaded", [x]))
    return found


async def _woken(host: ModuleHost, call: Callable[[], object]) -> float:
    """Microseconds of the first call after the host was idle for a while."""
    samples = []
    for _ in range(5):
        await asyncio.sleep(1.2)
        assert not host._sandbox.ticking
        started = time.perf_counter()
        call()
        samples.append(time.perf_counter() - started)
    return statistics.median(samples) * 1e6


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
                    await host.load("model", package)
                    samples[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(times) for name, times in samples.items()}


def bench_interruption() -> Rows:
    """How many times as long a loop takes with epoch checks; the runtime itself has no way without them."""
    found = {}
    for name, wat, result in (("tight loop", TIGHT, "i32"), ("unrolled loop", unrolled(), "f32")):
        calls: dict[str, Callable[[], object]] = {}
        stores: list[Store] = []  # a bound call needs its store, and does not keep it
        for interruption in (False, True):
            config = Config()
            config.epoch_interruption = interruption
            store = Store(Engine(config))
            stores.append(store)
            run = Instance(store, Module(store.engine, wasm(wat)), []).exports(store)["run"]
            if interruption:
                store.set_epoch_deadline(1 << 40)
            call = bind(store, run, Signature(("i32",), (result,)), find_raw_binding())
            calls[str(interruption)] = partial(call, 1_000_000)
        seconds = medians(calls)
        found[f"interruptible / not, {name}"] = seconds["True"] / seconds["False"]
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


async def bench_hostile_tensor() -> Rows:
    """Milliseconds that the event loop is held by a tensor module that was quick and then spins."""
    held, spin = [], [rows(1) + 13]
    for _ in range(7):
        async with ModuleHost(limits=Limits(deadline_s=STOP_AFTER_S)) as host:
            await host.load("hostile", moody_package(SPINS_ON_13))
            started = time.perf_counter()
            host.run_now("hostile", spin)
            held.append((time.perf_counter() - started) * 1e3)
    return {"event loop held by a hostile tensor module, worst of 7": max(held)}


async def bench_neighbour() -> Rows:
    """Milliseconds of a neighbour's request, alone and while an attack loops; rounds interleaved."""
    found = {}
    for where, limits in (("inline", Limits(deadline_s=10)), ("in a thread", IN_THREADS)):
        samples: dict[str, list[float]] = {"alone": [], "beside an endless loop": []}
        async with ModuleHost(limits=limits) as host:
            await host.load("neighbour", affine_package())
            await host.load("hostile", wasm(modules.ENDLESS))
            for _ in range(5):
                await _requests(host, samples["alone"])
                attack = asyncio.create_task(host.run("hostile", (), deadline_s=0.5))
                await asyncio.sleep(0.01)
                await _requests(host, samples["beside an endless loop"], until=attack)
        for name, times in samples.items():
            found[f"neighbour p99, {where}, {name}"] = statistics.quantiles(times, n=100)[98]
    return found


async def _requests(
    host: ModuleHost, samples: list[float], until: asyncio.Task[object] | None = None
) -> None:
    for _ in range(400):
        started = time.perf_counter()
        await host.run("neighbour", [rows(1)])
        samples.append((time.perf_counter() - started) * 1e3)
        await asyncio.sleep(0)
    if until is not None:
        await asyncio.gather(until, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    path = parser.parse_args().json
    measured = measure(1.0)
    sections: dict[str, tuple[str, Rows]] = {
        "calls": ("us", bench_calls() | asyncio.run(bench_beside_a_busy_thread())),
        "host": ("us", asyncio.run(bench_host())),
        "load": ("ms", asyncio.run(bench_load())),
        "interruption": ("x", bench_interruption()),
        "stopped after": ("ms", asyncio.run(bench_attacks()) | asyncio.run(bench_hostile_tensor())),
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
