"""A whole fleet as a person starts it: the real ``shoal up`` in an empty folder, ended with Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

from cloud.local.processes import free_port

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "digits"
SHOAL = str(Path(sys.executable).with_name("shoal"))
PATIENCE_S = 40.0
COMMAND_S_MAX = 40.0


@dataclass(frozen=True)
class Said:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self
        return msgspec.json.decode(self.out)


@dataclass(frozen=True)
class RunningFleet:
    """``folder`` is where a person would type; its ``.shoal`` holds everything."""

    folder: Path
    port: int
    api: str
    process: "subprocess.Popen[str]"

    def shoal(self, *arguments: object, **environ: str) -> Said:
        """Run the real command to its end, in this folder, on a terminal of 80 columns."""
        done = subprocess.run(
            [SHOAL, *map(str, arguments)],
            cwd=self.folder,
            env={**clean_environ(), **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)


def clean_environ() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    return {**kept, "COLUMNS": "80", "NO_COLOR": "1"}


@contextmanager
def running_fleet(folder: Path, devices: int, *options: str, **environ: str) -> Iterator[RunningFleet]:
    """Yields once every device serves. Ends it with Ctrl-C and checks that nothing is left.

    ``options``: more of ``shoal up``; ``environ``: more of its environment.
    """
    port, http_port = free_port(), free_port()
    ports = ["--port", str(port), "--http-port", str(http_port)]
    command = [SHOAL, "up", "--quiet", "--devices", str(devices), *ports, *options]
    log = folder / "up.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**clean_environ(), **environ},
            stderr=output,
            text=True,
            start_new_session=True,
        )
    fleet = RunningFleet(folder, port, f"http://127.0.0.1:{http_port}", process)
    try:
        until("every device serves", lambda: serving(fleet) == devices, log)
        yield fleet
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(PATIENCE_S)
    assert code == 0, log.read_text()
    assert left_in(folder) == []


def serving(fleet: RunningFleet) -> int:
    """How many devices the API says are idle or busy."""
    assert fleet.process.poll() is None, (fleet.folder / "up.log").read_text()
    try:
        nodes = httpx.get(f"{fleet.api}/overview", timeout=5).raise_for_status().json()["nodes"]
    except httpx.HTTPError:
        return 0
    return int(nodes["idle"] + nodes["busy"])


def until(what: str, holds: Callable[[], bool], log: Path | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            told = "" if log is None else log.read_text()
            raise AssertionError(f"not within {PATIENCE_S:g} s: {what}\n{told}")
        time.sleep(0.1)


def left_in(folder: Path) -> list[str]:
    """Command lines of processes that name this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
        if str(folder) in line:
            found.append(line)
    return found


def write_digits(path: Path, count: int) -> np.ndarray[Any, Any]:
    """Held-out digits as an input file; returns the classes that the model sees in them."""
    with np.load(EXAMPLE / "heldout.npz", allow_pickle=False) as file:
        np.save(path, file["images"][:count].astype(np.float32) / 16)
        classes: np.ndarray[Any, Any] = file["predictions"][:count]
        return classes
