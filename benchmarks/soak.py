"""A thousand devices that heartbeat and send telemetry for ten minutes, or for as long as you like.

    python -m benchmarks.soak [--devices 1000] [--seconds 600] [--json PATH]

Heartbeats every 10 s, 0.6 telemetry messages of 20 samples a second and device: long enough to see memory
that does not stay and samples that do not arrive. The part ``fleet`` of ``python -m benchmarks.data`` is
the same.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.data.goals import unstored
from benchmarks.data.telemetry import PARTS, soak
from benchmarks.measuring import write_json


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = soak(arguments.devices, arguments.seconds)
    for table in next(part for part in PARTS if part.name == "fleet").tables(found):
        Console().print(table)
    write_json(arguments.json, found)
    return 1 if unstored(found) else 0


if __name__ == "__main__":
    sys.exit(main())
