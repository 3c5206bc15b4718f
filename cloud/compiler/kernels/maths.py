"""Elementary functions of four float32 lanes, as polynomials: the same bits on every processor.

Each function takes a :class:`Holder` and cheap expressions of its arguments, emits what it needs and returns
an expression. No fused multiply-add: its rounding differs from processor to processor.

Errors in units of the last place, measured over all exponents (tests/unit/cloud/compiler/test_expression.py
holds them): exp 1, expm1 2, log 1, log1p 3, tanh 3, sigmoid 2.5, erf 3, atan 3. Denormal arguments and
results are exact to the same measure, except that sigmoid(x) is 0 below x = -88.4, as torch's is.
What needs more than 24 bits on the way is in :mod:`cloud.compiler.kernels.maths_wide`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import pi

import numpy as np

from cloud.compiler.expr import Fn
from cloud.compiler.wat import Function, get

LOG2_E, LN2 = 1.4426950408889634, 0.6931471805599453
# ln 2 in two parts: multiples of the first are exact up to 2^9 of them.
LN2_HIGH, LN2_LOW = 0.693145751953125, 1.42860682030941723212e-6
# Added to a number below 2^22 it leaves the nearest integer in the last bits.
ROUNDER = 12582912.0
# (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2: least largest error, 3e-9 of e^r.
EXP = (
    0.001381446685027705,
    0.008368780418328616,
    0.04166839421510619,
    0.16666520107742278,
    0.49999993412481214,
)
# (2^f - 1) / f for |f| <= 1/2: least largest error, 9e-8 of 2^f.
EXP2 = (
    0.001326472731307149,
    0.009671512991189957,
    0.05550733581185341,
    0.24022242426872253,
    0.6931470036506653,
)
# log(1 + f) = 2 atanh(s), s = f / (2 + f): FreeBSD's e_logf.c.
LOG = (0.24279078841, 0.28498786688, 0.40000972152, 0.66666662693)
SQRT_HALF_BITS = 0x3F3504F3
# log(1 - erf(t)) / t for 0 <= t <= 4: least largest error in erf(t), 4e-8 of it.
ERF = (
    -4.07079338101e-05,
    0.000381000713969,
    -0.00125174687271,
    -0.000205715658614,
    0.0193217157083,
    -0.102814410551,
    -0.636616496772,
    -1.12837920705,
)
ERF_IS_ONE_FROM = 4.0
# (atan(t) - t) / t^3 in t^2 for |t| <= tan(pi / 8): S. Moshier's Cephes, atanf.c.
ATAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)
TAN_PI_8, TAN_3_PI_8 = 0.4142135623730950, 2.414213562373095
GATE_EXPONENT = 40  # 1 / (1 + 2^40) is nothing beside one, and three such factors are finite


@dataclass(frozen=True, slots=True)
class Holder:
    """Puts an expression into a local of its own and gives the cheap expression that reads it.

    The local is named after the expression, so that equal ones share it and equal programs have equal bytes.
    """

    f: Function

    def __call__(self, expression: str) -> str:
        if expression.startswith(("(local.get", "(v128.const")):
            return expression
        name = "v" + hashlib.sha256(expression.encode()).hexdigest()[:12]
        self.f.set(name, expression, "v128")
        return get(name)


def splat(value: float) -> str:
    """A float32 constant in four lanes."""
    with np.errstate(over="ignore"):
        text = repr(float(np.float32(value)))
    return f"(v128.const f32x4 {text} {text} {text} {text})"


def splat_i32(value: int) -> str:
    """An i32 constant in four lanes."""
    return f"(v128.const i32x4 {value} {value} {value} {value})"


def add(x: str, y: str) -> str:
    """x + y."""
    return f"(f32x4.add {x} {y})"


def sub(x: str, y: str) -> str:
    """x - y."""
    return f"(f32x4.sub {x} {y})"


def mul(x: str, y: str) -> str:
    """x * y."""
    return f"(f32x4.mul {x} {y})"


def polynomial(x: str, coefficients: Sequence[float]) -> str:
    """Horner's scheme, the highest power first."""
    result = splat(coefficients[0])
    for one in coefficients[1:]:
        result = add(mul(result, x), splat(one))
    return result


