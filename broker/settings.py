"""Where configuration files are read: the only I/O around :mod:`shared.config`."""

import os
from pathlib import Path
from typing import Any

from shared.config import Config, parse
from shared.errors import ConfigError


def read_config(path: Path | None, *overrides: dict[str, Any]) -> Config:
    """One file (if any), the environment, then ``overrides``. Raises :class:`ConfigError`."""
    text = ""
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"can't read the configuration {path}: {error}") from None
    return parse(text, os.environ, *overrides)
