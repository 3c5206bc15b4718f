"""torch.nn.Module -> graph. Only this file, the reader and the training front end import torch.

``torch.export`` traces the model for one set of shapes; ``run_decompositions({})`` with an empty table only
makes the result functional (an in-place ReLU becomes a value of its own), so that every node is a pure call
and composite operators (linear, softmax, lstm) stay whole; :mod:`cloud.compiler.pieces` takes those apart
that have no lowering. :class:`cloud.compiler.reader.Reader` turns the traced graph into ours.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.modules import transformer

from cloud.compiler.errors import CompileError
from cloud.compiler.ir import Graph, Parameter, Value
from cloud.compiler.ops.movement import Cast
from cloud.compiler.pieces import in_pieces
from cloud.compiler.reader import Reader, dtype_of

_ONE_PATH = (
    "the model takes one path or another by the numbers in a tensor (as in `if x.sum() > 0`), and a compiled "
    "model has one path: compute both and choose with torch.where"
)
F32Array = npt.NDArray[np.float32]
_BORDER = {torch.int64: "i64", torch.int32: "i32", torch.bool: "bool", torch.float32: "f32"}


@dataclass(frozen=True, slots=True)
class Exported:
    """A model as the compiler sees it. ``parameters``: float32 arrays by the model's own names."""

    graph: Graph
    parameters: Mapping[str, F32Array]


def export(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Exported:
    """Trace the model in evaluation mode for inputs of these shapes (their numbers do not matter).

    Raises :class:`UnsupportedOperator` for an operator without a lowering and :class:`CompileError` for what
    is not a pure function of float32 arrays, or has no fixed path through it.
    """
    with evaluation_mode(model), _quiet_torch():
        try:
            program = in_pieces(torch.export.export(model, inputs, strict=False).run_decompositions({}))
        except GuardOnDataDependentSymNode as error:
            raise CompileError(f"{_ONE_PATH}\n  torch: {_first_line(error)}") from error
        except Exception as error:  # whatever the model or torch may raise
            what = f"{type(error).__name__}: {_first_line(error)}"
            raise CompileError(f"torch.export can't follow the model: {what}") from error
    return _Program(program).read()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def example_tensors(model: object, inputs: object) -> tuple[torch.Tensor, ...]:
    """The example inputs, checked: a tensor, or several. numpy arrays are taken as well."""
    if not isinstance(model, torch.nn.Module):
        raise CompileError(f"the model is {type(model).__name__}; the compiler takes a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise CompileError("the model is TorchScript; give the module that it was made of")
    several = inputs if isinstance(inputs, list | tuple) else (inputs,)
    arrays = tuple(torch.from_numpy(one) if isinstance(one, np.ndarray) else one for one in several)
    for index, one in enumerate(arrays):
        if not isinstance(one, torch.Tensor):
            raise CompileError(f"example input {index} is {type(one).__name__}; a model takes tensors")
        if one.ndim == 0:
            raise CompileError(f"example input {index} is a single number; the first dimension is the batch")
        if one.shape[0] == 0:
            raise CompileError(f"example input {index} has shape {tuple(one.shape)}: give at least one item")
    return arrays


def batched(inputs: Sequence[torch.Tensor], batch_size: int) -> tuple[torch.Tensor, ...]:
    """Zeros of the inputs' shapes and dtypes with another first dimension."""
    return tuple(torch.zeros((batch_size, *one.shape[1:]), dtype=one.dtype) for one in inputs)


class _Program:
    """Reads an exported program: what its placeholders are, its nodes, its outputs."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self._program, self._reader = program, Reader()
        self._inputs: list[Value] = []
        self._parameters: dict[str, Parameter] = {}

    def read(self) -> Exported:
        kinds = {one.arg.name: one for one in self._program.graph_signature.input_specs}
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, kinds[node.name])
            elif node.op == "call_function":
                self._reader.node(node)
        build = self._reader.build
        outputs = self._outputs()
        graph = Graph(
            tuple(self._inputs),
            tuple(self._parameters.values()),
            tuple(build.nodes),
            outputs,
            tuple(build.constants),
        )
        graph.check()
        return Exported(graph, {key: self._array(key) for key in self._parameters})

    def _placeholder(self, node: torch.fx.Node, spec: Any) -> None:
        meta = node.meta.get("val")
        if spec.kind == InputKind.USER_INPUT:
            self._reader.define(node, self._input(node, meta))
            return
        key = str(spec.target)
        if not isinstance(meta, torch.Tensor):
            return
        if meta.dtype.is_floating_point and meta.dtype != torch.float32:
            raise CompileError(f"{key} is {meta.dtype}; models are compiled in torch.float32: model.float()")
        if meta.dtype == torch.float32:
            value = Value(f"parameter {key}", tuple(meta.shape))
            self._parameters[key] = Parameter(key, value)
            self._reader.define(node, value)
        else:  # positions, masks: the same in every model of this architecture
            self._reader.define(node, self._reader.build.constant(self._tensor(key)))

    def _input(self, node: torch.fx.Node, meta: Any) -> Value:
        if not isinstance(meta, torch.Tensor) or meta.dtype not in _BORDER:
            kind = getattr(meta, "dtype", type(meta).__name__)
            raise CompileError(
                f"the model's argument {node.name!r} is {kind}; it takes float32, int64 or bool"
            )
        value = Value(node.name, tuple(meta.shape), _BORDER[meta.dtype])
        self._inputs.append(value)
        return value if value.dtype in ("f32", "i32") else self._reader.build(Cast("i32"), value)

    def _tensor(self, key: str) -> npt.NDArray[Any]:
        tensor = self._program.state_dict.get(key, self._program.constants.get(key))
        if not isinstance(tensor, torch.Tensor):
            raise CompileError(f"{key} is no tensor")
        array: npt.NDArray[Any] = tensor.detach().cpu().numpy()
        return array

    def _array(self, key: str) -> F32Array:
        return np.array(self._tensor(key), dtype=np.float32, order="C")

    def _outputs(self) -> tuple[Value, ...]:
        specs = self._program.graph_signature.output_specs
        changed = next((one for one in specs if one.kind != OutputKind.USER_OUTPUT), None)
        if changed is not None:
            raise CompileError(
                f"the model changes {changed.target!r} as it runs; keep its forward function pure"
            )
        (last,) = (one for one in self._program.graph.nodes if one.op == "output")
        found = []
        for node in last.args[0]:
            value = self._reader.known(node)
            if value is None:
                raise CompileError("the model must return arrays that it computed: one, or a tuple of them")
            wanted = dtype_of(node.meta["val"].dtype)
            found.append(value if wanted in ("f32", "i32") else self._reader.build(Cast(wanted), value))
        if not found:
            raise CompileError("the model must return arrays that it computed: one, or a tuple of them")
        return tuple(found)


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """Without what torch says about its own internals, which nobody here can change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", r"The tensor attributes .*_flat_weights", UserWarning)
        yield


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off, running statistics fixed; every layer's own flag comes back afterwards."""
    training = [(layer, layer.training) for layer in model.modules()]
    model.eval()
    # The fast path of transformer layers is one opaque operator; the plain path is what we compile.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    # It reads the numbers of a mask, which a traced one has not, to find out whether half of them can be
    # skipped; without it the mask is added like any other.
    detect = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = _said_to_be_causal
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = detect
        torch.backends.mha.set_fastpath_enabled(fast)
        for layer, flag in training:
            layer.training = flag


def _said_to_be_causal(
    mask: torch.Tensor | None, is_causal: bool | None = None, size: int | None = None
) -> bool:
    del mask, size
    return bool(is_causal)
