"""Runs a compiled package in wasmtime, in this process: numpy in, numpy out.

The cloud's own small host for tensor modules: it checks a model straight after compilation, and needs only
the ABI. The devices' runtime, with its limits and its faster call path, is another program (the two sides
share no code on purpose: each tests the other's reading of the ABI).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import wasmtime

from cloud.compiler.ir import NUMPY
from cloud.compiler.rawcall import bind
from shared.abi import Abi, Tensor, read_abi
from shared.errors import Unreadable
from shared.package import Package
from shared.parameters import F32Array, decode_parameters

AnyArray = npt.NDArray[Any]


class Runner:
    """A package, instantiated once for each of its batch sizes. Not for use from two threads at once."""

    def __init__(self, package: Package) -> None:
        """Compile and fill every module. Raises :class:`Unreadable` for what is not a tensor model."""
        engine, parameters = wasmtime.Engine(), decode_parameters(package.parameters)
        self._instances = {
            size: _Instance(engine, binary, parameters) for size, binary in sorted(package.modules.items())
        }
        self._exactly = {one.shapes: one for one in self._instances.values()}
        self._alone = {
            one.shapes[0]: one.array_to_array() for one in self._instances.values() if one.is_simple
        }

    def __call__(self, *inputs: npt.ArrayLike) -> AnyArray | tuple[AnyArray, ...]:
        """The model's outputs for inputs of shape [items, ...], for any number of items of at least one.

        The items go through the largest module that they fill, and the last of them, if they fill none,
        through the smallest: what its other rows compute is not looked at.
        Raises ValueError for inputs of another shape than the model's.
        """
        if len(inputs) == 1 and isinstance(inputs[0], np.ndarray):  # the short way, for small models
            alone = self._alone.get(inputs[0].shape)
            if alone is not None:
                return alone(inputs[0])
        arrays = [np.asarray(one) for one in inputs]
        exactly = self._exactly.get(tuple(one.shape for one in arrays))
        if exactly is not None:
            return exactly.answer(arrays)
        counts = {len(one) if one.ndim else 0 for one in arrays}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(
                "every input needs the same number of items, at least one, in its first dimension"
            )
        (items,) = counts
        pieces, at = [], 0
        while at < items:
            size = self._batch_size(items - at)
            pieces.append(self._instances[size].run([one[at : at + size] for one in arrays]))
            at += size
        outputs = tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))
        return outputs[0] if len(outputs) == 1 else outputs

    def _batch_size(self, items: int) -> int:
        return max((size for size in self._instances if size <= items), default=min(self._instances))


class _Instance:
    """One module in one store. Its memory never grows, so the numpy views of it last."""

    def __init__(self, engine: wasmtime.Engine, binary: bytes, parameters: Mapping[str, F32Array]) -> None:
        abi = _tensor_abi(binary)
        self._store = wasmtime.Store(engine)
        exports = wasmtime.Instance(self._store, wasmtime.Module(engine, binary), []).exports(self._store)
        memory, run, prepare = exports["memory"], exports["run"], exports.get("prepare")
        if not isinstance(memory, wasmtime.Memory) or not isinstance(run, wasmtime.Func):
            raise Unreadable("a tensor module exports its memory and a function run")
        self._run, self._keep = bind(self._store, run), run
        self._bytes = np.ctypeslib.as_array(memory.get_buffer_ptr(self._store))
        for tensor in abi.parameters.tensors:
            self._view(tensor)[...] = _matching(parameters, tensor)
        if isinstance(prepare, wasmtime.Func):
            prepare(self._store)
        function = abi.functions[0]
        self._inputs = [self._view(one) for one in function.inputs]
        self._outputs = [self._view(one) for one in function.outputs]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the inputs that fill it."""
        return tuple(one.shape for one in self._inputs)

    @property
    def is_simple(self) -> bool:
        """Whether it has one input and one output."""
        return len(self._inputs) == len(self._outputs) == 1

    def array_to_array(self) -> Callable[[AnyArray], AnyArray]:
        """What a simple one computes from an array of exactly its shape, with nothing looked up on the way:
        a small model runs for less than a microsecond.
        """
        (x,), run, (y,) = self._inputs, self._run, self._outputs

        def answer(array: AnyArray) -> AnyArray:
            x[...] = array  # numpy converts float64
            run()
            return y.copy()

        return answer

    def answer(self, arrays: Sequence[npt.ArrayLike]) -> AnyArray | tuple[AnyArray, ...]:
        """The outputs for inputs of exactly its shapes."""
        for index, array in enumerate(arrays):
            self._inputs[index][...] = array  # numpy converts lists and float64 alike
        self._run()
        outputs = tuple(one.copy() for one in self._outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self, arrays: list[AnyArray]) -> list[AnyArray]:
        """Outputs for up to a batch of items; copies, so the next run does not change them."""
        for view, array in zip(self._inputs, arrays, strict=True):
            if array.shape[1:] != view.shape[1:]:
                raise ValueError(f"an item of shape {array.shape[1:]}; the model takes {view.shape[1:]}")
            view[: len(array)] = array
        self._run()
        return [view[: len(arrays[0])].copy() for view in self._outputs]

    def _view(self, tensor: Tensor) -> AnyArray:
        flat = self._bytes[tensor.offset : tensor.offset + tensor.nbytes].view(NUMPY[tensor.dtype])
        view: AnyArray = flat.reshape(tensor.shape)
        return view


def _tensor_abi(binary: bytes) -> Abi:
    abi = read_abi(binary)
    if abi is None or abi.function("run") is None:
        raise Unreadable("the module has no shoal.abi section with a function run")
    return abi


def _matching(parameters: Mapping[str, F32Array], tensor: Tensor) -> F32Array:
    array = parameters.get(tensor.name)
    if array is None or array.shape != tensor.shape or tensor.dtype != "f32":
        raise Unreadable(f"the blob has no {tensor.dtype} parameter {tensor.name!r} of shape {tensor.shape}")
    return array
