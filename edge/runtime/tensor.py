"""Tensor modules: arrays in, arrays out, through the memory that ``shared/abi.py`` describes.

A program holds the compiled modules of one package (one per batch size, one set of parameters); an instance
of it is one store per batch size in use, made when first needed. What a caller gets is always a copy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import numpy as np
from wasmtime import Module

from edge.runtime.batching import Part, parts
from edge.runtime.binary import read_interface
from edge.runtime.errors import BadInput, BadModule, OutputTooLarge
from edge.runtime.limits import PAGE_BYTES
from edge.runtime.parameters import DTYPES, Array, match, read_safetensors
from edge.runtime.sandbox import Sandbox
from edge.runtime.tensor_module import TensorModule, check_module
from shared.abi import Abi, Function, Tensor, read_abi
from shared.errors import Unreadable


class CompiledModule(NamedTuple):
    """One batch size of a package, compiled and checked."""

    module: Module
    abi: Abi
    memory_bytes: int


class TensorCall(NamedTuple):
    """A call whose arguments fit. ``parts``: the pieces of the batch; one piece may be the whole of it."""

    function: str
    inputs: Sequence[Array]
    parts: Sequence[Part]
    items: int

    @property
    def is_whole(self) -> bool:
        """True when the arguments have a module's own shapes: no slicing and no padding."""
        part = self.parts[0]
        return part.size == part.items == self.items


@dataclass(slots=True)
class _Variant:
    """One function as compiled for one batch size. ``batched``: the first axis of everything is the batch."""

    size: int
    inputs: tuple[tuple[tuple[int, ...], np.dtype[np.generic]], ...]
    outputs: tuple[Tensor, ...]
    batched: bool
    whole: tuple[Part]

    @property
    def output_bytes(self) -> int:
        """Of one call."""
        return sum(tensor.nbytes for tensor in self.outputs)

    @property
    def input_bytes(self) -> int:
        """Of one call."""
        return sum(prod(shape) * dtype.itemsize for shape, dtype in self.inputs)

    def fits(self, inputs: Sequence[object]) -> bool:
        """A plain loop: this is on the way of every inline call."""
        if len(inputs) != len(self.inputs):
            return False
        for have, (shape, dtype) in zip(inputs, self.inputs, strict=True):
            if not isinstance(have, np.ndarray) or have.shape != shape or have.dtype != dtype:
                return False
        return True

    def fits_items(self, inputs: Sequence[Array]) -> bool:
        """The same but for the number of items, which all inputs share."""
        return len(inputs) == len(self.inputs) and all(
            have.ndim > 0
            and len(have) == len(inputs[0]) > 0
            and have.shape[1:] == shape[1:]
            and have.dtype == dtype
            for have, (shape, dtype) in zip(inputs, self.inputs, strict=True)
        )


class Weights(NamedTuple):
    """One set of parameters. ``generation``: counts the sets, so an instance sees that its own is old."""

    generation: int
    tensors: Mapping[str, Array]


