"""Every bound a module lives under. On from the start: there is no way to run without them."""

import threading
from dataclasses import dataclass, fields

from shared.errors import ConfigError

try:  # POSIX only; elsewhere the assumed thread stack below holds
    import resource
except ImportError:  # pragma: no cover - Windows
    resource = None  # type: ignore[assignment]

KIB, MIB = 1 << 10, 1 << 20
PAGE_BYTES = 64 * KIB
_ASSUMED_THREAD_STACK_BYTES = 1 * MIB
_GLIBC_UNLIMITED_THREAD_STACK_BYTES = 2 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one :class:`~edge.runtime.host.ModuleHost`, for each of its modules unless said.

    ``stack_bytes_max`` is a property of the compiled code's engine and so of the whole host. It is wasm's
    share of the thread's own stack: at most half of it, so that an overflow is a trap and never a fault.
    ``threads`` admits atomic instructions; shared memories stay refused, because ``memory.atomic.wait``
    can't be interrupted.
    """

    memory_bytes_max: int = 64 * MIB
    stack_bytes_max: int = 512 * KIB
    table_elements_max: int = 10_000
    tables_max: int = 4
    instances_max: int = 2  # live instances of one module, each with its own memory
    modules_max: int = 64  # loaded in one host
    module_bytes_max: int = 8 * MIB
    functions_max: int = 20_000  # in one module; each costs the compiler about 70 us and 6 KB
    function_cost_max: int = 64_000_000  # (locals + 64) * bytes: bounds the work of compiling one function
    module_cost_max: int = 1_000_000_000  # the same, over all functions
    package_bytes_max: int = 256 * MIB
    input_bytes_max: int = 16 * MIB
    output_bytes_max: int = 16 * MIB
    queue_max: int = 256  # calls that wait, over all modules of the host
    deadline_s: float = 1.0  # of a call that names none
    load_deadline_s: float = 60.0
    inline_s_max: float = 100e-6  # quicker calls run on the event loop: a thread's round trip costs as much
    inline_deadline_s: float = 0.01  # of such a call; it runs again in a thread when it was not that quick
    simd: bool = True
    threads: bool = False

    def __post_init__(self) -> None:
        """Refuse what can't work. Raises :class:`ConfigError` with the limit's name and range."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in (int, float) and (isinstance(value, bool) or not value > 0):
                raise ConfigError(f"{field.name} is {value!r}; it must be a number above 0")
        if self.memory_bytes_max > 4096 * MIB or self.memory_bytes_max < PAGE_BYTES:
            raise ConfigError(f"memory_bytes_max is {self.memory_bytes_max}; a memory has 64 KiB to 4 GiB")
        ceiling = thread_stack_bytes() // 2
        if not 16 * KIB <= self.stack_bytes_max <= ceiling:
            raise ConfigError(
                f"stack_bytes_max is {self.stack_bytes_max}; it must lie between 16 KiB and {ceiling} "
                "(half of a thread's stack: raise it with `ulimit -s` if the module needs more)"
            )


def thread_stack_bytes() -> int:
    """The stack that a new thread of this process gets, as well as the platform tells."""
    if chosen := threading.stack_size():
        return chosen
    if resource is None:  # pragma: no cover - Windows
        return _ASSUMED_THREAD_STACK_BYTES
    soft = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return _GLIBC_UNLIMITED_THREAD_STACK_BYTES if soft == resource.RLIM_INFINITY else soft


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """What a WASI command may have beyond stdin and stdout. Files, sockets and sleeping: never.

    ``random``: on, because most language runtimes seed their hash maps before ``main`` and it tells
    the module nothing. ``environment`` and ``arguments`` are what the module sees, never the host's own.
    """

    clock: bool = False
    random: bool = True
    environment: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ("module",)
