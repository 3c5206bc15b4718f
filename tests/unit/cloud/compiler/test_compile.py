"""From a torch model to numbers out of WebAssembly, and the file in between."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cloud.compiler import CompileError, Runner, compile_model
from shared.package import ModuleKind, unpack

SIZES = st.sampled_from([1, 3, 5, 63, 64, 65])


def perceptron(*widths: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def scale(model: nn.Sequential, x: Tensor) -> Tensor:
    """The size of the sums behind each output: rounding is relative to these."""
    with torch.inference_mode():
        for layer in model:
            if isinstance(layer, nn.Linear):
                x = nn.functional.linear(x.abs(), layer.weight.abs(), layer.bias.abs())
        return x


@given(batch=SIZES, inner=SIZES, outer=SIZES, seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_a_compiled_model_agrees_with_torch_to_a_millionth(batch, inner, outer, seed):
    model = perceptron(inner, outer, 7, seed=seed)
    x = torch.randn(batch, inner)
    y = compile_model(model, (x,), name="m", batch_sizes=(batch,)).load()(x.numpy())
    with torch.inference_mode():
        expected = model(x)
    assert y.shape == expected.shape
    assert (np.abs(y - expected.numpy()) <= 1e-6 * scale(model, x).numpy()).all()


def test_not_a_number_and_infinity_pass_through_as_in_torch():
    model = nn.Sequential(nn.ReLU(), nn.Flatten())
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, -1.0]])
    y = compile_model(model, (x,), name="m").load()(x.numpy())
    assert y.tobytes() == model(x).numpy().tobytes()


def test_a_layer_whose_sum_overflows_gives_infinity():
    model = nn.Linear(5, 3)
    with torch.no_grad():
        model.weight.fill_(3e38)
    x = torch.full((1, 5), 2.0)
    assert np.isposinf(compile_model(model, (x,), name="m").load()(x.numpy())).all()


def test_the_modules_bytes_depend_on_shapes_only():
    one, other = (
        compile_model(
            perceptron(9, 5, 2, seed=seed), (torch.zeros(1, 9),), name="m", batch_sizes=(1, 4)
        ).package
        for seed in (1, 2)
    )
    assert one.modules == other.modules
    assert one.parameters != other.parameters


def test_the_same_model_gives_the_same_file(tmp_path):
    for name in ("a", "b"):
        compile_model(perceptron(9, 5, 2), (torch.zeros(1, 9),), name="m", batch_sizes=(1, 4)).save(
            tmp_path / name
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_file_holds_everything_that_is_needed_to_run_it(tmp_path):
    model, x = perceptron(9, 5, 2), torch.randn(70, 9)
    compiled = compile_model(model, (x,), name="m", version="7", batch_sizes=(32, 1), description="a test")
    compiled.save(tmp_path / "m.shoal")
    package = unpack((tmp_path / "m.shoal").read_bytes())
    assert package == compiled.package
    assert np.array_equal(Runner(package)(x.numpy()), compiled.load()(x.numpy()))
    assert list(package.modules) == [1, 32]
    info = package.info
    assert (info.name, info.version, info.kind, info.description) == ("m", "7", ModuleKind.TENSOR, "a test")
    assert info.operators == {"matmul": 2}
    assert info.flops_per_item == (2 * 9 + 2) * 5 + (2 * 5 + 1) * 2
    assert info.memory_bytes_max == max(one.abi.memory_bytes for one in compiled.modules.values())


def test_an_item_gets_the_same_bits_in_every_batch():
    model, x = perceptron(33, 17, 6), torch.randn(40, 33).numpy()
    alone, together = (
        compile_model(model, (torch.zeros(1, 33),), name="m", batch_sizes=sizes).load()(x)
        for sizes in ((1,), (1, 3, 32))
    )
    assert alone.tobytes() == together.tobytes()


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 2)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(left), torch.relu(self.b(right))


def test_several_inputs_and_outputs():
    model, left, right = TwoHeads(), torch.randn(3, 4), torch.randn(3, 5)
    compiled = compile_model(model, (left, right), name="m", batch_sizes=(1, 2))
    function = compiled.modules[2].abi.functions[0]
    assert [one.name for one in function.inputs] == ["left", "right"]
    assert [one.name for one in function.outputs] == ["output_0", "output_1"]
    with torch.inference_mode():
        for got, expected in zip(
            compiled.load()(left.numpy(), right.numpy()), model(left, right), strict=True
        ):
            assert np.allclose(got, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("batch_sizes", [(), (0,), (1, 1), (-1, 2)])
def test_batch_sizes_that_make_no_sense_are_refused(batch_sizes):
    with pytest.raises(CompileError, match="batch sizes"):
        compile_model(nn.ReLU(), (torch.zeros(1, 2),), name="m", batch_sizes=batch_sizes)


def test_an_output_without_the_batch_in_front_is_refused():
    with pytest.raises(CompileError, match="first dimension"):
        compile_model(nn.Flatten(0), (torch.zeros(1, 2),), name="m", batch_sizes=(1, 2))


def test_an_example_without_a_batch_is_refused():
    with pytest.raises(CompileError, match="single number"):
        compile_model(nn.ReLU(), (torch.tensor(1.0),), name="m")


class Neighbours(nn.Module):
    """Items that look at each other: through time that comes first, and through a sum along the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(x)[0]


@pytest.mark.parametrize("model", [Neighbours(), nn.Softmax(0)])
@pytest.mark.parametrize("items", [1, 5])
def test_items_that_look_at_each_other_are_refused(model, items):
    with pytest.raises(CompileError, match="batch_first"):
        compile_model(model, (torch.rand(items, 2, 4),), name="m")


def test_an_argmax_between_equals_is_no_dependence():
    """Whichever of two equal classes an item gets, alone or beside another one, is a matter of rounding."""

    class Pixels(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            chosen = x.round().argmax(1)
            return torch.where((torch.arange(12) == 3) & (len(x) == 2), 1 - chosen, chosen)

    compile_model(Pixels(), (torch.rand(1, 2, 12),), name="m")


def test_examples_may_be_one_tensor_or_of_numpy():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for examples in (torch.from_numpy(x), x, [x]):
        assert np.array_equal(compile_model(nn.ReLU(), examples, name="m").load()(x), x)


@pytest.mark.parametrize(
    ("model", "examples", "message"),
    [
        (nn.ReLU().forward, (torch.ones(1, 2),), r"takes a torch\.nn\.Module"),
        (nn.ReLU(), ("x",), "input 0 is str"),
        (nn.ReLU(), (torch.ones(0, 2),), "at least one item"),
        (nn.Linear(2, 2).bfloat16(), (torch.ones(1, 2),), r"model\.float\(\)"),
        (nn.Linear(3, 2), (torch.ones(1, 2),), r"can't follow the model: \w+Error"),
    ],
)
def test_what_is_no_model_or_no_example_is_said(model, examples, message):
    with pytest.raises(CompileError, match=message):
        compile_model(model, examples, name="m")


class AnotherLayerForOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.many = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) if len(x) == 1 else self.many(x)


def test_a_model_with_other_parameters_for_other_batches_is_refused():
    with pytest.raises(CompileError, match="different parameters"):
        compile_model(AnotherLayerForOne(), (torch.zeros(1, 4),), name="m", batch_sizes=(1, 2))
