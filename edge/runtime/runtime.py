"""The documented door for one model: configure, initialise, infer. A thin facade over ``ModuleHost``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from edge.runtime.errors import BadInput, WasmError
from edge.runtime.host import ModuleHost
from edge.runtime.limits import KIB, MIB, Grants, Limits
from edge.runtime.loaded import Loaded
from edge.runtime.parameters import Array
from edge.runtime.program import Result
from edge.runtime.tensor import TensorProgram
from shared.errors import ConfigError, Unavailable
from shared.package import ModuleKind


@dataclass(frozen=True, slots=True, kw_only=True)
class WASMModelConfig:
    """One model and the limits it lives under; sizes in bytes. Raises :class:`ConfigError`.

    ``instances_max``: parallel instances, each with its own memory and thread. ``cache_dir`` keeps compiled
    code, under a MAC with ``device_key``.
    """

    model_name: str
    wasm_path: str | Path
    memory_limit: int = 64 * MIB
    stack_size: int = 512 * KIB
    enable_simd: bool = True
    enable_threads: bool = False
    deadline_s: float = 1.0
    output_bytes_max: int = 16 * MIB
    table_elements_max: int = 10_000
    instances_max: int = 2
    grants: Grants = field(default_factory=Grants)
    cache_dir: Path | None = None
    device_key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.model_name:
            raise ConfigError("model_name is empty")
        if self.cache_dir is not None and self.device_key is None:
            raise ConfigError("cache_dir needs device_key: compiled code is kept only under a MAC")
        self.limits()

    def limits(self) -> Limits:
        """The same as the host wants it. Raises :class:`ConfigError` with the name of the bad one."""
        return Limits(
            memory_bytes_max=self.memory_limit,
            stack_bytes_max=self.stack_size,
            simd=self.enable_simd,
            threads=self.enable_threads,
            deadline_s=self.deadline_s,
            output_bytes_max=self.output_bytes_max,
            table_elements_max=self.table_elements_max,
            instances_max=self.instances_max,
        )


class WebAssemblyRuntime:
    """Runs one model. Belongs to one event loop.

    ``errors``: index -> error of the items of the last :meth:`batch_inference` that gave None.
    """

    def __init__(self, config: WASMModelConfig) -> None:
        self.config = config
        self.errors: dict[int, WasmError] = {}
        self._host: ModuleHost | None = None
        self._loaded: Loaded | None = None

    async def initialize(self) -> bool:
        """Load and compile the model. True when it did, False when that was done before.

        Raises :class:`BadModule` or :class:`Stopped`; nothing is left behind then.
        """
        if self._host is not None:
            return False
        config = self.config
        workers = config.instances_max + 1  # a module gets all but one, which is for its neighbours
        host = ModuleHost(
            config.cache_dir, config.device_key, config.limits(), workers=workers, grants=config.grants
        )
        self._host = host
        try:
            self._loaded = await host.load(config.model_name, Path(config.wasm_path))
        except BaseException:
            self._host = None
            await host.close()
            raise
        return True

    async def inference(self, input_data: object, function_name: str = "run") -> Array | None:
        """One answer; None when the model has no function of that name.

        Tensor model: an array of shape (n, ...) or of one item without the batch axis (or a tuple of arrays
        when there are several inputs; lists take the model's dtype). WASI: any JSON value, answered by one.
        Plain: a sequence of numbers. Raises :class:`WasmError`.
        """
        host, loaded = self._ready()
        if function_name not in loaded.program.functions:
            return None
        inputs, is_item = _inputs(loaded, function_name, input_data)
        return _answer(await host.run(self.config.model_name, inputs, function_name), is_item=is_item)

    async def batch_inference(
        self, batch_data: Sequence[object], function_name: str = "run"
    ) -> list[Array | None]:
        """One answer for each member, in order. A member that failed is None; ``errors`` says why."""
        host, loaded = self._ready()
        self.errors = {}
        if function_name not in loaded.program.functions:
            return [None] * len(batch_data)
        prepared = [_tried(loaded, function_name, one) for one in batch_data]
        members = [inputs for inputs, _ in prepared]
        results = await host.run_many(self.config.model_name, members, function_name)
        answers: list[Array | None] = []
        for index, (result, (_, is_item)) in enumerate(zip(results, prepared, strict=True)):
            answer = _tried_answer(result, is_item=is_item)
            if isinstance(answer, WasmError):
                self.errors[index] = answer
            answers.append(None if isinstance(answer, WasmError) else answer)
        return answers

    async def shutdown(self) -> None:
        """Wait for the calls that run, and free everything. Harmless when repeated."""
        host, self._host, self._loaded = self._host, None, None
        if host is not None:
            await host.close()

    def _ready(self) -> tuple[ModuleHost, Loaded]:
        if self._host is None or self._loaded is None:
            raise Unavailable("the runtime is not initialised: await initialize() first")
        return self._host, self._loaded


def _inputs(loaded: Loaded, function: str, data: object) -> tuple[object, bool]:
    """What the host takes, and whether the data was one item without its batch axis."""
    if loaded.info.kind is ModuleKind.WASI:
        return data if isinstance(data, bytes) else msgspec.json.encode(data, enc_hook=_as_list), False
    if not isinstance(loaded.program, TensorProgram):
        return data, False
    shapes = loaded.program.variants[function][0].inputs
    several = data if isinstance(data, tuple) else (data,)
    if len(several) != len(shapes):
        raise BadInput(f"{function} takes {len(shapes)} arrays as a tuple; got {len(several)}")
    arrays = [_array(one, dtype) for one, (_, dtype) in zip(several, shapes, strict=True)]
    is_item = all(array.ndim == len(shape) - 1 for array, (shape, _) in zip(arrays, shapes, strict=True))
    return ([array[None] for array in arrays] if is_item and arrays else arrays), is_item


def _array(value: object, dtype: np.dtype[np.generic]) -> Array:
    if isinstance(value, np.ndarray):
        return value
    try:
        return np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"this is no array of {dtype.name}: {error}") from None


def _answer(result: Result, *, is_item: bool) -> Array:
    if isinstance(result, bytes):
        return np.asarray(msgspec.json.decode(result))
    if result and isinstance(result[0], np.ndarray):
        if len(result) > 1:
            raise BadInput(f"the function gives {len(result)} arrays; call ModuleHost.run to get them all")
        return result[0][0] if is_item else result[0]
    return np.asarray(result)


def _tried(loaded: Loaded, function: str, data: object) -> tuple[object, bool]:
    """As ``_inputs``; bad data passes as it is, for the host to refuse in its place in the batch."""
    try:
        return _inputs(loaded, function, data)
    except BadInput:
        return data, False


def _tried_answer(result: Result | WasmError, *, is_item: bool) -> Array | WasmError:
    if isinstance(result, WasmError):
        return result
    try:
        return _answer(result, is_item=is_item)
    except BadInput as error:
        return error


def _as_list(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise NotImplementedError(f"{type(value).__name__} can't be written as JSON")
