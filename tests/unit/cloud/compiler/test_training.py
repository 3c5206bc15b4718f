"""Train steps: gradients against torch in float64, optimisers and loss curves against torch.optim."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cloud.compiler.errors import CompileError, UnsupportedOperator
from cloud.compiler.optimisers import Adam, Sgd, optimiser_of
from cloud.compiler.trainer import Trainer
from cloud.compiler.training import compile_training
from shared.package import unpack

# Parameters minus this many gradients: the gradient can be read back without losing its digits.
LARGE_RATE = 4096.0


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small are slower on several threads, and much slower beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Sequence(nn.Module):
    """The last step of a recurrent layer, classified."""

    def __init__(self, layer: nn.RNNBase, classes: int = 3) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(layer.hidden_size, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Encoder(nn.Module):
    """Tokens -> embedding -> transformer encoder -> classes."""

    def __init__(self, activation: str, norm_first: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
        )
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.tokens(x)).mean(1))


def mlp(*widths: int) -> nn.Sequential:
    layers = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def cnn(stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1, stride=stride),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 3, padding=1, groups=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def classes(items: int, count: int = 3) -> Tensor:
    return torch.randint(0, count, (items,))


def exact_gradients(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor):
    """Torch's own gradients, by name, in float64; the model is left as it was."""
    model = model.double()
    if x.is_floating_point():
        x = x.double()
    for one in model.parameters():
        one.grad = None
    loss(model(x), y.double() if y.is_floating_point() else y).backward()
    found = {key: one.grad.numpy() for key, one in model.named_parameters() if one.grad is not None}
    model.float()
    return found


