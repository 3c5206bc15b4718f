"""Which calls run on the event loop, told with clocks that the test moves."""

import numpy as np
import pytest

from edge.runtime import Grants, Limits, Unreachable
from edge.runtime.inline import Probation, Recent
from edge.runtime.loaded import Loaded
from edge.runtime.program import open_program, read_package
from edge.runtime.sandbox import Sandbox
from tests.unit.edge.runtime.modules import TRAPS_ON_0, affine_package, moody_package, rows

LIMITS = Limits(deadline_s=10)  # quick: 100 us, slow: 1 ms, stopped: 10 ms
FAR = 1e9


class Clock:
    """Goes on by ``step`` at each look: a call is looked at before and after."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 1000.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Story:
    """A module that takes as long as the story says."""

    def __init__(self, package: bytes) -> None:
        self.wall, self.processor = Clock(1e-6), Clock(1e-6)
        opened = read_package("m", package, LIMITS)
        program = open_program(opened, Sandbox(LIMITS), Grants())
        self.loaded = Loaded(
            name="m",
            info=opened.info,
            digest="",
            program=program,
            first=program.start(FAR),
            slots=1,
            limits=LIMITS,
            clock=self.wall,
            processor_clock=self.processor,
        )

    def inline(self, step_s: float, processor_s: float = 0.0, *, function: str = "run") -> bool:
        """Whether the call ran on the loop."""
        self.wall.step, self.processor.step = step_s, processor_s
        return self.loaded.run_inline(self.loaded.program.check(function, [rows(1) + 13])) is not None

    def threaded(self, step_s: float, *, x: float = 1.0, function: str = "run") -> None:
        self.wall.step = step_s
        call = self.loaded.program.check(function, [np.full((1, 4), x, np.float32)])
        self.loaded.run(call, FAR)

    def later(self, seconds: float) -> None:
        self.wall.now += seconds


QUICK, SLOW = 1e-6, 2e-3
CHEATING = [QUICK, SLOW, QUICK] * 30


@pytest.fixture
def warm() -> Story:
    story = Story(affine_package())
    story.loaded.warm_up(FAR)
    return story


def test_a_good_module_stays_on_the_loop_after_one_slow_sample(warm: Story) -> None:
    assert warm.inline(SLOW, SLOW)
    assert all(warm.inline(QUICK) for _ in range(100))
    assert warm.inline(SLOW, SLOW)
    assert warm.inline(QUICK)


def test_the_first_call_of_a_store_says_nothing_about_the_next() -> None:
    story = Story(affine_package(1, 8))
    story.loaded.warm_up(FAR)
    eight = story.loaded.program.check("run", [rows(8)])
    story.wall.step = 5.0  # it makes a store
    story.loaded.run(eight, FAR)
    assert ("run", 8) not in story.loaded.describe().service_s
    story.wall.step = QUICK
    story.loaded.run(eight, FAR)
    assert story.loaded.run_inline(eight) is not None


def test_a_module_that_became_slow_leaves_the_loop_and_comes_back_when_it_is_quick(warm: Story) -> None:
    for _ in range(9):
        warm.threaded(SLOW)
    assert not warm.inline(QUICK)
    for _ in range(4):
        warm.threaded(QUICK)
        assert not warm.inline(QUICK)
    warm.threaded(QUICK)
    assert warm.inline(QUICK)


def test_a_module_that_cheats_the_median_is_barred(warm: Story) -> None:
    on_the_loop = [warm.inline(step, step) for step in CHEATING]
    assert on_the_loop[:10] == [True] * 10
    assert on_the_loop[-20:] == [False] * 20
    warm.later(11)
    assert warm.inline(QUICK)


def test_time_that_the_thread_did_not_have_the_processor_is_nobodys_fault(warm: Story) -> None:
    assert all(warm.inline(step, 1e-4) for step in CHEATING)


def test_a_call_that_is_slow_and_then_traps_is_owed_too(warm: Story) -> None:
    ran = 0
    for _ in range(20):
        for _ in range(3):
            warm.threaded(QUICK, function="fail")  # makes the next instance, and looks quick
        try:
            warm.inline(SLOW, SLOW, function="fail")
        except Unreachable:
            ran += 1
    assert 2 < ran < 10


def test_zeros_that_trap_are_no_error_and_no_estimate() -> None:
    story = Story(moody_package(TRAPS_ON_0))
    story.loaded.warm_up(FAR)
    assert story.loaded.describe().service_s == {}
    assert not story.inline(QUICK)
    story.threaded(QUICK)
    story.threaded(QUICK)
    assert story.inline(QUICK)


def test_a_slow_module_is_warmed_up_for_a_moment_only() -> None:
    story = Story(affine_package())
    story.wall.step = 1.0
    story.loaded.warm_up(FAR)
    assert story.wall.now < 1000 + 6  # two looks at the clock for the call, and two at how long it all takes
    assert story.loaded.describe().service_s == {("run", 1): 1.0}
    assert not story.inline(1.0)


# --- the rules by themselves -----------------------------------------------------------------------------


def test_the_median_of_the_last_nine_decides() -> None:
    recent = Recent(quick_s_max=10)
    assert not recent.is_quick
    for seconds, median, is_quick in [(99, 99, False), (5, 5, True), (99, 99, False), (5, 5, True)]:
        recent.add(seconds)
        assert (recent.median_s, recent.is_quick) == (median, is_quick)
    for _ in range(20):
        recent.add(7)
    assert recent.samples == (7,) * 9


def test_a_pause_grows_with_each_relapse_up_to_an_hour_and_is_short_again_after_good_conduct() -> None:
    probation, now, pauses = Probation(slow_s=0.001, debt_s_max=0.01), 1000.0, []
    for _ in range(7):
        probation.bar(now)
        pauses.append(probation.barred_until - now)
        probation.bar(now + 1)  # one that was under way: no second pause
        now = probation.barred_until + 1
    assert pauses == [10, 40, 160, 640, 2560, 3600, 3600]
    probation.bar(now + 36_001)
    assert probation.barred_until == now + 36_001 + 10


def test_a_debt_is_forgiven_at_one_percent_of_the_time() -> None:
    probation = Probation(slow_s=0.001, debt_s_max=0.01)
    for second in range(100):
        probation.slow(0.009, now=1000.0 + second)
    assert probation.barred_until < 1000
    for second in range(100):
        probation.slow(0.011, now=2000.0 + second)
    assert probation.barred_until > 2000


def test_the_first_slow_call_is_free_and_the_next_second_is_watched() -> None:
    probation = Probation(slow_s=0.001, debt_s_max=0.01)
    probation.slow(None, now=1000.0)
    assert probation.watched_until == 1001.0
    probation.slow(0.02, now=1000.5)
    assert (probation.watched_until, probation.barred_until) == (1001.5, 1010.5)
