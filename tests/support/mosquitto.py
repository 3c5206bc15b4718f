"""A real Mosquitto on a free port, with a given configuration; it can be killed and come back."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

START_S = 10.0

PLAIN = """
allow_anonymous true
set_tcp_nodelay true
max_inflight_messages 1000
max_queued_messages 100000
"""


def mosquitto_binary() -> str:
    """Where it is; skips the test, saying so, when it is nowhere."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("the mosquitto binary is not installed (Debian package: mosquitto)")
    return found


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """One broker process on ``port``. ``listener``: lines that belong to its TCP listener.

    With ``websockets`` there is a second listener on ``websockets_port`` (alone it does not start).
    """

    def __init__(
        self, folder: Path, configuration: str = PLAIN, listener: str = "", *, websockets: bool = False
    ) -> None:
        self.binary, self.port = mosquitto_binary(), free_port()
        self._log = folder / "mosquitto.log"
        self._file = folder / "mosquitto.conf"
        # Started by root it would give up its rights and then not read its own files.
        user = "user root\n" if os.geteuid() == 0 else ""
        text = f"{user}{configuration}\nlistener {self.port} 127.0.0.1\n{listener}\n"
        if websockets:
            self.websockets_port = free_port()
            text += f"listener {self.websockets_port}\nprotocol websockets\n"
        self._file.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Mosquitto":
        """Start and wait until it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([self.binary, "-c", str(self._file)], stderr=log, stdout=log)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.02)
        raise AssertionError(f"mosquitto did not start:\n{self._log.read_text()}")

    def kill(self) -> None:
        """As a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an operator would."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_S)
            self._process = None
