import asyncio

import numpy as np
import pytest

from edge.runtime import BadInput, BadModule, Limits, ModuleHost, Unreachable
from edge.runtime.session import Steps
from shared.errors import Unavailable
from tests.unit.edge.runtime.modules import BIAS, ECHO, SCALE, affine_expected, affine_package, rows
from tests.unit.edge.runtime.stories import story

LIMITS = Limits(deadline_s=10)
RATE = np.array(0.25, np.float32)


@story
async def test_training_changes_its_own_parameters_and_nobody_elses() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package(1, 8))
        async with await host.open_session("affine") as session:
            losses = [(await session.call("train_step", [rows(8), RATE]))[0] for _ in range(4)]
            assert losses == [2.25, 2.5, 2.75, 3.0]
            trained = await session.parameters()
            np.testing.assert_array_equal(trained["scale"], SCALE + 1)
            np.testing.assert_array_equal(trained["bias"], BIAS + 1)  # as prepare left it
        (result,) = await host.run("affine", [rows(8)])
        np.testing.assert_array_equal(result, affine_expected(rows(8)))


@story
async def test_parameters_can_be_replaced_and_are_prepared_again() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package(1, 8))
        async with await host.open_session("affine", 1) as session:
            zeros = np.zeros(4, np.float32)
            await session.set_parameters({"scale": zeros, "bias": zeros})
            (result,) = await session.call("run", [rows(3)])
            np.testing.assert_array_equal(result, np.ones((3, 4), np.float32))
            with pytest.raises(BadModule, match="bias is missing"):
                await session.set_parameters({"scale": zeros})
            await session.call("run", [rows(1)])  # still open


@story
async def test_parameters_are_copies() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package())
        async with await host.open_session("affine") as session:
            before = await session.parameters()
            await session.call("train_step", [rows(1), RATE])
            np.testing.assert_array_equal(before["scale"], SCALE)


@story
async def test_a_stopped_call_ends_the_session() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package())
        session = await host.open_session("affine")
        with pytest.raises(Unreachable):
            await session.call("fail", [rows(1) + 13])
        with pytest.raises(Unavailable, match="open another"):
            await session.call("run", [rows(1)])
        await session.close()
        await host.run("affine", [rows(1)])


@story
async def test_calls_of_one_session_run_one_after_the_other() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package())
        async with await host.open_session("affine") as session:
            results = await asyncio.gather(*(session.call("train_step", [rows(1), RATE]) for _ in range(20)))
            assert [float(loss) for (loss,) in results] == [2 + 0.25 * (step + 1) for step in range(20)]


@story
async def test_only_what_exists_can_be_opened() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package(1, 8))
        await host.load("echo", ECHO)
        with pytest.raises(BadInput, match=r"batch size 3; there are \[1, 8\]"):
            await host.open_session("affine", 3)
        with pytest.raises(BadInput, match="only tensor modules"):
            await host.open_session("echo")


@story
async def test_closing_the_host_closes_its_sessions() -> None:
    host = ModuleHost(limits=LIMITS)
    await host.load("affine", affine_package())
    session = await host.open_session("affine")
    await host.close()
    with pytest.raises(Unavailable):
        await session.call("run", [rows(1)])


@story
async def test_many_steps_run_in_one_trip_to_the_thread() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package(1, 8))
        async with await host.open_session("affine") as session:

            def work(steps: Steps) -> list[float]:
                losses = [float(steps.call("train_step", [rows(8), RATE])[0]) for _ in range(3)]
                steps.set_parameters({name: one + 1 for name, one in steps.parameters().items()})
                return losses

            assert await session.steps(work) == [2.25, 2.5, 2.75]
            np.testing.assert_array_equal((await session.parameters())["scale"], SCALE + 0.75 + 1)
            described = session.describe("train_step")
            assert described is not None
            assert [one.shape for one in described.inputs] == [(8, 4), ()]
            assert session.batch_size == 8
            assert session.describe("nothing") is None


@story
async def test_a_step_that_is_stopped_ends_the_session() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package())
        async with await host.open_session("affine") as session:
            with pytest.raises(Unreachable):
                await session.steps(lambda steps: steps.call("fail", [rows(1) + 13]))
            with pytest.raises(Unavailable, match="open another"):
                await session.parameters()
