"""Where replicated keys survive a restart of the cloud."""

from typing import Protocol

from cloud.sync.events import Fenced, Restored, Save, Saved


class SyncStore(Protocol):
    """Both methods block, and are one transaction each."""

    def load_sync(self) -> Restored:
        """Everything, of one moment."""
        ...

    def save_sync(self, save: Save) -> Saved | Fenced:
        """All of it, durable when this returns; nothing if a newer term has opened the store."""
        ...
