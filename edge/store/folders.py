"""Names in a folder, made durable."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """A file that was made, renamed or removed in it stays so after a power cut. Raises ``OSError``."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
