"""Expressions in SIMD: every function against float64, on all kinds of float32 numbers."""

from math import inf, nan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.compiler.expr import Arg, Call, Expr, Fn, Number, call, dtype_of, evaluate
from tests.unit.cloud.compiler.lanes import kernel, run

DENORMAL = 2.0**-149
_SIZES = (
    0,
    DENORMAL,
    1e-40,
    1e-10,
    0.5,
    0.9277,
    1,
    np.pi / 2,
    4.1,
    2 * np.pi,
    87.4,
    88.72,
    88.73,
    103.9,
    104.1,
)
EDGES = np.array(
    [sign * one for one in (*_SIZES, 2**20, 2**20 + 1, 1e10, 3.4e38, inf, nan) for sign in (1, -1)], "f4"
)
FUNCTIONS = {  # the function in torch (as float64), and the error allowed in units of the last place
    Fn.EXP: (torch.exp, 1.0),
    Fn.EXPM1: (torch.expm1, 2.0),
    Fn.LOG: (torch.log, 1.0),
    Fn.LOG1P: (torch.log1p, 3.0),
    Fn.TANH: (torch.tanh, 3.0),
    Fn.SIGMOID: (torch.sigmoid, 2.5),
    Fn.ERF: (torch.erf, 3.0),
    Fn.SIN: (torch.sin, 2.0),
    Fn.COS: (torch.cos, 2.0),
    Fn.ATAN: (torch.atan, 3.0),
}


def numbers(count: int, seed: int = 0) -> np.ndarray:
    """All exponents alike, then numbers as they occur in models, then the edges."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 1 << 32, count, dtype=np.uint64).astype(np.uint32).view(np.float32)
    usual = [rng.normal(0, 3, count), rng.uniform(-100, 100, count)]
    return np.concatenate([bits, *(one.astype(np.float32) for one in usual), EDGES])


def assert_close(got: np.ndarray, exact: np.ndarray, ulps: float, args: tuple[np.ndarray, ...]) -> None:
    """Within some units of the last place; equal where the result is not finite, and NaN where that is."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded)
    assert np.array_equal(got[~finite], rounded[~finite], equal_nan=True), "not finite"
    error = np.abs(got[finite].astype(np.float64) - exact[finite])
    error /= np.maximum(np.spacing(np.abs(rounded[finite])), DENORMAL)
    worst = int(error.argmax())
    assert error[worst] <= ulps, f"{error[worst]:.2f} ulp at {[one[finite][worst] for one in args]}"


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_an_elementary_function_is_right_for_every_kind_of_number(fn: Fn) -> None:
    x = numbers(1 << 15)
    function, ulps = FUNCTIONS[fn]
    exact = function(torch.from_numpy(x).double()).numpy()
    got = run(call(fn, Arg(0)), x)
    if fn is Fn.SIGMOID:  # zero where the result would be a denormal
        tiny = exact < 1e-38
        assert np.abs(got[tiny]).max() < 1.2e-38
        x, exact, got = x[~tiny], exact[~tiny], got[~tiny]
    assert_close(got, exact, ulps, (x,))


@pytest.mark.parametrize("fn", [Fn.TANH, Fn.ERF, Fn.SIN, Fn.EXPM1, Fn.LOG1P])
def test_an_odd_beginning_keeps_the_sign_of_zero(fn: Fn) -> None:
    assert np.signbit(run(call(fn, Arg(0)), np.array([-0.0, 0.0], np.float32))).tolist() == [True, False]


def test_pow_is_right_for_all_exponents_and_the_special_cases_of_c() -> None:
    x, y = numbers(1 << 13), np.random.default_rng(1).permutation(numbers(1 << 13))
    x = np.concatenate([x, np.repeat(EDGES, len(EDGES)), np.repeat(EDGES, 9)])
    y = np.concatenate(
        [y, np.tile(EDGES, len(EDGES)), np.tile(np.arange(-4, 5, dtype=np.float32), len(EDGES))]
    )
    exact = torch.pow(torch.from_numpy(x).double(), torch.from_numpy(y).double()).numpy()
    assert_close(run(call(Fn.POW, Arg(0), Arg(1)), x, y), exact, 1.0, (x, y))


def test_fmod_is_exact_however_large_the_quotient() -> None:
    x, y = numbers(1 << 13), np.random.default_rng(1).permutation(numbers(1 << 13))
    x, y = np.concatenate([x, np.repeat(EDGES, len(EDGES))]), np.concatenate([y, np.tile(EDGES, len(EDGES))])
    with np.errstate(all="ignore"):
        exact = np.fmod(x.astype(np.float64), y.astype(np.float64))
    assert_close(run(call(Fn.FMOD, Arg(0), Arg(1)), x, y), exact, 0.0, (x, y))


def test_integers_divide_towards_minus_infinity() -> None:
    rng = np.random.default_rng(2)
    x, y = (rng.integers(-(2**31), 2**31, 4096) >> rng.integers(0, 32, 4096) for _ in range(2))
    x, y = np.append(x, [7, -7, 0]).astype(np.int32), np.append(y, [0, 0, 0]).astype(np.int32)
    expr = Call(Fn.FLOOR_DIV, (Arg(0), Arg(1)))
    with np.errstate(all="ignore"):
        assert np.array_equal(run(expr, x, y, result=np.int32), evaluate(expr, (x, y)))


