"""Topic names, topic filters, and the tree that matches the one with the other (MQTT 5, section 4.7).

One tree serves both directions: keyed by filters it answers "who wants this topic" (:meth:`TopicTree.match`),
keyed by topic names "what does this filter cover" (:meth:`TopicTree.covered_by`).

    a/+/c   a/#   b         root ── a ── + ── c*        * carries a value
                              │     └── #*
                              └──── b*

Both walks go level by level with a list of live nodes, so depth costs no recursion; a level costs at most two
look-ups per live node. Branches that carry nothing are pruned at once: a client that subscribes and
unsubscribes for ever leaves no trace.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from broker.embedded.config import BrokerLimits

V = TypeVar("V")
SHARE_PREFIX = "$share/"
_NODE_BYTES = 288  # of one level in a tree: the node, its dictionary and its name, as tracemalloc sees them


def is_topic_name(topic: str) -> bool:
    """True when ``topic`` is a topic name: not empty, no wildcard, no NUL."""
    return bool(topic) and not ("+" in topic or "#" in topic or "\0" in topic)


def is_topic_filter(text: str) -> bool:
    """True when ``text`` (without any ``$share`` prefix) is a filter: wildcards fill levels, # is last."""
    if not text or "\0" in text:
        return False
    levels = text.split("/")
    if "#" in levels[:-1]:
        return False
    return all(len(level) == 1 or not ("+" in level or "#" in level) for level in levels)


def split_shared(text: str) -> tuple[str | None, str]:
    """``$share/group/filter`` -> ``(group, filter)``; any other filter -> ``(None, filter)``.

    A malformed shared filter gives an empty filter, which :func:`is_topic_filter` refuses.
    """
    if text != SHARE_PREFIX[:-1] and not text.startswith(SHARE_PREFIX):
        return None, text
    group, _, topic_filter = text[len(SHARE_PREFIX) :].partition("/")
    if not group or "+" in group or "#" in group:
        return group, ""
    return group, topic_filter


def has_wildcard(topic_filter: str) -> bool:
    """True when the filter can match more than the topic of its own name."""
    return "+" in topic_filter or "#" in topic_filter


def fits(text: str, limits: BrokerLimits) -> bool:
    """True when a well-formed topic name or filter is within our limits of length and depth."""
    return len(text.encode()) <= limits.topic_bytes_max and text.count("/") < limits.topic_levels_max


def tree_bytes(key: str) -> int:
    """An estimate, from above, of the memory that a key takes in a :class:`TopicTree`."""
    return len(key) + _NODE_BYTES * (1 + key.count("/"))


class _Node(Generic[V]):
    __slots__ = ("children", "value")

    def __init__(self) -> None:
        self.children: dict[str, _Node[V]] = {}
        self.value: V | None = None


class TopicTree(Generic[V]):
    """Values by topic name or filter. ``None`` is not a value."""

    __slots__ = ("_root", "_size")

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def get(self, key: str) -> V | None:
        """The value stored under exactly this key."""
        node: _Node[V] | None = self._root
        for level in key.split("/"):
            node = node.children.get(level) if node else None
        return node.value if node else None

    def put(self, key: str, value: V) -> None:
        """Store ``value`` under ``key``, in the place of any earlier one."""
        node = self._root
        for level in key.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Node()
            node = child
        self._size += node.value is None
        node.value = value

    def pop(self, key: str) -> V | None:
        """Remove and return the value under ``key``, and prune the branch that carried nothing else."""
        levels, path = key.split("/"), [self._root]
        for level in levels:
            child = path[-1].children.get(level)
            if child is None:
                return None
            path.append(child)
        value, path[-1].value = path[-1].value, None
        self._size -= value is not None
        for parent, level in zip(reversed(path[:-1]), reversed(levels), strict=True):
            node = parent.children[level]
            if node.children or node.value is not None:
                break
            del parent.children[level]
        return value

    def match(self, topic: str) -> list[V]:
        """Values whose key, read as a filter, matches the topic name."""
        found: list[V] = []
        nodes = [self._root]
        wild = not topic.startswith("$")  # [MQTT-4.7.2-1]: a leading wildcard never matches $-topics
        for level in topic.split("/"):
            following: list[_Node[V]] = []
            for node in nodes:
                children = node.children
                # The exact name first: who asked for it waits, who overhears it does not, and each write may
                # hand the processor to its reader.
                if (same_level := children.get(level)) is not None:
                    following.append(same_level)
                if wild:
                    _take(children.get("#"), found)
                    if (any_level := children.get("+")) is not None:
                        following.append(any_level)
            nodes, wild = following, True
        for node in nodes:
            _take(node, found)
            _take(node.children.get("#"), found)  # "a/#" matches "a" too
        return found

    def covered_by(self, topic_filter: str) -> Iterator[V]:
        """Values whose key, read as a topic name, is matched by the filter.

        Lazy, for "#" may cover everything: whoever walks on after the tree has changed finds no value that is
        gone, and may or may not find one that is new.
        """
        nodes, top = [self._root], True
        for level in topic_filter.split("/"):
            if level == "#":
                for node in nodes:
                    yield from _below(node, top)
                return
            if level == "+":
                nodes = [child for node in nodes for child in _children(node, top)]
            else:
                nodes = [child for node in nodes if (child := node.children.get(level)) is not None]
            top = False
        yield from (node.value for node in nodes if node.value is not None)


def _take(node: _Node[V] | None, found: list[V]) -> None:
    if node is not None and node.value is not None:
        found.append(node.value)


def _children(node: _Node[V], top: bool) -> list[_Node[V]]:
    return [child for level, child in node.children.items() if not (top and level.startswith("$"))]


def _below(node: _Node[V], top: bool) -> Iterator[V]:
    if node.value is not None:
        yield node.value
    waiting = _children(node, top)
    while waiting:
        child = waiting.pop()
        if child.value is not None:
            yield child.value
        waiting.extend(child.children.values())
