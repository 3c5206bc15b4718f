"""The folder of a fleet on one machine: credentials, keys and one configuration file per process.

    .shoal/
      credentials/   passwords, roles.toml        what the broker checks
      cloud/         signing.key, store, artifacts
      edge-1/ ...    each device's own data
      cloud.toml, edge-1.toml, ..., operator.toml  (mode 0600: they hold passwords)

Making it again keeps what is there: names, passwords, keys and data stay.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker.acl import Role
from broker.credentials import Credentials, enrol, write_private
from cloud.artifacts.keys import public_hex, signing_key
from cloud.local.toml import to_toml

CLOUD_USER = "cloud"
OPERATOR_USER = "operator"
API_USER = "api"


class Workspace:
    """Writes and finds the files of one local fleet."""

    def __init__(self, folder: Path, fleet: str = "main") -> None:
        self.folder, self.fleet = folder.absolute(), fleet
        self.credentials_dir = self.folder / "credentials"
        self.cloud_data = self.folder / "cloud"

    def prepare(self, broker_url: str, nodes: Mapping[str, Mapping[str, Any]], http_port: int) -> None:
        """Make or renew everything. ``nodes``: id -> settings of its ``[device]`` section."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cloud_data.mkdir(exist_ok=True)
        credentials = Credentials(self.credentials_dir)
        key = public_hex(signing_key(self.cloud_data))
        cloud = {
            "data": str(self.cloud_data),
            "http_port": http_port,
            "api_username": API_USER,
            "api_password": self._password(
                credentials, API_USER, Role.OPERATOR, at=(CLOUD_USER, "cloud", "api_")
            ),
        }
        self._write(CLOUD_USER, broker_url, self._password(credentials, CLOUD_USER, Role.CLOUD), cloud=cloud)
        self._write(
            OPERATOR_USER,
            broker_url,
            self._password(credentials, OPERATOR_USER, Role.OPERATOR),
            cloud={"http_port": http_port},
        )
        for node, settings in nodes.items():
            device = {"node": node, "data": str(self.folder / node), "cloud_key": key, **settings}
            self._write(node, broker_url, self._password(credentials, node, Role.DEVICE), device=device)

    def config(self, name: str) -> Path:
        """The configuration file of the cloud, the operator or a node."""
        return self.folder / f"{name}.toml"

    def _password(
        self, credentials: Credentials, name: str, role: Role, at: tuple[str, str, str] | None = None
    ) -> str:
        """The one in use while it is still good, else a new one. ``at``: file, section, prefix of its key."""
        file, section, prefix = at or (name, "broker", "")
        path = self.config(file)
        if path.exists():
            known = str(tomllib.loads(path.read_text()).get(section, {}).get(f"{prefix}password", ""))
            if credentials.roles.get(name) is role and credentials.verify(name, known.encode()):
                return known
        return enrol(credentials, name).password if role is Role.DEVICE else credentials.add(name, role)

    def _write(self, name: str, broker_url: str, password: str, **sections: Mapping[str, Any]) -> None:
        broker = {"url": broker_url, "username": name, "password": password}
        write_private(self.config(name), to_toml({"fleet": self.fleet, "broker": broker, **sections}))
