"""Graphs and models for tests: the same numbers from torch, from the numpy meaning, and from WebAssembly."""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from hypothesis import strategies as st

from cloud.compiler.backend import Module, build_module
from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.frontend import export
from cloud.compiler.ir import NUMPY, Array, Graph, Node, Op, Parameter, Value, evaluate
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.movement import Reshape
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.passes import Precision, optimise
from cloud.compiler.runner import Runner
from shared.package import Package, PackageInfo
from shared.parameters import encode_parameters

RELU = call(Fn.RELU, Arg(0))
ADD = call(Fn.ADD, Arg(0), Arg(1))


def agree(model, *inputs: torch.Tensor, tolerance: float = 1e-6, precision="exact", passes=True):
    """Torch, numpy and wasm give the same within ``tolerance`` of the output's scale.

    Returns the optimised graph. NaN must be where torch has NaN; integers must be equal. Torch's float32 is
    rounded too: where ours is further from it than that, what torch computes in float64 says who is right.
    """
    exported = export(model, inputs)
    graph = optimise(exported.graph, Precision(precision)) if passes else exported.graph
    arrays = [one.detach().numpy() for one in inputs]
    wanted = computed(model, inputs)
    meant = evaluate(exported.graph, arrays, exported.parameters)
    got = run(build_module({"run": graph}), arrays, exported.parameters)
    assert len(wanted) == len(meant) == len(got)
    for index, (torchs, numpys, wasms) in enumerate(zip(wanted, meant, got, strict=True)):
        close(numpys, torchs, max(tolerance, 2e-6), "the numpy meaning and torch")
        if error(wasms, torchs, "wasm and torch") > tolerance:
            doubles = [one.double() if one.is_floating_point() else one for one in inputs]
            true = computed(deepcopy(model).double(), doubles)[index]
            close(wasms, true, tolerance, "wasm and torch in float64")
    return graph


def computed(model, inputs: Sequence[torch.Tensor]) -> list[Array]:
    """What torch makes of the inputs."""
    with torch.no_grad():
        outputs = model.eval()(*inputs)
    return [one.numpy() for one in (outputs if isinstance(outputs, tuple) else (outputs,))]


def agree_op(op: Op, *arrays: Array, tolerance: float = 1e-6) -> Array:
    """One operation alone, by its meaning (in float64) and by its kernel."""
    values = tuple(
        Value(f"x{index}", one.shape, "f32" if one.dtype.kind == "f" else "i32")
        for index, one in enumerate(arrays)
    )
    shape = op.shape(*(one.shape for one in values))
    result = Value("y", shape, op.dtype(*(one.dtype for one in values)))
    graph = Graph(values, (), (Node(result, op, values),), (result,))
    graph.check()
    (got,) = run(build_module({"run": graph}), list(arrays), {})
    exact = op.evaluate(*(one.astype(np.float64) if one.dtype.kind == "f" else one for one in arrays))
    close(got, np.asarray(exact), tolerance, f"{op}: kernel and meaning")
    return got


def close(got: Array, wanted: Array, tolerance: float, what: str) -> None:
    """Equal NaNs and infinities; integers equal; floats within ``tolerance`` of the largest finite number."""
    apart = error(got, wanted, what)
    assert apart <= tolerance, f"{what}: {apart:.2e} of the scale; allowed {tolerance:.0e}"


def error(got: Array, wanted: Array, what: str) -> float:
    """Relative to the largest finite number. Shapes, integers, NaNs and infinities must be the same."""
    assert got.shape == wanted.shape, f"{what}: shapes {got.shape} and {wanted.shape}"
    if wanted.dtype.kind != "f":
        assert np.array_equal(got, wanted), what
        return 0.0
    special = ~np.isfinite(wanted)
    assert np.array_equal(got[special], wanted[special].astype(got.dtype), equal_nan=True), what
    if special.all():
        return 0.0
    scale = max(float(np.abs(wanted[~special]).max()), 1e-30)
    return float(np.abs(got[~special].astype(np.float64) - wanted[~special]).max()) / scale


