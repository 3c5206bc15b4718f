"""Where every node was enrolled: a small file of the cloud, written by ``shoal enrol --region``.

    [regions]
    edge-1 = "eu/de/berlin"

It belongs to the cloud like the passwords do. What a node says of itself (its labels) is not asked: a node
that could name its own region could read everything. A node that is not in the file is nowhere.
"""

import fcntl
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from broker.credentials import write_private
from shared.errors import ConfigError
from shared.ids import is_id
from shared.tags import ANY, is_region

PLACES_FILE = "regions.toml"
PLACES_BYTES_MAX = 8 << 20


def read_places(path: Path) -> dict[str, str]:
    """Node -> region; nothing for a file that is not there. Raises :class:`ConfigError`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from None
    if len(data) > PLACES_BYTES_MAX:
        raise ConfigError(f"{path} has {len(data)} bytes; at most {PLACES_BYTES_MAX} are read")
    try:
        tree = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    regions = tree.get("regions", {})
    if tree.keys() - {"regions"} or not isinstance(regions, dict):
        raise ConfigError(f"{path}: only [regions] may stand there, with node = 'region'")
    for node, region in regions.items():
        if not is_id(node) or not isinstance(region, str):
            raise ConfigError(f"{path}: {node!r} needs a region, like eu/de")
        checked_region(region)
    return regions


def checked_region(region: str) -> str:
    """The region of a node. Raises :class:`ConfigError` with advice."""
    if not is_region(region) or region == ANY:
        raise ConfigError(f"{region[:80]!r} is not a region: write ids with slashes, like eu/de/berlin")
    return region


def write_places(path: Path, changes: Mapping[str, str]) -> None:
    """Put these nodes there; an empty region takes a node out. Two at a time wait for each other."""
    with _alone(path):
        regions = {**read_places(path), **{node: region for node, region in changes.items()}}
        lines = [f'{node} = "{region}"' for node, region in sorted(regions.items()) if region]
        write_private(path, "\n".join(["[regions]", *lines, ""]))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
