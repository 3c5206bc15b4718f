"""Optimisers as plain torch functions, to be traced into the train step.

One update takes a parameter, its gradient and the optimiser's states of it, and gives the new parameter and
the new states; states start as zeros. The learning rate is an input of every step, so schedules are the
caller's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cloud.compiler.errors import CompileError


class Optimiser(Protocol):
    """One update of one parameter. ``lr``: a number as an array of shape ()."""

    def states(self) -> tuple[str, ...]:
        """Names of the arrays kept for each parameter, of its shape."""
        ...

    def step(
        self, parameter: Tensor, gradient: Tensor, states: tuple[Tensor, ...], lr: Tensor, count: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The new parameter and the new states. ``count``: number of this step, from 1."""
        ...


@dataclass(frozen=True, slots=True)
class Sgd:
    """Stochastic gradient descent as in ``torch.optim.SGD``, without dampening."""

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def states(self) -> tuple[str, ...]:
        """The momentum's buffer, if there is momentum."""
        return ("momentum",) if self.momentum else ()

    def step(
        self, parameter: Tensor, gradient: Tensor, states: tuple[Tensor, ...], lr: Tensor, count: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``v = momentum * v + g; p = p - lr * v``."""
        del count
        if self.weight_decay:
            gradient = gradient + self.weight_decay * parameter
        if not self.momentum:
            return parameter - lr * gradient, ()
        velocity = self.momentum * states[0] + gradient
        direction = gradient + self.momentum * velocity if self.nesterov else velocity
        return parameter - lr * direction, (velocity,)


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam (Kingma and Ba, 2015, algorithm 1) as in ``torch.optim.Adam``.

    Weight decay is added to the gradient, or, ``decoupled``, taken from the parameter: AdamW (Loshchilov and
    Hutter, 2019).
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    def states(self) -> tuple[str, ...]:
        """First and second moment."""
        return ("first_moment", "second_moment")

    def step(
        self, parameter: Tensor, gradient: Tensor, states: tuple[Tensor, ...], lr: Tensor, count: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Moving averages of g and g squared, corrected for their start at zero."""
        if self.decoupled:
            parameter = parameter * (1 - lr * self.weight_decay)
        elif self.weight_decay:
            gradient = gradient + self.weight_decay * parameter
        first = self.beta1 * states[0] + (1 - self.beta1) * gradient
        second = self.beta2 * states[1] + (1 - self.beta2) * gradient * gradient
        first_hat = first / (1 - self.beta1**count)
        second_hat = second / (1 - self.beta2**count)
        return parameter - lr * first_hat / (second_hat.sqrt() + self.epsilon), (first, second)


NAMED: Mapping[str, Optimiser] = {
    "sgd": Sgd(),
    "adam": Adam(),
    "adamw": Adam(weight_decay=0.01, decoupled=True),
}


def optimiser_of(given: Optimiser | torch.optim.Optimizer | str) -> Optimiser:
    """Ours, by its name, or with the settings of torch's. Raises :class:`CompileError`."""
    if isinstance(given, str):
        if given not in NAMED:
            raise CompileError(f"optimizer {given!r}; there are {', '.join(NAMED)}")
        return NAMED[given]
    return _translated(given) if isinstance(given, torch.optim.Optimizer) else given


def _translated(given: torch.optim.Optimizer) -> Optimiser:
    if len(given.param_groups) != 1:
        raise CompileError("an optimizer with several groups of parameters; give one group")
    (settings,) = given.param_groups
    kind = type(given)
    unknown = [name for name in ("maximize", "amsgrad", "dampening") if settings.get(name)]
    if kind not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW) or unknown:
        raise CompileError(
            f"{kind.__name__} {' '.join(unknown)}: SGD, Adam and AdamW are covered, without these"
        )
    decay = float(settings["weight_decay"])
    if kind is torch.optim.SGD:
        return Sgd(float(settings["momentum"]), decay, bool(settings["nesterov"]))
    return _adam(settings, decay, decoupled=kind is torch.optim.AdamW)


def _adam(settings: Mapping[str, Any], decay: float, *, decoupled: bool) -> Adam:
    first, second = (float(one) for one in settings["betas"])
    return Adam(
        first,
        second,
        float(settings["eps"]),
        decay,
        decoupled or bool(settings.get("decoupled_weight_decay")),
    )
