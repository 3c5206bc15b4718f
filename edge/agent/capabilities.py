"""What the device can do, measured once per runtime version and kept: a benchmark costs a second of CPU."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from edge.agent.vitals import Machine
from shared.messages import Capabilities

TABLE, KEY = "agent", "benchmark"


class Documents(Protocol):
    """The part of the device's store that is used here."""

    def get(self, table: str, key: str) -> dict[str, Any] | None:
        """The document, or None."""
        ...

    def put(self, table: str, key: str, value: dict[str, Any]) -> None:
        """Keep it."""
        ...


class Benchmark(Protocol):
    """What the runtime's own benchmark returns."""

    @property
    def gflops(self) -> float:
        """Single precision, one thread."""
        ...

    @property
    def call_overhead_us(self) -> float:
        """Of one call into a module."""
        ...


async def capabilities(
    machine: Machine, store: Documents, runtime: str, benchmark: Callable[[], Benchmark]
) -> Capabilities:
    """The machine's size and its speed in WebAssembly; ``runtime`` names the runtime and its version."""
    known = store.get(TABLE, KEY)
    if known is None or known.get("runtime") != runtime:
        measured = await asyncio.to_thread(benchmark)
        known = {
            "runtime": runtime,
            "gflops": measured.gflops,
            "call_s": measured.call_overhead_us * 1e-6,
        }
        store.put(TABLE, KEY, known)
    return machine.capabilities(float(known["gflops"]), float(known["call_s"]), runtime)
