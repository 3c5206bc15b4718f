"""Winograd's convolution: its schemes, its kernel within the bound at any size, where it is used."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cloud.compiler.backend import build_module
from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.frontend import export
from cloud.compiler.ir import Graph
from cloud.compiler.ops.image import ONE_PHASE, PANEL, Border, Conv, Phases
from cloud.compiler.ops.winograd import ALONE, Scheme, WinogradConv, kernel_matrix, output_matrix, pieces
from cloud.compiler.passes import optimise
from cloud.compiler.passes.winograd import use_winograd
from tests.unit.cloud.compiler.graphs import agree_op, close, run

BOUND = 2e-5
SCHEMES = [
    ALONE,
    *(Scheme(tile, taps) for taps in (2, 3, 5) for tile in (2, 4)),
    *(Scheme(tile, taps, 2) for taps in (2, 3, 5, 7) for tile in (2, 4)),
    Scheme(2, 3, enclosed=True),
]
PHASES = st.builds(Phases, *[st.integers(1, 2)] * 2, *[st.integers(0, 1)] * 2)
EPILOGUE = call(Fn.RELU, call(Fn.ADD, call(Fn.ADD, Arg(0), Arg(1)), Arg(2)))


def uses_winograd(model: nn.Module, *shape: int) -> int:
    """How many convolutions are replaced; torch and wasm agree within the bound."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    exported = export(model, (x,))
    graph = use_winograd(optimise(exported.graph))
    graph.check()
    (got,) = run(build_module({"run": graph}), [x.numpy()], exported.parameters)
    with torch.no_grad():
        close(got, model.eval()(x).numpy(), BOUND, "wasm and torch")
    return len(winograds(graph))


def winograds(graph: Graph) -> list[WinogradConv]:
    """The convolutions that were replaced."""
    return [node.op for node in graph.nodes if isinstance(node.op, WinogradConv)]


def transformed(w: np.ndarray, op: WinogradConv) -> np.ndarray:
    """[P, kh, kw, C, 8] -> [planes, P, C, 8], in float64."""
    taps = w.astype(np.float64).transpose(1, 2, 0, 3, 4).reshape(op.rows.taps * op.columns.taps, -1)
    return (kernel_matrix(op.rows, op.columns) @ taps).reshape(-1, w.shape[0], *w.shape[3:])


def unmoved(schemes: tuple[Scheme, Scheme]) -> bool:
    """Whether a convolution may have phases: without a stride, and not of an image between zeros."""
    return all(one.stride == 1 and not one.enclosed for one in schemes)