def check_gradients(
    model: nn.Module, loss: str, torchs: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> None:
    """One step with a large rate; every parameter moved by its gradient."""
    trainer = compile_training(model, loss, example_batch=(x, y)).load()
    before = trainer.parameters()
    trainer.step(x.numpy(), y.numpy(), LARGE_RATE)
    after = trainer.parameters()
    exact = exact_gradients(model, torchs, x, y)
    scale = max(float(np.abs(one).max()) for one in exact.values())
    for key, wanted in exact.items():
        got = (before[key].astype(np.float64) - after[key]) / LARGE_RATE
        error = np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-2 * scale)
        assert error <= 1e-5, f"{key}: {error:.1e}"


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (mlp(7, 9, 3), (5, 7)),
        (cnn(), (2, 2, 9, 8)),
        (cnn(stride=2), (3, 2, 12, 11)),
        (
            nn.Sequential(nn.Conv1d(3, 4, 5, padding=2, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(24, 3)),
            (2, 3, 12),
        ),
        (
            nn.Sequential(
                nn.Conv2d(4, 4, 3, groups=4),
                nn.SiLU(),
                nn.Conv2d(4, 6, 3, dilation=2, groups=2),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(6, 3),
            ),
            (2, 4, 9, 9),
        ),
        (
            nn.Sequential(
                nn.Conv2d(2, 4, 3),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.AvgPool2d(2),
                nn.Flatten(),
                nn.Linear(36, 3),
            ),
            (4, 2, 8, 8),
        ),
        (
            nn.Sequential(
                nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
                nn.SiLU(),
                nn.ConvTranspose2d(6, 2, (2, 3), dilation=(1, 2)),
                nn.Flatten(),
                nn.Linear(252, 3),
            ),
            (2, 4, 4, 5),
        ),
        (
            nn.Sequential(
                nn.ConvTranspose1d(3, 4, 4, stride=3),
                nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 2, 3)),
                nn.Flatten(),
                nn.Linear(28, 3),
            ),
            (3, 3, 5),
        ),
        (Sequence(nn.GRU(3, 6, batch_first=True)), (4, 5, 3)),
        (Sequence(nn.LSTM(3, 6, batch_first=True)), (4, 5, 3)),
        (Sequence(nn.RNN(3, 6, batch_first=True)), (4, 5, 3)),
    ],
    ids=[
        "mlp",
        "cnn",
        "strided",
        "conv1d",
        "grouped",
        "batch-norm",
        "transposed",
        "transposed-1d",
        "gru",
        "lstm",
        "rnn",
    ],
)
def test_the_gradients_of_a_model_are_torchs(model, shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    model(x)  # lazy layers get their sizes
    for one in model.parameters():
        nn.init.normal_(one, std=0.4)
    check_gradients(model, "cross_entropy", F.cross_entropy, x, classes(shape[0]))


@pytest.mark.parametrize(("activation", "norm_first"), [("gelu", False), ("relu", True)])
def test_the_gradients_of_a_transformer_are_torchs(activation, norm_first):
    torch.manual_seed(0)
    model = Encoder(activation, norm_first)
    check_gradients(model, "cross_entropy", F.cross_entropy, torch.randint(0, 11, (3, 5)), classes(3))


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "log": lambda x: torch.log(x * x + 1),
    "sqrt": lambda x: torch.sqrt(x * x + 1),
    "rsqrt": lambda x: torch.rsqrt(x * x + 1),
    "pow": lambda x: x**3,
    "abs": torch.abs,
    "div": lambda x: x / (x * x + 2),
    "erf": torch.erf,
    "sin_cos": lambda x: torch.sin(x) * torch.cos(2 * x),
    "maximum": lambda x: torch.maximum(x, 0.3 * x + 0.1),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "where": lambda x: torch.where(x > 0.1, 2 * x, x * x),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "layer_norm": lambda x: F.layer_norm(x, (6,)),
    "group_norm": lambda x: F.group_norm(x, 2),
    "mean": lambda x: x - x.mean(-1, keepdim=True),
    "var": lambda x: x * x.var(-1, keepdim=True),
    "amax": lambda x: x * x.amax(-1, keepdim=True),
    "cat": lambda x: torch.cat((x[:, 3:], x[:, :3] * x[:, 3:]), 1),
    "matmul": lambda x: (x.unsqueeze(2) @ x.unsqueeze(1)).sum(-1),
    "flip_pad": lambda x: F.pad(x.flip(1), (1, 2))[:, :6] * x,
    "cumsum": lambda x: x.cumsum(1),
    "cumprod": lambda x: x.cumprod(1),
    "topk": lambda x: x.topk(3)[0],
    "angles": lambda x: torch.atan2(x, x * x + 1) * torch.atan(x),
    "log_sigmoid": F.logsigmoid,
    "shrink": lambda x: F.hardshrink(x) * F.softshrink(x),
    "std_and_norm": lambda x: x.std(-1, keepdim=True) * x.norm(dim=-1, keepdim=True),
}


IMAGE_OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_pool_of_pairs": lambda x: F.max_pool2d(x, 2),
    "avg_pool": lambda x: F.avg_pool2d(x, 2),
    "avg_pool_padded": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "avg_pool_divided": lambda x: F.avg_pool2d(x, 3, 1, divisor_override=5),
    "avg_pool_of_lines": lambda x: F.avg_pool1d(x.flatten(2), 4, 3),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest_smaller": lambda x: F.interpolate(x, size=(4, 3)),
    "bilinear": lambda x: F.interpolate(x, size=(5, 9), mode="bilinear"),
    "bilinear_aligned": lambda x: F.interpolate(x, size=(9, 3), mode="bilinear", align_corners=True),
    "instance_norm": F.instance_norm,
    "adaptive_max": lambda x: F.adaptive_max_pool2d(x, (3, 2)),
    "reflected": lambda x: F.pad(x, (1, 2, 2, 1), "reflect"),
    "replicated": lambda x: F.pad(x, (1, 2, 2, 1), "replicate"),
    "folded": lambda x: F.fold(F.unfold(x, 2), (7, 6), 2),
    "transposed": lambda x: x.transpose(1, 3) * x.mean(),
    "take": lambda x: x[:, :, [0, 2, 2]],
    "gather": lambda x: x.flatten(1).gather(1, torch.tensor([[3, 3, 0], [1, 7, 1]])),
    "attention": lambda x: F.scaled_dot_product_attention(x, x + 1, x * x),
}


