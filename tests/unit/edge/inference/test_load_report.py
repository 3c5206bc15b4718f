"""How busy the device says it is: what lasts longer than a turn of the loop, and each thing once."""

import asyncio

from edge.inference.core import LoadChanged
from edge.inference.service import LoadReport

IDLE, BUSY = LoadChanged(0, 0, ()), LoadChanged(0, 1, ("digits",))


def test_a_request_that_comes_and_goes_within_a_turn_is_not_told():
    async def story() -> None:
        told: list[LoadChanged] = []
        report = LoadReport(told.append)
        report.changed(BUSY)
        report.changed(IDLE)
        await asyncio.sleep(0)
        assert told == []

    asyncio.run(story())


def test_what_lasts_is_told_at_the_end_of_the_turn_and_only_as_it_is_then():
    async def story() -> None:
        told: list[LoadChanged] = []
        report = LoadReport(told.append)
        report.changed(BUSY)
        report.changed(LoadChanged(3, 1, ("digits",)))
        assert told == [], "not in the way of the answer"
        await asyncio.sleep(0)
        assert told == [LoadChanged(3, 1, ("digits",))]
        report.changed(LoadChanged(3, 1, ("digits",)))
        await asyncio.sleep(0)
        assert len(told) == 1, "nothing new"
        report.changed(IDLE)
        await asyncio.sleep(0)
        assert told[1:] == [IDLE], "the end of the work is told, whoever drains waits for it"

    asyncio.run(story())
