"""Golden transcripts: a story of events and effects, written down and compared.

Run with ``ACCEPT=1`` to rewrite the files, then read the diff as you would read code: commit only what you
understand. The form is that of a service's story (:meth:`broker.service.Service.told`) without the fields
that have their default value, so that the last minutes of a running process can be turned into a test.
"""

import dataclasses
import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from shared.core import Core, Tick
from shared.topics import Address

HERE = Path(__file__).parent / "transcripts"
TEXT_MAX = 160
ITEMS_MAX = 4


def shown(thing: object) -> str:
    """A value as one line: only what differs from the defaults, long text and bytes cut."""
    match thing:
        case Address(name=name):
            return name
        case Enum():
            return str(thing.value)
        case msgspec.Raw():
            return f"<{len(bytes(thing))} bytes>"
        case bytes():
            return f"<{len(thing)} bytes>"
        case str():
            return repr(thing if len(thing) <= TEXT_MAX else f"{thing[:TEXT_MAX]}...")
        case float():
            return f"{thing:.6g}"
        case dict():
            return f"{{{_some([f'{key}: {shown(value)}' for key, value in thing.items()])}}}"
        case tuple() | list():
            return f"[{_some([shown(value) for value in thing])}]"
    fields = [f"{name}={shown(value)}" for name, value in _said(thing)]
    return f"{type(thing).__name__}({', '.join(fields)})" if fields or _fields(thing) else str(thing)


def _some(texts: list[str]) -> str:
    more = [f"... and {len(texts) - ITEMS_MAX} more"] if len(texts) > ITEMS_MAX else []
    return ", ".join(texts[:ITEMS_MAX] + more)


def _said(thing: object) -> list[tuple[str, object]]:
    return [
        (name, getattr(thing, name)) for name, default in _fields(thing) if getattr(thing, name) != default
    ]


def _fields(thing: object) -> list[tuple[str, object]]:
    """Names and defaults."""
    if isinstance(thing, msgspec.Struct):
        return [
            (one.name, one.default if one.default_factory is msgspec.NODEFAULT else one.default_factory())
            for one in msgspec.structs.fields(type(thing))
        ]
    if dataclasses.is_dataclass(thing):
        return [
            (one.name, one.default if one.default_factory is dataclasses.MISSING else one.default_factory())
            for one in dataclasses.fields(thing)
        ]
    return []


class Transcript:
    """Steps one core through a story. ``show`` turns an event or effect into text."""

    def __init__(self, name: str, core: Core[Any], show: Callable[[object], str] = shown) -> None:
        self._path, self._core, self._show, self._now = HERE / f"{name}.txt", core, show, 0.0
        self._lines = [f"# {name.rpartition('/')[2]}"]

    def at(self, now: float, *events: object) -> "Transcript":
        """Step through ``events`` at time ``now`` (seconds)."""
        for event in events:
            self._step(now, event, quiet=False)
        return self

    def until(self, now: float, every_s: float = 1.0) -> "Transcript":
        """Tick on to ``now``, and write down only the ticks that led to something."""
        ticks = round((now - self._now) / every_s)
        start = self._now
        for tick in range(1, ticks + 1):
            self._step(start + tick * every_s, Tick(), quiet=True)
        return self

    def _step(self, now: float, event: object, *, quiet: bool) -> None:
        assert now >= self._now, "time does not run backwards"
        self._now = now
        effects = self._core.step(event, now)
        self._core.check()
        if quiet and not effects:
            return
        self._lines.append(f"\n{now:>7.1f}  {self._show(event)}")
        self._lines += [f"         -> {self._show(effect)}" for effect in effects] or ["         -> nothing"]

    def matches(self) -> None:
        """Compare with the golden file."""
        text = "\n".join(self._lines) + "\n"
        if os.environ.get("ACCEPT"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(text)
        assert text == self._path.read_text(), f"{self._path.name} changed; ACCEPT=1 rewrites it for review"
