"""A device of ours whose "training" is the function that Flower's clients run too; all else is the product.

    python -m benchmarks.federated.device --config edge-1.toml     (the options of python -m edge)

Artifacts, core, disk, codecs, outbox and bus are those of a real device. Only the WebAssembly host is
another one for training packages: it reads their parameters and calls benchmarks/federated/training_function.
"""

import asyncio
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.federated.training_function import train
from broker.process import main
from broker.service import Service
from edge.__main__ import SWITCH_S, Boot, arguments, settings
from edge.runtime.parameters import Array, read_safetensors
from edge.store.state import DeviceState
from edge.training import events as training
from shared.abi import Function, Tensor
from shared.config import Config
from shared.package import unpack
from shared.vectors import Layout

T = TypeVar("T")

BATCH = 32
_X, _Y = Tensor("x", "f32", (BATCH, 1), 0), Tensor("y", "f32", (BATCH,), 0)
_MASK, _LR = Tensor("mask", "f32", (BATCH,), 0), Tensor("lr", "f32", (), 0)
FUNCTIONS = {
    "train_step": Function("train_step", (_X, _Y, _MASK, _LR), ()),
    "evaluate": Function("evaluate", (_X, _Y, _MASK), ()),
}


class Session:
    """See :class:`edge.training.trainer.TrainingSession`. One step is one call of the function."""

    batch_size = BATCH

    def __init__(self, tensors: Mapping[str, Array], seed: int) -> None:
        self._tensors, self._seed = dict(tensors), seed
        self._layout = Layout.of(self._tensors)

    def describe(self, function: str) -> Function | None:
        return FUNCTIONS.get(function)

    async def parameters(self) -> dict[str, Array]:
        return {name: one.copy() for name, one in self._tensors.items()}

    async def set_parameters(self, tensors: Mapping[str, Array]) -> None:
        self._tensors = dict(tensors)

    async def steps(self, work: Callable[[Any], T], *, deadline_s: float | None = None) -> T:
        return await asyncio.to_thread(work, self)

    def call(self, function: str, inputs: Sequence[Array]) -> list[Array]:
        assert function == "train_step", "nothing is held out"
        self._seed += 1
        self._tensors = self._layout.unflatten(train(self._layout.flatten(self._tensors), self._seed))
        return []

    async def close(self) -> None:
        """There is nothing to free."""


class Host:
    """See :class:`edge.training.service.Host`."""

    def __init__(self, node: str) -> None:
        self._loaded: dict[str, dict[str, Array]] = {}
        self._seed = zlib.crc32(node.encode())

    def names(self) -> tuple[str, ...]:
        return tuple(self._loaded)

    async def load(self, name: str, source: bytes | Path) -> object:
        data = source if isinstance(source, bytes) else await asyncio.to_thread(source.read_bytes)
        tensors = read_safetensors(unpack(data).parameters)
        self._loaded[name] = {key: np.asarray(one, np.float32) for key, one in tensors.items()}
        return None

    def unload(self, name: str) -> bool:
        return self._loaded.pop(name, None) is not None

    async def open_session(self, name: str) -> Session:
        return Session(self._loaded[name], self._seed)


class Trainee(Boot):
    """One boot, with another host for its training."""

    def _training(self, config: Config, data: Path) -> Service[training.Event]:
        wasm, self.host = self.host, Host(config.device.node)  # type: ignore[assignment]
        try:
            return super()._training(config, data)
        finally:
            self.host = wasm


async def serve(config: Config) -> None:
    """As the product's own device does."""
    sys.setswitchinterval(SWITCH_S)
    data = Path(config.device.data)
    state = DeviceState(data)
    try:
        await Trainee(config, data, state).run()
    finally:
        state.close()


if __name__ == "__main__":
    chosen = arguments()
    sys.exit(main(chosen, lambda: serve(settings(chosen))))
