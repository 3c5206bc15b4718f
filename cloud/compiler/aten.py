"""ATen operators -> operations of the intermediate representation: one table, no torch.

The front end turns every node of the exported graph into an :class:`AtenCall` of plain Python values, so that
this table can be read, and tested, without torch. A lowering is a function ``AtenCall -> (op, operands)``; a
name that is not in the table, or a form of it that the operation does not cover, raises
:class:`UnsupportedOperator`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from cloud.compiler.errors import UnsupportedOperator
from cloud.compiler.ir import Op, Shape, Value
from cloud.compiler.ops import Add, Identity, Linear, Relu, Reshape

Lowered: TypeAlias = tuple[Op, tuple[Value, ...]]


@dataclass(frozen=True, slots=True)
class AtenCall:
    """One call in the exported graph. ``operator``: ``aten.linear.default``; ``shape``: the result's."""

    operator: str
    arguments: tuple[object, ...]
    shape: Shape
    source: str
    keywords: Mapping[str, object] = field(default_factory=dict)

    @property
    def base_name(self) -> str:
        """``linear`` of ``aten.linear.default``."""
        return self.operator.removeprefix("aten.").split(".")[0]

    def values(self) -> tuple[Value, ...]:
        """The arguments that are arrays, in order; an optional one may be missing."""
        return tuple(argument for argument in self.arguments if isinstance(argument, Value))

    def refuse(self, advice: str) -> UnsupportedOperator:
        """The error for this call."""
        return UnsupportedOperator(self.operator, self.source, advice)


def lower(call: AtenCall) -> Lowered:
    """The operation that computes this call. Raises :class:`UnsupportedOperator`."""
    lowering = LOWERINGS.get(call.base_name)
    if lowering is None or not call.operator.startswith("aten."):
        raise call.refuse(ADVICE.get(call.base_name, f"the compiler covers {', '.join(sorted(LOWERINGS))}"))
    return lowering(call)


def _linear(call: AtenCall) -> Lowered:
    return Linear(), call.values()


def _relu(call: AtenCall) -> Lowered:
    return Relu(), call.values()


def _add(call: AtenCall) -> Lowered:
    if len(call.values()) != 2:
        raise call.refuse("add an array (a parameter of the model) instead of a number")
    if call.keywords.get("alpha", 1) != 1:
        raise call.refuse("scale the array before adding it, instead of passing alpha")
    x, y = sorted(call.values(), key=lambda value: len(value.shape), reverse=True)
    if not y.shape or x.shape[-len(y.shape) :] != y.shape:
        raise call.refuse(
            f"shapes {x.shape} and {y.shape} need general broadcasting: expand one of them first"
        )
    return Add(), (x, y)


def _reshape(call: AtenCall) -> Lowered:
    return Reshape(call.shape), call.values()


def _identity(call: AtenCall) -> Lowered:
    return Identity(), call.values()


def _dropout(call: AtenCall) -> Lowered:
    if call.arguments[2:3] == (True,):
        raise call.refuse("call it with training=self.training: inference has no randomness")
    return Identity(), call.values()


LOWERINGS: Mapping[str, Callable[[AtenCall], Lowered]] = {
    "add": _add,
    "alias": _identity,
    "clone": _identity,
    "contiguous": _identity,
    "detach": _identity,
    "dropout": _dropout,
    "flatten": _reshape,
    "linear": _linear,
    "relu": _relu,
    "reshape": _reshape,
    "squeeze": _reshape,
    "unsqueeze": _reshape,
    "view": _reshape,
}

_RELU = "use torch.nn.ReLU instead"
_LINEAR = "use torch.nn.Linear instead"
_CLASSES = "return the logits and take argmax or softmax of them where the answer is used"
ADVICE: Mapping[str, str] = {
    "addmm": _LINEAR,
    "conv1d": _LINEAR,
    "conv2d": _LINEAR,
    "elu": _RELU,
    "gelu": _RELU,
    "hardtanh": _RELU,
    "leaky_relu": _RELU,
    "log_softmax": _CLASSES,
    "matmul": _LINEAR,
    "mm": _LINEAR,
    "sigmoid": _RELU,
    "silu": _RELU,
    "softmax": _CLASSES,
    "tanh": _RELU,
    "zeros": "make constants parameters or buffers of the model; recurrent layers are not covered",
}
