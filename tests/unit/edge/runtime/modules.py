"""Small modules, written by hand: well-behaved ones of each kind, and hostile ones of each sort."""

import json
import struct

import msgspec
import numpy as np
from wasmtime import wat2wasm

from shared.abi import Abi, Function, Parameters, Tensor, encode_section
from shared.package import MAGIC, ModuleKind, Package, PackageInfo

WIDTH = 4
PARAMETERS_AT, X_AT, Y_AT = 64, 1024, 32768


def wasm(wat: str) -> bytes:
    return bytes(wat2wasm(wat))


def pack(package: Package) -> bytes:
    """A package file written here by hand, from the format's description."""
    return MAGIC + msgspec.msgpack.encode(package)


# --- tensor modules: y = x * scale + bias, elementwise over rows of WIDTH -------------------------------


def affine_abi(batch: int, **changes: object) -> Abi:
    def tensor(name: str, shape: tuple[int, ...], offset: int) -> Tensor:
        return Tensor(name, "f32", shape, offset)

    x, y = tensor("x", (batch, WIDTH), X_AT), tensor("y", (batch, WIDTH), Y_AT)
    rate, loss = tensor("rate", (), 512), tensor("loss", (), 576)
    fields: dict[str, object] = {
        "version": 1,
        "memory_bytes": 65536,
        "functions": (
            Function("run", (x,), (y,)),
            Function("train_step", (x, rate), (loss,)),
            Function("fail", (x,), (y,)),
        ),
        "parameters": Parameters(
            PARAMETERS_AT, 32, "layout", (tensor("scale", (WIDTH,), 64), tensor("bias", (WIDTH,), 80))
        ),
    }
    return Abi(**(fields | changes))  # type: ignore[arg-type]


def affine_wat(batch: int, memory: str = "1") -> str:
    """``prepare`` adds 1 to the bias; ``train_step`` adds rate to the scale and gives its first item;
    ``fail`` copies x and traps when any row starts with 13."""
    return f"""(module (memory (export "memory") {memory})
      (func (export "prepare")
        (v128.store (i32.const 80)
          (f32x4.add (v128.load (i32.const 80)) (f32x4.splat (f32.const 1)))))
      (func (export "run") (local $at i32)
        (loop $rows
          (v128.store offset={Y_AT} (local.get $at)
            (f32x4.add (v128.load (i32.const 80))
              (f32x4.mul (v128.load offset={X_AT} (local.get $at)) (v128.load (i32.const 64)))))
          (local.set $at (i32.add (local.get $at) (i32.const 16)))
          (br_if $rows (i32.lt_u (local.get $at) (i32.const {16 * batch})))))
      (func (export "train_step")
        (v128.store (i32.const 64)
          (f32x4.add (v128.load (i32.const 64)) (v128.load32_splat (i32.const 512))))
        (f32.store (i32.const 576) (f32.load (i32.const 64))))
      (func (export "fail") (local $at i32)
        (loop $rows
          (if (f32.eq (f32.load offset={X_AT} (local.get $at)) (f32.const 13)) (then unreachable))
          (v128.store offset={Y_AT} (local.get $at) (v128.load offset={X_AT} (local.get $at)))
          (local.set $at (i32.add (local.get $at) (i32.const 16)))
          (br_if $rows (i32.lt_u (local.get $at) (i32.const {16 * batch}))))))"""


def affine(batch: int = 1) -> bytes:
    return wasm(affine_wat(batch)) + encode_section(affine_abi(batch))


SCALE = np.array([2, 3, 4, 5], np.float32)
BIAS = np.array([0, 1, 2, 3], np.float32)


def affine_expected(x: np.ndarray) -> np.ndarray:
    return x * SCALE + BIAS + np.float32(1)


def affine_package(*batches: int, **info: object) -> bytes:
    modules = {batch: affine(batch) for batch in batches or (1,)}
    described = PackageInfo(name="affine", **info)  # type: ignore[arg-type]
    return pack(Package(info=described, modules=modules, parameters=safetensors(scale=SCALE, bias=BIAS)))


def moody_package(mood: str) -> bytes:
    """As ``affine_package()``, but ``run`` does ``mood`` first, which may look at $x, the first number."""
    moody = affine_wat(1).replace(
        '(func (export "run") (local $at i32)',
        f'(func (export "run") (local $at i32) (local $x f32) '
        f"(local.set $x (f32.load (i32.const {X_AT}))) {mood}",
    )
    module = wasm(moody) + encode_section(affine_abi(1))
    parameters = safetensors(scale=SCALE, bias=BIAS)
    return pack(Package(info=PackageInfo(name="moody"), modules={1: module}, parameters=parameters))


