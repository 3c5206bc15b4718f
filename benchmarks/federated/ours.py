"""What an idle device of ours takes, as Flower's is measured: real processes, one broker, nothing to do.

    python -m benchmarks.federated.ours [--devices 2 8 32] [--json PATH]

Proportional set size of a device's processes, median over the devices, after 15 seconds of nothing. Each has
its digits as a source of examples, so that its part for training is loaded and registered.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.federated.processes import pss_mib
from benchmarks.fleet import until
from benchmarks.measuring import Found, machine, progress, write_json
from broker.settings import read_config
from cloud.client import Fleet, connected
from cloud.local.processes import LocalFleet
from examples.digits.shards import write_shards

DEVICES = (2, 8, 32)
IDLE_S = 15.0


async def idle(folder: Path, devices: int) -> Found:
    """MiB of one device."""
    progress(f"ours: {devices} devices do nothing")
    shards = write_shards(folder / "shards", devices)
    nodes: dict[str, dict[str, object]] = {f"edge-{number}": {} for number in range(1, devices + 1)}
    local = LocalFleet(folder / "fleet", nodes, log_level="warning")
    async with local, connected(read_config(local.workspace.config("operator")), "operator") as fleet:
        for (node, device), shard in zip(local.devices.items(), shards, strict=True):
            with local.workspace.config(node).open("a") as file:
                file.write(f'\n[training.sources]\ndigits = "{shard}"\n')
            await device.stop()
            await device.start()
        await until("every device is there", local, lambda: _present(fleet, devices))
        await asyncio.sleep(IDLE_S)
        return {"devices": devices, "idle_mib": median(pss_mib(one.pid) for one in local.devices.values())}


async def _present(fleet: Fleet, devices: int) -> bool:
    return sum(node.status in ("idle", "busy") for node in await fleet.nodes()) >= devices


def table(found: Found) -> Table:
    made = Table("devices", "idle MiB", title="an idle device of ours (proportional set size)")
    for row in found["rows"]:
        made.add_row(str(row["devices"]), f"{row['idle_mib']:.1f}")
    return made


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", nargs="+", type=int, default=list(DEVICES))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for devices in arguments.devices:
        with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
            rows.append(asyncio.run(idle(Path(folder), devices)))
    found: Found = {"machine": machine(), "rows": rows}
    write_json(arguments.json, found)
    Console().print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
