"""Expressions on 128-bit vectors of four float32 lanes, with partial loads and stores for the ends of arrays.

Only deterministic SIMD (no relaxed operations): the same bits on every processor. A partial load fills the
missing lanes with zero and never reads past its array.
"""

from cloud.compiler.wat import Function, get

LANES = 4
VECTOR_BYTES = 16
ZERO = "(v128.const i32x4 0 0 0 0)"


def load(pointer: str, offset: int = 0, lanes: int = LANES) -> str:
    """``lanes`` (1 to 4) floats at local ``pointer`` + ``offset`` bytes."""
    at, base = f"offset={offset}", get(pointer)
    match lanes:
        case 1:
            return f"(v128.load32_zero {at} {base})"
        case 2:
            return f"(v128.load64_zero {at} {base})"
        case 3:
            return f"(v128.load32_lane offset={offset + 8} 2 {base} (v128.load64_zero {at} {base}))"
        case _:
            return f"(v128.load {at} {base})"


def store(pointer: str, offset: int, vector: str, lanes: int = LANES) -> list[str]:
    """Instructions that write the first ``lanes`` floats of local ``vector``."""
    at, base, value = f"offset={offset}", get(pointer), get(vector)
    match lanes:
        case 1:
            return [f"(v128.store32_lane {at} 0 {base} {value})"]
        case 2:
            return [f"(v128.store64_lane {at} 0 {base} {value})"]
        case 3:
            last = f"(v128.store32_lane offset={offset + 8} 2 {base} {value})"
            return [f"(v128.store64_lane {at} 0 {base} {value})", last]
        case _:
            return [f"(v128.store {at} {base} {value})"]


def spread(f: Function, local: str, pointer: str, offset: int, *, first: bool) -> None:
    """``local`` := the number at ``pointer`` + ``offset`` bytes, four times, spread by the load itself.

    Shuffles take turns from the units that multiply and add; a load does not. Cranelift makes one instruction
    of ``f32x4.splat`` and ``f32.load`` only where a single operation reads the vector and no other load
    stands between. So a block surrounds the two, which is never left early (by the flag in local never):
    what is read behind it is the merge of the vector before and the new one, and that merge is the single
    reader. ``first``: of a turn, without the block: nothing is kept from the turn before, and the address is
    at hand for the loads that follow.
    """
    lanes = f"(f32x4.splat (f32.load offset={offset} {get(pointer)}))"
    if first:
        f.set(local, lanes, "v128")
        return
    with f.block() as apart:
        f.emit(f"(br_if ${apart} {get('never')})")
        f.set(local, lanes, "v128")


def add(x: str, y: str) -> str:
    """x + y."""
    return f"(f32x4.add {x} {y})"


def multiply(x: str, y: str) -> str:
    """x * y."""
    return f"(f32x4.mul {x} {y})"


def shuffle(lanes: tuple[int, int, int, int], x: str, y: str) -> str:
    """Four of the eight lanes of x (0 to 3) and y (4 to 7)."""
    return f"(i8x16.shuffle {' '.join(str(4 * lane + byte) for lane in lanes for byte in range(4))} {x} {y})"


def interleaved_sum(x: str, y: str) -> str:
    """[x0+x2, y0+y2, x1+x3, y1+y3]: half of a horizontal addition of two vectors."""
    return add(shuffle((0, 4, 1, 5), x, y), shuffle((2, 6, 3, 7), x, y))


def paired_sum(s: str, t: str) -> str:
    """The other half: two interleaved sums (of a, b and of c, d) -> [sum a, sum b, sum c, sum d]."""
    return add(shuffle((0, 1, 4, 5), s, t), shuffle((2, 3, 6, 7), s, t))
