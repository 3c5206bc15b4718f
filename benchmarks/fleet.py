"""A fleet of real processes that serves the digits model, for benchmarks to ask."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from broker.process import fast_loop
from broker.settings import read_config
from cloud.client import Fleet, connected
from cloud.local.processes import LocalFleet
from shared.errors import RequestFailed, Unavailable
from shared.tensors import AnyArray

MODEL = "digits"
EXAMPLE = Path(__file__).parents[1] / "examples" / "digits"
WAIT_S_MAX = 60.0
_POLL_S = 0.05
_WARM_CALLS = 60  # a module's first calls run in a thread and are measured there


def digit() -> AnyArray:
    """One held-out digit, shape (1, 64)."""
    with np.load(EXAMPLE / "heldout.npz", allow_pickle=False) as file:
        images: AnyArray = file["images"][:1].astype(np.float32) / 16
    return images


@asynccontextmanager
async def serving(folder: Path, devices: int) -> AsyncIterator[tuple[LocalFleet, Fleet]]:
    """``devices`` agents with default settings, the model ready on each of them and called often enough."""
    nodes = {f"edge-{number}": {"benchmark_s": 0.2} for number in range(1, devices + 1)}
    local = LocalFleet(folder, nodes, log_level="warning")
    async with local, connected(read_config(local.workspace.config("operator")), "operator") as fleet:
        await until("every device serves", local, lambda: _serve(fleet, devices))
        await fleet.upload((EXAMPLE / "digits.shoal").read_bytes())
        await fleet.deploy(MODEL, "all")
        await until("the model is ready everywhere", local, lambda: _ready(fleet, devices))
        for node in nodes:
            for _ in range(_WARM_CALLS):
                await fleet.infer(MODEL, digit(), node=node)
        yield local, fleet


async def until(
    what: str, local: LocalFleet, holds: Callable[[], Awaitable[bool]], within_s: float = WAIT_S_MAX
) -> None:
    """Poll. Raises :class:`Unavailable` when it takes too long or a process has ended."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if ended := [process for process in local.processes if not process.running]:
            raise Unavailable(f"{ended[0].name} has ended; the end of its log:\n{ended[0].tail()}")
        try:
            if await holds():
                return
        except (RequestFailed, Unavailable):
            pass  # the cloud is not there yet
        await asyncio.sleep(_POLL_S)
    raise Unavailable(f"not within {within_s:g} s: {what}; the cloud's log ends:\n{local.cloud.tail()}")


async def _serve(fleet: Fleet, devices: int) -> bool:
    return sum(node.status in ("idle", "busy") for node in await fleet.nodes()) >= devices


async def _ready(fleet: Fleet, devices: int) -> bool:
    return sum(rule.ready for rule in await fleet.deployments()) >= devices


def run(work: Callable[[], Awaitable[dict[str, object]]]) -> dict[str, object]:
    """On the loop that the platform's own processes use."""

    async def main() -> dict[str, object]:
        return await work()

    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        return runner.run(main())
