"""Which question of each job this device has answered, over a restart.

    <job>.answered      the ask, as ``edge/training/job.py`` names it

This changes in every round, so it is written in place (a file that is renamed over another one is flushed
at once) and not synced: what a power cut takes, or leaves half written, is no more than a question that is
answered again. The cloud then says that the first answer counts.
"""

import os
from pathlib import Path

from shared.ids import checked_id, is_id

SUFFIX = ".answered"
ASK_BYTES_MAX = 1024


class Answered:
    """The folder of one device. Both methods block, for no longer than a small write takes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def all(self) -> dict[str, str]:
        """Job -> ask. A file that can't be read counts as none."""
        found: dict[str, str] = {}
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                ask = path.read_bytes()[:ASK_BYTES_MAX].decode()
            except (OSError, UnicodeDecodeError):
                continue
            if ask and is_id(path.stem):
                found[path.stem] = ask
        return found

    def remember(self, job: str, ask: str) -> None:
        """This one was answered; empty: none was."""
        path = self._folder / f"{checked_id(job)}{SUFFIX}"
        if not ask:
            path.unlink(missing_ok=True)
            return
        data = ask.encode()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, data, 0)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)
