"""Telemetry as operators read it: the question, and the bodies of its answers. Data only.

Times are seconds since 1970 on the clock of the device that took the sample.
"""

from enum import StrEnum

import msgspec

from shared.messages import Request

POINTS_MAX = 5000
ROWS_MAX = 1000


class TelemetryKind(StrEnum):
    """What is asked for."""

    SERIES = "series"
    LEDGER = "ledger"
    LETTERS = "letters"


class TelemetryAsk(Request, frozen=True, kw_only=True):
    """Read telemetry.

    series: samples of ``stream`` of ``node`` with ``since <= time < until`` (0: no bound), one point for
    every ``every_s`` seconds (0: one for each sample), ``limit`` points at most. ledger and letters: rows of
    ``node`` (empty: of all), the first ``limit`` after the one that ``after`` names.
    """

    kind: TelemetryKind
    node: str = ""
    stream: str = ""
    since_unix_s: float = 0.0
    until_unix_s: float = 0.0
    every_s: float = 0.0
    limit: int = ROWS_MAX
    after: str = ""


class Point(msgspec.Struct, frozen=True):
    """``count`` samples from ``at_unix_s`` on. ``values``: name -> (least, mean, greatest)."""

    at_unix_s: float
    count: int
    values: dict[str, tuple[float, float, float]]


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Answers ``series``. ``next_unix_s``: where to go on; 0: that was all."""

    node: str
    stream: str
    every_s: float
    points: tuple[Point, ...]
    next_unix_s: float = 0.0


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One stream of one boot (``epoch``). Counts are samples, except where said.

    ``numbered``: false for a plain MQTT device, whose samples carry no sequence, so that nobody can know
    what was lost on the way. ``exact``: produced == stored + dropped + lost + dead, nothing is missing.
    ``missing``: sequences that have not arrived (half-open, the first few); ``pending``: how many.
    ``dropped``: by the device's policy when room was short; ``lost``: damaged or forgotten there, as it said
    itself; ``dead``: came and did not fit; ``duplicates``: came again.
    """

    node: str
    epoch: int
    stream: str
    grade: str
    numbered: bool
    exact: bool
    produced: int
    stored: int
    dropped: int
    lost: int
    dead: int
    pending: int
    duplicates: int
    missing: tuple[tuple[int, int], ...]
    last_at_unix_s: float


class LedgerPage(msgspec.Struct, frozen=True, kw_only=True):
    """Answers ``ledger``. ``next``: for ``after``; empty: that was all."""

    rows: tuple[LedgerRow, ...]
    next: str = ""


class LetterView(msgspec.Struct, frozen=True, kw_only=True):
    """One message, or the samples of one, that could not be taken. ``payload``: its first bytes."""

    number: int
    node: str
    stream: str
    reason: str
    at_unix_s: float
    payload: bytes


class LettersPage(msgspec.Struct, frozen=True, kw_only=True):
    """Answers ``letters``, the newest first. ``next``: for ``after``; empty: that was all."""

    rows: tuple[LetterView, ...]
    next: str = ""