def exp(hold: Holder, x: str) -> str:
    """e^x. The power of two is applied in two steps: results down to the last denormal are rounded once."""
    x = hold(f"(f32x4.pmin (f32x4.pmax {x} {splat(-104)}) {splat(89)})")
    n, r = _reduced(hold, x)
    n = hold(f"(i32x4.sub {n} {splat(ROUNDER)})")  # the bits, as integers
    half = hold(f"(i32x4.shr_s {n} (i32.const 1))")
    return mul(mul(add(_exp_minus_one(hold, r), splat(1)), _power(half)), _power(f"(i32x4.sub {n} {half})"))


def expm1(hold: Holder, x: str) -> str:
    """e^x - 1 = 2 (2^(n-1) (e^r - 1) + 2^(n-1) - 1/2), which loses nothing near 0, nor overflows early."""
    n, r = _reduced(hold, hold(f"(f32x4.pmin (f32x4.pmax {x} {splat(-30)}) {splat(89)})"), ROUNDER + 126)
    scale = hold(_scale(n))
    half = hold(add(mul(scale, _exp_minus_one(hold, r)), sub(scale, splat(0.5))))
    return _signed(f"(f32x4.abs {add(half, half)})", x)


def log(hold: Holder, x: str) -> str:
    """Natural logarithm: -inf of 0, NaN of what is negative."""
    tiny = hold(f"(f32x4.lt {x} {splat(2.0**-126)})")
    grown = f"(v128.bitselect {mul(x, splat(2.0**23))} {x} {tiny})"
    bits = hold(f"(i32x4.sub {grown} {splat_i32(SQRT_HALF_BITS)})")
    exponent = f"(i32x4.sub (i32x4.shr_s {bits} (i32.const 23)) (v128.and {tiny} {splat_i32(23)}))"
    k = hold(f"(f32x4.convert_i32x4_s {exponent})")
    mantissa = f"(i32x4.add (v128.and {bits} {splat_i32(0x7FFFFF)}) {splat_i32(SQRT_HALF_BITS)})"
    f = hold(sub(mantissa, splat(1)))
    s = hold(f"(f32x4.div {f} {add(f, splat(2))})")
    z = hold(mul(s, s))
    half = hold(mul(mul(f, f), splat(0.5)))
    near = mul(s, add(half, mul(z, polynomial(z, LOG))))
    high, low = mul(k, splat(0.693138122558593750)), mul(k, splat(9.0580006145e-06))
    finite = add(add(sub(add(near, low), half), f), high)
    usual = f"(v128.bitselect {finite} {x} (f32x4.lt {x} {splat(np.inf)}))"  # inf and NaN stay
    edge = f"(v128.bitselect {splat(-np.inf)} {splat(np.nan)} (f32x4.eq {x} {splat(0)}))"
    return f"(v128.bitselect {edge} {usual} (f32x4.le {x} {splat(0)}))"


def log1p(hold: Holder, x: str) -> str:
    """log(1 + x) = x log(u) / (u - 1) with u = 1 + x as rounded (W. Kahan); x itself where u is 1 or inf."""
    u = hold(add(x, splat(1)))
    ratio = f"(f32x4.div {log(hold, u)} {sub(u, splat(1))})"
    same = f"(v128.or (f32x4.eq {u} {splat(1)}) (f32x4.eq {u} {splat(np.inf)}))"
    return f"(v128.bitselect {x} {mul(x, ratio)} {same})"


def tanh(hold: Holder, x: str) -> str:
    """-e / (e + 2) with e = exp(-2 |x|) - 1, and the sign of x."""
    e = _below_one(hold, f"(f32x4.pmax {mul(f'(f32x4.abs {x})', splat(-2))} {splat(-40)})")
    return _signed(f"(f32x4.div {e} {add(e, splat(2))})", x)


def sigmoid(hold: Holder, x: str) -> str:
    """1 / (1 + e^-x). At x <= -88.4 the power of two is the bit pattern of infinity: the result is 0."""
    x = hold(f"(f32x4.pmax (f32x4.pmin {x} {splat(87)}) {splat(-89)})")
    return f"(f32x4.div {splat(1)} {add(exp_between(hold, x, sign=-1), splat(1))})"


