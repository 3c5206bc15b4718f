"""Whole modules from graphs, without torch: right, closed, and the same bytes every time."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.compiler.backend import build_module
from cloud.compiler.ir import Constant, Graph, Node, Parameter, Update, Value, evaluate
from cloud.compiler.kernels import kernel_of
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.movement import Permute, Reshape
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.passes import optimise
from shared.abi import read_abi
from shared.errors import LocalError
from tests.unit.cloud.compiler.graphs import ADD, Builder, integers, mlp, random_graphs, run, runner


def module_of(graph):
    return build_module({"run": graph})


def build_unchecked(build, *outputs):
    return Graph((build.input,), tuple(build.parameters), tuple(build.nodes), outputs)


@given(graph=random_graphs(), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_a_module_computes_exactly_what_its_graph_means(graph, seed):
    inputs, parameters = integers(graph, seed)
    outputs = run(module_of(optimise(graph)), inputs, parameters)
    for got, expected in zip(outputs, evaluate(graph, inputs, parameters), strict=True):
        assert np.array_equal(got, expected)


def test_a_second_run_without_new_inputs_gives_the_same_answer():
    graph = optimise(mlp(9, 7, 7, 5, batch=3))
    inputs, parameters = integers(graph, 1)
    module = module_of(graph)
    store = wasmtime.Store()
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, module.binary), []).exports(store)
    memory = np.ctypeslib.as_array(exports["memory"].get_buffer_ptr(store))
    function = module.abi.functions[0]
    for tensor, array in [
        *zip(function.inputs, inputs, strict=True),
        *((one, parameters[one.name]) for one in module.abi.parameters.tensors),
    ]:
        memory[tensor.offset : tensor.offset + tensor.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
    answers = []
    for _ in range(2):
        exports["run"](store)
        out = function.outputs[0]
        answers.append(memory[out.offset : out.offset + out.nbytes].tobytes())
    assert answers[0] == answers[1] == evaluate(graph, inputs, parameters)[0].tobytes()


def test_the_same_graph_gives_the_same_bytes():
    assert module_of(optimise(mlp(5, 4, 3))).binary == module_of(optimise(mlp(5, 4, 3))).binary


def test_a_module_imports_nothing_and_its_memory_never_grows():
    module = wasmtime.Module(wasmtime.Engine(), module_of(optimise(mlp(5, 4, 3))).binary)
    memory = next(one.type for one in module.exports if one.name == "memory")
    assert [one.name for one in module.imports] == []
    assert [one.name for one in module.exports] == ["memory", "run"]
    assert memory.limits.min == memory.limits.max


def test_a_module_uses_no_relaxed_instruction():
    config = wasmtime.Config()
    config.wasm_relaxed_simd = False
    binary = module_of(optimise(mlp(65, 63, 5, batch=33))).binary
    wasmtime.Module.validate(wasmtime.Engine(config), binary)


def test_layers_of_one_shape_share_one_kernel():
    wat = module_of(optimise(mlp(8, 8, 8, 8))).wat
    assert len(re.findall(r"\(func \$matmul", wat)) == 1
    assert len(re.findall(r"\(call \$matmul", wat)) == 3


def test_a_reshape_is_no_code():
    build = Builder(2, 6)
    module = module_of(build.graph(build.apply(Reshape((2, 3, 2)), build.input)))
    abi = module.abi.functions[0]
    assert "call" not in module.wat
    assert abi.inputs[0].offset == abi.outputs[0].offset
    assert abi.outputs[0].shape == (2, 3, 2)


def test_the_abi_section_describes_the_module():
    graph = optimise(mlp(5, 4, 3, batch=2))
    module = module_of(graph)
    abi = read_abi(module.binary)
    assert abi == module.abi
    assert [(one.name, one.shape) for one in abi.function("run").inputs] == [("x", (2, 5))]
    assert [(one.name, one.shape) for one in abi.function("run").outputs] == [("output", (2, 3))]
    assert [one.shape for one in abi.parameters.tensors] == [(4, 5), (4,), (3, 4), (3,)]


def test_batch_sizes_share_the_layout_of_the_parameters_and_other_widths_do_not():
    hashes = [
        module_of(optimise(one)).abi.parameters.layout_hash
        for one in (mlp(5, 4, batch=1), mlp(5, 4, batch=32), mlp(4, 5))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_more_outputs_are_numbered():
    build = Builder(2, 3)
    module = module_of(build.graph(build.input, build.input))
    assert [one.name for one in module.abi.functions[0].outputs] == ["output_0", "output_1"]


def test_an_operation_without_a_kernel_is_our_own_bug():
    build = Builder(2, 3)

    class Unknown:
        pass

    with pytest.raises(LocalError, match="no kernel"):
        kernel_of(Node(build.input, Unknown(), (build.input,)))


def test_what_depends_on_parameters_only_is_computed_by_prepare():
    build = Builder(2, 3)
    w = build.apply(Permute((1, 0)), build.parameter(3, 4))
    graph = build.graph(build.apply(MatMul(), build.input, w))
    module = module_of(graph)
    assert 'export "prepare"' in module.wat
    assert re.search(r'export "run"\)\s+\(call \$\w+ .*\)\s+\)', module.wat), "one call is left"
    inputs, parameters = integers(graph, 4)
    got = runner(module, parameters)(*inputs)
    assert np.array_equal(got, evaluate(graph, inputs, parameters)[0])


def test_constants_are_part_of_the_module():
    value = Value("c", (2, 3))
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    build = Builder(2, 3)
    y = build.apply(Pointwise(ADD), build.input, value)
    graph = replace(build_unchecked(build, y), constants=(Constant(value, numbers.tobytes()),))
    graph.check()
    (got,) = run(module_of(graph), [np.ones((2, 3), np.float32)], {})
    assert np.array_equal(got, numbers + 1)


@pytest.mark.parametrize("also_read", [False, True])
def test_an_update_replaces_the_parameter_when_the_function_ends(also_read):
    build = Builder(2, 3)
    w = build.parameter(2, 3)
    new = build.apply(Pointwise(ADD), w, build.input)
    out = build.apply(Pointwise(ADD), w, w) if also_read else build.input
    graph = replace(build.graph(out), updates=(Update(w, new),))
    graph.check()
    module = module_of(graph)
    loaded = runner(module, {"layer.0": np.ones((2, 3), np.float32)})
    instance = next(iter(loaded._instances.values()))
    view = instance._view(module.abi.parameters.tensors[0])
    for count in (1, 2, 3):
        instance.run([np.full((2, 3), 5.0, np.float32)])
        assert np.array_equal(view, np.full((2, 3), 1 + 5 * count, np.float32))


def test_functions_of_one_module_share_parameters_and_states():
    build = Builder(2, 3)
    w = build.parameter(2, 3)
    state = Parameter("momentum", Value("m", (2, 3)))
    more = build.apply(Pointwise(ADD), state.value, build.input)
    step = replace(build_unchecked(build, more), states=(state,), updates=(Update(state.value, more),))
    other = Builder(2, 3)
    look = other.graph(other.apply(Pointwise(ADD), other.input, other.parameter(2, 3)))
    del w
    module = build_module({"step": step, "look": look}, hoist=False)
    abi = module.abi
    assert [one.name for one in abi.functions] == ["step", "look"]
    assert [one.name for one in abi.parameters.tensors] == ["layer.0"]


def test_items_are_spread_over_the_batch_and_the_rest_is_padded():
    graph = optimise(mlp(3, 2, batch=4))
    _, parameters = integers(graph, 2)
    x = np.random.default_rng(3).integers(-3, 4, (11, 3)).astype(np.float32)
    got = runner(module_of(graph), parameters)(x)
    assert np.array_equal(got, evaluate(mlp(3, 2, batch=11), [x], parameters)[0])


@pytest.mark.parametrize("x", [np.zeros((4, 5)), np.zeros((0, 3)), np.float32(1), np.zeros((4, 3, 1))])
def test_inputs_of_another_shape_are_refused(x):
    graph = optimise(mlp(3, 2, batch=4))
    _, parameters = integers(graph, 2)
    with pytest.raises(ValueError, match="item"):
        runner(module_of(graph), parameters)(x)


def test_everything_behind_the_front_end_works_without_torch():
    code = "import sys; sys.modules['torch'] = None; import cloud.compiler.backend, cloud.compiler.runner"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
