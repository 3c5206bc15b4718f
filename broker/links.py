"""The state of a connection and who wants to hear of it."""

import logging
from collections.abc import Callable

from broker.bus import Link, LinkWatcher

log = logging.getLogger(__name__)


class LinkState:
    """Holds the current :class:`Link`; tells the watchers of each change."""

    def __init__(self) -> None:
        self.link = Link(up=False)
        self._watchers: list[LinkWatcher] = []

    def set(self, link: Link) -> None:
        """Change. A reason alone (a subscription refused while up) is noted but is no change of state."""
        changed = link.up or link.up is not self.link.up
        self.link = link
        if changed:
            for watcher in tuple(self._watchers):
                self._tell(watcher)

    def note(self, reason: str) -> None:
        """Say why something does not work without calling the watchers."""
        self.link = Link(self.link.up, self.link.resumed, reason)

    def watch(self, watcher: LinkWatcher) -> Callable[[], None]:
        """See :meth:`broker.bus.Bus.watch_link`."""
        self._watchers.append(watcher)
        if self.link.up:
            self._tell(watcher)

        def stop() -> None:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

        return stop

    def _tell(self, watcher: LinkWatcher) -> None:
        if watcher not in self._watchers:  # stopped by a watcher before it
            return
        try:
            watcher(self.link)
        except Exception:
            log.exception("a link watcher failed on %s", self.link)
