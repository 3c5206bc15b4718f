"""Graphs for tests: hand-made ones, and random ones in integers.

Sums of small integers are exact in float32, in any order. On integer data the compiled module, the numpy
oracle and torch must therefore agree to the last bit.
"""

import numpy as np
from hypothesis import strategies as st

from cloud.compiler.backend import Module
from cloud.compiler.ir import Array, Graph, Node, Op, Parameter, Value
from cloud.compiler.ops import Activation, Add, Identity, Linear, Relu, Reshape
from cloud.compiler.parameters import encode_parameters
from cloud.compiler.runner import Runner
from shared.package import Package, PackageInfo


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
        result = Value(f"n_{len(self.nodes)}", shape)
        self.nodes.append(Node(result, op, operands))
        return result

    def graph(self, *outputs: Value) -> Graph:
        graph = Graph((self.input,), tuple(self.parameters), tuple(self.nodes), outputs)
        graph.check()
        return graph


def mlp(*widths: int, batch: int = 1) -> Graph:
    """Linear, bias and ReLU as separate nodes: what the passes are for."""
    build = Builder(batch, widths[0])
    x = build.input
    for width in widths[1:]:
        x = build.apply(Linear(), x, build.parameter(width, x.shape[1]))
        x = build.apply(Relu(), build.apply(Add(), x, build.parameter(width)))
    return build.graph(x)


@st.composite
def random_graphs(draw: st.DrawFn) -> Graph:
    """Up to eight nodes of every kind, wired to any earlier value; at most three products, to stay exact."""
    build = Builder(draw(st.integers(1, 5)), draw(st.integers(1, 9)))
    values = [build.input]
    products = 0
    for _ in range(draw(st.integers(0, 8))):
        x = draw(st.sampled_from(values))
        kind = draw(st.sampled_from(["linear", "relu", "bias", "add", "identity", "reshape"]))
        if kind == "linear" and products == 3:
            kind = "relu"
        products += kind == "linear"
        values.append(_node(draw, build, kind, x, values))
    outputs = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
    return build.graph(*outputs)


def _node(draw: st.DrawFn, build: Builder, kind: str, x: Value, values: list[Value]) -> Value:
    match kind:
        case "linear":
            width, bias = draw(st.integers(1, 9)), draw(st.booleans())
            activation = draw(st.sampled_from(Activation))
            w = build.parameter(width, x.shape[-1])
            return build.apply(Linear(activation), x, w, *([build.parameter(width)] if bias else []))
        case "relu":
            return build.apply(Relu(), x)
        case "bias":
            return build.apply(Add(), x, build.parameter(x.shape[-1]))
        case "add":
            return build.apply(
                Add(), x, draw(st.sampled_from([one for one in values if one.shape == x.shape]))
            )
        case "identity":
            return build.apply(Identity(), x)
        case _:
            batch, size = x.shape[0], int(np.prod(x.shape[1:]))
            return build.apply(Reshape(draw(st.sampled_from([(batch, size), (batch, 1, size), x.shape]))), x)


def integers(graph: Graph, seed: int) -> tuple[list[Array], dict[str, Array]]:
    """Inputs and parameters of -3 to 3."""
    rng = np.random.default_rng(seed)

    def draw(value: Value) -> Array:
        return rng.integers(-3, 4, value.shape).astype(np.float32)

    return [draw(one) for one in graph.inputs], {one.key: draw(one.value) for one in graph.parameters}


def runner(module: Module, parameters: dict[str, Array]) -> Runner:
    """The module of one batch size, loaded with parameters."""
    batch = module.abi.functions[0].inputs[0].shape[0]
    named = {one.name: parameters[one.name] for one in module.abi.parameters.tensors}
    info = PackageInfo(name="test")
    return Runner(Package(info=info, modules={batch: module.binary}, parameters=encode_parameters(named)))


def run(module: Module, inputs: list[Array], parameters: dict[str, Array]) -> tuple[Array, ...]:
    """Outputs of one run, always as a tuple."""
    outputs = runner(module, parameters)(*inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)
