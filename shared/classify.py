"""From a key and a value to its tag, and from a value to what others may see of it.

A value is what JSON can say. A field is named by its path through the maps (``address.street``); a path goes
through lists as if they were not there, so ``readings.patient`` means the field of every reading. Whatever
the policy does not name has the label of the whole class, so a new field is never less than its neighbours.
"""

import hmac
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from shared.residency import DataClass, PolicyText, View, matches_any
from shared.tags import Label, Tag, inherited

DEPTH_MAX = 32
PSEUDONYM_HEX = 32
UNSEEN: Any = object()
"""For a value that nobody has looked at: it may have every field."""


class TooDeep(ValueError):
    """A value with more levels than anybody needs; it is not classified, and so goes nowhere."""


def tag_of(policy: PolicyText, key: str, value: Any = UNSEEN) -> Tag | None:
    """The tag that the policy gives to this value under this key; None when no class has the key.

    Where several classes do, all bind. Raises :class:`TooDeep`.
    """
    return inherited(_tag(one, value) for one in policy.data if matches_any(key, one.keys))


def _tag(one: DataClass, value: Any) -> Tag:
    seen = one.fields if not one.fields or value is UNSEEN or is_opaque(value) else _paths(value)
    labels = [one.fields[path] for path in seen if path in one.fields]
    return Tag(
        label=max([one.label, *labels]),
        home=one.home,
        allowed=one.allowed,
        purposes=one.purposes,
        expires_at_unix_s=one.expires_at_unix_s,
    )


def is_opaque(value: Any, depth: int = 0) -> bool:
    """Whether there are bytes in it: they may be every field, as a part of a large value is."""
    if isinstance(value, bytes | bytearray | memoryview):
        return True
    if depth > DEPTH_MAX:
        return False  # whoever looks at its fields will not get through
    if isinstance(value, Mapping):
        return any(is_opaque(inner, depth + 1) for inner in value.values())
    return isinstance(value, list | tuple) and any(is_opaque(inner, depth + 1) for inner in value)


def _paths(value: Any, at: str = "", depth: int = 0) -> Iterator[str]:
    if depth > DEPTH_MAX:
        raise TooDeep(f"more than {DEPTH_MAX} levels")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            path = f"{at}.{name}" if at else str(name)
            yield path
            yield from _paths(inner, path, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _paths(inner, at, depth + 1)


# Views ----------------------------------------------------------------------------------------------


def view_of(view: View, tag: Tag, policy: PolicyText, key: str, value: Any, secret: bytes) -> tuple[Any, Tag]:
    """What of ``value`` the view shows, and its tag: the labels of what is left, the regions of the view.

    ``secret``: the key of the pseudonyms; it must never leave the home of the data. Raises :class:`TooDeep`.
    """
    shown = _reduced(value, view, secret, "", 0)
    left = [_label_left(one, view, shown) for one in policy.data if matches_any(key, one.keys)]
    label = max([*left, *([view.label_after] if view.pseudonym else [])], default=tag.label)
    allowed = tuple(dict.fromkeys((*tag.allowed, *view.allowed)))
    return shown, msgspec.structs.replace(tag, label=label, allowed=allowed)


def _label_left(one: DataClass, view: View, shown: Any) -> Label:
    """Highest label among the fields that are still there and were not replaced."""
    named = [one.fields[path] for path in _paths(shown) if path in one.fields and path not in view.pseudonym]
    return max([one.label, *named])


def _reduced(value: Any, view: View, secret: bytes, at: str, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise TooDeep(f"more than {DEPTH_MAX} levels")
    if isinstance(value, list | tuple):
        return [_reduced(inner, view, secret, at, depth + 1) for inner in value]
    if not isinstance(value, Mapping):
        return value
    shown = {}
    for name, inner in value.items():
        path = f"{at}.{name}" if at else str(name)
        if path in view.pseudonym:
            shown[name] = pseudonym(secret, path, inner)
        elif path not in view.drop:
            shown[name] = _reduced(inner, view, secret, path, depth + 1)
    return shown


def pseudonym(secret: bytes, path: str, value: Any) -> str:
    """The same value of the same field is the same name, and without the key nobody can tell whose.

    HMAC-SHA256 (RFC 2104), cut to 128 bits; over the path too, so that equal values of two fields don't meet.
    """
    text = msgspec.json.encode([path, value], order="deterministic")
    return hmac.new(secret, text, "sha256").hexdigest()[:PSEUDONYM_HEX]
