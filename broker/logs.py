"""How a process's log looks. Only ``__main__`` files call this; libraries just log.

DEBUG: each event and effect of every service. INFO: phase changes, connections. WARNING: unreadable
messages, retries. ERROR: bugs, with the story of the service.

Two formatters of our own, on purpose: what a logging library brings with it is a tenth of the memory of a
device that does nothing. Tracebacks are Python's plain ones: no local variables, and so no passwords.
"""

import logging
import sys
from datetime import UTC, datetime

import msgspec

_LEVEL_CHARS, _MESSAGE_CHARS = 9, 30
_DIM, _BOLD, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_COLOURS = {"debug": "\x1b[32m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"event": record.getMessage(), "level": record.levelname.lower(), "logger": record.name}
        fields["timestamp"] = _stamp(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


class _Lines(logging.Formatter):
    """Time, level, message, logger; a traceback below."""

    def __init__(self, *, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        parts = (
            self._in(_DIM, _stamp(record)),
            f"[{self._in(_COLOURS.get(level, ''), level.ljust(_LEVEL_CHARS))}]",
            self._in(_BOLD, record.getMessage().ljust(_MESSAGE_CHARS)),
            f"[{record.name}]",
        )
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._coloured and colour else text


def configure_logging(level: str = "info", *, json: bool = False) -> None:
    """Send everything to standard error, as coloured lines for a terminal or as JSON for a collector."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if json else _Lines(coloured=sys.stderr.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _stamp(record: logging.LogRecord) -> str:
    """UTC, ISO 8601."""
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    )
