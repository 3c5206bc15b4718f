"""A checker that finds nothing proves nothing: mistakes that people really make are put in, and found."""

import pytest

from tests.support.sync_bugs import BUGS
from tests.support.sync_faults import FaultyWorld
from tests.support.sync_victims import Violation

SCHEDULES_MAX = 60


@pytest.mark.parametrize("name", BUGS)
def test_a_mistake_is_found(name: str) -> None:
    with pytest.raises(Violation):
        played(name)


def played(name: str) -> None:
    parts, faults = BUGS[name]
    for seed in range(SCHEDULES_MAX):
        FaultyWorld(seed, parts, faults).play()


@pytest.mark.parametrize("name", BUGS)
def test_without_the_mistake_the_same_schedule_is_fine(name: str) -> None:
    FaultyWorld(0, None, BUGS[name][1]).play()
