"""A real PostgreSQL cluster of its own on a unix socket; it can be killed and come back.

PostgreSQL refuses to run as root, and its user can't enter pytest's folders: so the cluster lives in a short
folder of its own under /tmp (a socket's path has at most 107 bytes), and root steps down to ``postgres``. One
that need not sync lives in memory where there is room: each new database is 300 files.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

START_S = 30.0
USER = "postgres"
_DEBIAN = "/usr/lib/postgresql"
_MEMORY, _ROOM_BYTES = Path("/dev/shm"), 4 << 30

# Shared memory as files of the cluster: whoever is killed leaves it behind.
_OURS = {"listen_addresses": "", "dynamic_shared_memory_type": "mmap"}
FAST = {"fsync": "off", "full_page_writes": "off"}  # for tests that do not ask what a power cut leaves


def postgres_binary(name: str) -> str:
    """Where it is; skips the test, saying so, when it is nowhere."""
    folders = [str(path) for path in sorted(Path(_DEBIAN).glob("*/bin"), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join(folders)) or shutil.which(name)
    if found is None:
        pytest.skip(f"PostgreSQL's {name} is not installed (Debian package: postgresql)")
    return found


class Postgres:
    """One cluster, one process group. ``settings``: what ``postgresql.conf`` would say."""

    def __init__(self, settings: dict[str, str] | None = None) -> None:
        self._postgres = postgres_binary("postgres")
        self._settings = settings or {}
        self.folder = Path(tempfile.mkdtemp(prefix="shoal-pg-", dir=_home(self._settings)))
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER, USER)
        initdb = [postgres_binary("initdb"), "-D", str(self.folder / "data"), "-U", USER, "-A", "trust"]
        initdb += ["-E", "UTF8", "--locale", "C", "--no-sync"]
        subprocess.run(_stepped_down(initdb), check=True, stdout=subprocess.DEVNULL, cwd=self.folder)

    def start(self) -> "Postgres":
        """Start and wait until it answers. It lives no longer than the thread that called this."""
        command = [self._postgres, "-D", str(self.folder / "data"), "-k", str(self.folder)]
        for name, value in (_OURS | self._settings).items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                _stepped_down(command), stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                psycopg.connect(self._conninfo("postgres")).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return self
        raise AssertionError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()}")

    def new_database(self, template: str = "") -> str:
        """The URL of an empty database, or of a copy of another that nobody uses."""
        self._databases += 1
        name = f"shoal{self._databases}"
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            copied = f' TEMPLATE "{make_url(template).database}"' if template else ""
            connection.execute(f'CREATE DATABASE "{name}"{copied}')
        return f"postgresql://{USER}@/{name}?host={self.folder}"

    def kill(self) -> None:
        """As a power cut would: all its processes at once, none of them told."""
        self._end(lambda process: os.killpg(process.pid, signal.SIGKILL))

    def stop(self) -> None:
        """As an operator in a hurry would: connections are ended, what was committed is written."""
        self._end(lambda process: process.send_signal(signal.SIGINT))

    def remove(self) -> None:
        """End it, and leave nothing behind: what nobody will read need not be written."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is not None:
            how(self._process)
            self._process.wait(START_S)
            self._process = None

    def _conninfo(self, database: str) -> str:
        return f"host={self.folder} user={USER} dbname={database}"


def _home(settings: dict[str, str]) -> str:
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    return str(_MEMORY) if settings.get("fsync") == "off" and roomy else "/tmp"


def _stepped_down(command: list[str]) -> list[str]:
    """Not as root, and not longer than we live."""
    user = [f"--reuid={USER}", f"--regid={USER}", "--init-groups"] if os.geteuid() == 0 else []
    return ["setpriv", "--pdeathsig", "INT", *user, "--", *command]
