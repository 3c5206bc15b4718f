"""Relative topics and the names they have on the wire."""

_CACHED_MAX = 4096
_TOPIC_BYTES_MAX = 0xFFFF  # MQTT 5.0, section 1.5.4


class Topics:
    """Puts the root in front of relative topics and filters. Remembers the names it has checked."""

    def __init__(self, root: str) -> None:
        self._prefix = f"{root}/"
        self._names: dict[str, str] = {}

    def name(self, topic: str) -> str:
        """The full name. Raises ``ValueError`` for one that no PUBLISH may carry (section 3.3.2.1)."""
        full = self._names.get(topic)
        if full is None:
            full = self._prefix + topic
            if any(sign in topic for sign in "+#\0") or len(full.encode()) > _TOPIC_BYTES_MAX:
                raise ValueError(f"{topic!r} can't be published to: wildcards, NUL, or too long")
            if len(self._names) >= _CACHED_MAX:
                self._names.clear()
            self._names[topic] = full
        return full

    def filter(self, pattern: str) -> str:
        """The full filter; the group of a shared subscription stays in front."""
        if pattern.startswith("$share/"):
            share, group, rest = pattern.split("/", 2)
            return f"{share}/{group}/{self._prefix}{rest}"
        return self._prefix + pattern
