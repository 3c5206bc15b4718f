"""The operator table, without torch: plain values in, operations out."""

import pytest

from cloud.compiler.aten import ADVICE, LOWERINGS, AtenCall, lower
from cloud.compiler.errors import UnsupportedOperator
from cloud.compiler.ir import Value
from cloud.compiler.ops import Add, Identity, Linear, Relu, Reshape

X = Value("x", (2, 3))
W = Value("w", (4, 3))
B = Value("b", (3,))


def call(operator: str, *arguments: object, shape=(2, 3), **keywords: object) -> AtenCall:
    return AtenCall(f"aten.{operator}", arguments, shape, "model.py:12: the line", keywords)


@pytest.mark.parametrize(
    ("given", "op", "operands"),
    [
        (call("linear.default", X, W, shape=(2, 4)), Linear(), (X, W)),
        (call("linear.default", X, W, None, shape=(2, 4)), Linear(), (X, W)),
        (call("relu.default", X), Relu(), (X,)),
        (call("add.Tensor", X, B), Add(), (X, B)),
        (call("add.Tensor", B, X), Add(), (X, B)),
        (call("view.default", X, [3, 2], shape=(3, 2)), Reshape((3, 2)), (X,)),
        (call("flatten.using_ints", X, 0, shape=(6,)), Reshape((6,)), (X,)),
        (call("dropout.default", X, 0.5, False), Identity(), (X,)),
        (call("clone.default", X), Identity(), (X,)),
    ],
)
def test_an_operator_becomes_an_operation(given, op, operands):
    assert lower(given) == (op, operands)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (call("gelu.default", X), "use torch.nn.ReLU"),
        (call("never_heard_of_it.default", X), "the compiler covers add, "),
        (call("add.Tensor", X, 1.0), "instead of a number"),
        (call("add.Tensor", X, B, alpha=2), "alpha"),
        (call("add.Tensor", X, Value("c", (2, 1))), "broadcasting"),
        (call("dropout.default", X, 0.5, True), "training=self.training"),
        (AtenCall("torch.relu", (X,), (2, 3), "model.py:12: the line"), "the compiler covers"),
    ],
)
def test_what_is_not_covered_says_what_where_and_what_to_do(given, advice):
    with pytest.raises(UnsupportedOperator) as caught:
        lower(given)
    assert str(caught.value).startswith(f"{given.operator} is not supported; ")
    assert "at model.py:12: the line" in str(caught.value)
    assert advice in caught.value.advice


def test_advice_is_given_only_for_what_is_not_covered():
    assert not ADVICE.keys() & LOWERINGS.keys()