def image(op: WinogradConv, batch: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """As an operation wants it; between zeros where its schemes say so."""
    sizes = op.rows.padded(op.height) + op.phases.down, op.columns.padded(op.width) + op.phases.right
    x = rng.normal(size=(batch, *sizes, channels))
    if op.rows.enclosed:
        x[:, [0, -1]] = 0
    if op.columns.enclosed:
        x[:, :, [0, -1]] = 0
    return x


def direct(op: WinogradConv, x: np.ndarray, w: np.ndarray, *extras: np.ndarray) -> np.ndarray:
    """The convolution that it is, without its halo."""
    seen = [
        scheme.stride * (size - 1) + scheme.taps + shift
        for scheme, size, shift in (
            (op.rows, op.height, op.phases.down * (op.phases.rows - 1)),
            (op.columns, op.width, op.phases.right * (op.phases.columns - 1)),
        )
    ]
    conv = Conv(op.outputs, op.stride, epilogue=op.epilogue, phases=op.phases)
    return conv.evaluate(x[:, : seen[0], : seen[1]], w, *extras)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_matrices_are_an_algorithm(scheme):
    """The sum over points, for every tap and pixel, is one where a result sees the pixel through the tap."""
    for piece in pieces(scheme):
        points = len(piece.seen)
        for tap, pixel in product(range(scheme.taps), range(piece.seen.shape[1])):
            found = output_matrix(scheme)[:, :points] @ (piece.weighed[:, tap] * piece.seen[:, pixel])
            at = piece.first + pixel * scheme.stride - tap
            wanted = [at == result * scheme.stride for result in range(scheme.tile)]
            assert np.allclose(found, wanted, atol=1e-12)


def test_the_matrices_of_the_paper():
    """F(4 x 4, 3 x 3) as Lavin and Gray give it."""
    (piece,) = pieces(Scheme(4, 3))
    assert piece.seen.tolist()[:3] == [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
    np.testing.assert_allclose(piece.weighed[3], [1 / 24, 1 / 12, 1 / 6])
    assert output_matrix(Scheme(4, 3)).tolist()[3] == [0, 1, -1, 8, -8, 1]


@given(
    st.tuples(*[st.sampled_from(SCHEMES)] * 2),
    st.integers(1, 3),
    st.tuples(*[st.integers(1, 11)] * 2),
    st.integers(1, 9),
    st.integers(1, 18),
    st.data(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_scheme_and_size_of_image_with_epilogue_and_halo(schemes, batch, size, channels, outputs, data):
    height, width = (2 if one.enclosed else wanted for one, wanted in zip(schemes, size, strict=True))
    halo = data.draw(st.builds(Border, *[st.integers(0, 2)] * 4))
    phases = data.draw(PHASES) if unmoved(schemes) else ONE_PHASE
    op = WinogradConv(outputs, height, width, *schemes, EPILOGUE, halo, phases)
    rng = np.random.default_rng(height * 100 + width)
    x = image(op, batch, channels, rng).astype(np.float32)
    taps = (op.rows.taps, op.columns.taps)
    w = rng.normal(size=(phases.count * -(-outputs // PANEL), *taps, channels, PANEL)).astype(np.float32)
    high, wide = height * phases.rows, width * phases.columns
    extras = rng.normal(size=outputs), rng.normal(size=(batch, high, wide, outputs))
    few = tuple(one.astype(np.float32) for one in extras)
    got = agree_op(op, x, transformed(w, op).astype(np.float32), *few, tolerance=BOUND)
    inner = got[:, halo.top : halo.top + high, halo.left : halo.left + wide]
    exact = direct(op, x.astype(np.float64), w.astype(np.float64), *(one.astype(np.float64) for one in few))
    close(np.ascontiguousarray(inner), exact, BOUND, "winograd and direct")


@given(st.tuples(*[st.sampled_from(SCHEMES)] * 2), st.tuples(*[st.integers(1, 11)] * 2))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_meaning_is_that_of_a_convolution(schemes, size):
    height, width = (2 if one.enclosed else wanted for one, wanted in zip(schemes, size, strict=True))
    op, rng = WinogradConv(11, height, width, *schemes), np.random.default_rng(0)
    x, w = image(op, 2, 5, rng), rng.normal(size=(2, op.rows.taps, op.columns.taps, 5, PANEL))
    np.testing.assert_allclose(op.evaluate(x, transformed(w, op)), direct(op, x, w), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("batch", "size"), [(1, 20), (3, 9), (20, 30)])
def test_blocks_of_tiles_cover_one_image_or_several(batch, size):
    assert uses_winograd(nn.Conv2d(32, 24, 3, padding=1), batch, 32, size, size - 1) == 1


def test_borders_up_to_whole_tiles_are_written_by_whoever_makes_the_image():
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(16, 16, 3), nn.MaxPool2d(2), nn.Conv2d(16, 17, 3, padding=1))
    assert uses_winograd(model, 2, 3, 21, 18) == 4


@pytest.mark.parametrize(
    ("layer", "shape", "schemes"),
    [
        (nn.Conv1d(16, 32, 5, padding=2), (1, 16, 64), (ALONE, Scheme(4, 5))),
        (nn.Conv1d(32, 64, 3, padding=1), (2, 32, 32), (ALONE, Scheme(4, 3))),
        (nn.Conv1d(64, 64, 3, stride=2, padding=1), (1, 64, 32), (ALONE, Scheme(4, 3, 2))),
        (nn.Conv2d(16, 32, 3, stride=2, padding=1), (1, 16, 16, 16), (Scheme(4, 3, 2),) * 2),
        (nn.Conv2d(3, 32, 7, stride=2, padding=3), (1, 3, 32, 32), (Scheme(4, 7, 2),) * 2),
        (nn.Conv2d(64, 64, (1, 3), padding=(0, 1)), (1, 64, 8, 8), (ALONE, Scheme(4, 3))),
        (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 2, 8), (Scheme(2, 3, 1, True), Scheme(4, 3))),
        (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 2, 2), (Scheme(2, 3, 1, True),) * 2),
        (nn.Conv2d(256, 256, 3, padding=1), (1, 256, 4, 4), (Scheme(2, 3),) * 2),
        (nn.ConvTranspose2d(32, 16, 4, 2, 1), (1, 32, 8, 8), (Scheme(4, 2),) * 2),
        (nn.ConvTranspose1d(64, 64, 4, 2, 1), (4, 64, 32), (ALONE, Scheme(4, 2))),
    ],
)
def test_each_convolution_has_the_scheme_that_suits_it(layer, shape, schemes):
    model = nn.Sequential(layer, nn.ReLU())
    graph = use_winograd(optimise(export(model, (torch.zeros(shape),)).graph))
    assert [(op.rows, op.columns) for op in winograds(graph)] == [schemes]
    assert uses_winograd(model, *shape) == 1


def test_two_pixels_are_enclosed_only_where_a_border_of_zeros_was_written():
    bare = nn.Sequential(nn.Conv2d(64, 64, 3))
    graph = use_winograd(optimise(export(bare, (torch.zeros(1, 64, 4, 4),)).graph))
    assert not any(op.rows.enclosed or op.columns.enclosed for op in winograds(graph))
    layers = [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)]
    chained = use_winograd(optimise(export(nn.Sequential(*layers), (torch.zeros(1, 64, 2, 2),)).graph))
    assert [op.rows.enclosed and op.columns.enclosed for op in winograds(chained)] == [True, True]
    assert uses_winograd(nn.Sequential(*layers), 1, 64, 2, 2) == 2


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(16, 16, 3, dilation=2), 20),
        (nn.Conv2d(16, 16, 3, groups=2), 20),
        (nn.Conv2d(16, 16, 9), 20),
        (nn.Conv2d(16, 16, 1), 20),
        (nn.Conv2d(1, 8, 3), 20),
        (nn.Conv2d(16, 16, 3), 3),
    ],
)
def test_convolutions_that_would_not_gain_stay_direct(layer, size):
    assert uses_winograd(layer, 1, layer.in_channels, size, size) == 0