class Operators(nn.Module):
    """Each operator is applied to the input under a parameter of its own, which then has its gradient."""

    def __init__(self, operators: dict[str, Callable[[Tensor], Tensor]], *shape: int) -> None:
        super().__init__()
        self.operators = operators
        self.scales = nn.ParameterDict({f"of_{name}": 0.5 + torch.rand(shape) for name in operators})

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(len(x), 1, dtype=x.dtype)
        for key, one in self.scales.items():
            y = self.operators[key.removeprefix("of_")](x * one).flatten(1)
            total = total + (y * torch.linspace(-1, 1, y.shape[1]).to(y.dtype)).sum(1, keepdim=True)
        return total


@pytest.mark.parametrize(
    ("operators", "shape"), [(OPERATORS, (4, 6)), (IMAGE_OPERATORS, (2, 3, 7, 6))], ids=["lines", "images"]
)
def test_the_gradient_of_every_operator_is_torchs(operators, shape):
    torch.manual_seed(0)
    model = Operators(operators, *shape[1:])
    check_gradients(model, "mse", F.mse_loss, torch.randn(shape), torch.randn(shape[0], 1))


@pytest.mark.parametrize(
    ("loss", "torchs", "targets"),
    [
        ("cross_entropy", F.cross_entropy, torch.tensor([2, 0, 1, 2, 1])),
        ("mse", F.mse_loss, torch.linspace(-2, 2, 15).view(5, 3)),
        ("bce", F.binary_cross_entropy_with_logits, (torch.arange(15).view(5, 3) % 2).float()),
    ],
)
def test_a_named_loss_is_torchs_loss(loss, torchs, targets):
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3), 20 * torch.randn(5, 4)
    trainer = compile_training(model, loss, example_batch=(x, targets)).load()
    wanted = torchs(model(x), targets).item()
    assert trainer.step(x.numpy(), targets.numpy(), 0.0) == pytest.approx(wanted, rel=2e-6)
    loss_sum, _, count = trainer.evaluate(x.numpy(), targets.numpy())
    assert loss_sum / count == pytest.approx(wanted, rel=2e-6)


def test_whole_and_partial_batches_and_both_functions_may_follow_one_another_in_any_order():
    """What a mask in memory is for is remembered: here it is another one in almost every call."""
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 3), torch.randn(5, 4), torch.arange(5) % 3
    trainer = compile_training(model, "cross_entropy", example_batch=(x, y)).load()
    for items in (5, 5, 2, 5, 1, 1, 5):
        part = x[:items].numpy(), y[:items].numpy()
        wanted = F.cross_entropy(model(x[:items]), y[:items]).item()
        assert trainer.step(*part, 0.0) == pytest.approx(wanted, rel=2e-6)
        for _ in range(2 if items == 1 else 1):
            loss_sum, _, count = trainer.evaluate(*part)
            assert (loss_sum / count, count) == (pytest.approx(wanted, rel=2e-6), items)


