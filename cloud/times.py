"""Times as people write them, for the command line and the API."""

import re
from datetime import UTC, datetime

from shared.errors import ConfigError

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def span_s(text: str) -> float:
    """``15m`` -> 900. Raises :class:`ConfigError`."""
    match = _SPAN.fullmatch(text)
    if match is None and text != "0":
        raise ConfigError(f"{text!r} is no length of time; write 90s, 15m, 1h or 7d")
    return 0.0 if match is None else float(match[1]) * _UNIT_S[match[2]]


def moment(text: str, now_unix_s: float) -> float:
    """``1h`` (ago), seconds since 1970, or ISO (UTC where it does not say). Raises :class:`ConfigError`."""
    if _SPAN.fullmatch(text):
        return now_unix_s - span_s(text)
    if re.fullmatch(r"\d{9,11}(\.\d+)?", text):
        return float(text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no time; write 1h (ago) or 2026-11-28T10:00") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
