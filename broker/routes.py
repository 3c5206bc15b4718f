"""Which handlers a message is for.

Each filter is subscribed once, with an identifier that follows from its text, and the broker says with
every message which of our filters it matched: dispatch is one dictionary lookup. A broker sends a message
that matches several of our filters either once with all identifiers or once per filter, so one rule makes
both right: **a handler takes the copy that carries the identifier of the first of its filters that
matches.** Where no two filters of a handler can match one topic (nearly always) the rule needs no look at
the topic, and the answer stands in ``_direct``.

Where the broker knows no identifiers, or we do not know the one it sent (a subscription of an earlier life
of this session), the topic is matched against the filters.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from broker.bus import Handler
from shared.filters import matches

_CACHED_MAX = 4096
_IDENTIFIER_BITS = 0x0FFFFFFF  # MQTT 5.0, section 3.3.2.3.8: 1 to 268,435,455


def identifier_of(pattern: str) -> int:
    """The subscription identifier of a filter: the same in every life of every process."""
    return zlib.crc32(pattern.encode()) & _IDENTIFIER_BITS | 1


@dataclass(slots=True, eq=False)
class Binding:
    """A handler and the (relative) filters it listens to, in order of preference.

    ``ambiguous``: two of them can match one topic, so that the topic has to be looked at.
    """

    filters: tuple[str, ...]
    handler: Handler
    qos: int
    on_close: Callable[["Binding"], None]
    open: bool = True
    ambiguous: bool = field(init=False)

    def __post_init__(self) -> None:
        filters = [_unshared(one) for one in dict.fromkeys(self.filters)]
        self.ambiguous = any(overlap(one, other) for one, other in combinations(filters, 2))

    def close(self) -> None:
        """See :class:`broker.bus.Subscription`."""
        if self.open:
            self.open = False
            self.on_close(self)


@dataclass(slots=True)
class Routes:
    """Filters and their handlers. Pure; ``identify`` is injectable so that collisions can be tested."""

    identify: Callable[[str], int] = identifier_of
    _bindings: list[Binding] = field(default_factory=list)
    _by_filter: dict[str, list[Binding]] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)
    _direct: dict[int, tuple[Binding, ...]] = field(default_factory=dict)
    _named: dict[int, list[str]] = field(default_factory=dict)  # identifier -> granted filters
    _cached: dict[tuple[str, tuple[int, ...]], tuple[Binding, ...]] = field(default_factory=dict)

    @property
    def filters(self) -> tuple[str, ...]:
        """Every filter that somebody listens to."""
        return tuple(self._by_filter)

    def qos(self, pattern: str) -> int:
        """The highest QoS that anybody wants for a filter."""
        return max(binding.qos for binding in self._by_filter[pattern])

    def add(self, binding: Binding) -> None:
        """Start to deliver to a handler."""
        self._bindings.append(binding)
        for pattern in dict.fromkeys(binding.filters):
            self._by_filter.setdefault(pattern, []).append(binding)
        self._renew(binding.filters)

    def remove(self, binding: Binding) -> list[str]:
        """Stop, and return the filters that nobody listens to any more."""
        self._bindings.remove(binding)
        orphans = []
        for pattern in dict.fromkeys(binding.filters):
            self._by_filter[pattern].remove(binding)
            if not self._by_filter[pattern]:
                del self._by_filter[pattern]
                orphans.append(pattern)
        self._renew(binding.filters)
        return orphans

    def answered(self, pattern: str, granted: bool) -> None:
        """The broker's word on a filter: one that it refused is never the reason for a delivery."""
        if granted is (pattern in self._refused):
            (self._refused.discard if granted else self._refused.add)(pattern)
            self._renew([pattern])

    def targets(self, topic: str, identifiers: Sequence[int] = ()) -> tuple[Binding, ...]:
        """Who gets this copy of a message on the relative ``topic``."""
        if len(identifiers) == 1:
            found = self._direct.get(identifiers[0])
            if found is not None:
                return found
        key = (topic, tuple(identifiers))
        found = self._cached.get(key)
        if found is None:
            if len(self._cached) >= _CACHED_MAX:
                self._cached.clear()
            found = self._cached[key] = tuple(self._matching(topic, identifiers))
        return found

    def _matching(self, topic: str, identifiers: Sequence[int]) -> Iterable[Binding]:
        ours = self._named.keys() & set(identifiers)
        for binding in self._bindings:
            first = next((one for one in self._granted(binding) if matches(_unshared(one), topic)), None)
            if first is not None and (not ours or self.identify(first) in ours):
                yield binding

    def _granted(self, binding: Binding) -> Iterable[str]:
        return (one for one in binding.filters if one not in self._refused)

    def _renew(self, patterns: Iterable[str]) -> None:
        """What follows from these filters, anew, and from no others: a device that follows a training job
        listens to another artifact in each round."""
        self._cached.clear()
        for pattern in patterns:
            identifier = self.identify(pattern)
            known = self._named.pop(identifier, ())
            named = [one for one in known if one != pattern and one in self._by_filter]
            if pattern in self._by_filter and pattern not in self._refused:
                named.append(pattern)
            if named:
                self._named[identifier] = named
            bindings = self._by_filter[named[0]] if len(named) == 1 else []
            if bindings and not any(binding.ambiguous for binding in bindings):
                self._direct[identifier] = tuple(bindings)
            else:
                self._direct.pop(identifier, None)


def overlap(one: str, other: str) -> bool:
    """Whether some topic matches both filters."""
    ours, theirs = one.split("/"), other.split("/")
    for mine, their in zip(ours, theirs, strict=False):
        if "#" in (mine, their):
            return True
        if "+" not in (mine, their) and mine != their:
            return False
    longer = max(ours, theirs, key=len)[min(len(ours), len(theirs)) :]
    return not longer or longer == ["#"]


def _unshared(pattern: str) -> str:
    """``$share/{group}/{filter}`` -> ``{filter}`` (MQTT 5.0, section 4.8.2)."""
    return pattern.split("/", 2)[2] if pattern.startswith("$share/") else pattern
