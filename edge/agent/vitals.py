"""Reading the machine with psutil."""

import os
import platform
import time
from pathlib import Path

import psutil

from edge.agent.core import Vitals
from shared.messages import Capabilities, Sample


class Machine:
    """The machine this process runs on. ``data``: the folder whose disk counts."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._process = psutil.Process()
        psutil.cpu_percent(interval=None)  # the first call only sets the start of the interval

    def vitals(self) -> Vitals:
        """What a heartbeat says. CPU is the mean since the last call."""
        memory = psutil.virtual_memory()
        return Vitals(
            at_unix_s=time.time(),
            cpu_ratio=psutil.cpu_percent(interval=None) / 100,
            memory_ratio=memory.percent / 100,
            memory_available_bytes=memory.available,
            disk_ratio=psutil.disk_usage(str(self._data)).percent / 100,
            agent_rss_bytes=self._process.memory_info().rss,
        )

    def sample(self) -> Sample:
        """One telemetry reading: CPU, memory, disk, network and load of the machine."""
        memory, network = psutil.virtual_memory(), psutil.net_io_counters()
        return Sample(
            time.time(),
            {
                "cpu_ratio": psutil.cpu_percent(interval=None) / 100,
                "memory_used_bytes": float(memory.used),
                "memory_available_bytes": float(memory.available),
                "disk_free_bytes": float(psutil.disk_usage(str(self._data)).free),
                "net_sent_bytes": float(network.bytes_sent if network else 0),
                "net_received_bytes": float(network.bytes_recv if network else 0),
                "load_1m": psutil.getloadavg()[0],
                "agent_rss_bytes": float(self._process.memory_info().rss),
                "agent_cpu_s": sum(self._process.cpu_times()[:2]),
            },
        )

    def battery(self) -> tuple[bool, float] | None:
        """Whether the machine is on mains, and how full its battery is (0 to 1); None: it has none, or does
        not tell."""
        read = getattr(psutil, "sensors_battery", None)  # some platforms lack it
        battery = read() if read is not None else None
        if battery is None or battery.power_plugged is None:
            return None
        return bool(battery.power_plugged), min(1.0, max(0.0, battery.percent / 100))

    def load_ratio(self) -> float:
        """Load of the last minute, per core."""
        return float(psutil.getloadavg()[0]) / (psutil.cpu_count() or 1)

    def capabilities(self, wasm_gflops: float, wasm_call_s: float, runtime: str) -> Capabilities:
        """What a birth says. The figures of WebAssembly come from the runtime's own benchmark."""
        return Capabilities(
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            memory_bytes=psutil.virtual_memory().total,
            disk_free_bytes=psutil.disk_usage(str(self._data)).free,
            wasm_gflops=round(wasm_gflops, 3),
            wasm_call_s=wasm_call_s,
            platform=f"{platform.system()} {platform.machine()} {platform.python_version()}".lower(),
            runtime=runtime,
        )
