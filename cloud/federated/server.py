"""Server steps: how the mean change of a round moves the global model.

Each is a pure function ``(options, x, delta, state) -> (new x, new state)`` over float32 vectors [n]; nothing
that goes in is changed. The state is stored with the version it led to; an empty one starts anew.
FedOpt: Reddi et al., Adaptive Federated Optimization, ICLR 2021, algorithm 2. There the mean change stands
where a gradient stands in SGD, Adagrad, Adam (without bias correction) and Yogi.
"""

from collections.abc import Callable, Mapping

import numpy as np

from shared.vectors import F32, Vector

Options = Mapping[str, float]
State = Mapping[str, Vector]
Stepped = tuple[Vector, dict[str, Vector]]
ServerStep = Callable[[Options, Vector, Vector, State], Stepped]


def descend(options: Options, x: Vector, delta: Vector, _state: State) -> Stepped:
    """``x + lr * delta``: with lr 1, the mean of the clients' models (McMahan et al. 2017)."""
    return x + F32.type(options["lr"]) * delta, {}


def momentum(options: Options, x: Vector, delta: Vector, state: State) -> Stepped:
    """FedAvgM (Hsu et al. 2019): ``m = momentum m + delta; x += lr m``."""
    m = delta.copy()
    if "m" in state:
        m += F32.type(options["momentum"]) * state["m"]
    return x + F32.type(options["lr"]) * m, {"m": m}


def adagrad(options: Options, x: Vector, delta: Vector, state: State) -> Stepped:
    """``v += delta**2``."""
    return _adapt(options, x, delta, state, state_v(options, delta, state) + delta * delta)


def adam(options: Options, x: Vector, delta: Vector, state: State) -> Stepped:
    """``v = beta2 v + (1 - beta2) delta**2``."""
    v = F32.type(options["beta2"]) * state_v(options, delta, state)
    v += F32.type(1 - options["beta2"]) * (delta * delta)
    return _adapt(options, x, delta, state, v)


def yogi(options: Options, x: Vector, delta: Vector, state: State) -> Stepped:
    """``v -= (1 - beta2) delta**2 sign(v - delta**2)``: v falls no faster than it rises."""
    v, square = state_v(options, delta, state), delta * delta
    v = v - F32.type(1 - options["beta2"]) * square * np.sign(v - square)
    return _adapt(options, x, delta, state, v)


def state_v(options: Options, delta: Vector, state: State) -> Vector:
    """v [n] of the round before; tau**2 in the first, the least that the paper allows."""
    return state["v"] if "v" in state else np.full_like(delta, options["tau"] ** 2)


def _adapt(options: Options, x: Vector, delta: Vector, state: State, v: Vector) -> Stepped:
    """``m = beta1 m + (1 - beta1) delta; x += lr m / (sqrt(v) + tau)``; m begins at zero."""
    m = F32.type(1 - options["beta1"]) * delta
    if "m" in state:
        m += F32.type(options["beta1"]) * state["m"]
    spread: Vector = np.sqrt(v)
    return x + F32.type(options["lr"]) * m / (spread + F32.type(options["tau"])), {"m": m, "v": v}
