"""Runs a function on fake tensors and writes down every ATen call: one straight line, differentiated.

Two layers are replaced by plain arithmetic while this happens: batch norm, whose running statistics torch
changes behind a trace's back, and attention, whose fused kernels have fused gradients.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._decomp import get_decompositions
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from cloud.compiler.pieces import pieces_of

_aten = torch.ops.aten
# Backward operators that are plain arithmetic, in pieces; what has a kernel of its own stays whole.
_IN_PIECES: Any = get_decompositions(
    [
        _aten._log_softmax_backward_data,
        _aten._softmax_backward_data,
        _aten.elu_backward,
        _aten.gelu_backward,
        _aten.hardsigmoid_backward,
        _aten.hardswish_backward,
        _aten.hardtanh_backward,
        _aten.leaky_relu_backward,
        _aten.log_sigmoid_backward,
        _aten.mish_backward,
        _aten.mse_loss_backward,
        _aten.native_batch_norm,  # of instance norm; batch norm itself is :func:`_batch_norm`
        _aten.native_batch_norm_backward,
        _aten.native_layer_norm_backward,
        _aten.native_group_norm_backward,
        _aten.select_backward,
        _aten.sigmoid_backward,
        _aten.silu_backward,
        _aten.slice_backward,
        _aten.softplus_backward,
        _aten.tanh_backward,
        _aten.threshold_backward,
        _aten.unfold_backward,
    ]
)


def trace(function: Callable[..., Any], *arguments: Any) -> torch.fx.GraphModule:
    """The calls that ``function(*arguments)`` makes, without those that nothing depends on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch about its own internals
        # Attention and recurrent layers as plain arithmetic, which can be differentiated.
        with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
            return _traced(functionalize(function), arguments)


def _traced(function: Callable[..., Any], arguments: Sequence[Any]) -> torch.fx.GraphModule:
    """Again with more operators in pieces, as long as there are some that have no lowering."""
    table = dict(_IN_PIECES)
    while True:
        traced = make_fx(function, decomposition_table=table, tracing_mode="fake")(*arguments)
        traced.graph.eliminate_dead_code()
        more = pieces_of(traced.graph, table)
        if not more:
            return traced
        table |= more


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` in plain arithmetic: torch's own changes its running statistics
    without saying so, and a trace would lose that. (Ioffe and Szegedy, 2015, algorithm 1.)
    """
    axes, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
    if training or running_mean is None or running_var is None:
        mean = x.mean(axes)
        centred = x - mean.view(shape)
        var = centred.square().mean(axes)
        if running_mean is not None and running_var is not None:
            count = x.numel() // x.shape[1]
            unbiased = var.detach() * (count / max(1, count - 1))
            running_mean.copy_((1 - momentum) * running_mean + momentum * mean.detach())
            running_var.copy_((1 - momentum) * running_var + momentum * unbiased)
    else:
        centred, var = x - running_mean.view(shape), running_var
    y = centred * torch.rsqrt(var + eps).view(shape)
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


@contextmanager
def mode(model: torch.nn.Module, *, training: bool) -> Iterator[None]:
    """The model in training or evaluation mode; afterwards everything is as it was."""
    flags = [(layer, layer.training) for layer in model.modules()]
    fast, batch_norm = torch.backends.mha.get_fastpath_enabled(), F.batch_norm
    torch.backends.mha.set_fastpath_enabled(False)
    setattr(F, "batch_norm", _batch_norm)  # noqa: B010 (its name is all that a layer knows of it)
    model.train(training)
    try:
        yield
    finally:
        setattr(F, "batch_norm", batch_norm)  # noqa: B010
        torch.backends.mha.set_fastpath_enabled(fast)
        for layer, flag in flags:
            layer.training = flag