SPINS_ON_13 = "(if (f32.eq (local.get $x) (f32.const 13)) (then (loop $again (br $again))))"
SPINS_ON_0 = "(if (f32.eq (local.get $x) (f32.const 0)) (then (loop $again (br $again))))"
TRAPS_ON_0 = "(if (f32.eq (local.get $x) (f32.const 0)) (then unreachable))"


def safetensors(**arrays: np.ndarray) -> bytes:
    names = {"float32": "F32", "int32": "I32", "int64": "I64", "uint8": "U8", "bool": "BOOL"}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in arrays.items():
        raw = array.tobytes()
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def rows(count: int) -> np.ndarray:
    return np.arange(count * WIDTH, dtype=np.float32).reshape(count, WIDTH)


# --- plain modules -------------------------------------------------------------------------------------

CALCULATOR = """(module
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "half") (param f64) (result f64) (f64.mul (local.get 0) (f64.const 0.5)))
  (func (export "single") (param f32) (result f32) (local.get 0))
  (func (export "wide") (param i64) (result i64) (local.get 0))
  (func (export "both") (param i32 f64) (result f64 i32) (local.get 1) (local.get 0))
  (func (export "divide") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
  (func (export "vector") (param v128)))"""

ENDLESS = '(module (func (export "run") (loop $again (br $again))))'
RECURSION = '(module (func $run (export "run") (call $run)))'
MEMORY_BOMB = """(module (memory (export "memory") 1)
  (func (export "run") (loop $again
    (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (br $again)))
  (func (export "pages") (result i32)
    (loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (memory.size)))"""
TABLE_BOMB = """(module (table 1 funcref)
  (func (export "run") (result i32)
    (loop $again
      (br_if $again (i32.ne (table.grow (ref.null func) (i32.const 1000)) (i32.const -1)))) (table.size)))"""
BIG_MEMORY = '(module (memory 20000) (func (export "run")))'
BIG_TABLE = '(module (table 20000000 funcref) (func (export "run")))'
MANY_TABLES = f"(module {'(table 1 funcref)' * 100})"
ENDLESS_START = "(module (func $start (loop $again (br $again))) (start $start))"
OUTSIDE = '(module (memory 1) (func (export "run") (result i32) (i32.load (i32.const 65536))))'
ABORT = '(module (func (export "run") unreachable))'
BAD_CALL = """(module (table 1 funcref) (type $t (func))
  (func (export "run") (call_indirect (type $t) (i32.const 0))))"""

# --- WASI commands -------------------------------------------------------------------------------------


def wasi(body: str, imports: str = "", memory: str = "2") -> bytes:
    """A command with stdin, stdout and exit at hand. ``$in``: reads up to 32 KiB to 1024, gives the size;
    ``$out``: writes (address, size) to stdout; ``$err`` to stderr."""
    return wasm(f"""(module
      (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      {imports}
      (memory (export "memory") {memory})
      (func $in (result i32)
        (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 32768))
        (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.load (i32.const 8)))
      (func $write (param $fd i32) (param $at i32) (param $size i32)
        (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $size))
        (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
      (func $out (param $at i32) (param $size i32)
        (call $write (i32.const 1) (local.get $at) (local.get $size)))
      (func $err (param $at i32) (param $size i32)
        (call $write (i32.const 2) (local.get $at) (local.get $size)))
      (func (export "_start") (local $size i32) {body}))""")


def wasi_import(name: str, params: str) -> str:
    return f'(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {params}) (result i32)))'


ECHO = wasi("(local.set $size (call $in)) (call $out (i32.const 1024) (local.get $size))")
FLOOD = wasi("(loop $again (call $out (i32.const 1024) (i32.const 4096)) (br $again))")
FLOOD_OF_NOTHING = wasi("(loop $again (call $out (i32.const 1024) (i32.const 0)) (br $again))")
SPIN = wasi("(loop $again (br $again))")
SLEEP = wasi(
    "(drop (call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))",
    wasi_import("poll_oneoff", "i32 i32 i32 i32"),
)


def wasi_package(binary: bytes, **info: object) -> bytes:
    described = PackageInfo(name="command", kind=ModuleKind.WASI, **info)  # type: ignore[arg-type]
    return pack(Package(info=described, modules={0: binary}))
