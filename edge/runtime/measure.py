"""What this device can do, told once in its birth message: a second of SIMD arithmetic in WebAssembly."""

import statistics
from contextlib import closing
from dataclasses import dataclass
from time import monotonic, perf_counter

import wasmtime

from edge.runtime.binary import NOTHING, Signature
from edge.runtime.fastcall import Call, bind, find_raw_binding
from edge.runtime.limits import Limits
from edge.runtime.sandbox import WASMTIME_VERSION, Sandbox

_ACCUMULATORS = 12  # enough to hide the latency of an addition, few enough for 16 registers
_UNROLLED = 16  # a loop edge is where a call may be interrupted, and spills the accumulators
_FLOPS_PER_STEP = _UNROLLED * _ACCUMULATORS * 4 * 2
_SAMPLE_S = 0.02
_OVERHEAD_CALLS = 500
_SPARE_S = 60.0  # for a machine that stalls: the deadline is never in the way of an honest measurement


@dataclass(frozen=True, slots=True)
class Measurement:
    """``gflops``: single-precision multiply-adds in SIMD, one thread, median of samples."""

    gflops: float
    call_overhead_us: float
    wasmtime_version: str


def measure(seconds: float = 1.0) -> Measurement:
    """Takes about that long on one core, GIL released: run it in a thread, with nothing else running."""
    sandbox, deadline = Sandbox(Limits(), raw=find_raw_binding()), monotonic() + 2 * seconds + _SPARE_S
    with closing(sandbox), sandbox.open_store(0) as store:
        module = sandbox.compile(bytes(wasmtime.wat2wasm(_wat())))
        exports = sandbox.instantiate(store, module, (), deadline).exports(store)
        multiply = bind(store, exports["multiply"], Signature(("i32", "i32"), ("f32",)), sandbox.raw)
        nothing = bind(store, exports["nothing"], NOTHING, sandbox.raw)
        return Measurement(_gflops(multiply, seconds), _overhead_us(nothing), WASMTIME_VERSION)


def _gflops(multiply: Call, seconds: float) -> float:
    until = monotonic() + seconds
    steps, took_s = 1 << 10, 0.0
    while (took_s := _timed(multiply, steps, 0)) < _SAMPLE_S / 2:
        steps *= 2
    rates = [steps / took_s]
    while monotonic() < until:
        rates.append(steps / _timed(multiply, steps, 0))
    return statistics.median(rates) * _FLOPS_PER_STEP / 1e9


def _overhead_us(nothing: Call) -> float:
    return statistics.median(_timed(nothing) for _ in range(_OVERHEAD_CALLS)) * 1e6


def _timed(call: Call, *arguments: int) -> float:
    started = perf_counter()
    call(*arguments)
    return perf_counter() - started


def _wat() -> str:
    """x <- x * a + b with a < 1: converges to b / (1 - a), so no infinity and no denormal slows it down.

    $never is 0, which the compiler can't know: a branch that is never taken ends a basic block, and keeps it
    from moving the steps of an unrolled loop together, which would run out of registers.
    """
    names = [f"$x{index}" for index in range(_ACCUMULATORS)]
    step = "\n".join(
        f"(local.set {name} (f32x4.add (f32x4.mul (local.get {name}) (local.get $a)) (local.get $b)))"
        for name in names
    )
    total = f"(local.get {names[0]})"
    for name in names[1:]:
        total = f"(f32x4.add {total} (local.get {name}))"
    return f"""(module
      (func (export "nothing"))
      (func (export "multiply") (param $steps i32) (param $never i32) (result f32)
        (local $a v128) (local $b v128) {" ".join(f"(local {name} v128)" for name in names)}
        (local.set $a (f32x4.splat (f32.const 0.5)))
        (local.set $b (f32x4.splat (f32.const 1)))
        (block $done
          (loop $again
            {f"{step} (br_if $done (local.get $never))" * _UNROLLED}
            (br_if $again (local.tee $steps (i32.sub (local.get $steps) (i32.const 1))))))
        (f32x4.extract_lane 0 {total})))"""
