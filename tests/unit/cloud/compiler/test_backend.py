"""Whole modules from graphs, without torch: right, closed, and the same bytes every time."""

import re
import subprocess
import sys

import numpy as np
import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.compiler.backend import EMITTERS, build_module, kernel_of
from cloud.compiler.ir import Node, evaluate
from cloud.compiler.ops import Identity, Reshape
from cloud.compiler.passes import optimise
from shared.abi import read_abi
from shared.errors import LocalError
from tests.unit.cloud.compiler.graphs import Builder, integers, mlp, random_graphs, run, runner


@given(graph=random_graphs(), seed=st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_a_module_computes_exactly_what_its_graph_means(graph, seed):
    inputs, parameters = integers(graph, seed)
    outputs = run(build_module(optimise(graph)), inputs, parameters)
    for got, expected in zip(outputs, evaluate(graph, inputs, parameters), strict=True):
        assert np.array_equal(got, expected)


def test_a_second_run_without_new_inputs_gives_the_same_answer():
    graph = optimise(mlp(9, 7, 7, 5, batch=3))
    inputs, parameters = integers(graph, 1)
    module = build_module(graph)
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
    assert build_module(optimise(mlp(5, 4, 3))).binary == build_module(optimise(mlp(5, 4, 3))).binary


def test_a_module_imports_nothing_and_its_memory_never_grows():
    module = wasmtime.Module(wasmtime.Engine(), build_module(optimise(mlp(5, 4, 3))).binary)
    memory = next(one.type for one in module.exports if one.name == "memory")
    assert [one.name for one in module.imports] == []
    assert [one.name for one in module.exports] == ["memory", "run"]
    assert memory.limits.min == memory.limits.max


def test_a_module_uses_no_relaxed_instruction():
    config = wasmtime.Config()
    config.wasm_relaxed_simd = False
    binary = build_module(optimise(mlp(65, 63, 5, batch=33))).binary
    wasmtime.Module.validate(wasmtime.Engine(config), binary)


def test_layers_of_one_shape_share_one_kernel():
    wat = build_module(optimise(mlp(8, 8, 8, 8))).wat
    assert len(re.findall(r"\(func \$dot", wat)) == 1
    assert len(re.findall(r"\(call \$dot", wat)) == 3


def test_a_reshape_is_no_code():
    build = Builder(2, 6)
    module = build_module(build.graph(build.apply(Reshape((2, 3, 2)), build.input)))
    abi = module.abi.functions[0]
    assert "call" not in module.wat
    assert abi.inputs[0].offset == abi.outputs[0].offset
    assert abi.outputs[0].shape == (2, 3, 2)


def test_the_abi_section_describes_the_module():
    graph = optimise(mlp(5, 4, 3, batch=2))
    module = build_module(graph)
    abi = read_abi(module.binary)
    assert abi == module.abi
    assert [(one.name, one.shape) for one in abi.function("run").inputs] == [("x", (2, 5))]
    assert [(one.name, one.shape) for one in abi.function("run").outputs] == [("output", (2, 3))]
    assert [one.shape for one in abi.parameters.tensors] == [(4, 5), (4,), (3, 4), (3,)]


def test_batch_sizes_share_the_layout_of_the_parameters_and_other_widths_do_not():
    hashes = [
        build_module(optimise(one)).abi.parameters.layout_hash
        for one in (mlp(5, 4, batch=1), mlp(5, 4, batch=32), mlp(4, 5))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_more_outputs_are_numbered():
    build = Builder(2, 3)
    module = build_module(build.graph(build.input, build.input))
    assert [one.name for one in module.abi.functions[0].outputs] == ["output_0", "output_1"]


def test_an_operation_without_a_kernel_is_our_own_bug():
    build = Builder(2, 3)
    with pytest.raises(LocalError, match="no kernel"):
        kernel_of(Node(build.input, Identity(), (build.input,)))
    assert Identity not in EMITTERS


def test_items_are_spread_over_the_batch_and_the_rest_is_padded():
    graph = optimise(mlp(3, 2, batch=4))
    _, parameters = integers(graph, 2)
    x = np.random.default_rng(3).integers(-3, 4, (11, 3)).astype(np.float32)
    got = runner(build_module(graph), parameters)(x)
    assert np.array_equal(got, evaluate(mlp(3, 2, batch=11), [x], parameters)[0])


@pytest.mark.parametrize("x", [np.zeros((4, 5)), np.zeros((0, 3)), np.float32(1), np.zeros((4, 3, 1))])
def test_inputs_of_another_shape_are_refused(x):
    graph = optimise(mlp(3, 2, batch=4))
    _, parameters = integers(graph, 2)
    with pytest.raises(ValueError, match="item"):
        runner(build_module(graph), parameters)(x)


def test_everything_behind_the_front_end_works_without_torch():
    code = "import sys; sys.modules['torch'] = None; import cloud.compiler.backend, cloud.compiler.runner"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
