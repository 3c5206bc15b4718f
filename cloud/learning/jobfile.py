"""``learn.toml``: what is to be learned, with packages named by their files.

The keys are those of :class:`shared.learning.JobSpec`. ``package`` and ``serve`` are ``.shoal`` files beside
it, or digests of packages that the catalog has. A key that no specification has is a mistake, not a comment:
a job that quietly trains for ten rounds because of ``round = 100`` wastes an afternoon.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from shared.artifacts import is_digest
from shared.errors import ConfigError
from shared.ids import is_id
from shared.learning import Codec, Criteria, JobSpec, Stop, TrainingPlan
from shared.package import SUFFIX

NAME = "learn.toml"
FILE_BYTES_MAX = 1 << 20
_SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "plan": TrainingPlan,
    "codec": Codec,
    "criteria": Criteria,
    "stop": Stop,
}


@dataclass(frozen=True, slots=True)
class JobFile:
    """``spec``: packages that are files are not in it yet, see :meth:`with_digests`."""

    folder: Path
    spec: JobSpec
    files: Mapping[str, Path]  # "package" and "serve", where they are files

    def with_digests(self, digests: Mapping[str, str]) -> JobSpec:
        """The specification as the cloud takes it. ``digests``: of ``files``, by the same keys."""
        return msgspec.structs.replace(self.spec, **digests)

    def replace(self, **changes: Any) -> "JobFile":
        """Another specification, the same files."""
        return JobFile(self.folder, msgspec.structs.replace(self.spec, **changes), self.files)


def read_job(path: Path, overrides: Sequence[str] = (), **options: Any) -> JobFile:
    """Read ``path``, a folder with a ``learn.toml`` or such a file.

    ``overrides``: as typed, ``plan.lr=0.05``. ``options``: by key of the specification, dotted ones with two
    underscores (``codec__name``); what is None is absent. Raises :class:`ConfigError`, which names the key.
    """
    file = path / NAME if path.is_dir() else path
    tree = _tree(file)
    typed = [_assignment(one) for one in overrides]
    given = [(key.split("__"), value) for key, value in options.items() if value is not None]
    for keys, value in [*given, *typed]:
        _put(tree, keys, value, str(file))
    _check_names(tree, file)
    files = {name: _package(tree, name, file) for name in ("package", "serve")}
    tree |= {name: "" for name, found in files.items() if found is not None}
    try:
        spec = msgspec.convert(tree, JobSpec, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {error}") from None
    if not is_id(spec.job):
        raise ConfigError(f"{file}: job = {spec.job[:80]!r}; a name is 1 to 64 of a-z, 0-9 and '-'")
    return JobFile(file.parent, spec, {name: one for name, one in files.items() if one is not None})


def _tree(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(f"{file} is over {FILE_BYTES_MAX} bytes; that is no job")
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"can't read {file}: {reason}; a job is a folder with a {NAME}, or such a file"
        ) from None


def _assignment(text: str) -> tuple[list[str], Any]:
    """``plan.lr=0.05`` -> (["plan", "lr"], 0.05); what is no TOML value is text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write KEY=VALUE, as in --set plan.lr=0.05")
    try:
        return key.strip().split("."), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip().split("."), value.strip()


def _put(tree: dict[str, Any], keys: Sequence[str], value: Any, where: str) -> None:
    *sections, last = keys
    for section in sections:
        found = tree.setdefault(section, {})
        if not isinstance(found, dict):
            raise ConfigError(f"{where}: {section} is a value, not a section; {'.'.join(keys)} can't be set")
        tree = found
    tree[last] = value


def _check_names(tree: Mapping[str, Any], file: Path) -> None:
    _check(tree, JobSpec.__struct_fields__, "", file)
    for name, kind in _SECTIONS.items():
        if isinstance(found := tree.get(name), Mapping):
            _check(found, kind.__struct_fields__, f"{name}.", file)


def _check(tree: Iterable[str], known: Sequence[str], prefix: str, file: Path) -> None:
    for key in tree:
        if key not in known:
            near = get_close_matches(key, known, 1)
            advice = f"did you mean {prefix}{near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{file}: no key {prefix}{key}; {advice}")


def _package(tree: Mapping[str, Any], name: str, file: Path) -> Path | None:
    """The file that this key names; None: it is a digest, or nothing."""
    value = tree.get(name, "")
    if not isinstance(value, str) or not value or is_digest(value):
        return None
    path = file.parent / value
    if not path.is_file():
        raise ConfigError(f"{file}: {name} = {value!r}; there is no such {SUFFIX} file beside it")
    return path
