"""Winograd's convolution: its matrices, its kernel within the bound at any size, where it is used."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cloud.compiler.backend import build_module
from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.frontend import export
from cloud.compiler.ops.image import PANEL, Border, Conv
from cloud.compiler.ops.winograd import INPUT, KERNEL, OUTPUT, POINTS, TILE, WinogradConv, padded
from cloud.compiler.passes import optimise
from cloud.compiler.passes.winograd import use_winograd
from tests.unit.cloud.compiler.graphs import agree_op, close, run

BOUND = 2e-5
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
    return sum(isinstance(node.op, WinogradConv) for node in graph.nodes)


def transformed(w: np.ndarray) -> np.ndarray:
    """[P, 3, 3, C, 8] -> [36, P, C, 8], in float64."""
    square = np.einsum("ai,pijcl,ej->aepcl", KERNEL, w.astype(np.float64), KERNEL)
    return square.reshape(POINTS * POINTS, *square.shape[2:])


def test_the_three_matrices_are_an_algorithm():
    """sum over taps of g d, for every tap and pixel: the identity that the algorithm rests on."""
    for tap in range(3):
        for pixel in range(POINTS):
            product = OUTPUT @ (KERNEL[:, tap] * INPUT[:, pixel])
            assert np.allclose(product, [pixel == result + tap for result in range(TILE)], atol=1e-12)


@given(
    st.integers(1, 3),
    st.integers(1, 13),
    st.integers(1, 13),
    st.integers(1, 9),
    st.integers(1, 18),
    st.data(),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_size_of_image_with_epilogue_and_halo(batch, height, width, channels, outputs, data):
    halo = data.draw(st.builds(Border, *[st.integers(0, 2)] * 4))
    rng = np.random.default_rng(height * 100 + width)
    x = np.zeros((batch, padded(height), padded(width), channels), np.float32)
    x[:, : height + 2, : width + 2] = rng.normal(size=(batch, height + 2, width + 2, channels))
    w = rng.normal(size=(-(-outputs // PANEL), 3, 3, channels, PANEL)).astype(np.float32)
    extras = rng.normal(size=outputs).astype(np.float32), rng.normal(size=(batch, height, width, outputs))
    operands = (x, transformed(w).astype(np.float32), extras[0], extras[1].astype(np.float32))
    got = agree_op(WinogradConv(outputs, height, width, EPILOGUE, halo), *operands, tolerance=BOUND)
    direct = Conv(outputs, epilogue=EPILOGUE, halo=halo)
    exact = direct.evaluate(x[:, : height + 2, : width + 2].astype(np.float64), w.astype(np.float64), *extras)
    close(got, exact, BOUND, "winograd and direct")


def test_the_meaning_is_that_of_a_convolution():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 10, 14, 5)), rng.normal(size=(2, 3, 3, 5, PANEL))
    winograd = WinogradConv(11, 8, 12).evaluate(x, transformed(w))
    np.testing.assert_allclose(winograd, Conv(11).evaluate(x, w), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("batch", "size"), [(1, 20), (3, 9), (20, 30)])
def test_blocks_of_tiles_cover_one_image_or_several(batch, size):
    assert uses_winograd(nn.Conv2d(32, 24, 3, padding=1), batch, 32, size, size - 1) == 1


def test_borders_up_to_whole_tiles_are_written_by_whoever_makes_the_image():
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(16, 16, 3), nn.MaxPool2d(2), nn.Conv2d(16, 17, 3, padding=1))
    assert uses_winograd(model, 2, 3, 21, 18) == 3


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(16, 16, 3, stride=2), 20),
        (nn.Conv2d(16, 16, 3, dilation=2), 20),
        (nn.Conv2d(16, 16, 3, groups=2), 20),
        (nn.Conv2d(16, 16, 5), 20),
        (nn.Conv2d(4, 16, 3), 20),
        (nn.Conv2d(16, 16, 3), 6),
    ],
)
def test_convolutions_that_would_not_gain_stay_direct(layer, size):
    assert uses_winograd(layer, 1, layer.in_channels, size, size) == 0
