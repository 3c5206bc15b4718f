"""A package to upload, and a catalog's store that forgets nothing (until the test ends)."""

import random

from cloud.artifacts.entry import Entry
from shared.package import ModuleKind, Package, PackageInfo, pack

WASM = b"\0asm\x01\0\0\0"


class MemoryCatalogStore:
    """A :class:`cloud.artifacts.entry.CatalogStore`. ``broken``: saving raises, as a full disk would."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.broken = False

    def load_catalog(self) -> tuple[Entry, ...]:
        return tuple(self.entries.values())

    def save_entry(self, entry: Entry) -> None:
        if self.broken:
            raise OSError("database or disk is full")
        self.entries[entry.digest] = entry


def package(name: str = "digits", version: str = "1", *, size_bytes: int = 1000, seed: int = 0) -> bytes:
    """A plain module with ``size_bytes`` of parameters that do not repeat."""
    info = PackageInfo(name=name, version=version, kind=ModuleKind.PLAIN)
    parameters = random.Random(seed).randbytes(size_bytes)
    return pack(Package(info=info, modules={0: WASM}, parameters=parameters))
