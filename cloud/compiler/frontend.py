"""torch.nn.Module -> graph. The only file of the compiler that imports torch.

``torch.export`` traces the model for one set of shapes; ``run_decompositions({})`` with an empty table only
makes the result functional (an in-place ReLU becomes a value of its own), so that every node is a pure call.
Each call is handed to :func:`cloud.compiler.aten.lower` as plain Python values. Torch's own shape of every
result is compared with the one the operation states: a wrong lowering stops here and not on a device.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.export.graph_signature import InputKind, OutputKind

from cloud.compiler.aten import AtenCall, lower
from cloud.compiler.errors import CompileError
from cloud.compiler.ir import Graph, Node, Parameter, Shape, Value

_TORCH_FILES = str(Path(torch.__file__).parent)
_FRAME = re.compile(r'File "(?P<path>[^"]+)", line (?P<line>\d+), in \S+\n\s+(?P<code>[^\n]*)')


@dataclass(frozen=True, slots=True)
class Exported:
    """A model as the compiler sees it. ``parameters``: float32 arrays by the model's own names."""

    graph: Graph
    parameters: Mapping[str, npt.NDArray[np.float32]]


def export(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Exported:
    """Trace the model in evaluation mode for inputs of these shapes (their numbers do not matter).

    Raises :class:`UnsupportedOperator` for an operator without a lowering and :class:`CompileError` for what
    is not a pure function of float32 arrays.
    """
    with _evaluation_mode(model), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch about its own internals
        program = torch.export.export(model, inputs).run_decompositions({})
    reader = _Reader(program)
    graph = reader.graph()
    graph.check()
    return Exported(graph, {one.key: reader.array(one.key) for one in graph.parameters})


def batched(inputs: Sequence[torch.Tensor], batch_size: int) -> tuple[torch.Tensor, ...]:
    """Zeros of the inputs' shapes and dtypes with another first dimension."""
    if any(one.ndim == 0 for one in inputs):
        raise CompileError("an example input is a single number; the first dimension is the batch")
    return tuple(torch.zeros((batch_size, *one.shape[1:]), dtype=one.dtype) for one in inputs)


class _Reader:
    """Walks an exported program once."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self._program = program
        self._values: dict[str, Value] = {}

    def graph(self) -> Graph:
        inputs, parameters = self._placeholders()
        nodes = tuple(self._node(one) for one in self._program.graph.nodes if one.op == "call_function")
        return Graph(inputs, parameters, nodes, self._outputs())

    def array(self, key: str) -> npt.NDArray[np.float32]:
        """A parameter, buffer or constant as torch holds it."""
        tensor = self._program.state_dict.get(key, self._program.constants.get(key))
        if not isinstance(tensor, torch.Tensor):
            raise CompileError(f"{key} is no tensor")
        return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)

    def _placeholders(self) -> tuple[tuple[Value, ...], tuple[Parameter, ...]]:
        kinds = {one.arg.name: one for one in self._program.graph_signature.input_specs}
        inputs, parameters = [], []
        for node in self._program.graph.nodes:
            if node.op != "placeholder":
                continue
            value, spec = self._define(node, f"the model's argument {node.name!r}"), kinds[node.name]
            if spec.kind == InputKind.USER_INPUT:
                inputs.append(value)
            else:
                parameters.append(Parameter(str(spec.target), value))
        return tuple(inputs), tuple(parameters)

    def _node(self, node: torch.fx.Node) -> Node:
        source = _source(node)
        arguments = tuple(self._argument(one) for one in node.args)
        shape = tuple(getattr(node.meta.get("val"), "shape", ()))
        op, operands = lower(AtenCall(str(node.target), arguments, shape, source, dict(node.kwargs)))
        return Node(self._define(node, source), op, operands, source)

    def _argument(self, argument: object) -> object:
        """Nodes become values, also inside lists; everything else is a plain Python value already."""
        if isinstance(argument, torch.fx.Node):
            return self._values[argument.name]
        if isinstance(argument, list | tuple):
            return tuple(self._argument(one) for one in argument)
        return argument

    def _define(self, node: torch.fx.Node, source: str) -> Value:
        value = self._values[node.name] = Value(node.name, _shape(node, source))
        return value

    def _outputs(self) -> tuple[Value, ...]:
        specs = self._program.graph_signature.output_specs
        changed = next((one for one in specs if one.kind != OutputKind.USER_OUTPUT), None)
        if changed is not None:
            raise CompileError(
                f"the model changes {changed.target!r} as it runs; keep its forward function pure"
            )
        names = [one.arg.name for one in specs]
        if not names or any(name not in self._values for name in names):
            raise CompileError("the model must return arrays that it computed: one, or a tuple of them")
        return tuple(self._values[name] for name in names)


def _shape(node: torch.fx.Node, source: str) -> Shape:
    meta = node.meta.get("val")
    if not isinstance(meta, torch.Tensor):
        raise CompileError(f"{node.target} does not give one array\n  at {source}")
    if meta.dtype != torch.float32:
        raise CompileError(
            f"{node.name} is {meta.dtype}; models are compiled in torch.float32\n  at {source}"
        )
    if 0 in meta.shape:
        raise CompileError(f"{node.name} is empty: shape {tuple(meta.shape)}\n  at {source}")
    return tuple(int(size) for size in meta.shape)


def _source(node: torch.fx.Node) -> str:
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


@contextmanager
def _evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off, running statistics fixed; every layer's own flag comes back afterwards."""
    training = [(layer, layer.training) for layer in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for layer, flag in training:
            layer.training = flag
