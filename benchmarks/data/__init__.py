"""Nothing lost, in figures: what `make bench-data` measures.

A module of this package whose name is no ``_private`` one and that has ``PARTS: tuple[Part, ...]`` takes
part; ``python -m benchmarks.data`` finds it. Each part runs in a process of its own, and what it returns is
kept as benchmarks/results/data/NAME.json. Its goals stand in ``benchmarks.goals.DATA_GOALS``, and find their
figures in ``{part's name: what it returned}``.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.table import Table

from benchmarks.measuring import Found


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that is measured.

    ``measure(share)``: what was found, as JSON can say it; 1.0 is the full length, ``--short`` asks for less.
    ``tables(found)``: for the terminal and the page. ``about``: a paragraph of Markdown for the page: what is
    compared with what, and how. ``seconds_max``: of the full length; afterwards it is killed.
    """

    name: str
    measure: Callable[[float], Found]
    tables: Callable[[Found], Iterable[Table]]
    about: str = ""
    seconds_max: float = 900.0
