"""Versions of global models on the device: flat vectors, made from artifacts, checked before they are used.

    in memory    the last one that was made, if it is small: the next round trains from it, and the version
                 after it is added to it
    on the disk  <job>/<version>-<check>.f32    the vector; ``check`` is the SHA-256 of its bytes

A small version reaches the disk only with :meth:`Versions.keep`, some seconds after it was made. A job whose
rounds are short makes several in that time, and none of them would be read again: what a process that dies
takes with it is fetched again, as a snapshot. A file is put into its place by a rename, and is not synced:
what a power cut leaves does not match its check, and counts as none.
"""

import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shared.errors import Unreadable
from shared.ids import checked_id
from shared.learning import ModelRef
from shared.vectors import F32, PARAMETERS_MAX, Vector, VectorFile, check_of, unpack_vector

Decode = Callable[[str, bytes, int], Vector]
_NAME = re.compile(r"([0-9]{1,12})-([0-9a-f]{64})\.f32")
_OVERHEAD_BYTES_MAX = 1 << 20
_PARAMETER_BYTES = 4
RECENT_BYTES_MAX = 16 << 20


class _Recent(NamedTuple):
    """A version in memory. ``vector`` can't be written to, and is what ``check`` says."""

    job: str
    version: int
    check: str
    vector: Vector


class Versions:
    """The folder of one device. Every method but :meth:`at_hand` blocks: use a thread."""

    def __init__(self, folder: Path, decode: Decode) -> None:
        self._folder, self._decode = folder, decode
        self._recent: _Recent | None = None  # replaced as a whole: any thread may look
        self._unkept = False  # whether that one is in memory only
        self._files_change = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def held(self) -> dict[str, dict[int, str]]:
        """job -> version -> check, the oldest file first."""
        found: dict[str, dict[int, str]] = {}
        for path in sorted(self._folder.glob("*/*.f32"), key=lambda path: path.stat().st_mtime_ns):
            name = _NAME.fullmatch(path.name)
            if name is not None:
                found.setdefault(path.parent.name, {})[int(name[1])] = name[2]
        return found

    def open(self, job: str, model: ModelRef, artifact: Path, base: int) -> None:
        """Make ``model.version`` from the artifact. Raises :class:`Unreadable` when it is not what it should
        be; then nothing has changed."""
        file = unpack_vector(_read(artifact))
        expected = (model.version, base, model.n_params, model.layout_hash)
        if (file.version, file.base, file.n_params, file.layout_hash) != expected:
            raise Unreadable("the artifact is of another version, base or layout")
        vector = self._decoded(job, file)
        if check_of(vector) != model.check:
            raise Unreadable(f"version {model.version} is not the one that was announced")
        self._path(job, model.version, model.check)  # names that can't be are refused before they are used
        self._remember(_Recent(job, model.version, model.check, vector), unkept=True)

    def keep(self) -> None:
        """What is in memory is on the disk when this returns. Raises ``OSError``."""
        with self._files_change:
            if self._recent is not None and self._unkept:
                self._write(self._recent)
            self._unkept = False

    def read(self, job: str, model: ModelRef) -> Vector:
        """The vector [n_params], read-only. Raises :class:`Unreadable` when it is gone or broken; it is
        removed then."""
        known = self.at_hand(job, model)
        if known is not None:
            return known
        path = self._path(job, model.version, model.check)
        try:
            vector = _vector(path.read_bytes())
        except FileNotFoundError:
            raise Unreadable(f"version {model.version} of {job} is gone") from None
        if check_of(vector) != model.check or vector.shape != (model.n_params,):
            path.unlink(missing_ok=True)
            raise Unreadable(f"version {model.version} of {job} was damaged on the disk")
        self._remember(_Recent(job, model.version, model.check, vector), unkept=False)
        return vector

    def at_hand(self, job: str, model: ModelRef) -> Vector | None:
        """The same where it is in memory, without blocking; else None."""
        recent = self._recent
        found = recent is not None and recent[:3] == (job, model.version, model.check)
        return recent.vector if recent is not None and found else None

    def drop(self, job: str, version: int) -> None:
        """Remove one version."""
        with self._files_change:
            if self._recent is not None and (self._recent.job, self._recent.version) == (job, version):
                self._recent = None
            for path in self._files(job, version):
                path.unlink(missing_ok=True)

    def forget(self, job: str) -> None:
        """Remove every version of a job."""
        with self._files_change:
            if self._recent is not None and self._recent.job == job:
                self._recent = None
            shutil.rmtree(self._folder / checked_id(job), ignore_errors=True)

    def _decoded(self, job: str, file: VectorFile) -> Vector:
        vector = self._decode(file.codec, file.data, file.n_params)
        if file.base < 0:
            return vector
        recent = self._recent
        if recent is not None and (recent.job, recent.version) == (job, file.base):
            before = [recent.vector]
        else:
            before = [_vector(path.read_bytes()) for path in self._files(job, file.base)]
        for base in before:
            if base.shape == vector.shape:
                np.add(base, vector, out=vector)
                return vector
        raise Unreadable(f"version {file.base}, which this one is added to, is gone")

    def _remember(self, made: _Recent, *, unkept: bool) -> None:
        """In memory, if it is small. The version of another job that was there goes to the disk for it; an
        older one of the same job is of no more use."""
        made.vector.setflags(write=False)
        small = made.vector.nbytes <= RECENT_BYTES_MAX
        with self._files_change:
            before = self._recent
            if before is not None and self._unkept and before.job != made.job:
                self._write(before)
            if unkept and not small:
                self._write(made)
            self._recent, self._unkept = made if small else None, unkept and small

    def _write(self, one: _Recent) -> None:
        place = self._path(one.job, one.version, one.check)
        place.parent.mkdir(exist_ok=True)
        for other in self._files(one.job, one.version):  # the job of that name was another one
            other.unlink(missing_ok=True)
        draft = place.with_suffix(".tmp")
        draft.write_bytes(np.ascontiguousarray(one.vector, F32).data)
        draft.replace(place)

    def _files(self, job: str, version: int) -> list[Path]:
        """What is there of a version. (``glob`` would compile a pattern for each.)"""
        folder = self._folder / checked_id(job)
        names = os.listdir(folder) if folder.exists() else []
        return [folder / name for name in names if name.startswith(f"{version}-") and name.endswith(".f32")]

    def _path(self, job: str, version: int, check: str) -> Path:
        name = f"{version}-{check}.f32"
        if _NAME.fullmatch(name) is None:
            raise Unreadable(f"{name[:80]!r} can't be a version of a model")
        return self._folder / checked_id(job) / name


def _vector(data: bytes) -> Vector:
    return np.frombuffer(data[: len(data) // _PARAMETER_BYTES * _PARAMETER_BYTES], F32)


def _read(path: Path) -> bytes:
    most = _PARAMETER_BYTES * PARAMETERS_MAX + _OVERHEAD_BYTES_MAX
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Unreadable(f"the artifact can't be read: {error.strerror}") from None
    if len(data) > most:
        raise Unreadable(f"the artifact has more than {most} bytes")
    return data
