"""Who may say and hear what: derived from the topic table, for every broker we run on.

Every topic names its one writer, and the holes in its pattern name its owner. So the rules need no list:

    role      writes                                    hears
    device    device topics where {node} is its name    what the cloud says to it and to all
    cloud     cloud topics, any owner                   devices, apps, and what is said to all
    app       app topics where {app} is its name        answers where {app} or {caller} is its name; all/cloud
    operator  what an app writes                        everything under the root

Rights are keyed on the *user name*. A client id is a claim that nobody checks.

Writing is granted topic by topic: a name that is not in the table is nobody's to write. Hearing is granted by
subtree, so that ``node/{me}/down/#`` is one subscription; since nobody can write an unknown topic, there is
nothing unknown to hear. Only the cloud may join shared groups: a stranger in a group makes messages vanish.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from shared.topics import ALL, CLOUD, Topic, Writer, root

SHARED = "$share/"
BROKER_STATISTICS = "$SYS/#"


class Role(StrEnum):
    """What a principal is to the platform."""

    DEVICE = "device"
    CLOUD = "cloud"
    APP = "app"
    OPERATOR = "operator"


class Named(Protocol):
    """Anybody a broker has authenticated."""

    @property
    def username(self) -> str | None:
        """The name that rights are keyed on; None for a stranger."""
        ...


_WRITES_AS: Mapping[Role, Writer] = {
    Role.DEVICE: Writer.DEVICE,
    Role.CLOUD: Writer.CLOUD,
    Role.APP: Writer.APP,
    Role.OPERATOR: Writer.APP,
}

_OWN_HOLES: Mapping[Role, frozenset[str]] = {
    Role.DEVICE: frozenset({"{node}"}),
    Role.CLOUD: frozenset(),
    Role.APP: frozenset({"{app}", "{caller}"}),
    Role.OPERATOR: frozenset({"{app}", "{caller}"}),
}


def writes(role: Role, user: str, *, retain: bool = False) -> tuple[str, ...]:
    """Filters under the root that ``user`` may publish to; with ``retain``, those that are kept."""
    return tuple(
        _filled(topic.pattern, role, user)
        for topic in ALL
        if topic.writer is _WRITES_AS[role] and (topic.retain or not retain)
    )


def reads(role: Role, user: str) -> tuple[str, ...]:
    """Filters under the root that ``user`` may hear, none of them inside another."""
    return _HEARS[role](user)


def outside(role: Role) -> tuple[str, ...]:
    """Filters outside of the root that ``role`` may hear."""
    return (BROKER_STATISTICS,) if role in (Role.CLOUD, Role.OPERATOR) else ()


def _device_hears(user: str) -> tuple[str, ...]:
    told = (topic for topic in ALL if topic.writer is Writer.CLOUD and _owner(topic) != "{app}")
    return _once(_filled(_subtree(topic), Role.DEVICE, user) for topic in told)


def _cloud_hears(user: str) -> tuple[str, ...]:
    told = (topic for topic in ALL if topic.writer is not Writer.CLOUD or _owner(topic) == "")
    return _once(_filled(_subtree(topic), Role.CLOUD, user) for topic in told)


def _app_hears(user: str) -> tuple[str, ...]:
    answers = [topic.pattern for topic in ALL if topic.writer is not Writer.APP and _addressed_to_app(topic)]
    return _once(_filled(pattern, Role.APP, user) for pattern in (*answers, CLOUD.pattern))


def _operator_hears(_: str) -> tuple[str, ...]:
    return ("#",)


_HEARS: Mapping[Role, Callable[[str], tuple[str, ...]]] = {
    Role.DEVICE: _device_hears,
    Role.CLOUD: _cloud_hears,
    Role.APP: _app_hears,
    Role.OPERATOR: _operator_hears,
}


def _owner(topic: Topic[Any]) -> str:
    """``{node}`` or ``{app}``: the hole in the second level; empty where a topic is for all."""
    level = topic.pattern.split("/")[1]
    return level if level in ("{node}", "{app}") else ""


def _addressed_to_app(topic: Topic[Any]) -> bool:
    return not _OWN_HOLES[Role.APP].isdisjoint(topic.pattern.split("/"))


def _subtree(topic: Topic[Any]) -> str:
    """Owner and direction: ``node/{node}/up/birth`` -> ``node/{node}/up/#``; ``all/cloud`` -> ``all/#``."""
    levels = topic.pattern.split("/")
    depth = 3 if _owner(topic) else 1
    return "/".join([*levels[:depth], "#"] if len(levels) > depth else levels)


