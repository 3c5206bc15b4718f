"""Times candidates in turns, so that a machine whose clock drifts treats all of them alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from time import perf_counter
from typing import Protocol, TypeVar

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K")
CALIBRATION_S = 0.05
RUNS_MAX = 100_000


class Candidate(Protocol):
    """Something that can be run again and again."""

    def seconds(self, runs: int) -> float:
        """How long ``runs`` runs took together."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something has no figure: it stays in the table."""

    reason: str


@dataclass(frozen=True, slots=True)
class Call:
    """A candidate in this process."""

    run: Callable[[], object]

    def seconds(self, runs: int) -> float:
        run, began = self.run, perf_counter()
        for _ in range(runs):
            run()
        return perf_counter() - began


def attempt(make: Callable[[], T]) -> T | Failure:
    """What ``make`` makes. A benchmark compares programs that may fail in any way: all of them are said."""
    try:
        return make()
    except Exception as error:
        return Failure(f"{type(error).__name__}: {first_line(str(error))}")


def attempted(given: T | Failure, then: Callable[[T], U]) -> U | Failure:
    """The next step of what has not failed yet."""
    return given if isinstance(given, Failure) else attempt(lambda: then(given))


def first_line(text: str, width: int = 200) -> str:
    """The first line that says something, cut to ``width`` characters."""
    line = next((one.strip() for one in text.splitlines() if one.strip()), "")
    return line if len(line) <= width else line[: width - 3] + "..."


def runs_for(candidate: Candidate, target_s: float) -> int:
    """How many runs fill ``target_s``, asked after it has warmed up (a browser's engine compiles twice)."""
    runs, took_s = 1, candidate.seconds(1)
    while took_s < CALIBRATION_S and runs < RUNS_MAX:
        runs *= 4
        took_s = candidate.seconds(runs)
    return max(1, min(RUNS_MAX, round(target_s * runs / took_s)))


def interleaved(
    candidates: Mapping[K, Candidate | Failure], rounds: int, target_s: float = 0.03
) -> dict[K, float | Failure]:
    """Seconds per run: the median over ``rounds`` turns of about ``target_s`` each.

    A candidate that fails once is out.
    """
    timed = {name: attempted(one, partial(_Timed.of, target_s=target_s)) for name, one in candidates.items()}
    for _ in range(rounds):
        for name, one in timed.items():
            timed[name] = attempted(one, _Timed.again)
    return {name: attempted(one, _Timed.median) for name, one in timed.items()}


@dataclass(frozen=True, slots=True)
class _Timed:
    """A candidate that is to be run ``runs`` times a turn, and what the turns before took a run."""

    candidate: Candidate
    runs: int
    samples: tuple[float, ...] = ()

    @classmethod
    def of(cls, candidate: Candidate, target_s: float) -> "_Timed":
        return cls(candidate, runs_for(candidate, target_s))

    def again(self) -> "_Timed":
        seconds = self.candidate.seconds(self.runs) / self.runs
        return replace(self, samples=(*self.samples, seconds))

    def median(self) -> float:
        return median(self.samples)
