"""Functions of four float32 lanes that need float64 on the way: sin, cos, pow, fmod, division of integers.

The four lanes are widened to two halves of two float64 each, computed there, and rounded once at the end, so
that sin and cos are right for the largest arguments and pow for the largest exponents. Half the speed of the
functions in :mod:`cloud.compiler.kernels.maths`, and worth it. Errors: sin and cos 1.5, pow 1 (units of the
last place); fmod is exact.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cloud.compiler.expr import Fn
from cloud.compiler.kernels.maths import Holder, add, mul, polynomial, splat, splat_i32, sub
from cloud.compiler.wat import get

# (sin(r) - r) / r^3 and (cos(r) - 1 + r^2 / 2) / r^4 in r^2, |r| <= pi / 4: errors 4e-9 and 1e-10.
SIN = (-0.0001951083919677922, 0.008332131497689845, -0.16666654225566122)
COS = (2.442568128231068e-05, -0.0013887251482055747, 0.04166664436770547)
# log2((1 + s) / (1 - s)) / s in s^2, |s| <= 0.1716: error 1e-11. (2^f - 1) / f, |f| <= 1/2: error 5e-11.
LOG2 = (0.340780214933383, 0.4116700587106791, 0.5770836285644616, 0.961796673116678, 2.885390081790264)
EXP2 = (
    1.531507230594573e-05,
    0.00015467237779926858,
    0.0013333430273412567,
    0.009618036541140238,
    0.05550410963153452,
    0.2402265107813996,
    0.693147180541507,
)
HALF_PI = 1.5707963267948966
# pi / 2 in two parts: multiples of the first are exact up to 2^20 of them.
HALF_PI_HIGH, HALF_PI_LOW = 1.5707963267341256, 6.077100506506192e-11
# 2 / pi, 28 binary digits in each.
TWO_OVER_PI = (0xA2F9836, 0xE4E4415, 0x29FC275, 0x7D1F534, 0xDDC0DB6, 0x295993C, 0x439041F)
MEDIUM_MAX = 2.0**20
ROUNDER = 1.5 * 2.0**52  # added to an integer it leaves it in the last bits
SQRT_HALF_BITS = 0x3FE6A09E00000000

_Half = Callable[..., str]


def sine(hold: Holder, x: str) -> str:
    """sin(x) = one of sin(r), cos(r), -sin(r), -cos(r) by the quadrant; -0 stays -0."""
    quadrant, r = _quadrants(hold, x)
    return f"(v128.bitselect {x} {_by_quadrant(hold, quadrant, r)} (f32x4.eq {x} {splat(0)}))"


def cosine(hold: Holder, x: str) -> str:
    """cos(x): the sine, one quadrant later."""
    quadrant, r = _quadrants(hold, x)
    return _by_quadrant(hold, hold(f"(i32x4.add {quadrant} {splat_i32(1)})"), r)


def power(hold: Holder, x: str, y: str) -> str:
    """x^y = 2^(y log2 |x|), and C's special cases (annex F.9.4.4)."""
    size = hold(f"(f32x4.abs {x})")
    magnitude = hold(_halves(hold, _power_half, size, y))
    whole = f"(f32x4.eq (f32x4.trunc {y}) {y})"
    half = hold(mul(y, splat(0.5)))
    odd = f"(v128.and {whole} (f32x4.ne (f32x4.trunc {half}) {half}))"
    signed = f"(v128.xor {magnitude} (v128.and (v128.and {x} {splat_i32(-(2**31))}) {odd}))"
    negative = f"(v128.and (f32x4.lt {x} {splat(0)}) (f32x4.gt {x} {splat(-np.inf)}))"
    undefined = f"(v128.andnot {negative} {whole})"
    # |x| = 1 with y = +-inf; NaN in either is NaN, but 1 in either of the two cases below.
    unit = f"(v128.and (f32x4.eq {size} {splat(1)}) (f32x4.eq (f32x4.abs {y}) {splat(np.inf)}))"
    unknown = f"(v128.or (f32x4.ne {x} {x}) (f32x4.ne {y} {y}))"
    result = f"(v128.bitselect {splat(np.nan)} {signed} (v128.or {undefined} {unknown}))"
    one = f"(v128.or (v128.or (f32x4.eq {x} {splat(1)}) (f32x4.eq {y} {splat(0)})) {unit})"
    return f"(v128.bitselect {splat(1)} {result} {one})"


