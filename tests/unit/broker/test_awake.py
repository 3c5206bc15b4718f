import asyncio

import pytest

from broker import awake
from broker.awake import AWAKE_S, Awake


class World:
    """A clock that each turn of the loop advances, and a count of the turns."""

    def __init__(self, monkeypatch):
        self.now, self.turns = 100.0, 0
        monkeypatch.setattr(awake.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(awake.os, "sched_yield", self.turn)

    def turn(self):
        self.turns += 1
        self.now += AWAKE_S / 10

    async def let_pass(self, turns=50):
        for _ in range(turns):
            await asyncio.sleep(0)


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_nobody_stays_awake_before_an_answer_came_at_once(world):
    async def scenario():
        Awake().expect(asyncio.get_running_loop())
        await world.let_pass()
        assert world.turns == 0

    asyncio.run(scenario())


def test_after_a_quick_answer_it_looks_for_the_next_one_until_that_is_there(world):
    async def scenario():
        one = Awake()
        one.answered(AWAKE_S / 2)
        one.expect(asyncio.get_running_loop())
        await world.let_pass(5)
        assert 3 <= world.turns <= 5
        one.answered(AWAKE_S / 2)
        turns = world.turns
        await world.let_pass()
        assert world.turns == turns

    asyncio.run(scenario())


def test_it_looks_no_longer_than_its_time_and_not_again_after_a_slow_answer(world):
    async def scenario():
        one, loop = Awake(), asyncio.get_running_loop()
        one.answered(0.0)
        one.expect(loop)
        await world.let_pass()
        assert 9 <= world.turns <= 11
        one.answered(3 * AWAKE_S)
        one.expect(loop)
        await world.let_pass()
        assert 9 <= world.turns <= 11

    asyncio.run(scenario())


def test_a_request_right_after_another_one_goes_on_with_the_same_turns(world):
    async def scenario():
        one, loop = Awake(), asyncio.get_running_loop()
        one.answered(0.0)
        one.expect(loop)
        one.answered(0.0)
        one.expect(loop)
        await world.let_pass(5)
        assert 3 <= world.turns <= 5  # one chain of turns, not two

    asyncio.run(scenario())