def test_a_loss_may_be_any_function_of_outputs_and_targets():
    model, x, y = nn.Linear(4, 2), torch.randn(3, 4), torch.randn(3, 2)
    trainer = compile_training(model, lambda a, b: (a - b).abs().sum(1), example_batch=(x, y)).load()
    wanted = (model(x) - y).abs().sum(1).mean().item()
    assert trainer.step(x.numpy(), y.numpy(), 0.0) == pytest.approx(wanted, rel=2e-6)


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (Sgd(), lambda p: torch.optim.SGD(p, lr=0.05)),
        (Sgd(momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
        (
            Sgd(momentum=0.8, weight_decay=0.02, nesterov=True),
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, weight_decay=0.02, nesterov=True),
        ),
        (Adam(), lambda p: torch.optim.Adam(p, lr=0.05)),
        (
            Adam(beta1=0.8, beta2=0.99, epsilon=1e-6, weight_decay=0.01),
            lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.01),
        ),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.05)),
    ],
    ids=["sgd", "momentum", "nesterov", "adam", "adam-options", "adamw"],
)
def test_an_optimiser_walks_with_torchs_for_thirty_steps(ours, torchs):
    torch.manual_seed(0)
    model = mlp(5, 8, 2)
    trainer = compile_training(model, "mse", ours, (torch.zeros(6, 5), torch.zeros(6, 2))).load()
    reference = model.double()
    optimiser = torchs(reference.parameters())
    for _ in range(30):
        x, y = torch.randn(6, 5), torch.randn(6, 2)
        optimiser.zero_grad()
        F.mse_loss(reference(x.double()), y.double()).backward()
        optimiser.step()
        trainer.step(x.numpy(), y.numpy(), 0.05)
    for key, array in trainer.parameters().items():
        np.testing.assert_allclose(array, reference.state_dict()[key].numpy(), atol=2e-5)


def test_the_loss_curve_of_five_hundred_steps_is_torchs():
    torch.manual_seed(0)
    model, teacher = mlp(16, 32, 16, 4), torch.randn(16, 4)
    trainer = compile_training(
        model, "cross_entropy", example_batch=(torch.zeros(32, 16), torch.zeros(32, dtype=torch.int64))
    ).load()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(500):
        x = torch.randn(32, 16)
        y = (x @ teacher).argmax(1)
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
        losses.append((loss.item(), trainer.step(x.numpy(), y.numpy(), 0.1)))
    torchs, ours = np.array(losses).T
    assert torchs[-20:].mean() < torchs[:20].mean() / 3
    assert np.abs(torchs - ours).max() < 2e-5


def test_a_partial_batch_counts_only_its_own_items():
    """What was left in the padded rows by the batch before has no say."""
    torch.manual_seed(0)
    model = mlp(5, 6, 3)
    package = compile_training(model, "cross_entropy", example_batch=(torch.zeros(8, 5), classes(8)))
    trainer = package.load()
    trainer.step(100 * np.ones((8, 5)), np.zeros(8), 0.0)
    x, y = torch.randn(3, 5), torch.tensor([2, 0, 1])
    before = trainer.parameters()
    loss = trainer.step(x.numpy(), y.numpy(), LARGE_RATE)
    assert loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=2e-6)
    for key, wanted in exact_gradients(model, F.cross_entropy, x, y).items():
        got = (before[key].astype(np.float64) - trainer.parameters()[key]) / LARGE_RATE
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_evaluation_counts_what_is_right_and_changes_nothing():
    torch.manual_seed(0)
    model, x, y = mlp(5, 9, 3), torch.randn(8, 5), classes(8)
    trainer = compile_training(model, "cross_entropy", Sgd(momentum=0.9), (x, y)).load()
    before = trainer.parameters()
    loss_sum, hits, count = trainer.evaluate(x[:5].numpy(), y[:5].numpy())
    outputs = model(x[:5])
    assert (hits, count) == ((outputs.argmax(1) == y[:5]).sum().item(), 5)
    assert loss_sum == pytest.approx(F.cross_entropy(outputs, y[:5], reduction="sum").item(), rel=2e-6)
    for key, array in trainer.parameters().items():
        assert np.array_equal(array, before[key])


def test_batch_norms_running_statistics_move_with_training_and_serve_evaluation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    x, y = 3 + torch.randn(16, 4), torch.randn(16, 2)
    trainer = compile_training(model, "mse", example_batch=(x, y)).load()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        F.mse_loss(model.train()(x), y).backward()
        optimiser.step()
        trainer.step(x.numpy(), y.numpy(), 0.01)
    got = trainer.parameters()
    for key in ("1.running_mean", "1.running_var"):
        np.testing.assert_allclose(got[key], model.state_dict()[key].numpy(), rtol=1e-5)
    loss_sum, _, count = trainer.evaluate(x.numpy(), y.numpy())
    assert loss_sum / count == pytest.approx(F.mse_loss(model.eval()(x), y).item(), rel=1e-5)