@dataclass(slots=True)
class TensorProgram:
    """Everything about a package that its instances share. Only ``weights`` ever change, and as a whole.

    :meth:`swap` replaces them while calls run: an instance belongs to one call at a time and takes the new
    set before its next one, so that no call reads half of each.
    """

    sandbox: Sandbox
    modules: Mapping[int, CompiledModule]
    weights: Weights
    variants: dict[str, list[_Variant]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for size, (_, abi, _) in sorted(self.modules.items()):
            for one in abi.functions:
                self.variants.setdefault(one.name, []).append(_variant(size, one))

    def swap(self, tensors: Mapping[str, Array]) -> None:
        """New parameters for every call that begins from now on.

        The arrays are copied. Raises :class:`BadModule` that names what does not fit; nothing changes then.
        """
        for _, abi, _ in self.modules.values():
            match(abi.parameters, tensors)
        copies = {name: array.copy() for name, array in tensors.items()}
        self.weights = Weights(self.weights.generation + 1, copies)

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the functions that can be called."""
        return tuple(self.variants)

    def check(self, function: str, inputs: object) -> TensorCall:
        """Find the modules that can do the work. Raises :class:`BadInput` that says what would fit."""
        variants = self.variants.get(function)
        if variants is None:
            raise BadInput(f"there is no function {function!r}; there are {', '.join(self.variants)}")
        if not isinstance(inputs, list | tuple):
            raise BadInput("a tensor module takes a list or tuple of numpy arrays")
        for variant in variants:
            if variant.fits(inputs):
                return TensorCall(function, inputs, variant.whole, variant.size)
        if not all(isinstance(one, np.ndarray) for one in inputs):
            raise BadInput("a tensor module takes a list or tuple of numpy arrays")
        if sum(one.nbytes for one in inputs) > self.sandbox.limits.input_bytes_max:
            raise BadInput(f"the inputs have over {self.sandbox.limits.input_bytes_max} bytes")
        batched = [variant for variant in variants if variant.batched]
        if not batched or not batched[0].fits_items(inputs):
            raise BadInput(_expected(function, variants, inputs))
        return self._split(function, inputs, batched)

    def zeros(self, function: str) -> TensorCall | None:
        """A call of the function's smallest module with nothing but zeros, to see how long it takes."""
        smallest = self.variants[function][0] if function in self.variants else None
        if smallest is None or smallest.input_bytes > self.sandbox.limits.input_bytes_max:
            return None
        inputs = [np.zeros(shape, dtype) for shape, dtype in smallest.inputs]
        return TensorCall(function, inputs, smallest.whole, smallest.size)

    def start(self, deadline: float) -> "TensorInstance":
        """A new instance with the package's parameters, its smallest module ready. Blocks: use a thread."""
        instance = TensorInstance(self)
        try:
            instance.module(min(self.modules), deadline, self.weights)
        except BaseException:
            instance.close()
            raise
        return instance

    def merged(self, calls: Sequence[TensorCall]) -> TensorCall | None:
        """The calls of one function as one, or None when that function has no batch axis to join them on."""
        function = calls[0].function
        if not any(variant.batched for variant in self.variants[function]):
            return None
        columns = zip(*(call.inputs for call in calls), strict=True)
        return self.check(function, [np.concatenate(arrays) for arrays in columns])

    def only(self, size: int) -> "TensorProgram":
        """The program with the module of one batch size. Raises :class:`BadInput`."""
        if size not in self.modules:
            raise BadInput(f"there is no module of batch size {size}; there are {sorted(self.modules)}")
        return TensorProgram(self.sandbox, {size: self.modules[size]}, self.weights)

    def _split(self, function: str, inputs: Sequence[Array], batched: list[_Variant]) -> TensorCall:
        items, most = len(inputs[0]), self.sandbox.limits.output_bytes_max
        item_bytes = batched[0].output_bytes // batched[0].size
        if items * item_bytes > most:
            raise OutputTooLarge(f"{items} items give {items * item_bytes} bytes; output_bytes_max is {most}")
        return TensorCall(function, inputs, tuple(parts(items, [one.size for one in batched])), items)


class TensorInstance:
    """One of a program's parallel instances: a store per batch size. Belongs to one thread at a time."""

    def __init__(self, program: TensorProgram) -> None:
        self._program = program
        self._modules: dict[int, TensorModule] = {}
        self._generations: dict[int, int] = {}

    def module(self, size: int, deadline: float, weights: Weights | None = None) -> TensorModule:
        """The module of that batch size, made when first asked for.

        ``weights``: what it computes with from now on; None leaves it the set that it has (a session's own).
        """
        module = self._modules.get(size)
        if module is None:
            module = TensorModule(self._program.sandbox, *self._program.modules[size], deadline)
            self._modules[size] = module
            weights = weights or self._program.weights
        if weights is not None and self._generations.get(size) != weights.generation:
            module.set_parameters(weights.tensors, deadline)
            self._generations[size] = weights.generation
        return module

    def is_ready(self, call: TensorCall) -> bool:
        """Whether the modules for that call are made, with the parameters of now. A plain loop: see
        ``_Variant.fits``."""
        generation = self._program.weights.generation
        for part in call.parts:  # noqa: SIM110
            if self._generations.get(part.size) != generation:
                return False
        return True

    @property
    def is_ticking(self) -> bool:
        """Whether no call has to wake the ticker first."""
        return self._program.sandbox.ticking

    def is_warm(self, call: TensorCall) -> bool:
        """Whether a call's time would be its own: no module to make and no ticker to wake first."""
        return self.is_ticking and self.is_ready(call)

    def run(self, call: TensorCall, deadline: float | None) -> list[Array]:
        """Raises :class:`WasmError`; the caller then throws this instance away.

        ``deadline``: None on the event loop, for a call of one part that is ready.
        """
        weights = self._program.weights  # read once: every part of the call computes with the same
        if call.is_whole:
            views = self._run_part(call.parts[0].size, call, call.inputs, deadline, weights)
            return [view.astype(dtype) for view, dtype in views]
        results: list[Array] = []
        for size, start, items in call.parts:
            inputs = [array[start : start + items] for array in call.inputs]
            views = self._run_part(size, call, inputs, deadline, weights)
            results = results or [np.empty((call.items, *view.shape[1:]), dtype) for view, dtype in views]
            for result, (view, _) in zip(results, views, strict=True):
                np.copyto(result[start : start + items], view[:items], casting="unsafe")
        return results

    def _run_part(
        self, size: int, call: TensorCall, inputs: Sequence[Array], deadline: float | None, weights: Weights
    ) -> Sequence[tuple[Array, np.dtype[np.generic]]]:
        module = self._modules[size] if deadline is None else self.module(size, deadline, weights)
        return module.run(call.function, inputs, deadline)

    def close(self) -> None:
        """Free every memory."""
        for module in self._modules.values():
            module.close()
        self._modules.clear()


def open_tensor(
    sandbox: Sandbox, binaries: Mapping[int, bytes], blob: bytes, memory_bytes_max: int
) -> TensorProgram:
    """Compile and check a package's modules. Blocks: use a thread. Raises :class:`BadModule`."""
    modules: dict[int, CompiledModule] = {}
    for size, binary in binaries.items():
        abi = abi_of(binary)
        if size < 1:
            raise BadModule(f"batch size {size}: a tensor module's is 1 or more")
        module, interface = sandbox.compile(binary), read_interface(binary)
        check_module(interface, abi, memory_bytes_max)
        modules[size] = CompiledModule(module, abi, (interface.memory_pages or 0) * PAGE_BYTES)
    program = TensorProgram(sandbox, modules, Weights(0, read_safetensors(blob)))
    for _, abi, _ in modules.values():
        match(abi.parameters, program.weights.tensors)
    _check_variants(program)
    return program


def abi_of(binary: bytes) -> Abi:
    """The module's description. Raises :class:`BadModule`."""
    try:
        abi = read_abi(binary)
    except Unreadable as error:
        raise BadModule(str(error)) from None
    if abi is None:
        raise BadModule("a tensor module carries a custom section shoal.abi; this one has none")
    return abi


def natural_batch(abi: Abi) -> int:
    """The batch size of a module that came without a package: the first axis of its first input."""
    shapes = [tensor.shape for function in abi.functions for tensor in function.inputs]
    return max(1, shapes[0][0]) if shapes and shapes[0] else 1


def _variant(size: int, function: Function) -> _Variant:
    tensors = (*function.inputs, *function.outputs)
    batched = bool(function.inputs) and all(one.shape and one.shape[0] == size for one in tensors)
    inputs = tuple((one.shape, DTYPES[one.dtype]) for one in function.inputs)
    return _Variant(size, inputs, function.outputs, batched, (Part(size, 0, size),))


def _check_variants(program: TensorProgram) -> None:
    """One function means one thing: its items have the same types and shapes for every batch size."""
    most = program.sandbox.limits.output_bytes_max
    for name, variants in program.variants.items():
        if max(variant.output_bytes for variant in variants) > most:
            raise BadModule(f"{name} gives more than {most} bytes; raise output_bytes_max if it may")
        kinds = {
            (
                tuple((shape[1:], dtype.str) for shape, dtype in one.inputs),
                tuple((tensor.shape[1:], tensor.dtype) for tensor in one.outputs),
            )
            for one in variants
            if one.batched
        }
        if len(kinds) > 1:
            raise BadModule(f"{name} takes or gives different items for different batch sizes")


def _expected(function: str, variants: Sequence[_Variant], inputs: Sequence[Array]) -> str:
    def shown(shape: tuple[int, ...], dtype: np.dtype[np.generic], batched: bool) -> str:
        sizes = ["n", *map(str, shape[1:])] if batched else map(str, shape)
        return f"{dtype.name}[{', '.join(sizes)}]"

    want = sorted({", ".join(shown(*one, variant.batched) for one in variant.inputs) for variant in variants})
    have = ", ".join(f"{one.dtype.name}{list(one.shape)}" for one in inputs)
    return f"{function} takes {' or '.join(want)}; got {have or 'nothing'}"
