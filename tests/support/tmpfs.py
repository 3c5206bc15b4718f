"""A small file system of its own, that can be full or read-only. Only root can make one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs at ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Take every byte that is left."""
        with self._filler.open("ab") as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        os.write(file.fileno(), b"\0" * size)
                except OSError:
                    continue

    def clear(self) -> None:
        """Give them back."""
        self._filler.unlink(missing_ok=True)

    def read_only(self) -> None:
        """As after an error of the disk. Nobody may have a file open for writing."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """Mount one, or skip the test, saying so."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk can't be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