def exp_between(hold: Holder, x: str, sign: int = 1) -> str:
    """e^(sign * x) where that is from 2^-126 to 2^128: :func:`exp` less what it does for the others."""
    n, r = _reduced(hold, x, ROUNDER + 127, sign)
    return mul(add(_exp_minus_one(hold, r), splat(1)), _scale(n))


def share(hold: Holder, x: str) -> str:
    """e^x of x <= 0, 0 below -88, for what counts beside e^0: the error is 2e-7 of the result near 0, grows
    with -x, and is never more than 2e-7 of one. A fifth less to do than for :func:`exp_between`, in a chain a
    third shorter, since 2^(x log2(e)) needs no second part of ln 2.
    """
    scale, rest = _power_of_two(hold, hold(f"(f32x4.pmax {mul(x, splat(LOG2_E))} {splat(-127)})"))
    return mul(rest, scale)


def shares(f: Function, names: Sequence[str]) -> None:
    """Each local named: x -> what :func:`share` gives. Several chains side by side; local never is 0."""
    _side_by_side(
        f, {one: (f"(f32x4.pmax {mul(get(one), splat(LOG2_E))} {splat(-127)})", False) for one in names}
    )


def gate_powers(f: Function, gates: Mapping[str, Fn]) -> None:
    """Each local named: x -> e^-x for a sigmoid, e^-2x - 1 for tanh. Errors, in what the functions make of
    it, are 2e-7 of one; in tanh near 0 they are those of :func:`tanh`. Side by side, as in :func:`shares`.
    """
    arguments = {}
    for name, fn in gates.items():
        factor = splat(-2 * LOG2_E if fn is Fn.TANH else -LOG2_E)
        exponent = _between(mul(get(name), factor), -GATE_EXPONENT, GATE_EXPONENT)
        arguments[name] = exponent, fn is Fn.TANH
    _side_by_side(f, arguments)


def _side_by_side(f: Function, arguments: Mapping[str, tuple[str, bool]]) -> None:
    """Locals := 2^x of their arguments, or 2^x - 1, in stages that the branch that is never taken parts."""
    hold, bias = Holder(f), splat(ROUNDER + 127)
    with f.block() as done:
        for name, (exponent, _) in arguments.items():
            f.set(name, exponent, "v128")
            f.set(f"{name}_n", add(get(name), bias), "v128")
            f.set(name, sub(get(name), sub(get(f"{name}_n"), bias)), "v128")
        f.emit(f"(br_if ${done} {get('never')})")
        for name, (_, less_one) in arguments.items():
            f.set(name, (_less_one if less_one else _fraction)(hold, get(name)), "v128")
        f.emit(f"(br_if ${done} {get('never')})")
        for name, (_, less_one) in arguments.items():
            scale = _scale(get(f"{name}_n"))
            if less_one:
                scale = hold(scale)
                f.set(name, add(mul(get(name), scale), sub(scale, splat(1))), "v128")
            else:
                f.set(name, mul(get(name), scale), "v128")


def _between(x: str, least: float, most: float) -> str:
    return f"(f32x4.pmin (f32x4.pmax {x} {splat(least)}) {splat(most)})"


def _split(hold: Holder, x: str) -> tuple[str, str]:
    """x = n + f with |f| <= 1/2; n + 127 is in the last bits of the first."""
    shifted = hold(add(x, splat(ROUNDER + 127)))
    return shifted, hold(sub(x, sub(shifted, splat(ROUNDER + 127))))


def _power_of_two(hold: Holder, x: str) -> tuple[str, str]:
    """2^n and 2^f, whose product is 2^x."""
    shifted, f = _split(hold, x)
    return _scale(shifted), _fraction(hold, f)


def _fraction(hold: Holder, f: str) -> str:
    """2^f for |f| <= 1/2."""
    square = hold(mul(f, f))
    fifth, fourth, third, second, first = EXP2
    upper = add(
        mul(square, add(mul(f, splat(fifth)), splat(fourth))), add(mul(f, splat(third)), splat(second))
    )
    return add(mul(square, upper), add(mul(f, splat(first)), splat(1)))