def test_buffers_of_positions_and_masks_are_part_of_the_module():
    class Picked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.register_buffer("order", torch.tensor([4, 1, 1]))
            self.register_buffer("kept", torch.tensor([True, False, True]))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.where(self.kept, x[:, self.order], 0.5))

    torch.manual_seed(0)
    check_gradients(Picked(), "mse", F.mse_loss, torch.randn(4, 5), torch.randn(4, 2))


def test_frozen_parameters_stay():
    model = mlp(4, 5, 3)
    model[0].weight.requires_grad_(False)
    trainer = compile_training(model, "cross_entropy", example_batch=(torch.randn(4, 4), classes(4))).load()
    before = trainer.parameters()
    trainer.step(np.ones((4, 4)), np.zeros(4), 1.0)
    after = trainer.parameters()
    assert np.array_equal(before["0.weight"], after["0.weight"])
    assert not np.array_equal(before["2.weight"], after["2.weight"])


def test_a_saved_train_step_goes_on_where_the_model_was(tmp_path):
    model, x, y = mlp(4, 5, 3), torch.randn(4, 4), classes(4)
    compiled = compile_training(model, "cross_entropy", example_batch=(x, y))
    compiled.save(tmp_path / "steps.shoal")
    trainer = Trainer(unpack((tmp_path / "steps.shoal").read_bytes()))
    assert trainer.step(x.numpy(), y.numpy(), 0.1) == compiled.load().step(x.numpy(), y.numpy(), 0.1)


def test_the_same_training_is_the_same_bytes_whatever_the_parameters_are():
    batch = (torch.zeros(4, 4), torch.zeros(4, dtype=torch.int64))
    first, second = (compile_training(mlp(4, 5, 3), "cross_entropy", Adam(), batch) for _ in range(2))
    assert first.module.binary == second.module.binary


def test_dropout_is_refused():
    with pytest.raises(UnsupportedOperator, match="randomness"):
        compile_training(
            nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)),
            "cross_entropy",
            example_batch=(torch.zeros(2, 4), classes(2)),
        )


def test_torchs_own_optimisers_bring_their_settings():
    weights = [nn.Parameter(torch.zeros(1))]
    given = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.25, nesterov=True)
    assert optimiser_of(given) == Sgd(momentum=0.9, weight_decay=0.25, nesterov=True)
    assert optimiser_of(torch.optim.Adam(weights, betas=(0.5, 0.75))) == optimiser_of(Adam(0.5, 0.75))
    assert optimiser_of(torch.optim.AdamW(weights, eps=1e-6)) == Adam(
        epsilon=1e-6, weight_decay=0.01, decoupled=True
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("lion", "there are sgd, adam, adamw"),
        (torch.optim.Adagrad([nn.Parameter(torch.zeros(1))]), "SGD, Adam and AdamW are covered"),
        (torch.optim.Adam([nn.Parameter(torch.zeros(1))], amsgrad=True), "amsgrad"),
        (torch.optim.SGD([nn.Parameter(torch.zeros(1))], momentum=0.5, dampening=0.1), "dampening"),
    ],
)
def test_other_optimisers_are_refused(given, message):
    with pytest.raises(CompileError, match=message):
        optimiser_of(given)


def test_an_unknown_loss_is_refused():
    with pytest.raises(CompileError, match="there are cross_entropy"):
        compile_training(nn.Linear(2, 2), "hinge", example_batch=(torch.zeros(1, 2), torch.zeros(1, 2)))


def test_more_items_than_the_batch_are_refused():
    trainer = compile_training(
        nn.Linear(2, 2), "mse", example_batch=(torch.zeros(3, 2), torch.zeros(3, 2))
    ).load()
    with pytest.raises(ValueError, match="a batch is 1 to 3"):
        trainer.step(np.zeros((4, 2)), np.zeros((4, 2)), 0.1)