def remainder(hold: Holder, x: str, y: str) -> str:
    """fmod(x, y): long division, 28 binary digits of the quotient a turn, each turn exact in float64."""
    local = "rest" + hold(f"(f32x4.abs {x})").removeprefix("(local.get $v").removesuffix(")")
    divisor = hold(f"(f32x4.abs {y})")
    finite = f"(v128.and (f32x4.lt (f32x4.abs {x}) {splat(np.inf)}) (f32x4.gt {divisor} {splat(0)}))"
    hold.f.set(local, f"(v128.and (f32x4.abs {x}) {finite})", "v128")
    rests = [
        _long_division(hold, f"{local}_{half}", _wide(get(local), half), _wide(divisor, half))
        for half in (0, 1)
    ]
    rest = _joined(*(f"(f32x4.demote_f64x2_zero {one})" for one in rests))
    signed = f"(v128.bitselect {x} {rest} {splat_i32(-(2**31))})"
    defined = f"(v128.and {finite} (f32x4.eq {y} {y}))"
    return f"(v128.bitselect {signed} {splat(np.nan)} {defined})"


def floor_divide(_: Holder, x: str, y: str) -> str:
    """Integers, towards minus infinity. The quotient of two i32 in float64 never rounds up to an integer."""
    quotient = _joined(*(f"(i32x4.trunc_sat_f64x2_s_zero {_quotient(x, y, half)})" for half in (0, 1)))
    return f"(v128.and {quotient} (i32x4.ne {y} {splat_i32(0)}))"


def _quotient(x: str, y: str, half: int) -> str:
    wide = [f"(f64x2.convert_low_i32x4_s {_low(one, half)})" for one in (x, y)]
    return f"(f64x2.floor (f64x2.div {' '.join(wide)}))"


def _long_division(hold: Holder, local: str, x: str, y: str) -> str:
    """x mod y of numbers that are not negative: while x >= y, x -= y * (the quotient's first digits)."""
    f, y, rest, following = hold.f, hold(y), get(local), get(f"{local}_next")
    digits = _splat_i64(-(1 << 25))
    f.set(local, x, "v128")
    f.emit(f"(loop ${local}_again")
    step = f"(f64x2.trunc (v128.and (f64x2.div {rest} {y}) {digits}))"
    f.set(f"{local}_next", f"(f64x2.sub {rest} (f64x2.mul {step} {y}))", "v128")
    # A quotient that was rounded up to an integer gives a negative rest: one y back.
    back = f"(v128.and {y} (f64x2.lt {following} {_splat(0)}))"
    f.set(local, f"(v128.bitselect {rest} (f64x2.add {following} {back}) (f64x2.lt {rest} {y}))", "v128")
    more = f"(v128.and (f64x2.ge {rest} {y}) (f64x2.gt {y} {_splat(0)}))"
    f.emit(f"(br_if ${local}_again (v128.any_true {more})))")
    return rest


def _quadrants(hold: Holder, x: str) -> tuple[str, str]:
    """x = q pi / 2 + r with |r| <= pi / 4: q (its last two bits count) and r."""
    quadrant, r = _reduced(hold, x, _medium)
    f, large = hold.f, hold(f"(f32x4.gt (f32x4.abs {x}) {splat(MEDIUM_MAX)})")
    # NaN and infinity are large or not a number; r of both is NaN.
    names = [f"{kind}_{r.removeprefix('(local.get $').removesuffix(')')}" for kind in ("quadrant", "rest")]
    for name, one in zip(names, (quadrant, r), strict=True):
        f.set(name, one, "v128")
    f.emit(f"(if (v128.any_true {large}) (then")
    for name, one in zip(names, _reduced(hold, x, _large), strict=True):
        f.set(name, f"(v128.bitselect {one} {get(name)} {large})", "v128")
    f.emit("))")
    return get(names[0]), get(names[1])


def _reduced(hold: Holder, x: str, method: Callable[[Holder, str], tuple[str, str]]) -> tuple[str, str]:
    (q0, r0), (q1, r1) = (method(hold, hold(_wide(x, half))) for half in (0, 1))
    quadrant = _joined(*(f"(i32x4.trunc_sat_f64x2_s_zero {one})" for one in (q0, q1)))
    return hold(quadrant), hold(_joined(*(f"(f32x4.demote_f64x2_zero {one})" for one in (r0, r1))))


def _medium(hold: Holder, x: str) -> tuple[str, str]:
    n = hold(f"(f64x2.nearest (f64x2.mul {x} {_splat(1 / HALF_PI)}))")
    first = f"(f64x2.sub {x} (f64x2.mul {n} {_splat(HALF_PI_HIGH)}))"
    return n, f"(f64x2.sub {first} (f64x2.mul {n} {_splat(HALF_PI_LOW)}))"


