"""The memory plan: nothing alive is ever overwritten, and what is dead makes room."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.compiler.errors import CompileError
from cloud.compiler.ir import Graph, Parameter, Value
from cloud.compiler.ops.movement import Reshape
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.passes import optimise
from cloud.compiler.plan import (
    ALIGNMENT_BYTES,
    PAGE_BYTES,
    PARAMETERS_OFFSET,
    Lifetime,
    lifetimes,
    place,
    plan_memory,
)
from tests.unit.cloud.compiler.graphs import RELU, Builder, mlp, random_graphs


def planned(graph):
    """The plan of one function, and its offsets."""
    plan = plan_memory({"run": graph}, {})
    return plan, plan.offsets["run"]


@st.composite
def lifetime_lists(draw: st.DrawFn) -> list[Lifetime]:
    spans = draw(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 12), st.integers(0, 6)), max_size=12))
    return [Lifetime(f"v{i}", size, first, first + life) for i, (size, first, life) in enumerate(spans)]


def overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


@given(values=lifetime_lists())
@settings(max_examples=200, deadline=None)
def test_values_that_live_at_the_same_time_never_share_a_byte(values):
    offsets, top = place(values)
    for i, one in enumerate(values):
        here = (offsets[one.name], offsets[one.name] + one.nbytes)
        assert here[0] % ALIGNMENT_BYTES == 0
        assert here[1] <= top
        for other in values[:i]:
            there = (offsets[other.name], offsets[other.name] + other.nbytes)
            assert not (one.meets(other) and overlap(here, there))


@given(values=lifetime_lists())
@settings(max_examples=100, deadline=None)
def test_the_arena_is_between_the_busiest_moment_and_the_sum(values):
    _, top = place(values)
    busiest = max((sum(v.nbytes for v in values if v.first <= t <= v.last) for t in range(20)), default=0)
    assert busiest <= top <= sum(-(-one.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for one in values)


@given(graph=random_graphs())
@settings(max_examples=100, deadline=None)
def test_every_value_of_a_graph_has_an_aligned_place_behind_the_parameters(graph):
    graph = optimise(graph)
    plan, offsets = planned(graph)
    end = PARAMETERS_OFFSET + plan.parameters_nbytes
    parameters = {one.value.name for one in graph.parameters}
    for value in (*graph.inputs, *(node.result for node in graph.nodes)):
        assert offsets[value.name] % ALIGNMENT_BYTES == 0
        if value.name not in parameters:
            assert end <= offsets[value.name] <= plan.memory_bytes - value.nbytes
    assert plan.memory_bytes % PAGE_BYTES == 0


def test_a_chain_of_layers_ping_pongs_between_two_places():
    build = Builder(1, 64)
    x = build.input
    for _ in range(6):
        x = build.apply(Pointwise(RELU), x)
    _plan, offsets = planned(build.graph(x))
    places = [offsets[f"n_{i}"] for i in range(6)]
    assert len(set(places)) == 2
    assert offsets["x"] not in places


def test_an_input_keeps_its_place_to_the_end():
    graph = mlp(8, 8, 8)
    by_name = {one.name: one for one in lifetimes(graph, {}, {})}
    assert by_name["x"].last == len(graph.nodes)


def test_a_reshape_shares_its_address_and_keeps_the_original_alive():
    build = Builder(2, 6)
    a = build.apply(Pointwise(RELU), build.input)
    b = build.apply(Reshape((2, 3, 2)), a)
    c = build.apply(Pointwise(RELU), build.apply(Pointwise(RELU), build.input))
    graph = build.graph(c, build.apply(Pointwise(RELU), b))
    _plan, offsets = planned(graph)
    assert offsets[a.name] == offsets[b.name]
    assert {one.name: one.last for one in lifetimes(graph, {}, {})}[a.name] == 4


def test_a_chain_of_reshapes_is_one_address():
    build = Builder(2, 6)
    a = build.apply(Pointwise(RELU), build.input)
    c = build.apply(Reshape((12,)), build.apply(Reshape((2, 3, 2)), a))
    graph = build.graph(c)
    _plan, offsets = planned(graph)
    assert offsets[a.name] == offsets[c.name]
    assert {one.name: one.last for one in lifetimes(graph, {}, {})}[a.name] == len(graph.nodes)


def test_an_output_that_is_a_reshape_keeps_the_original_to_the_end():
    build = Builder(2, 6)
    a = build.apply(Pointwise(RELU), build.input)
    b = build.apply(Reshape((2, 3, 2)), a)
    c = build.apply(Pointwise(RELU), build.apply(Pointwise(RELU), build.input))
    graph = build.graph(b, c)
    assert {one.name: one.last for one in lifetimes(graph, {}, {})}[a.name] == len(graph.nodes)


def test_a_model_over_two_gibibytes_is_refused():
    huge = Parameter("w", Value("w", (1 << 15, 1 << 14)))
    with pytest.raises(CompileError, match="memory"):
        plan_memory({"run": Graph((Value("x", (1, 1)),), (huge,), (), (Value("x", (1, 1)),))}, {})
