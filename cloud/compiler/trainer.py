"""Runs a compiled train step in wasmtime, in this process: to check it, and to train on this side."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import wasmtime

from cloud.compiler.ir import NUMPY
from cloud.compiler.rawcall import bind
from shared.abi import Function, Tensor, read_abi
from shared.errors import Unreadable
from shared.package import Package
from shared.parameters import F32Array, decode_parameters

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Bound:
    """A function of the module and the views of what it reads and makes. ``lr``: of the train step."""

    call: Callable[[], object]
    x: AnyArray
    y: AnyArray
    mask: AnyArray
    lr: AnyArray
    outputs: list[AnyArray]


class Trainer:
    """One instance of a training module. Not for use from two threads at once."""

    def __init__(self, package: Package) -> None:
        """Raises :class:`Unreadable` for what is no training module."""
        ((self.batch_size, binary),) = package.modules.items()
        abi = read_abi(binary)
        if abi is None or abi.function("train_step") is None or abi.function("evaluate") is None:
            raise Unreadable("a training module has the functions train_step and evaluate")
        store = wasmtime.Store()
        exports = wasmtime.Instance(store, wasmtime.Module(store.engine, binary), []).exports(store)
        memory = exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        self._store, self._exports = store, exports
        self._bytes = np.ctypeslib.as_array(memory.get_buffer_ptr(store))
        self._parameters = {one.name: self._view(one) for one in abi.parameters.tensors}
        self._functions = {one.name: self._bound(one) for one in abi.functions}
        self._masked = ("", 0)  # the function and the items that the mask in memory is for
        self.set_parameters(decode_parameters(package.parameters))

    def step(self, x: npt.ArrayLike, y: npt.ArrayLike, lr: float) -> float:
        """One batch, or less: the rest is masked. Returns the mean loss before the update."""
        (loss,) = self._call("train_step", x, y, lr)
        return float(loss)

    def evaluate(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[float, float, float]:
        """Sum of the losses, number of right classes, number of items."""
        loss, hits, count = self._call("evaluate", x, y, None)
        return float(loss), float(hits), float(count)

    def parameters(self) -> dict[str, F32Array]:
        """Copies, by the model's own names."""
        return {name: np.array(view) for name, view in self._parameters.items()}

    def set_parameters(self, tensors: Mapping[str, F32Array]) -> None:
        """Replace them all. Raises KeyError and ValueError for what does not fit."""
        for name, view in self._parameters.items():
            view[...] = tensors[name]

    def _call(self, name: str, x: npt.ArrayLike, y: npt.ArrayLike, lr: float | None) -> list[AnyArray]:
        function = self._functions[name]
        items = len(np.asarray(x))
        if not 0 < items <= self.batch_size:
            raise ValueError(f"{items} items; a batch is 1 to {self.batch_size}")
        if items == self.batch_size:
            function.x[...] = x
            function.y[...] = y
        else:
            for view, given in ((function.x, x), (function.y, y)):
                view[:items] = given
                view[items:] = 0
        if self._masked != (name, items):  # the functions' inputs share their bytes
            function.mask[:items] = 1
            function.mask[items:] = 0
            self._masked = name, items
        if lr is not None:
            function.lr[...] = lr
        function.call()
        return function.outputs

    def _bound(self, function: Function) -> _Bound:
        exported = self._exports[function.name]
        assert isinstance(exported, wasmtime.Func)
        given = {one.name: self._view(one) for one in function.inputs}
        outputs = [self._view(one) for one in function.outputs]
        lr = given.get("lr", np.zeros((), np.float32))
        return _Bound(bind(self._store, exported), given["x"], given["y"], given["mask"], lr, outputs)

    def _view(self, tensor: Tensor) -> AnyArray:
        flat = self._bytes[tensor.offset : tensor.offset + tensor.nbytes].view(NUMPY[tensor.dtype])
        view: AnyArray = flat.reshape(tensor.shape)
        return view
