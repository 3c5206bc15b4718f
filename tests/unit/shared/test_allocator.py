"""Freed vectors stay with the process, and a process on another C library runs all the same."""

import platform
import subprocess
import sys

import pytest

from shared import allocator


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's")
def test_vectors_are_made_again_without_new_pages() -> None:
    code = (
        "import resource, numpy as np\n"
        "from shared.allocator import keep_freed\n"
        "assert keep_freed()\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def work(): return [np.ones(200_000, np.float32) for _ in range(4)]\n"
        "work()\n"
        "before = faults()\n"
        "for _ in range(50): work()\n"
        "print(faults() - before)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert int(ran.stdout) < 780, "one vector is 195 pages"


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert allocator.keep_freed() is False
