"""What the agent calls: load modules, run them, unload them. One host per agent.

    load ──> read, check, compile (thread) ──> first instance, warm-up under deadline ──> in service
    run  ──> check arguments ──> inline on the loop   (tensor module, lately under inline_s_max)
                             │      └ not done after inline_deadline_s: stopped, barred from the loop, and
                             └─> worker thread        (everything else; deadline covers waiting and running)

Every module can be interrupted, whoever signed it. A thread's round trip costs 50 to 200 us, a small model
takes 5; so quick tensor functions run inline, and the worst that a hostile one does to the loop is to hold it
once for inline_deadline_s and a tick.
"""

import asyncio
import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic

from edge.runtime.cache import CacheStats, CompiledCache
from edge.runtime.errors import BadInput, BadModule, DeadlineExceeded, UnknownModule, WasmError
from edge.runtime.fastcall import find_raw_binding
from edge.runtime.limits import Grants, Limits
from edge.runtime.loaded import Loaded, code_of
from edge.runtime.many import plan_many
from edge.runtime.parameters import Array
from edge.runtime.program import Result, open_program, read_package
from edge.runtime.sandbox import Sandbox
from edge.runtime.session import Session
from edge.runtime.tensor import TensorProgram
from edge.runtime.workers import Workers
from shared.errors import ConfigError, Unavailable

log = logging.getLogger(__name__)

_DEADLINE_S_MAX = 86_400.0
_LOADS_WAITING_MAX = 16


@dataclass(slots=True)
class HostStats:
    """Counters since the start. ``errors``: by ``WasmError.code``.

    ``overruns``: calls that were stopped on the event loop and ran again in a thread.
    """

    inline: int = 0
    threaded: int = 0
    overruns: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    cache: CacheStats = field(default_factory=CacheStats)