UNARY = [Fn.RELU, Fn.SQRT, Fn.FLOOR, Fn.CEIL, Fn.TRUNC, Fn.NEAREST, Fn.NEG, Fn.ABS]
BINARY = [Fn.ADD, Fn.SUB, Fn.MUL, Fn.DIV, Fn.MAX, Fn.MIN, Fn.EQ, Fn.NE, Fn.LT, Fn.LE, Fn.GT, Fn.GE]


@pytest.mark.parametrize("fn", [*UNARY, *BINARY])
def test_one_instruction_means_what_numpy_means(fn: Fn) -> None:
    x, y = np.repeat(EDGES, len(EDGES)), np.tile(EDGES, len(EDGES))
    expr = call(fn, Arg(0)) if fn in UNARY else call(fn, Arg(0), Arg(1))
    wanted = evaluate(expr, (x, y))
    got = run(expr, x, y, result=wanted.dtype.type)
    assert np.array_equal(got, wanted, equal_nan=True)
    known = ~np.isnan(wanted)
    if fn not in (Fn.MAX, Fn.MIN):  # of 0 and -0, numpy takes either
        assert np.array_equal(np.signbit(got[known]), np.signbit(wanted[known]))


@st.composite
def expressions(draw: st.DrawFn, dtype: str, depth: int = 4) -> Expr:
    """Over two floats (0, 1) and two integers (2, 3); what keeps small integers exact."""
    other = "i32" if dtype == "f32" else "f32"

    def inner(wanted: str) -> Expr:
        return draw(expressions(wanted, depth - 1))

    kinds = ["leaf"] if depth == 0 else ["leaf", "one", "two", "where", "convert", "compare", "bits"]
    match draw(st.sampled_from(kinds)):
        case "one":
            fn = draw(st.sampled_from([Fn.NEG, Fn.ABS] + ([Fn.RELU] if dtype == "f32" else [])))
            return Call(fn, (inner(dtype),))
        case "two":
            fn = draw(st.sampled_from([Fn.ADD, Fn.SUB, Fn.MAX, Fn.MIN]))
            return Call(fn, (inner(dtype), inner(dtype)))
        case "where":
            return Call(Fn.WHERE, (inner("i32"), inner(dtype), inner(dtype)))
        case "convert":
            return Call(Fn.TO_F32 if dtype == "f32" else Fn.TO_I32, (inner(other),))
        case "compare" if dtype == "i32":
            kind = draw(st.sampled_from(["f32", "i32"]))
            return Call(draw(st.sampled_from(BINARY[6:])), (inner(kind), inner(kind)))
        case "bits" if dtype == "i32":
            return Call(draw(st.sampled_from([Fn.AND, Fn.OR, Fn.XOR])), (inner("i32"), inner("i32")))
        case _:
            number = Number(draw(st.integers(-2, 2)), dtype)
            return draw(
                st.sampled_from([number, Arg(0 if dtype == "f32" else 2), Arg(1 if dtype == "f32" else 3)])
            )


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["f32", "i32"]).flatmap(expressions), st.integers(0, 2**16))
def test_any_expression_means_what_numpy_means(expr: Expr, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = [rng.integers(-3, 4, 21).astype(np.float32 if index < 2 else np.int32) for index in range(4)]
    wanted = np.broadcast_to(evaluate(expr, arrays), 21)
    result = np.float32 if dtype_of(expr, ["f32", "f32", "i32", "i32"]) == "f32" else np.int32
    assert np.array_equal(run(expr, *arrays, result=result), wanted)


def test_what_is_read_twice_is_computed_once() -> None:
    twice = call(Fn.EXP, Arg(0))
    expr = call(Fn.MUL, twice, call(Fn.ADD, twice, 1.0))
    assert kernel(expr, ["f32"], 1).wat.count("pmax") == kernel(twice, ["f32"], 1).wat.count("pmax")


def test_a_comparison_inside_a_choice_stays_a_mask() -> None:
    positive, small = call(Fn.GT, Arg(0), 0.0), call(Fn.LT, Arg(0), 1.0)
    wat = kernel(call(Fn.WHERE, Call(Fn.AND, (positive, small)), Arg(0), 0.0), ["f32"], 1).wat
    assert "v128.and (f32x4.gt" in wat
    assert "i32x4.ne" not in wat
    assert "shr_u" not in wat


@pytest.mark.parametrize("bound", [-0.5, 0.0, inf, nan])
@pytest.mark.parametrize("fn", [Fn.MAX, Fn.MIN])
def test_a_constant_bound_keeps_what_is_not_a_number(fn: Fn, bound: float) -> None:
    expr = call(fn, Arg(0), bound)
    assert np.array_equal(run(expr, EDGES), evaluate(expr, (EDGES,)), equal_nan=True)


def test_the_same_expression_is_the_same_text() -> None:
    expr = call(Fn.ERF, call(Fn.SIGMOID, Arg(0)))
    assert kernel(expr, ["f32"], 3) == kernel(expr, ["f32"], 3)
