"""Small constant matrices times registers, with as few additions and multiplications as they allow.

rows a + b and a - b      two rows whose factors differ in signs only share what agrees and what differs
columns                   the same of two operands: their sum and their difference are all that is read
4 x + 4 y - 5 z           4 (x + y) - 5 z: operands of one factor are added first
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from cloud.compiler.kernels.maths import splat
from cloud.compiler.kernels.vector import add, multiply
from cloud.compiler.ops.winograd import Matrix
from cloud.compiler.wat import Function, get

_Terms: TypeAlias = list[tuple[float, str]]  # factor, value


def combined(f: Function, matrix: Matrix, values: Sequence[str]) -> list[str]:
    """Expressions of ``matrix @ values``. Each value is read once, at the point where this is called."""
    terms = _columns(f, matrix, _locals(f, "d", values))
    result = [""] * len(matrix)
    for index, (factors, operands) in enumerate(terms):
        if result[index]:
            continue
        twin = _twin(terms, index)
        if twin is None:
            result[index] = _sum([*zip(factors, operands, strict=True)])
            continue
        parts = _halves(f, index, terms[index], terms[twin])
        result[index], result[twin] = add(*parts), _subtract(*parts)
    return result


_Row: TypeAlias = tuple[list[float], list[str]]


def _columns(f: Function, matrix: Matrix, values: list[str]) -> list[_Row]:
    """The rows, with two operands whose factors differ in signs only replaced by their sum and difference."""
    rows: list[_Row] = [([], []) for _ in matrix]
    left = list(range(len(values)))
    while left:
        one = left.pop(0)
        other = next((at for at in left if _same_size(matrix[:, one], matrix[:, at])), None)
        if other is None:
            _append(rows, matrix[:, one], values[one])
            continue
        left.remove(other)
        agree = matrix[:, one] == matrix[:, other]
        for name, where, value in (
            ("plus", agree, add(values[one], values[other])),
            ("minus", ~agree, _subtract(values[one], values[other])),
        ):
            (total,) = _locals(f, f"{name}{one}_", [value])
            _append(rows, np.where(where, matrix[:, one], 0.0), total)
    return rows


def _same_size(one: Matrix, other: Matrix) -> bool:
    """Whether a sum and a difference serve both; a difference must be worth having."""
    count = np.count_nonzero(one)
    agree = np.count_nonzero((one == other) & (one != 0))
    return bool((abs(one) == abs(other)).all() and 0 < agree < count)


def _append(rows: list[_Row], factors: Matrix, value: str) -> None:
    for (known, operands), factor in zip(rows, factors, strict=True):
        if factor:
            known.append(float(factor))
            operands.append(value)


def _twin(rows: Sequence[_Row], index: int) -> int | None:
    """A later row of the same operands, whose factors partly agree and partly differ in sign."""
    factors, operands = rows[index]
    for at in range(index + 1, len(rows)):
        others, same = rows[at]
        if same == operands and [abs(one) for one in factors] == [abs(one) for one in others]:
            agree = sum(one == other for one, other in zip(factors, others, strict=True))
            if 0 < agree < len(factors):
                return at
    return None


def _halves(f: Function, index: int, row: _Row, twin: _Row) -> list[str]:
    """What two rows have in common, and what they have with opposite signs."""
    triples = [*zip(row[0], twin[0], row[1], strict=True)]
    agree: _Terms = [(one, value) for one, other, value in triples if one == other]
    differ: _Terms = [(one, value) for one, other, value in triples if one != other]
    return [*_locals(f, f"agree{index}_", [_sum(agree)]), *_locals(f, f"differ{index}_", [_sum(differ)])]


def _sum(terms: _Terms) -> str:
    """The sum of factors times values."""
    groups: dict[float, _Terms] = {}
    for factor, value in terms:
        groups.setdefault(abs(factor), []).append((factor, value))
    totals = [_group(size, members) for size, members in groups.items()]
    totals.sort(key=lambda one: one[0] < 0)  # begin with what is added
    negative, result = totals[0]
    if negative:
        result = f"(f32x4.neg {result})"
    for negative, total in totals[1:]:
        result = _subtract(result, total) if negative else add(result, total)
    return result


def _group(size: float, members: _Terms) -> tuple[bool, str]:
    """Values of one factor: whether to subtract, and what."""
    first, result = members[0]
    for factor, value in members[1:]:
        result = add(result, value) if factor == first else _subtract(result, value)
    return first < 0, result if size == 1 else multiply(result, splat(size))


def _locals(f: Function, name: str, values: Sequence[str]) -> list[str]:
    for index, value in enumerate(values):
        f.set(f"{name}{index}", value, "v128")
    return [get(f"{name}{index}") for index in range(len(values))]


def _subtract(x: str, y: str) -> str:
    return f"(f32x4.sub {x} {y})"
