"""Whether the items of a batch keep to themselves.

A device joins the requests of several callers in one batch, fills it up, and cuts a long one in pieces. A
model whose items look at each other (softmax along the batch, an LSTM that takes time steps first) would then
answer with wrong numbers, and nothing would say so. So torch computes two items together, and each alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from cloud.compiler.errors import CompileError
from cloud.compiler.frontend import evaluation_mode

TOLERANCE = 1e-3  # of the output's scale: sums of a larger batch are rounded in another order
OTHERS_MAX = 0.1  # of an output's numbers: where two classes are as likely, an argmax may go either way
OTHER_SCALE, OTHER_SHIFT = -0.75, 0.25  # what makes a second item of the first


def require_items_apart(model: torch.nn.Module, inputs: Sequence[Tensor]) -> None:
    """Raises :class:`CompileError` if an item's answer depends on the item beside it.

    ``inputs``: one item or more. A model that can't take two items at all is not looked at.
    """
    first = [one[:1] for one in inputs]
    second = [_another(one) for one in inputs]
    both = [torch.cat(pair) for pair in zip(first, second, strict=True)]
    with evaluation_mode(model), torch.inference_mode():
        try:
            together = [*_arrays(model(*both))]
        except (RuntimeError, ValueError, IndexError):
            return
        alone = [[*_arrays(model(*one))] for one in (first, second)]
    for index, output in enumerate(together):
        for item, answers in enumerate(alone):
            if not _agree(output[item : item + 1], answers[index]):
                raise CompileError(
                    f"output {index} of an item depends on the other items of its batch. The first dimension "
                    "of every input and output must be the batch (recurrent layers and attention: "
                    "batch_first=True); if all rows belong together, take them as one item: x[0] at the "
                    "start of forward, and y[None] at its end"
                )


def _another(inputs: Tensor) -> Tensor:
    """A second item: the example's own, or one made of the first with numbers as they are allowed there."""
    if inputs.shape[0] > 1:
        return inputs[1:2]
    if inputs.dtype.is_floating_point:
        return inputs.flip(-1) * OTHER_SCALE + OTHER_SHIFT
    return inputs.flip(-1) if inputs.ndim > 1 else inputs


def _arrays(outputs: Any) -> Iterator[Tensor]:
    return (one for one in pytree.tree_leaves(outputs) if isinstance(one, Tensor))


def _agree(x: Tensor, y: Tensor) -> bool:
    if x.shape != y.shape:
        return False
    known = torch.isfinite(x) & torch.isfinite(y)
    x, y = (one[known].double() for one in (x, y))
    if not x.numel():
        return True
    differ = (x - y).abs() > TOLERANCE * y.abs().max()
    return float(differ.double().mean()) <= OTHERS_MAX
