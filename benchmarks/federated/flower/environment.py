"""Flower's own environment: ``make bench-federated`` makes it, nothing else of ours uses it."""

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BIN = ROOT / ".venv-flower" / "bin"
APP = Path(__file__).resolve().parent / "app"
VERSION = "1.41.0"


def installed() -> bool:
    """Whether there is anything to measure."""
    return (BIN / "flwr").exists()


def variables(home: Path) -> Mapping[str, str]:
    """Nothing is sent to anybody, nothing is written beside ``home``, and our code can be imported."""
    return {
        **os.environ,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_HOME": str(home / "flwr"),
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(APP))),
        "PATH": os.pathsep.join((str(BIN), os.environ["PATH"])),
        "NO_COLOR": "1",
    }
