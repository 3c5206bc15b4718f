"""Which telemetry samples fit: the same rule where they are recorded and where they are stored."""

from functools import lru_cache
from math import isfinite

from shared.messages import Sample

FIELDS_MAX = 64
NAME_CHARS_MAX = 64
UNIX_S_MAX = 4102444800.0  # the year 2100; a clock beyond it is no clock


def unfit(sample: Sample) -> str:
    """Why a sample can't be kept; empty: it can. A time of 0 is a device without a clock."""
    values = sample.values
    if (
        0 < len(values) <= FIELDS_MAX
        and 0.0 <= sample.at_unix_s <= UNIX_S_MAX
        and isfinite(sum(values.values()))  # nearly always; a sum may also be too large
        and len(max(values, key=len)) <= NAME_CHARS_MAX
        and _are_names(tuple(values))
    ):
        return ""
    return _why(sample)


@lru_cache(512)
def _are_names(names: tuple[str, ...]) -> bool:
    """A stream has the same names in every sample."""
    return all(map(_is_name, names))


def _is_name(name: str) -> bool:
    return 0 < len(name) <= NAME_CHARS_MAX and name.isprintable()


def _why(sample: Sample) -> str:
    values = sample.values
    if not values or len(values) > FIELDS_MAX:
        return f"{len(values)} fields; 1 to {FIELDS_MAX} fit"
    if not 0.0 <= sample.at_unix_s <= UNIX_S_MAX:
        return f"time {sample.at_unix_s!r}"
    for name, value in values.items():
        if not isfinite(value):
            return f"{name[:NAME_CHARS_MAX]!r} is not finite"
        if not _is_name(name):
            return f"{name[:NAME_CHARS_MAX]!r} is no name: 1 to {NAME_CHARS_MAX} printable characters"
    return ""
