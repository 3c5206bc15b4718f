"""Compiled modules on disk: what this device compiled once, it loads in microseconds at the next start.

    "SHOALC1\\0" | 32 bytes HMAC-SHA256(device key, identity + compiled code) | compiled code

Compiled code is machine code: whoever writes it owns the process. So it is never taken from the network,
and a file counts only with a MAC under a key that never leaves the device. ``identity`` holds the module's
digest, wasmtime's version and the engine's settings, so a file can't be passed off as another module's.
The bytes that were checked are the bytes that are loaded: nothing is read twice.

Whatever is wrong with a file, the answer is the same: count it, compile again, replace it.
"""

import contextlib
import hashlib
import hmac
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from wasmtime import Engine, Module, WasmtimeError

from shared.errors import ConfigError

_MAGIC = b"SHOALC1\0"
_MAC_BYTES = 32
_SUFFIX = ".cwasm"


@dataclass(slots=True)
class CacheStats:
    """Counters since the start. ``rejected``: files with a wrong MAC, of another version, or torn."""

    hits: int = 0
    misses: int = 0
    rejected: int = 0
    write_errors: int = 0


class CompiledCache:
    """One directory of compiled modules, oldest dropped first above ``bytes_max``. One writer: the host."""

    def __init__(self, directory: Path, device_key: bytes, bytes_max: int = 256 << 20) -> None:
        if len(device_key) < 16:
            raise ConfigError(f"the device key has {len(device_key)} bytes; a MAC needs 16 or more")
        self.directory, self._key, self._bytes_max = directory, device_key, bytes_max
        self.stats = CacheStats()
        directory.mkdir(parents=True, exist_ok=True)

    def load(self, engine: Engine, identity: str) -> Module | None:
        """The module of that identity, or None when there is no file that can be trusted."""
        try:
            data = self._path(identity).read_bytes()
        except FileNotFoundError:
            self.stats.misses += 1
            return None
        except OSError:
            self.stats.rejected += 1
            return None
        head = len(_MAGIC) + _MAC_BYTES
        code = data[head:]
        right = hmac.compare_digest(data[:head], _MAGIC + self._mac(identity, code))
        module = _deserialized(engine, code) if right else None
        if module is None:
            self.stats.rejected += 1
        else:
            self.stats.hits += 1
        return module

    def save(self, identity: str, module: Module) -> None:
        """Keep the module. A full or read-only disk is counted and costs only the next start's time."""
        code = bytes(module.serialize())
        try:
            _write_atomically(self._path(identity), _MAGIC + self._mac(identity, code) + code)
            self._prune(keep=self._path(identity))
        except OSError:
            self.stats.write_errors += 1

    def _path(self, identity: str) -> Path:
        return self.directory / (hashlib.sha256(identity.encode()).hexdigest() + _SUFFIX)

    def _mac(self, identity: str, code: bytes) -> bytes:
        label = hashlib.sha256(identity.encode()).digest()  # fixed length: no byte can change sides
        return hmac.digest(self._key, label + code, "sha256")

    def _prune(self, keep: Path) -> None:
        files = [(path, path.stat()) for path in self.directory.glob(f"*{_SUFFIX}")]
        total = sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=lambda one: one[1].st_mtime_ns):
            if total <= self._bytes_max:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                total -= stat.st_size


def _deserialized(engine: Engine, code: bytes) -> Module | None:
    try:
        return Module.deserialize(engine, code)
    except WasmtimeError:  # another wasmtime, other settings, another processor
        return None


def _write_atomically(path: Path, data: bytes) -> None:
    """After a power cut the file is the old one or the new one, never half of each."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
