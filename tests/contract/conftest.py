import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from broker.process import fast_loop
from tests.contract.worlds import World, world_of
from tests.support.mosquitto import Mosquitto

Scenario = Callable[[World], Awaitable[None]]


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"), websockets=True).start()
    yield broker
    broker.stop()


@pytest.fixture
def play(request: pytest.FixtureRequest) -> Callable[[str, Scenario], None]:
    """Run a scenario in the world of that kind."""

    def run(kind: str, scenario: Scenario) -> None:
        async def main() -> None:
            async with world_of(kind, broker) as world:
                await scenario(world)

        broker = request.getfixturevalue("mosquitto") if kind.endswith("mosquitto") else None
        with asyncio.Runner(loop_factory=fast_loop() if kind.endswith("uvloop") else None) as runner:
            runner.run(main())

    return run