def _large(hold: Holder, x: str) -> tuple[str, str]:
    """Quarter turns modulo 4, digit by digit of 2 / pi: 24 + 28 bits, so that each product is exact."""
    turns, rest = _splat(0), _splat(0)
    for index, digits in enumerate(TWO_OVER_PI):
        part = hold(f"(f64x2.mul {x} {_splat(digits * 2.0 ** (-28 * (index + 1)))})")
        whole = f"(f64x2.mul (f64x2.floor (f64x2.mul {part} {_splat(0.25)})) {_splat(4)})"
        total = hold(f"(f64x2.add {rest} (f64x2.sub {part} {whole}))")
        n = hold(f"(f64x2.nearest {total})")
        turns, rest = hold(f"(f64x2.add {turns} {n})"), hold(f"(f64x2.sub {total} {n})")
    return turns, f"(f64x2.mul {rest} {_splat(HALF_PI)})"


def _by_quadrant(hold: Holder, quadrant: str, r: str) -> str:
    z = hold(mul(r, r))
    sin = add(mul(mul(polynomial(z, SIN), z), r), r)
    cos = add(sub(splat(1), mul(z, splat(0.5))), mul(mul(z, z), polynomial(z, COS)))
    odd = f"(i32x4.ne (v128.and {quadrant} {splat_i32(1)}) {splat_i32(0)})"
    sign = f"(i32x4.shl (v128.and {quadrant} {splat_i32(2)}) (i32.const 30))"
    return f"(v128.xor (v128.bitselect {cos} {sin} {odd}) {sign})"


def _power_half(hold: Holder, x: str, y: str) -> str:
    """2^(y log2 x) for x >= 0."""
    exponent = hold(f"(f64x2.mul {y} {_log2(hold, x)})")
    t = hold(f"(f64x2.pmin (f64x2.pmax {exponent} {_splat(-200)}) {_splat(200)})")
    shifted = hold(f"(f64x2.add {t} {_splat(ROUNDER)})")
    f = hold(f"(f64x2.sub {t} (f64x2.sub {shifted} {_splat(ROUNDER)}))")
    mantissa = f"(f64x2.add (f64x2.mul {_polynomial(f, EXP2)} {f}) {_splat(1)})"
    scale = f"(i64x2.add (i64x2.shl {shifted} (i32.const 52)) (v128.const i64x2 {1023 << 52} {1023 << 52}))"
    return f"(f64x2.mul {mantissa} {scale})"


def _log2(hold: Holder, x: str) -> str:
    """log2 of a float32 in float64: -inf of 0, inf of inf."""
    bits = hold(f"(i64x2.sub {x} {_splat_i64(SQRT_HALF_BITS)})")
    magic = f"(i64x2.add (i64x2.shr_s {bits} (i32.const 52)) {_splat(ROUNDER)})"
    k = f"(f64x2.sub {magic} {_splat(ROUNDER)})"
    m = hold(f"(i64x2.add (v128.and {bits} {_splat_i64((1 << 52) - 1)}) {_splat_i64(SQRT_HALF_BITS)})")
    s = hold(f"(f64x2.div (f64x2.sub {m} {_splat(1)}) (f64x2.add {m} {_splat(1)}))")
    z = hold(f"(f64x2.mul {s} {s})")
    usual = f"(f64x2.add {k} (f64x2.mul {s} {_polynomial(z, LOG2)}))"
    finite = f"(v128.bitselect {usual} {x} (f64x2.lt {x} {_splat(np.inf)}))"
    return f"(v128.bitselect {_splat(-np.inf)} {finite} (f64x2.eq {x} {_splat(0)}))"


def _halves(hold: Holder, function: _Half, *args: str) -> str:
    halves = [function(hold, *(hold(_wide(one, half)) for one in args)) for half in (0, 1)]
    return _joined(*(f"(f32x4.demote_f64x2_zero {one})" for one in halves))


def _wide(x: str, half: int) -> str:
    return f"(f64x2.promote_low_f32x4 {_low(x, half)})"


def _low(x: str, half: int) -> str:
    """The half as the lower one."""
    if half == 0:
        return x
    return f"(i8x16.shuffle {' '.join(str(byte % 16) for byte in range(8, 24))} {x} {x})"


def _joined(low: str, high: str) -> str:
    """The lower halves of two vectors."""
    return f"(i8x16.shuffle {' '.join(str(byte) for byte in (*range(8), *range(16, 24)))} {low} {high})"


def _splat(value: float) -> str:
    return f"(v128.const f64x2 {float(value)!r} {float(value)!r})"


def _splat_i64(value: int) -> str:
    return f"(v128.const i64x2 {value} {value})"


def _polynomial(x: str, coefficients: Sequence[float]) -> str:
    result = _splat(coefficients[0])
    for one in coefficients[1:]:
        result = f"(f64x2.add (f64x2.mul {result} {x}) {_splat(one)})"
    return result


FUNCTIONS: Mapping[Fn, Callable[..., str]] = {
    Fn.SIN: sine,
    Fn.COS: cosine,
    Fn.POW: power,
    Fn.FMOD: remainder,
    Fn.FLOOR_DIV: floor_divide,
}
