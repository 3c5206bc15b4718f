"""Casts between integers of different widths: four numbers a vector, then the odd end one by one.

i64 -> i32    the low half of each            bool, u8 -> i32    zeros in front
i32 -> i64    the sign in front               i32 -> bool, u8    0 or 1; the low byte
"""

from dataclasses import dataclass

from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, shuffle
from cloud.compiler.wat import Function, Kernel, get
from shared.abi import ITEM_BYTES

_ZERO = "(v128.const i32x4 0 0 0 0)"
_LOW_BYTES = " ".join(str(4 * (lane % LANES)) for lane in range(VECTOR_BYTES))


@dataclass(frozen=True, slots=True)
class Cast:
    """``count`` numbers from one dtype to another."""

    count: int
    source: str
    target: str


def cast_kernel(cast: Cast) -> Kernel:
    """``cast_<source>_<target>_<count>(x, y)``."""
    f = Function(f"cast_{cast.source}_{cast.target}_{cast.count}", ("x", "y"))
    vectors, rest = divmod(cast.count, LANES)
    if vectors:
        with f.loop(vectors):
            _four(f, cast)
            f.advance("x", LANES * ITEM_BYTES[cast.source])
            f.advance("y", LANES * ITEM_BYTES[cast.target])
    for index in range(rest):
        _one(f, cast, index)
    return f.kernel()


def _four(f: Function, cast: Cast) -> None:
    x, y = get("x"), get("y")
    match cast.source, cast.target:
        case "i64", "i32":
            halves = shuffle((0, 2, 4, 6), f"(v128.load {x})", f"(v128.load offset=16 {x})")
            f.emit(f"(v128.store {y} {halves})")
        case "i32", "i64":
            f.set("four", f"(v128.load {x})", "v128")
            f.emit(f"(v128.store {y} (i64x2.extend_low_i32x4_s {get('four')}))")
            f.emit(f"(v128.store offset=16 {y} (i64x2.extend_high_i32x4_s {get('four')}))")
        case "bool" | "u8", "i32":
            wider = f"(i16x8.extend_low_i8x16_u (v128.load32_zero {x}))"
            f.emit(f"(v128.store {y} (i32x4.extend_low_i16x8_u {wider}))")
        case "i32", "bool" | "u8":
            low = f"(i8x16.shuffle {_LOW_BYTES} {_byte(cast.target, f'(v128.load {x})')} {_ZERO})"
            f.set("four", low, "v128")
            f.emit(f"(v128.store32_lane 0 {y} {get('four')})")
        case pair:
            raise ValueError(f"cast: {pair}")


def _byte(target: str, four: str) -> str:
    """Truth is 1, whatever number it was."""
    if target == "u8":
        return four
    return f"(v128.and (i32x4.ne {four} {_ZERO}) (v128.const i32x4 1 1 1 1))"


def _one(f: Function, cast: Cast, index: int) -> None:
    x, y = get("x"), get("y")
    at, to = f"offset={index * ITEM_BYTES[cast.source]}", f"offset={index * ITEM_BYTES[cast.target]}"
    match cast.source, cast.target:
        case "i64", "i32":
            f.emit(f"(i32.store {to} {y} (i32.load {at} {x}))")
        case "i32", "i64":
            f.emit(f"(i64.store {to} {y} (i64.load32_s {at} {x}))")
        case "bool" | "u8", "i32":
            f.emit(f"(i32.store {to} {y} (i32.load8_u {at} {x}))")
        case "i32", "bool":
            f.emit(f"(i32.store8 {to} {y} (i32.ne (i32.load {at} {x}) (i32.const 0)))")
        case _:
            f.emit(f"(i32.store8 {to} {y} (i32.load {at} {x}))")
