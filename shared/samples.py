"""Which telemetry samples fit: the same rule where they are recorded and where they are stored."""

from math import isfinite

from shared.messages import Sample

FIELDS_MAX = 64
NAME_CHARS_MAX = 64
UNIX_S_MAX = 4102444800.0  # the year 2100; a clock beyond it is no clock


def unfit(sample: Sample) -> str:
    """Why a sample can't be kept; empty: it can. A time of 0 is a device without a clock."""
    values = sample.values
    if not values or len(values) > FIELDS_MAX:
        return f"{len(values)} fields; 1 to {FIELDS_MAX} fit"
    if not 0.0 <= sample.at_unix_s <= UNIX_S_MAX:
        return f"time {sample.at_unix_s!r}"
    for name, value in values.items():
        if not isfinite(value):
            return f"{name[:NAME_CHARS_MAX]!r} is not finite"
        if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
            return f"{name[:NAME_CHARS_MAX]!r} is no name: 1 to {NAME_CHARS_MAX} printable characters"
    return ""
