"""The host's side of one WASI command: what its functions see, count and leave behind.

Invariant: nothing here blocks. A method may raise :class:`BadAddress`; ``wasi.py`` turns that into a stop.
"""

import os
import struct
import time

import msgspec
from wasmtime import Memory, Store

from edge.runtime.errors import BadOutput, CapabilityDenied, ExitFailure, OutputTooLarge, WasmError
from edge.runtime.limits import Grants
from edge.runtime.wasi_table import BADF, INVAL, SPIPE, STOP, SUCCESS

_VECTORS_MAX = 1024
_RANDOM_BYTES_MAX = 1 << 16
_STDERR_BYTES_KEPT = 2048
_STDIN, _STDOUT, _STDERR = range(3)
_CHARACTER_DEVICE = 2
_RIGHTS_READ, _RIGHTS_WRITE = 1 << 1, 1 << 6
_WORD = 0xFFFF_FFFF
_any_json = msgspec.json.Decoder()


class BadAddress(Exception):
    """The module passed a pointer outside its memory."""


class Process:
    """One run of one command: what its host functions see and leave behind.

    Every method named as in WASI takes unsigned words and returns an errno, or STOP with the reason noted.
    """

    def __init__(self, stdin: bytes, grants: Grants, output_bytes_max: int) -> None:
        self._stdin, self._read_bytes, self._grants = stdin, 0, grants
        self._output_bytes_max = output_bytes_max
        self._stdout, self._stderr = bytearray(), bytearray()
        self._exit_code: int | None = None
        self._reason: WasmError | None = None
        self._store: Store | None = None
        self._memory: Memory | None = None

    def attach(self, store: Store, memory: Memory) -> None:
        """From here on the host functions may touch the memory."""
        self._store, self._memory = store, memory

    def settle(self, error: WasmError) -> None:
        """The run ended with a trap; ours have a better reason than the shim's ``unreachable``."""
        if self._exit_code is None and self._reason is None:
            self._reason = error

    def result(self) -> bytes:
        """stdout. Raises why there is none."""
        if self._reason is not None:
            raise self._reason
        if self._exit_code:
            tail = self._stderr.decode("utf-8", "replace").strip()
            raise ExitFailure(f"it ended with exit status {self._exit_code}: {tail or 'no word on stderr'}")
        try:
            _any_json.decode(self._stdout)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadOutput(f"stdout is not one JSON value: {error}") from None
        return bytes(self._stdout)

    def stop(self, reason: WasmError) -> int:
        """Note the first reason and tell the shim to trap."""
        self._reason = self._reason or reason
        return STOP

    def read(self, at: int, size: int) -> bytes:
        """Memory of the module. Raises ``BadAddress``."""
        if self._memory is None or self._store is None or at + size > self._memory.data_len(self._store):
            raise BadAddress
        return bytes(self._memory.read(self._store, at, at + size))

    def write(self, at: int, data: bytes) -> None:
        """Memory of the module. Raises ``BadAddress``."""
        if self._memory is None or self._store is None or at + len(data) > self._memory.data_len(self._store):
            raise BadAddress
        if data:
            self._memory.write(self._store, data, at)

    def fd_read(self, fd: int, vectors: int, count: int, read_at: int) -> int:
        if fd != _STDIN or count > _VECTORS_MAX:
            return BADF if fd != _STDIN else INVAL
        before = self._read_bytes
        for at, size in self._vectors(vectors, count):
            chunk = self._stdin[self._read_bytes : self._read_bytes + size]
            self.write(at, chunk)
            self._read_bytes += len(chunk)
        self.write(read_at, struct.pack("<I", self._read_bytes - before))
        return SUCCESS

    def fd_write(self, fd: int, vectors: int, count: int, written_at: int) -> int:
        if fd not in (_STDOUT, _STDERR) or count > _VECTORS_MAX:
            return BADF if fd not in (_STDOUT, _STDERR) else INVAL
        pieces = self._vectors(vectors, count)
        written = sum(size for _, size in pieces)
        if fd == _STDOUT and len(self._stdout) + written > self._output_bytes_max:
            return self.stop(OutputTooLarge(f"it wrote more than {self._output_bytes_max} bytes to stdout"))
        for at, size in pieces:
            if fd == _STDOUT:
                self._stdout += self.read(at, size)
            else:
                self._keep_stderr(at, size)
        self.write(written_at, struct.pack("<I", written & _WORD))
        return SUCCESS

    def fd_fdstat_get(self, fd: int, at: int) -> int:
        if fd > _STDERR:
            return BADF
        rights = _RIGHTS_READ if fd == _STDIN else _RIGHTS_WRITE
        self.write(at, struct.pack("<BxHxxxxQQ", _CHARACTER_DEVICE, 0, rights, 0))
        return SUCCESS

    def fd_seek(self, fd: int, offset: int, whence: int, at: int) -> int:  # noqa: ARG002 - WASI's signature
        return SPIPE if fd <= _STDERR else BADF

    def fd_close(self, fd: int) -> int:
        return SUCCESS if fd <= _STDERR else BADF

    def args_sizes_get(self, count_at: int, size_at: int) -> int:
        return self._sizes(_arguments(self._grants), count_at, size_at)

    def args_get(self, pointers_at: int, text_at: int) -> int:
        return self._strings(_arguments(self._grants), pointers_at, text_at)

    def environ_sizes_get(self, count_at: int, size_at: int) -> int:
        return self._sizes(_environment(self._grants), count_at, size_at)

    def environ_get(self, pointers_at: int, text_at: int) -> int:
        return self._strings(_environment(self._grants), pointers_at, text_at)

    def clock_res_get(self, clock: int, at: int) -> int:
        if not self._grants.clock:
            return self.stop(_denied("the clock"))
        self.write(at, struct.pack("<Q", 1))
        return SUCCESS if clock <= 1 else INVAL

    def clock_time_get(self, clock: int, precision: int, at: int) -> int:  # noqa: ARG002 - WASI's signature
        if not self._grants.clock:
            return self.stop(_denied("the clock"))
        self.write(at, struct.pack("<Q", time.monotonic_ns() if clock == 1 else time.time_ns()))
        return SUCCESS if clock <= 1 else INVAL

    def random_get(self, at: int, size: int) -> int:
        if not self._grants.random:
            return self.stop(_denied("random numbers"))
        if size > _RANDOM_BYTES_MAX:
            return INVAL
        self.write(at, os.urandom(size))
        return SUCCESS

    def poll_oneoff(self, *_: int) -> int:
        return self.stop(CapabilityDenied("it wanted to wait or sleep, which no module may do"))

    def sched_yield(self) -> int:
        return SUCCESS

    def proc_exit(self, code: int) -> int:
        self._exit_code = code if self._exit_code is None else self._exit_code
        return STOP

    def proc_raise(self, signal: int) -> int:
        return self.stop(ExitFailure(f"it raised signal {signal}"))

    def _keep_stderr(self, at: int, size: int) -> None:
        skipped = max(0, size - _STDERR_BYTES_KEPT)
        self._stderr += self.read(at + skipped, size - skipped)
        del self._stderr[:-_STDERR_BYTES_KEPT]

    def _vectors(self, at: int, count: int) -> list[tuple[int, int]]:
        return list(struct.iter_unpack("<II", self.read(at, 8 * count)))

    def _sizes(self, texts: list[bytes], count_at: int, size_at: int) -> int:
        self.write(count_at, struct.pack("<I", len(texts)))
        self.write(size_at, struct.pack("<I", sum(map(len, texts))))
        return SUCCESS

    def _strings(self, texts: list[bytes], pointers_at: int, text_at: int) -> int:
        for index, text in enumerate(texts):
            self.write(pointers_at + 4 * index, struct.pack("<I", text_at))
            self.write(text_at, text)
            text_at += len(text)
        return SUCCESS


def _denied(what: str) -> CapabilityDenied:
    return CapabilityDenied(f"it asked for {what}, which was not granted (see Grants)")


def _arguments(grants: Grants) -> list[bytes]:
    return [text.encode() + b"\0" for text in grants.arguments]


def _environment(grants: Grants) -> list[bytes]:
    return [f"{name}={value}".encode() + b"\0" for name, value in grants.environment]
