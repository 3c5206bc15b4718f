"""Traced calls -> nodes: shared by the front ends of inference and training.

Each call is handed to :func:`cloud.compiler.lowering.lower` as plain Python values. Torch's own shape and
dtype of every result is compared with what the operations state: a wrong lowering stops here and not on a
device.
"""

import operator
import re
from pathlib import Path
from typing import Any

import torch

from cloud.compiler.errors import CompileError, UnsupportedOperator
from cloud.compiler.ir import Shape, Value
from cloud.compiler.lowering import SHAPE_ADVICE, AtenCall, Builder, Lowered, advice_against, lower

_TORCH_FILES = str(Path(torch.__file__).parent)
_FRAME = re.compile(r'File "(?P<path>[^"]+)", line (?P<line>\d+), in \S+\n\s+(?P<code>[^\n]*)')
_DTYPES = {
    torch.float32: "f32",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "bool",
    torch.uint8: "u8",
}


def dtype_of(dtype: torch.dtype) -> str:
    """The ABI's name of a torch dtype; the dtype's own name where the ABI has none."""
    return _DTYPES.get(dtype, str(dtype))


class Reader:
    """Turns fx nodes into ours, one after another. ``build`` holds what was written."""

    def __init__(self) -> None:
        self.build = Builder()
        self._values: dict[str, Lowered] = {}

    def define(self, node: torch.fx.Node, value: Lowered) -> None:
        """What an fx node stands for."""
        self._values[node.name] = value

    def known(self, node: object) -> Value | None:
        """The array that an fx node stands for."""
        value = self._values.get(node.name) if isinstance(node, torch.fx.Node) else None
        return value if isinstance(value, Value) else None

    def node(self, node: torch.fx.Node) -> None:
        """Lower one call. Raises :class:`UnsupportedOperator` and :class:`CompileError`."""
        if node.target is operator.getitem:
            self.define(node, self._item(node))
            return
        source = source_of(node)
        if advice := advice_against(str(node.target)):
            raise UnsupportedOperator(str(node.target), source, advice)
        shape, dtype = _result(node, source)
        call = AtenCall(
            str(node.target),
            tuple(self._argument(one) for one in node.args),
            shape,
            source,
            {name: self._argument(one) for name, one in node.kwargs.items()},
            dtype,
        )
        self.build.source = source
        value = lower(call, self.build)
        _agree(value, shape, dtype, call)
        self.define(node, value)

    def _item(self, node: torch.fx.Node) -> Lowered:
        group, index = node.args
        assert isinstance(group, torch.fx.Node)
        assert isinstance(index, int)
        values = self._values[group.name]
        if not isinstance(values, tuple) or index >= len(values):
            raise CompileError(f"{group.target} gives no result {index} here\n  at {source_of(node)}")
        return values[index]

    def _argument(self, argument: object) -> Any:
        """Nodes become values, also inside lists; dtypes their names; the rest is plain Python already."""
        if isinstance(argument, torch.fx.Node):
            return self._values[argument.name]
        if isinstance(argument, list | tuple):
            return tuple(self._argument(one) for one in argument)
        return dtype_of(argument) if isinstance(argument, torch.dtype) else argument


def source_of(node: torch.fx.Node) -> str:
    """``path:line: code``, the innermost frame outside torch, and the layer that was running."""
    frames = [one for one in _FRAME.finditer(node.meta.get("stack_trace") or "") if _is_users(one["path"])]
    layers = list((node.meta.get("nn_module_stack") or {}).values())
    where = [f"{frames[-1]['path']}:{frames[-1]['line']}: {frames[-1]['code']}"] if frames else []
    if layers and layers[-1][0]:
        path, kind = layers[-1]
        where.append(f"layer {path!r} ({str(kind).rsplit('.', 1)[-1]})")
    return ", ".join(where) or node.name


def _is_users(path: str) -> bool:
    return not path.startswith(_TORCH_FILES)


def _result(node: torch.fx.Node, source: str) -> tuple[Shape, str]:
    """Shape and dtype of the first result, checked to be ones that we have."""
    meta = node.meta.get("val")
    first = meta[0] if isinstance(meta, list | tuple) and meta else meta
    if first is None:
        return (), "f32"
    if not isinstance(first, torch.Tensor):
        raise CompileError(f"{node.target} gives {type(first).__name__}, no array\n  at {source}")
    if first.dtype not in _DTYPES:
        raise CompileError(
            f"{node.name} is {first.dtype}; models are compiled in torch.float32\n  at {source}"
        )
    if not all(isinstance(size, int) for size in first.shape):
        raise UnsupportedOperator(str(node.target), source, SHAPE_ADVICE)
    if 0 in first.shape:
        raise CompileError(f"{node.name} is empty: shape {tuple(first.shape)}\n  at {source}")
    return tuple(int(size) for size in first.shape), _DTYPES[first.dtype]


def _agree(value: Lowered, shape: Shape, dtype: str, call: AtenCall) -> None:
    first = value[0] if isinstance(value, tuple) and value else value
    inside = "f32" if dtype == "f32" else "i32"
    if isinstance(first, Value) and (first.shape, first.dtype) != (shape, inside):
        raise CompileError(
            f"{call.operator} was lowered to {first.dtype}{first.shape}, but torch says {inside}{shape}"
            f"\n  at {call.source}"
        )
