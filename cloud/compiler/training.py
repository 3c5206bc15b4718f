"""Model, loss and optimiser -> one WebAssembly module that trains.

    train_step(x, y, mask, lr) -> loss              parameters, and the optimiser's states, change in place
    evaluate(x, y, mask) -> loss_sum, hits, count   sums over the items that the mask leaves in

Torch's own autograd is traced: make_fx over functional_call, grad_and_value and the update gives one straight
line of ATen calls, forward and backward, which goes through the same lowering, passes and kernels as
inference. ``mask`` [batch] is 1.0 for an item that counts and 0.0 for padding of the last batch: the loss is
the mean over the items that count. Layers are in training mode in ``train_step``; batch norm's running
statistics are parameters too and are updated. Random layers (dropout) are refused: a module has no source
of randomness. Batch norm's statistics are over the whole batch, padding too: give such a model whole batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value

from cloud.compiler.backend import Module, build_module
from cloud.compiler.cost import flops, operator_counts
from cloud.compiler.errors import CompileError
from cloud.compiler.ir import Graph, Parameter, Update, Value
from cloud.compiler.losses import LOSSES, Loss
from cloud.compiler.ops.movement import Cast
from cloud.compiler.optimisers import Optimiser, Sgd, optimiser_of
from cloud.compiler.passes import Precision, optimise
from cloud.compiler.reader import Reader, dtype_of
from cloud.compiler.tracing import mode, trace
from cloud.compiler.trainer import Trainer
from shared.package import ModuleKind, Package, PackageInfo, pack
from shared.parameters import F32Array, encode_parameters


@dataclass(frozen=True, slots=True)
class Trainable:
    """A compiled train step. ``initial``: the model's parameters when it was compiled, by name."""

    package: Package
    module: Module
    initial: Mapping[str, F32Array]

    def save(self, path: str | Path) -> None:
        """Write the ``.shoal`` file."""
        Path(path).write_bytes(pack(self.package))

    def load(self) -> Trainer:
        """Instantiate it here, in wasmtime."""
        return Trainer(self.package)


def compile_training(
    model: torch.nn.Module,
    loss: str | Loss,
    optimizer: Optimiser | torch.optim.Optimizer | str = Sgd(),  # noqa: B008 (frozen)
    example_batch: tuple[Tensor, Tensor] | None = None,
    *,
    name: str = "",
    version: str = "1",
    precision: Precision | str = Precision.EXACT,
) -> Trainable:
    """Compile training for batches of one size.

    ``loss``: "cross_entropy", "mse", "bce" (with logits), or a function (outputs, targets) -> [batch].
    ``optimizer``: :class:`Sgd` (the default), :class:`Adam`, "sgd", "adam", or one of torch's, whose settings
    are taken over. The learning rate is an input of every step. ``example_batch``: inputs and targets; their
    shapes and dtypes count. ``precision``: see :class:`Precision`. Raises :class:`UnsupportedOperator` and
    :class:`CompileError`.
    """
    if example_batch is None:
        raise CompileError("give example_batch=(inputs, targets): their shapes are compiled in")
    chosen = LOSSES.get(loss) if isinstance(loss, str) else loss
    if chosen is None:
        raise CompileError(f"loss {loss!r}; there are {', '.join(LOSSES)}, or give a function")
    traced = _Traced(model, chosen, optimiser_of(optimizer), *example_batch)
    functions = {"train_step": traced.train_step(), "evaluate": traced.evaluate()}
    graphs = {
        function: optimise(graph, Precision(precision), lasting=False)
        for function, graph in functions.items()
    }
    module = build_module(graphs, hoist=False)
    items = len(example_batch[0])
    initial = traced.initial()
    tensors = [one.name for one in module.abi.parameters.tensors]
    info = PackageInfo(
        name=name or f"{type(model).__name__.lower()}-training",
        version=version,
        kind=ModuleKind.TENSOR,
        memory_bytes_max=module.abi.memory_bytes,
        operators=operator_counts(graphs["train_step"]),
        flops_per_item=flops(graphs["train_step"]) // items,
    )
    blob = encode_parameters({one: initial[one] for one in tensors})
    return Trainable(Package(info=info, modules={items: module.binary}, parameters=blob), module, initial)


