"""Gives every container its own secrets, once: run by the service ``prepare`` before anything else starts.

    python prepare.py VOLUMES BROKER_URL NODE...

    VOLUMES/workspace   all of it; mounted nowhere else
    VOLUMES/broker      passwords                  -> Mosquitto
    VOLUMES/cloud       cloud.toml, its key        -> the cloud
    VOLUMES/operator    operator.toml              -> the `shoal` command
    VOLUMES/NODE        edge.toml                  -> one device, which learns nobody else's password

Run again it changes nothing that exists, so devices keep their passwords and the cloud keeps its key.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from broker.credentials import PASSWORDS, write_private
from cloud.local.workspace import CLOUD_USER, OPERATOR_USER, Workspace

HOME = "/var/lib/shoal"  # where each container mounts its own volume
HTTP_PORT = 8080


def prepare(volumes: Path, broker_url: str, nodes: Sequence[str]) -> None:
    """Fill the volumes. Raises ``ValueError`` for a node whose name can't stand in a topic."""
    workspace = Workspace(volumes / "workspace")
    workspace.prepare(broker_url, {node: {"data": HOME} for node in nodes}, HTTP_PORT)
    hand_out(workspace.credentials_dir / PASSWORDS, volumes / "broker" / PASSWORDS)
    hand_out(workspace.config(CLOUD_USER), volumes / "cloud" / "cloud.toml")
    hand_out(workspace.config(OPERATOR_USER), volumes / "operator" / "operator.toml")
    shutil.copytree(workspace.cloud_data, volumes / "cloud", dirs_exist_ok=True)  # as yet only its key
    for node in nodes:
        hand_out(workspace.config(node), volumes / node / "edge.toml")


def hand_out(source: Path, target: Path) -> None:
    """Copy a secret, readable by its owner only."""
    write_private(target, source.read_text(encoding="utf-8"))


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
