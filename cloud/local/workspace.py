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
from shared.errors import ConfigError
from shared.ids import is_id

CLOUD_USER = "cloud"
OPERATOR_USER = "operator"
API_USER = "api"
INGEST_USER = "ingest"  # of the workers beside the cloud process
_NONE: Mapping[str, Mapping[str, Any]] = {}


class Workspace:
    """Writes and finds the files of one local fleet."""

    def __init__(self, folder: Path, fleet: str = "main") -> None:
        self.folder, self.fleet = folder.absolute(), fleet
        self.credentials_dir = self.folder / "credentials"
        self.cloud_data = self.folder / "cloud"

    def prepare(
        self,
        broker_url: str,
        nodes: Mapping[str, Mapping[str, Any]],
        http_port: int,
        training: Mapping[str, Mapping[str, Any]] = _NONE,
    ) -> None:
        """Make or renew everything.

        ``nodes``: id -> settings of its ``[device]`` section; ``training``: of its ``[training]`` section.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.cloud_data.mkdir(exist_ok=True, mode=0o700)
        credentials = Credentials(self.credentials_dir)
        key = self._cloud_key()
        cloud = {
            "data": str(self.cloud_data),
            "http_port": http_port,
            "api_username": API_USER,
            "api_password": self._password(
                credentials, API_USER, Role.OPERATOR, at=(CLOUD_USER, "cloud", "api_")
            ),
        }
        self._write(CLOUD_USER, broker_url, self._password(credentials, CLOUD_USER, Role.CLOUD), cloud=cloud)
        ingest = self._password(credentials, INGEST_USER, Role.CLOUD)
        self._write(INGEST_USER, broker_url, ingest, cloud={"data": str(self.cloud_data)})
        self._write(
            OPERATOR_USER,
            broker_url,
            self._password(credentials, OPERATOR_USER, Role.OPERATOR),
            cloud={"http_port": http_port},
        )
        for node, settings in nodes.items():
            device = {"node": node, "data": str(self.folder / node), "cloud_key": key, **settings}
            sections = {"device": device, **({"training": training[node]} if node in training else {})}
            self._write(node, broker_url, self._password(credentials, node, Role.DEVICE), **sections)

    def enrol(
        self, name: str, role: Role, broker_url: str, settings: Mapping[str, Any], *, renew: bool = False
    ) -> str:
        """Add one principal and write its configuration; returns its password.

        ``settings``: of a device's ``[device]`` section. Raises :class:`ConfigError` for a name that can't
        be used, or that is known already unless it is to be renewed (whoever uses it would be locked out).
        """
        if not is_id(name):
            raise ConfigError(f"{name[:80]!r} is not a usable name: 1 to 64 of a-z, 0-9 and '-'")
        credentials = Credentials(self.credentials_dir)
        if name in credentials.roles and not renew:
            raise ConfigError(f"{name!r} is enrolled already; --renew gives it a new password")
        password = credentials.add(name, role)
        device = {"node": name, "data": str(self.folder / name), "cloud_key": self._cloud_key(), **settings}
        self._write(name, broker_url, password, **({"device": device} if role is Role.DEVICE else {}))
        return password

    @property
    def places(self) -> Path:
        """The file that says where each node is, for residency."""
        return self.cloud_data / "residency" / "regions.toml"

    def _cloud_key(self) -> str:
        return public_hex(signing_key(self.cloud_data))

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