class _Traced:
    """The two functions as torch traces them, and as graphs."""

    def __init__(
        self, model: torch.nn.Module, loss: Loss, optimiser: Optimiser, inputs: Tensor, targets: Tensor
    ) -> None:
        self._model, self._loss, self._optimiser = model, loss, optimiser
        self._batch = (inputs, targets, torch.ones(len(inputs)))
        self._parameters = {key: one.detach() for key, one in model.named_parameters() if one.requires_grad}
        others = [*model.named_parameters(), *model.named_buffers()]
        self._fixed = {
            key: one.detach()
            for key, one in others
            if key not in self._parameters and one.dtype == torch.float32
        }
        self._integers = {key: one.detach() for key, one in others if not one.is_floating_point()}
        self._tensors = self._parameters | self._fixed
        for key, one in self._tensors.items():
            if one.dtype != torch.float32:
                raise CompileError(f"parameter {key} is {one.dtype}; models are trained in torch.float32")
        self._states = {
            f"{key}.{state}": torch.zeros_like(one)
            for key, one in self._parameters.items()
            for state in optimiser.states()
        } | ({"step": torch.zeros(())} if optimiser.states() else {})

    def initial(self) -> dict[str, F32Array]:
        return {key: np.array(one.numpy(), np.float32, order="C") for key, one in self._tensors.items()}

    def train_step(self) -> Graph:
        def step(
            parameters: dict[str, Tensor],
            fixed: dict[str, Tensor],
            states: dict[str, Tensor],
            batch: tuple[Tensor, Tensor, Tensor],
            lr: Tensor,
        ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
            gradients, (loss, changed) = grad_and_value(self._mean_loss, has_aux=True)(
                parameters, fixed, batch
            )
            new, moved = self._update(parameters, gradients, states, lr)
            return loss, new, changed, moved

        with mode(self._model, training=True):
            arguments = (self._parameters, self._fixed, self._states, self._batch, torch.zeros(()))
            traced = trace(step, *arguments)
        labels = [*self._labels(), *(f"state {key}" for key in self._states), "x", "y", "mask", "lr"]
        updates = [f"parameter {key}" for key in (*self._parameters, *self._fixed)]
        return _graph(traced, labels, 1, [*updates, *(f"state {key}" for key in self._states)])

    def evaluate(self) -> Graph:
        def look(tensors: dict[str, Tensor], batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
            inputs, targets, mask = batch
            outputs = functional_call(self._model, {**tensors, **self._literals()}, (inputs,))
            loss = (self._loss(outputs, targets) * mask).sum()
            return loss, (_hits(outputs, targets) * mask).sum(), mask.sum()

        with mode(self._model, training=False):
            traced = trace(look, self._tensors, self._batch)
        return _graph(traced, [*self._labels(), "x", "y", "mask"], 3, [])

    def _labels(self) -> list[str]:
        return [f"parameter {key}" for key in (*self._parameters, *self._fixed)]

    def _literals(self) -> dict[str, Tensor]:
        """Buffers of integers and truth values as numbers in the trace: positions, masks, and batch norm's
        count of its calls, which nobody reads and which may count on.
        """
        return {key: torch.tensor(one.tolist(), dtype=one.dtype) for key, one in self._integers.items()}

    def _mean_loss(
        self, parameters: dict[str, Tensor], fixed: dict[str, Tensor], batch: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and what the forward pass made of the fixed tensors."""
        inputs, targets, mask = batch
        buffers = {key: one.clone() for key, one in fixed.items()}  # batch norm writes into them
        outputs = functional_call(self._model, {**parameters, **buffers, **self._literals()}, (inputs,))
        loss = (self._loss(outputs, targets) * mask).sum() / mask.sum()
        return loss, buffers

    def _update(
        self,
        parameters: dict[str, Tensor],
        gradients: dict[str, Tensor],
        states: dict[str, Tensor],
        lr: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        count = states["step"] + 1 if states else lr
        new: dict[str, Tensor] = {}
        moved: dict[str, Tensor] = {}
        for key, parameter in parameters.items():
            own = tuple(states[f"{key}.{one}"] for one in self._optimiser.states())
            new[key], after = self._optimiser.step(parameter, gradients[key], own, lr, count)
            moved |= {
                f"{key}.{one}": value for one, value in zip(self._optimiser.states(), after, strict=True)
            }
        return new, moved | ({"step": count} if states else {})


def _graph(
    traced: torch.fx.GraphModule, labels: Sequence[str], outputs: int, updates: Sequence[str]
) -> Graph:
    """``labels``: of the placeholders; "parameter k" and "state k" last, the others are inputs.

    The first results are the ``outputs``; the rest are new values of the labels in ``updates``.
    """
    reader = Reader()
    given = _placeholders(traced, labels, reader)
    found = _results(traced, reader)
    lasting = {label: Parameter(label.partition(" ")[2], one) for label, one in given.items() if " " in label}
    graph = Graph(
        tuple(one for label, one in given.items() if label not in lasting),
        tuple(one for label, one in lasting.items() if label.startswith("parameter ")),
        tuple(reader.build.nodes),
        tuple(found[:outputs]),
        tuple(reader.build.constants),
        tuple(one for label, one in lasting.items() if label.startswith("state ")),
        tuple(
            Update(given[label], new)
            for label, new in zip(updates, found[outputs:], strict=True)
            if new != given[label]
        ),
    )
    graph.check()
    return graph


def _placeholders(traced: torch.fx.GraphModule, labels: Sequence[str], reader: Reader) -> dict[str, Value]:
    nodes = [node for node in traced.graph.nodes if node.op == "placeholder"]
    given: dict[str, Value] = {}
    for node, label in zip(nodes, labels, strict=True):
        meta = node.meta["val"]
        value = given[label] = Value(label, tuple(meta.shape), dtype_of(meta.dtype))
        inside = value.dtype in ("f32", "i32")
        reader.define(node, value if inside else reader.build(Cast("i32"), value))
    return given


def _results(traced: torch.fx.GraphModule, reader: Reader) -> list[Value]:
    """Lowers every call; gives the values that the function returns."""
    for node in traced.graph.nodes:
        if node.op == "call_function":
            reader.node(node)
        elif node.op == "get_attr":
            reader.define(node, reader.build.constant(getattr(traced, str(node.target)).numpy()))
    (last,) = (node for node in traced.graph.nodes if node.op == "output")
    found = [reader.known(node) for node in torch.utils._pytree.tree_leaves(last.args[0])]
    if None in found:
        raise CompileError("the loss must depend on the model's outputs")
    return [one for one in found if one is not None]


def _hits(outputs: Tensor, targets: Tensor) -> Tensor:
    """1.0 where the highest logit is the target's class; 0.0 where targets are no classes."""
    if targets.dtype != torch.int64 or outputs.ndim != 2:
        return torch.zeros(len(outputs))
    return (outputs.argmax(-1) == targets).to(torch.float32)