def _filled(pattern: str, role: Role, user: str) -> str:
    """The pattern as a filter: the role's own holes become ``user``, the others ``+``."""
    own = _OWN_HOLES[role]
    levels = pattern.split("/")
    return "/".join(user if level in own else "+" if level.startswith("{") else level for level in levels)


def _once(filters: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filters))


# Filters against filters and topics -----------------------------------------------------------------


def covers(granted: str, asked: str) -> bool:
    """Whether every topic that the filter ``asked`` matches is also matched by ``granted``.

    MQTT 5.0, section 4.7: ``#`` also stands for its parent; a leading wildcard never matches ``$``.
    """
    if asked.startswith("$") and granted[:1] in ("+", "#"):
        return False
    have, want = granted.split("/"), asked.split("/")
    for position, level in enumerate(have):
        if level == "#":
            return True
        if position == len(want) or want[position] == "#":
            return False
        if level not in ("+", want[position]):
            return False
    return len(have) == len(want)


def compiled(filters: Iterable[str]) -> re.Pattern[str]:
    """One expression that matches a topic if any of the filters does. No filter: it matches nothing."""
    return re.compile("|".join(map(_expression, filters)) or r"(?!)", re.DOTALL)


def _expression(filter: str) -> str:
    hidden = r"(?!\$)" if filter[:1] in ("+", "#") else ""
    if filter == "#":
        return hidden + ".*"
    body = "[^/]*".join(re.escape(part) for part in filter.removesuffix("/#").split("+"))
    return hidden + body + ("(?:/.*)?" if filter.endswith("/#") else "")


@dataclass(frozen=True, slots=True)
class _Rights:
    """What one principal may do, in the forms that are quick to ask."""

    may_publish: re.Pattern[str]
    may_retain: re.Pattern[str]
    may_receive: re.Pattern[str]
    reads: tuple[str, ...]
    may_share: bool


_NOTHING = _Rights(compiled(()), compiled(()), compiled(()), (), may_share=False)


class Access:
    """The rules of one fleet for the embedded broker (its ``Authorizer``).

    ``principals`` maps user names to roles and is read live: who is added to it or removed from it changes
    at once. An answer is one dictionary lookup and one compiled expression: about a microsecond.
    """

    unconditional: bool = False

    def __init__(self, fleet: str, principals: Mapping[str, Role]) -> None:
        self._root = root(fleet)
        self._principals = principals
        self._compiled: dict[tuple[str, Role], _Rights] = {}

    def may_publish(self, identity: Named, topic: str, retain: bool) -> bool:
        """Whether the topic is this principal's to write, and to be kept where ``retain`` is asked."""
        rights = self._rights(identity)
        return (rights.may_retain if retain else rights.may_publish).fullmatch(topic) is not None

    def may_subscribe(self, identity: Named, filter: str) -> bool:
        """Whether everything the filter matches may be heard. ``$share/<group>/`` is for the cloud only."""
        rights = self._rights(identity)
        if filter.startswith(SHARED):
            filter = filter[len(SHARED) :].partition("/")[2]
            if not rights.may_share:
                return False
        return any(covers(granted, filter) for granted in rights.reads)

    def may_receive(self, identity: Named, topic: str) -> bool:
        """Whether one message may be delivered."""
        return self._rights(identity).may_receive.fullmatch(topic) is not None

    def _rights(self, identity: Named) -> _Rights:
        name = identity.username
        role = self._principals.get(name) if name is not None else None
        if name is None or role is None:
            return _NOTHING
        key = (name, role)
        rights = self._compiled.get(key)
        if rights is None:
            rights = self._compiled[key] = self._compile(name, role)
        return rights

    def _compile(self, name: str, role: Role) -> _Rights:
        heard = (*self._under(reads(role, name)), *outside(role))
        return _Rights(
            may_publish=compiled(self._under(writes(role, name))),
            may_retain=compiled(self._under(writes(role, name, retain=True))),
            may_receive=compiled(heard),
            reads=heard,
            may_share=role is Role.CLOUD,
        )

    def _under(self, filters: Iterable[str]) -> tuple[str, ...]:
        return tuple(f"{self._root}/{filter}" for filter in filters)
