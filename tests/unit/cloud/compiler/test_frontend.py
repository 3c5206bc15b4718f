"""torch.export -> graph: what is refused, and how; what torch may do behind the compiler's back."""

import pytest
import torch
from torch import Tensor, nn

from cloud.compiler import CompileError, UnsupportedOperator
from cloud.compiler.frontend import export
from cloud.compiler.ir import evaluate
from cloud.compiler.passes import optimise

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))


def check_against_torch(model: nn.Module, *inputs: Tensor) -> None:
    """The exported graph means what the model computes."""
    exported = export(model, inputs)
    (got,) = evaluate(exported.graph, [one.numpy() for one in inputs], exported.parameters)
    with torch.inference_mode():
        assert torch.allclose(torch.tensor(got), model.eval()(*inputs), atol=1e-6)


class Doubtful(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.lgamma(x)  # the line that the message names


def test_an_operator_without_a_lowering_names_itself_and_the_line_of_the_model():
    with pytest.raises(UnsupportedOperator) as caught:
        export(Doubtful(), (X,))
    assert caught.value.operator == "aten.lgamma.default"
    assert f"{__file__}:" in caught.value.source
    assert "return torch.lgamma(x)  # the line that the message names" in caught.value.source
    assert "the compiler covers" in caught.value.advice


def test_an_operator_inside_a_layer_of_torch_names_the_layer_and_what_to_use_instead():
    with pytest.raises(UnsupportedOperator, match=r"aten\.\w+\.input is not supported; ") as caught:
        export(nn.Sequential(nn.ReLU(), nn.ConvTranspose3d(1, 1, 1)), (X.view(1, 1, 2, 2, 2),))
    assert caught.value.source == "layer '1' (ConvTranspose3d)"


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        before = y + y
        torch.relu_(y)
        return before + y


def test_an_in_place_operation_does_not_change_what_was_read_before_it():
    check_against_torch(InPlace(), X)


class Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.arange(4.0))
        self.constant = torch.full((4,), 2.0)
        self.linear = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + self.offset) + self.constant


def test_buffers_and_constants_are_parameters_too():
    check_against_torch(Buffers(), X)
    assert sorted(export(Buffers(), (X,)).parameters) == ["constant", "linear.weight", "offset"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def test_tied_weights_are_stored_once():
    check_against_torch(Tied(), X)
    graph = optimise(export(Tied(), (X,)).graph)
    assert sorted(one.key for one in graph.parameters) == ["a.bias", "b.bias", "b.weight"]


def test_dropout_is_off_and_every_layers_own_mode_comes_back():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    model.train()
    model[2].eval()
    modes = [one.training for one in model.modules()]
    export(model, (X,))
    assert [one.training for one in model.modules()] == modes
    check_against_torch(model, X)


class ChangesItsBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.total.add_(x)
        return x + self.total


def test_a_path_that_depends_on_numbers_is_refused():
    class Torn(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(CompileError, match=r"choose with torch\.where"):
        export(Torn(), (torch.zeros(3),))


def test_an_encoder_with_a_mask_is_traced():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1)
            self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(5))

        def forward(self, x):
            return self.encoder(x, mask=self.mask)

    detect = nn.modules.transformer._detect_is_causal_mask
    check_against_torch(Masked(), torch.randn(2, 5, 8))
    assert nn.modules.transformer._detect_is_causal_mask is detect


def test_a_model_that_changes_itself_is_refused():
    with pytest.raises(CompileError, match="total"):
        export(ChangesItsBuffer(), (X,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.float16])
def test_other_number_types_are_refused(dtype):
    with pytest.raises(CompileError, match=str(dtype)):
        export(nn.ReLU(), (X.to(dtype),))


def test_an_empty_array_is_refused():
    with pytest.raises(CompileError, match="empty"):
        export(nn.ReLU(), (X[:, :0],))


class GivesANumber(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x, 3


def test_a_model_that_returns_something_else_than_arrays_is_refused():
    with pytest.raises(CompileError, match="must return arrays"):
        export(GivesANumber(), (X,))


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x.unsqueeze(1)).squeeze(1).contiguous().view(x.shape[0], -1)
        return (y.clone() + self.linear.bias).reshape(-1, 3, 1).flatten(1)


def test_shapes_are_changed_as_torch_changes_them():
    check_against_torch(Mixed(), X)
