"""Einstein sums: two operands at a time, from the left, whose axes are sorted into five kinds.

letter in        x and y and result    batch        "bqd,bkd->bqk"  ->  batch b, rows q, columns k, depth d
                 x and result          rows
                 y and result          columns
                 x and y               depth
                 x or y alone          summed first
"""

from math import prod

from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import AtenCall, Builder
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.reduce import Reduce, ReduceKind

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def lower_einsum(aten: AtenCall, build: Builder) -> Value:
    """``(equation, operands)``."""
    operands = aten.arguments[1]
    inputs, output = _parsed(aten.arguments[0], [len(one.shape) for one in operands])
    if any(len(set(one)) != len(one) for one in inputs):
        raise aten.refuse("take the diagonal first: a letter may stand only once in an operand")
    found = _summed(build, operands[0], inputs[0], "".join((output, *inputs[1:])))
    for index in range(1, len(operands)):
        later = "".join((output, *inputs[index + 1 :]))
        other = _summed(build, operands[index], inputs[index], later + found[1])
        found = _summed(build, *found, later + other[1])
        kept = "".join(one for one in dict.fromkeys(found[1] + other[1]) if one in later)
        found = _product(build, found, other, output if index == len(operands) - 1 else kept), kept
        if index == len(operands) - 1:
            return found[0]
    return _arranged(build, *found, output)


def _parsed(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Letters of the operands and of the result; an ellipsis becomes capitals, counted from the last."""
    text = equation.replace(" ", "")
    left, arrow, output = text.partition("->")
    inputs = left.split(",")
    if any(one.isupper() for one in left):
        raise ValueError("capital letters in an einsum")
    hidden = [rank - len(one.replace("...", "")) for one, rank in zip(inputs, ranks, strict=True)]
    wide = max(count for one, count in zip(inputs, hidden, strict=True))
    dots = _LETTERS[:wide]
    inputs = [one.replace("...", dots[wide - count :]) for one, count in zip(inputs, hidden, strict=True)]
    if not arrow:
        every = "".join(inputs)
        output = dots + "".join(sorted(one for one in set(every) - set(dots) if every.count(one) == 1))
    return inputs, output.replace("...", dots)


def _summed(build: Builder, x: Value, axes: str, needed: str) -> tuple[Value, str]:
    """Axes that nobody else asks for are summed up."""
    gone = tuple(index for index, letter in enumerate(axes) if letter not in needed)
    kept = "".join(letter for letter in axes if letter in needed)
    return (build(Reduce(ReduceKind.SUM, gone), x) if gone else x), kept


def _arranged(build: Builder, x: Value, axes: str, order: str) -> Value:
    return build.permute(x, [axes.index(letter) for letter in order])


def _product(build: Builder, x: tuple[Value, str], y: tuple[Value, str], output: str) -> Value:
    both = set(x[1]) & set(y[1])
    sizes = dict(zip(y[1] + x[1], y[0].shape + x[0].shape, strict=True))
    if any(x[0].shape[x[1].index(one)] != y[0].shape[y[1].index(one)] for one in both):
        raise ValueError("an axis of one is broadcast: expand it")
    batch = "".join(one for one in output if one in both)
    rows = "".join(one for one in output if one in x[1] and one not in both)
    columns = "".join(one for one in output if one in y[1] and one not in both)
    depth = "".join(one for one in x[1] if one in both and one not in output)
    left = _grouped(build, *x, (batch, rows, depth), sizes)
    right = _grouped(build, *y, (batch, columns, depth), sizes)
    result = build(MatMul(), left, right)
    apart = build.reshape(result, tuple(sizes[one] for one in batch + rows + columns))
    return _arranged(build, apart, batch + rows + columns, output)


def _grouped(
    build: Builder, x: Value, axes: str, groups: tuple[str, str, str], sizes: dict[str, int]
) -> Value:
    """[*batch, product of the second group, product of the third]."""
    batch, outer, inner = groups
    arranged = _arranged(build, x, axes, batch + outer + inner)
    shape = (
        *(sizes[one] for one in batch),
        prod(sizes[one] for one in outer),
        prod(sizes[one] for one in inner),
    )
    return build.reshape(arranged, shape)
