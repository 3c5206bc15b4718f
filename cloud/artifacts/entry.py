"""One artifact in the catalog, and where the catalog survives."""

from typing import Protocol

import msgspec

from shared.messages import Manifest
from shared.package import PackageInfo
from shared.views import ModelView


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """``manifest`` as it was signed; its name and version are what the fleet calls the model. ``info``:
    what the package says about itself (its version may differ, see :func:`next_version`)."""

    manifest: Manifest
    info: PackageInfo
    created_at_unix_s: float

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the artifact."""
        return self.manifest.digest

    def view(self) -> ModelView:
        """What an operator sees of it."""
        one = self.manifest
        return ModelView(
            name=one.name,
            version=one.version,
            digest=one.digest,
            kind=one.kind,
            size_bytes=one.size_bytes,
            created_at_unix_s=self.created_at_unix_s,
        )


class CatalogStore(Protocol):
    """Where entries survive a restart of the cloud. Both methods block."""

    def load_catalog(self) -> tuple[Entry, ...]:
        """All entries, in any order."""
        ...

    def save_entry(self, entry: Entry) -> None:
        """Durable when this returns. The same digest again replaces the entry."""
        ...
