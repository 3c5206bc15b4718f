"""Runs whose time does not count, a process on each core."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

C = TypeVar("C")
R = TypeVar("R")


def spread(run: Callable[[C], R], cases: Sequence[C], what: str) -> list[R]:
    """What came of each case, in their order. ``run`` can be pickled."""
    workers = len(os.sched_getaffinity(0))
    with (
        Progress(console=Console(stderr=True)) as bar,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
    ):
        return list(bar.track(pool.map(run, cases), total=len(cases), description=what))