def _less_one(hold: Holder, f: str) -> str:
    """2^f - 1 for |f| <= 1/2, to the last bits near 0, too."""
    square = hold(mul(f, f))
    sixth, fifth, fourth, third, second = (
        one * LN2**power for one, power in zip(EXP, range(6, 1, -1), strict=True)
    )
    upper = add(mul(square, splat(sixth)), add(mul(f, splat(fifth)), splat(fourth)))
    lower = add(mul(f, splat(third)), splat(second))
    return add(mul(square, add(mul(square, upper), lower)), mul(f, splat(LN2)))


def erf(hold: Holder, x: str) -> str:
    """The error function, 1 - exp(t P(t)) of t = |x|, and the sign of x."""
    t = hold(f"(f32x4.pmin (f32x4.abs {x}) {splat(ERF_IS_ONE_FROM)})")
    return _signed(_below_one(hold, mul(polynomial(t, ERF), t)), x)


def atan(hold: Holder, x: str) -> str:
    """atan(t) of t = |x|, -1 / t + a right angle, or (t - 1) / (t + 1) + half of one; and the sign of x."""
    t = hold(f"(f32x4.abs {x})")
    steep, middle = (hold(f"(f32x4.gt {t} {splat(one)})") for one in (TAN_3_PI_8, TAN_PI_8))

    def chosen(far: str, between: str, near: str) -> str:
        return f"(v128.bitselect {far} (v128.bitselect {between} {near} {middle}) {steep})"

    above, below = chosen(splat(-1), sub(t, splat(1)), t), chosen(t, add(t, splat(1)), splat(1))
    r = hold(f"(f32x4.div {above} {below})")
    z = hold(mul(r, r))
    angle = add(mul(mul(polynomial(z, ATAN), z), r), r)
    return _signed(add(angle, chosen(splat(pi / 2), splat(pi / 4), splat(0))), x)


def _below_one(hold: Holder, x: str) -> str:
    """e^x - 1 for -87 <= x <= 0."""
    n, r = _reduced(hold, hold(x), ROUNDER + 127)
    scale = hold(_scale(n))
    return hold(add(mul(scale, _exp_minus_one(hold, r)), sub(scale, splat(1))))


def _reduced(hold: Holder, x: str, rounder: float = ROUNDER, sign: int = 1) -> tuple[str, str]:
    """sign * x = n ln 2 + r.

    ``n``: as the last bits of a float, plus what ``rounder`` has more than :data:`ROUNDER`: an exponent's
    bias, say.
    """
    shifted = hold(add(mul(x, splat(sign * LOG2_E)), splat(rounder)))
    n = hold(sub(shifted, splat(rounder)))
    high = sub(x, mul(n, splat(LN2_HIGH))) if sign > 0 else sub(mul(n, splat(-LN2_HIGH)), x)
    return shifted, hold(sub(high, mul(n, splat(LN2_LOW))))


def _scale(n: str) -> str:
    """2^(n - 127) of the last bits: the others vanish when they are shifted to the exponent's place."""
    return f"(i32x4.shl {n} (i32.const 23))"


def _exp_minus_one(hold: Holder, r: str) -> str:
    """e^r - 1 for |r| <= ln(2) / 2.

    By Estrin's scheme: as many operations as Horner's, and a chain of five instead of eight, for a loop over
    short rows waits for chains. (G. Estrin, "Organization of computer systems", 1960.)
    """
    square = hold(mul(r, r))
    high, third, second, first, last = EXP
    upper = add(mul(square, splat(high)), add(mul(r, splat(third)), splat(second)))
    lower = add(mul(r, splat(first)), splat(last))
    return add(mul(square, add(mul(square, upper), lower)), r)


def _power(n: str) -> str:
    """2^n of integers, while it is no denormal."""
    return f"(i32x4.shl (i32x4.add {n} {splat_i32(127)}) (i32.const 23))"


def _signed(magnitude: str, x: str) -> str:
    """The sign bit of x on a magnitude."""
    return f"(v128.bitselect {x} {magnitude} {splat_i32(-(2**31))})"


FUNCTIONS: Mapping[Fn, Callable[..., str]] = {
    Fn.EXP: exp,
    Fn.EXPM1: expm1,
    Fn.LOG: log,
    Fn.LOG1P: log1p,
    Fn.TANH: tanh,
    Fn.SIGMOID: sigmoid,
    Fn.ERF: erf,
    Fn.ATAN: atan,
}
