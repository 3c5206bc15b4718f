"""Where examples come from: ``.npz`` files, windows over this device's own readings, a function in Python.

A source is anything with the two methods of :class:`Source`. It is read in a thread when a round wants it,
and before that to count its examples, again whenever its stamp changes. Only their number leaves the device.
"""

import importlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edge.training.examples import BadData, Examples, examples_of
from edge.training.recorder import Recorder
from edge.training.windows import BLOCK_WINDOWS, Windows, windows_of
from shared.config import SourceSection
from shared.errors import ConfigError
from shared.ids import is_id
from shared.learning import Source as Counts

FILE_BYTES_MAX = 1 << 30  # of the arrays in one file, unpacked
KEPT_BYTES_MAX = 4 << 20  # of examples that stay in memory from one round to the next


class Source(Protocol):
    """One set of examples."""

    def read(self) -> Examples:
        """All of them, as they are now. Blocks: use a thread. Raises :class:`BadData`."""
        ...

    def stamp(self) -> object:
        """Quick; another one when there may be more or fewer examples than before."""
        ...


@dataclass(frozen=True, slots=True)
class NpzFile:
    """Arrays ``x`` and ``y``, and ``x_held`` and ``y_held`` where the split is given."""

    path: Path
    held_out_ratio: float
    seed: str

    def read(self) -> Examples:
        """Load the file; nothing in it is executed, and its size is looked at before."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > FILE_BYTES_MAX:
                raise BadData(f"{self.path} holds {size} bytes; the limit is {FILE_BYTES_MAX}")
            with np.load(self.path, allow_pickle=False) as arrays:
                return examples_of(dict(arrays), self.held_out_ratio, self.seed)
        except FileNotFoundError:
            raise BadData(f"{self.path} is not there") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise BadData(f"{self.path} is no .npz file of plain arrays: {error}") from None

    def stamp(self) -> object:
        """When it was written, and how long it is."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size


class Kept:
    """A file whose examples stay in memory while it has not changed, if they are few."""

    def __init__(self, file: NpzFile) -> None:
        self._file = file
        self._last: tuple[object, Examples] | None = None  # replaced as a whole: any thread may look

    def read(self) -> Examples:
        """As the file gives them. Nobody may write to them."""
        known = self.at_hand()
        if known is not None:
            return known
        stamp = self._file.stamp()  # before it is read: what comes later is another one
        examples = self._file.read()
        self._last = (stamp, examples) if examples.size_bytes <= KEPT_BYTES_MAX else None
        return examples

    def at_hand(self) -> Examples | None:
        """What a read would give, where that takes no more than a look at the stamp; else None."""
        last = self._last
        return last[1] if last is not None and last[0] == self._file.stamp() else None

    def stamp(self) -> object:
        """The file's."""
        return self._file.stamp()


@dataclass(frozen=True, slots=True)
class Recorded:
    """Sliding windows over what the recorder kept of this device's telemetry."""

    recorder: Recorder
    windows: Windows
    held_out_ratio: float
    seed: str

    def read(self) -> Examples:
        """The windows that lie whole in the record."""
        return windows_of(self.recorder.readings(), self.windows, self.held_out_ratio, self.seed)

    def stamp(self) -> object:
        """Telling of every reading would keep the cloud busy: of every eighth window it is enough."""
        return self.recorder.count // (BLOCK_WINDOWS * self.windows.span)


@dataclass(frozen=True, slots=True)
class Function:
    """``package.module:function``: called without arguments, gives a map as an ``.npz`` file holds one.

    The operator of the device named it in its configuration: it runs with the agent's own rights.
    """

    where: str
    held_out_ratio: float
    seed: str

    def read(self) -> Examples:
        """Call it. Whatever it raises is told as :class:`BadData`."""
        try:
            given = _imported(self.where)()
        except Exception as error:  # somebody else's code
            raise BadData(f"{self.where}: {type(error).__name__}: {error}") from error
        if not isinstance(given, Mapping):
            raise BadData(f"{self.where} gave {type(given).__name__}; a map with x and y is wanted")
        return examples_of(given, self.held_out_ratio, self.seed)

    def stamp(self) -> object:
        """Counted once per boot: it may be costly to call."""
        return None


def sources_of(
    sections: Mapping[str, str | SourceSection], folder: Path, held_out_ratio: float, recorder: Recorder
) -> dict[str, Source]:
    """The sources of a configuration. Relative paths are in ``folder``. Raises :class:`ConfigError`."""
    if not 0 <= held_out_ratio < 1:
        raise ConfigError(f"training.held_out_ratio = {held_out_ratio}: from 0 up to, not including, 1")
    return {
        name: _source(name, _section(section), folder, held_out_ratio, recorder)
        for name, section in sections.items()
    }


def fields_of(sections: Mapping[str, str | SourceSection]) -> tuple[str, ...]:
    """The readings that have to be recorded; none: no recorder is needed."""
    names = [name for section in sections.values() for name in _section(section).fields]
    return tuple(sorted(set(names)))


class Counting:
    """Counts the examples of each source, again when its stamp has changed."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = sources
        self._known: dict[str, tuple[object, Counts | str]] = {}

    def count(self) -> tuple[dict[str, Counts], dict[str, str]]:
        """How many examples each has, and what is wrong with those that can't be read. Blocks."""
        for name, source in self._sources.items():
            stamp = source.stamp()
            if name not in self._known or self._known[name][0] != stamp:
                self._known[name] = stamp, _counted(source)
        found = {name: counted for name, (_, counted) in self._known.items()}
        counts = {name: one for name, one in found.items() if isinstance(one, Counts)}
        return counts, {name: one for name, one in found.items() if isinstance(one, str)}


def _counted(source: Source) -> Counts | str:
    try:
        return source.read().counts
    except BadData as error:
        return str(error)


def _section(given: str | SourceSection) -> SourceSection:
    """The short form is a file or a function."""
    if isinstance(given, SourceSection):
        return given
    return SourceSection(file=given) if given.endswith(".npz") else SourceSection(function=given)


def _source(
    name: str, section: SourceSection, folder: Path, held_out_ratio: float, recorder: Recorder
) -> Source:
    where = f"training.sources.{name}"
    if not is_id(name):
        raise ConfigError(f"{where}: a source's name is 1 to 64 of a-z, 0-9 and '-'")
    if (bool(section.file), bool(section.function), bool(section.fields)).count(True) != 1:
        raise ConfigError(f"{where}: give one of file, function and fields")
    if section.file:
        return Kept(NpzFile(folder / section.file, held_out_ratio, name))
    if section.function:
        if section.function.count(":") != 1:
            raise ConfigError(f"{where}: {section.function!r} is not of the form package.module:function")
        return Function(section.function, held_out_ratio, name)
    if section.window < 1 or section.ahead < 0 or section.stride < 1:
        raise ConfigError(f"{where}: window and stride are at least 1, ahead at least 0")
    windows = Windows(section.fields, section.window, section.ahead, section.stride)
    return Recorded(recorder, windows, held_out_ratio, name)


def _imported(where: str) -> Callable[[], object]:
    module, _, name = where.partition(":")
    found: Callable[[], object] = getattr(importlib.import_module(module), name)
    return found
