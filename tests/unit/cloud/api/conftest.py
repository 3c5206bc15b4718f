"""The application over a fleet that we own, a real SQLite store, and the real service of the tasks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from broker.memory import MemoryBroker, MemoryBus
from cloud.api.app import create_app
from cloud.api.tasks import TaskWaiters
from cloud.store.store import Store
from cloud.tasks.core import Restored, Tasks
from cloud.tasks.service import tasks_service
from tests.unit.cloud.api.fleet import FakeFleet

T = TypeVar("T")
UPLOAD_BYTES_MAX = 1000


class World:
    """One start of the API. ``client`` talks to the application without a socket."""

    def __init__(self, fleet: FakeFleet, store: Store, folder: Path) -> None:
        self.fleet, self.waiters = fleet, TaskWaiters()
        bus = MemoryBus(MemoryBroker())
        fake: Any = fleet
        self.service = tasks_service(Tasks(), bus, fake, store, self.waiters.announce)
        self.app = create_app(
            fake, self.service, self.waiters, upload_bytes_max=UPLOAD_BYTES_MAX, artifacts=[folder]
        )
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost")


@asynccontextmanager
async def running(fleet: FakeFleet, folder: Path) -> AsyncIterator[World]:
    store = Store.open(f"sqlite:///{folder / 'tasks.db'}")
    world = World(fleet, store, folder)
    serving = asyncio.create_task(world.service.run(), name="tasks")
    await asyncio.sleep(0)
    world.service.feed(Restored(tuple(store.tasks())))
    try:
        async with world.client:
            yield world
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        store.close()


Story = Callable[[World], Awaitable[T]]
Tell = Callable[[Story[T]], T]


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet()


@pytest.fixture
def tell(fleet: FakeFleet, tmp_path: Path) -> Tell[Any]:
    """Run one story against one start of the API; the store outlives it."""

    def told(story: Callable[[World], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            async with running(fleet, tmp_path) as world, asyncio.timeout(20):
                return await story(world)

        return asyncio.run(main())

    return told