class ModuleHost:
    """Belongs to one event loop. Every method that names a module raises :class:`UnknownModule`."""

    def __init__(
        self,
        cache_dir: Path | None = None,
        device_key: bytes | None = None,
        limits: Limits | None = None,
        *,
        workers: int = 2,
        grants: Grants | None = None,
        fast_calls: bool = True,
    ) -> None:
        """``cache_dir`` needs ``device_key``. ``fast_calls``: False keeps off wasmtime's private binding.

        Raises :class:`ConfigError`.
        """
        if workers < 1 or (cache_dir is not None and device_key is None):
            raise ConfigError("a host needs at least one worker, and a device key for its cache directory")
        self.limits, self._grants, self._threads = limits or Limits(), grants or Grants(), workers
        self.stats = HostStats()
        cache = (
            CompiledCache(cache_dir, device_key) if cache_dir is not None and device_key is not None else None
        )
        if cache is not None:
            self.stats.cache = cache.stats
        raw = find_raw_binding() if fast_calls else None
        self._sandbox = Sandbox(self.limits, cache=cache, raw=raw)
        self._workers = Workers(workers, self.limits.queue_max, "wasm-run")
        self._loader, self._load_gate = Workers(1, _LOADS_WAITING_MAX, "wasm-load"), asyncio.Semaphore(1)
        self._loaded: dict[str, Loaded] = {}
        self._sessions: set[Session] = set()
        self._closed = False

    async def load(self, name: str, source: bytes | Path) -> Loaded:
        """Put a ``.shoal`` package or a ``.wasm`` module into service, in place of one of the same name.

        Calls that run on the old one end there.
        Raises :class:`BadModule`, or :class:`Stopped` when its start function or ``prepare`` misbehaves.
        """
        self._check_open()
        if name not in self._loaded and len(self._loaded) >= self.limits.modules_max:
            raise Unavailable(f"{len(self._loaded)} modules are loaded, as many as may; unload one first")
        started = monotonic()
        deadline = started + self.limits.load_deadline_s
        work = partial(self._open, name, source, deadline)
        try:
            loaded = await self._loader.run(self._load_gate, deadline, work)
        except WasmError as error:
            self.stats.errors[code_of(error)] += 1
            raise
        if self._closed:
            loaded.retire()
            self._check_open()
        loaded.load_s = monotonic() - started
        self.unload(name)
        self._loaded[name] = loaded
        return loaded

    def swap(self, name: str, tensors: Mapping[str, Array]) -> None:
        """Give a tensor module new parameters while requests run; each request sees one set, old or new.

        Raises :class:`BadModule` that names what does not fit; then the old ones stay.
        """
        program = self.get(name).program
        if not isinstance(program, TensorProgram):
            raise BadInput(f"{name} is no tensor module; it has no parameters")
        program.swap(tensors)

    def unload(self, name: str) -> bool:
        """Take a module out of service. False when there was none of that name."""
        loaded = self._loaded.pop(name, None)
        if loaded is not None:
            loaded.retire()
        return loaded is not None

    @property
    def waiting(self) -> int:
        """Calls that wait for an instance."""
        return self._workers.waiting

    @property
    def running(self) -> int:
        """Calls that have a thread or are next for one."""
        return self._workers.running

    def names(self) -> tuple[str, ...]:
        """Of the modules in service."""
        return tuple(self._loaded)

    def get(self, name: str) -> Loaded:
        """The module in service under that name."""
        loaded = self._loaded.get(name)
        if loaded is None:
            raise UnknownModule(
                f"no module {name!r} is loaded; there are {', '.join(self._loaded) or 'none'}"
            )
        return loaded

    async def run(
        self, name: str, inputs: object, function: str = "run", deadline_s: float | None = None
    ) -> Result:
        """Call a function. By kind of module:

        tensor: ``inputs`` a sequence of arrays, shape (n, ...) for any n, gives a list of arrays (n, ...);
        WASI: ``bytes`` of one JSON value give ``bytes`` of one JSON value; plain: numbers give numbers.
        Raises :class:`BadInput`, :class:`Busy` or a :class:`Stopped`.
        """
        loaded = self.get(name)
        return await self._call(loaded, lambda: loaded.program.check(function, inputs), deadline_s)

    def run_now(self, name: str, inputs: object, function: str = "run") -> list[Array] | None:
        """The same without an ``await``, for a tensor module that is known to be quick.

        None: :meth:`run` it. It is not known to be quick, or it took over ``inline_deadline_s`` this time.
        """
        loaded = self.get(name)
        try:
            return self._run_inline(loaded, loaded.program.check(function, inputs))
        except WasmError as error:
            self.stats.errors[code_of(error)] += 1
            raise

    async def run_many(
        self, name: str, batch: Sequence[object], function: str = "run", deadline_s: float | None = None
    ) -> list[Result | WasmError]:
        """Each member of ``batch`` as by :meth:`run`, order kept; a member that failed is its error.

        Members of a batched tensor function run together; when such a group is stopped, its members run
        one by one, so that only the guilty fail. ``deadline_s`` is that of each call.
        """
        loaded = self.get(name)
        plan = plan_many(loaded, batch, function)
        self.stats.errors.update(code_of(error) for error in plan.answers if isinstance(error, WasmError))
        await plan.run(lambda call: self._call(loaded, lambda: call, deadline_s))
        return plan.answers

    async def open_session(self, name: str, batch_size: int | None = None) -> Session:
        """A private instance of a tensor module, for training: see :class:`Session`. Close it.

        ``batch_size``: of the module to use; the largest when None.
        """
        self._check_open()
        loaded = self.get(name)
        if not isinstance(loaded.program, TensorProgram):
            raise BadInput(f"{name} is a {loaded.info.kind} module; only tensor modules have sessions")
        size = max(loaded.program.modules) if batch_size is None else batch_size
        session = Session(
            loaded.program.only(size), size, self._workers, self._deadline, self._sessions.discard
        )
        await session.start()
        self._sessions.add(session)
        return session

    async def __aenter__(self) -> "ModuleHost":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Refuse new calls, wait for those that run (their deadlines bound it), free everything."""
        self._closed = True
        for session in tuple(self._sessions):
            await session.close()
        await self._loader.close()
        await self._workers.close()
        for name in self.names():
            self.unload(name)
        self._sandbox.close()

    def _open(self, name: str, source: bytes | Path, deadline: float) -> Loaded:
        data = source if isinstance(source, bytes) else _read(source, self.limits.package_bytes_max)
        package = read_package(name, data, self.limits)
        program = open_program(package, self._sandbox, self._grants)
        first = program.start(min(deadline, monotonic() + self.limits.deadline_s))
        # A module leaves one worker to its neighbours, however many calls it gets.
        slots = min(self.limits.instances_max, max(1, self._threads - 1))
        loaded = Loaded(
            name=name,
            info=package.info,
            digest=hashlib.sha256(data).hexdigest(),
            program=program,
            first=first,
            slots=slots,
            limits=self.limits,
        )
        loaded.warm_up(min(deadline, monotonic() + self.limits.deadline_s))
        return loaded

    def _run_inline(self, loaded: Loaded, call: object) -> list[Array] | None:
        try:
            result = loaded.run_inline(call)
        except DeadlineExceeded:
            self.stats.overruns += 1
            log.warning("%s was stopped on the event loop; the call runs again in a thread", loaded.name)
            return None
        self.stats.inline += result is not None
        return result

    async def _call(self, loaded: Loaded, check: Callable[[], object], deadline_s: float | None) -> Result:
        try:
            call, deadline = check(), self._deadline(deadline_s)
            if deadline - monotonic() > self.limits.inline_deadline_s:
                result = self._run_inline(loaded, call)
                if result is not None:
                    return result
            self.stats.threaded += 1
            return await self._workers.run(loaded.gate, deadline, partial(loaded.run, call, deadline))
        except WasmError as error:
            self.stats.errors[code_of(error)] += 1
            raise

    def _deadline(self, deadline_s: float | None) -> float:
        seconds = self.limits.deadline_s if deadline_s is None else deadline_s
        if math.isnan(seconds):
            raise BadInput("the deadline is not a number")
        return monotonic() + min(seconds, _DEADLINE_S_MAX)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the module host is closed")


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(bytes_max + 1)  # one more, so that read_package sees that it is too long
    except OSError as error:
        raise BadModule(f"{path} can't be read: {error.strerror}") from None
