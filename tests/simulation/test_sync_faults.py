"""Every fault at once, judged by a linearizability checker; see :mod:`tests.support.sync_faults`."""

import pytest

from simulation.faults import Fault, schedule
from tests.support.sync_faults import FaultyWorld

QUICK, ALL = range(10), range(10, 1010)


def played(seeds: range) -> tuple[int, int]:
    """Operations of all stories, and how many of them had a known end."""
    asked = known = 0
    for seed in seeds:
        world = FaultyWorld(seed).play()
        asked, known = asked + len(world.history), known + world.known
    return asked, known


def test_no_promise_is_broken_in_random_schedules() -> None:
    asked, known = played(QUICK)
    assert asked > 50 * len(QUICK)
    assert asked / 2 < known < asked, "some operations end in doubt, and most do not"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_promise_is_broken_in_a_thousand_random_schedules() -> None:
    asked, _ = played(ALL)
    assert asked > 50 * len(ALL)


def test_a_schedule_has_every_fault_and_depends_on_nothing_but_its_seed() -> None:
    moments = [moment for seed in range(20) for moment in schedule(seed, 30.0)]
    assert {moment.fault for moment in moments} == set(Fault)
    assert schedule(1, 30.0) == schedule(1, 30.0) != schedule(2, 30.0)
    assert all(0.0 <= moment.at < 30.0 for moment in moments)


def test_the_same_seed_tells_the_same_story() -> None:
    def story(seed: int) -> list[object]:
        world = FaultyWorld(seed).play()
        return [(one.key, one.what, one.call, one.end, one.result) for one in world.history]

    assert story(3) == story(3)