class Builder:
    """Writes a graph node by node."""

    def __init__(self, *shape: int) -> None:
        self.input = Value("x", shape)
        self.parameters: list[Parameter] = []
        self.nodes: list[Node] = []

    def parameter(self, *shape: int) -> Value:
        value = Value(f"p_{len(self.parameters)}", shape)
        self.parameters.append(Parameter(f"layer.{len(self.parameters)}", value))
        return value

    def apply(self, op: Op, *operands: Value) -> Value:
        shape = op.shape(*(one.shape for one in operands))
        result = Value(f"n_{len(self.nodes)}", shape, op.dtype(*(one.dtype for one in operands)))
        self.nodes.append(Node(result, op, operands))
        return result

    def graph(self, *outputs: Value) -> Graph:
        graph = Graph((self.input,), tuple(self.parameters), tuple(self.nodes), outputs)
        graph.check()
        return graph


def mlp(*widths: int, batch: int = 1) -> Graph:
    """Product, bias and ReLU as separate nodes: what the passes are for."""
    build = Builder(batch, widths[0])
    x = build.input
    for width in widths[1:]:
        x = build.apply(MatMul(), x, build.parameter(width, x.shape[1]))
        x = build.apply(Pointwise(RELU), build.apply(Pointwise(ADD), x, build.parameter(width)))
    return build.graph(x)


@st.composite
def random_graphs(draw: st.DrawFn) -> Graph:
    """Up to eight nodes, wired to any earlier value; at most three products, so that integers stay exact."""
    build = Builder(draw(st.integers(1, 5)), draw(st.integers(1, 9)))
    values = [build.input]
    products = 0
    for _ in range(draw(st.integers(0, 8))):
        x = draw(st.sampled_from(values))
        kind = draw(st.sampled_from(["product", "relu", "bias", "add", "reshape"]))
        if kind == "product" and products == 3:
            kind = "relu"
        products += kind == "product"
        values.append(_node(draw, build, kind, x, values))
    outputs = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
    return build.graph(*outputs)


def _node(draw: st.DrawFn, build: Builder, kind: str, x: Value, values: list[Value]) -> Value:
    match kind:
        case "product":
            return build.apply(MatMul(), x, build.parameter(draw(st.integers(1, 9)), x.shape[-1]))
        case "relu":
            return build.apply(Pointwise(RELU), x)
        case "bias":
            return build.apply(Pointwise(ADD), x, build.parameter(x.shape[-1]))
        case "add":
            same = [one for one in values if one.shape == x.shape]
            return build.apply(Pointwise(ADD), x, draw(st.sampled_from(same)))
        case _:
            batch, size = x.shape[0], int(np.prod(x.shape[1:]))
            return build.apply(Reshape(draw(st.sampled_from([(batch, size), (batch, 1, size), x.shape]))), x)


def integers(graph: Graph, seed: int) -> tuple[list[Array], dict[str, Array]]:
    """Inputs and parameters of -3 to 3. Sums of small integers are exact in float32, in any order."""
    rng = np.random.default_rng(seed)

    def draw(value: Value) -> Array:
        return rng.integers(-3, 4, value.shape).astype(np.float32)

    return [draw(one) for one in graph.inputs], {one.key: draw(one.value) for one in graph.parameters}


def runner(module: Module, parameters: dict[str, Array]) -> Runner:
    """The module of one batch size, loaded with parameters."""
    shape = module.abi.functions[0].inputs[0].shape
    named = {one.name: parameters[one.name] for one in module.abi.parameters.tensors}
    info = PackageInfo(name="test")
    modules = {(shape or (1,))[0]: module.binary}
    return Runner(Package(info=info, modules=modules, parameters=encode_parameters(named)))


def run(module: Module, inputs: Sequence[Array], parameters: dict[str, Array]) -> tuple[Array, ...]:
    """Outputs of one run, exactly as they lie in memory: nothing is cut off or joined."""
    instance = next(iter(runner(module, parameters)._instances.values()))
    for view, array in zip(instance._inputs, inputs, strict=True):
        assert view.dtype == NUMPY[_name(view.dtype)]
        view[...] = array
    instance._run()
    return tuple(view.copy() for view in instance._outputs)


def _name(dtype: np.dtype) -> str:
    return next(name for name, one in NUMPY.items() if one == dtype)
