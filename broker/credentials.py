"""Principals of one broker: who may log in, with what password, in which role.

One directory serves the embedded broker and Mosquitto alike:

    passwords    Mosquitto's own password file: name:$7$iterations$salt$hash    (mode 0600)
    roles.toml   [devices] [apps] [operators] [cloud], each with its names      (mode 0600)

The passwords we hand out are 192 random bits, which nobody guesses, however fast a guess is; so the number of
PBKDF2 iterations stays at Mosquitto's own default and a thousand devices that reconnect at once do not wait
for each other's hashes (0.1 ms each). For passwords that people invent, pass more ``iterations``.

A broker notices new and removed principals at the next login (embedded) or at SIGHUP (Mosquitto). Whoever is
removed can't log in again; a connection that stands lasts until it ends.
"""

import base64
import binascii
import hashlib
import hmac
import logging
import os
import secrets
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.acl import Role
from broker.embedded.access import Identity
from shared.errors import ConfigError
from shared.ids import checked_id, is_id

log = logging.getLogger(__name__)

PASSWORDS = "passwords"
ROLES = "roles.toml"

ITERATIONS = 101  # Mosquitto 2's default; see above
ITERATIONS_MAX = 1_000_000
SALT_BYTES = 12
HASH_BYTES = 64
PASSWORD_BYTES = 24

_SECTIONS: Mapping[str, Role] = {
    "devices": Role.DEVICE,
    "apps": Role.APP,
    "operators": Role.OPERATOR,
    "cloud": Role.CLOUD,
}


# One password ---------------------------------------------------------------------------------------


def hashed(password: bytes, salt: bytes, iterations: int = ITERATIONS) -> str:
    """The second field of Mosquitto's password file: PBKDF2-SHA512, ``$7$iterations$salt$hash``."""
    digest = hashlib.pbkdf2_hmac("sha512", password, salt, iterations, HASH_BYTES)
    return f"$7${iterations}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def verified(password: bytes, stored: str) -> bool:
    """Whether the password is the one behind ``stored``. False for a form we don't know."""
    parts = _parsed(stored)
    if parts is None:
        return False
    iterations, salt, digest = parts
    return hmac.compare_digest(hashlib.pbkdf2_hmac("sha512", password, salt, iterations, len(digest)), digest)


def _parsed(stored: str) -> tuple[int, bytes, bytes] | None:
    """``$7$iterations$salt$hash`` -> its parts, or None."""
    try:
        empty, scheme, iterations, salt, digest = stored.split("$")
        parts = int(iterations), base64.b64decode(salt), base64.b64decode(digest)
    except (ValueError, binascii.Error):
        return None
    usable = not empty and scheme == "7" and 0 < parts[0] <= ITERATIONS_MAX and parts[2]
    return parts if usable else None


# The two files --------------------------------------------------------------------------------------


def parse_passwords(text: str) -> dict[str, str]:
    """Lines ``name:hash``. Raises :class:`ConfigError` with the line that can't be one."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, colon, stored = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        if not colon or _parsed(stored) is None:
            raise ConfigError(f"{PASSWORDS}, line {number}: expected name:$7$iterations$salt$hash")
        found[name] = stored
    return found


def parse_roles(text: str) -> dict[str, Role]:
    """``[devices] names = ["n1"]`` and so on. Raises :class:`ConfigError`; a name has one role."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{ROLES} is not TOML: {error}") from None
    found: dict[str, Role] = {}
    for section, body in tree.items():
        for name in _names(section, body):
            if name in found:
                raise ConfigError(f"{ROLES}: {name!r} is in two sections; a name has one role")
            found[name] = _SECTIONS[section]
    return found


def _names(section: str, body: object) -> list[str]:
    if section not in _SECTIONS:
        raise ConfigError(f"{ROLES}: [{section}] is none of {', '.join(_SECTIONS)}")
    names = body.get("names", []) if isinstance(body, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) and is_id(name) for name in names):
        raise ConfigError(f"{ROLES}: [{section}] needs names = [...], each 1 to 64 of a-z, 0-9 and '-'")
    return names


def render_passwords(passwords: Mapping[str, str]) -> str:
    """The text that :func:`parse_passwords` reads."""
    return "".join(f"{name}:{stored}\n" for name, stored in sorted(passwords.items()))


def render_roles(roles: Mapping[str, Role]) -> str:
    """The text that :func:`parse_roles` reads, one name a line."""
    lines = []
    for section, role in _SECTIONS.items():
        names = sorted(name for name, theirs in roles.items() if theirs is role)
        lines += [f"[{section}]", "names = [", *(f'  "{name}",' for name in names), "]", ""]
    return "\n".join(lines)


def write_private(path: Path, text: str) -> None:
    """Replace a file as a whole, readable by its owner only. A reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


# A broker's principals ------------------------------------------------------------------------------


class Credentials:
    """The principals in one directory; also the embedded broker's ``Authenticator``.

    ``roles`` is live: hand it to :class:`broker.acl.Access`. It is read by the same event loop that logs
    clients in, so a change is seen as a whole.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.roles: dict[str, Role] = {}
        self._passwords: dict[str, str] = {}
        self._seen: tuple[object, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Read the files again if they changed. Raises :class:`ConfigError` and keeps what it had."""
        seen = tuple(_version(self.directory / name) for name in (PASSWORDS, ROLES))
        if seen == self._seen:
            return
        passwords = parse_passwords(_text(self.directory / PASSWORDS))
        roles = parse_roles(_text(self.directory / ROLES))
        self._passwords, self._seen = passwords, seen
        self.roles.clear()
        self.roles.update(roles)

    def add(self, name: str, role: Role, password: str | None = None, *, iterations: int = ITERATIONS) -> str:
        """Add a principal, or give one a new password, and write the files. Returns the password.

        Raises ``ValueError`` for a name that can't stand in a topic, :class:`ConfigError` where the name has
        another role already.
        """
        checked_id(name, "user name")
        self.refresh()
        if self.roles.get(name, role) is not role:
            raise ConfigError(f"{name!r} is a {self.roles[name]} already; choose another name")
        password = secrets.token_urlsafe(PASSWORD_BYTES) if password is None else password
        self._passwords[name] = hashed(password.encode(), secrets.token_bytes(SALT_BYTES), iterations)
        self.roles[name] = role
        self._save()
        return password

    def remove(self, name: str) -> bool:
        """Forget a principal. False: there was none of that name."""
        self.refresh()
        known = self._passwords.pop(name, None) is not None
        known = self.roles.pop(name, None) is not None or known
        self._save()
        return known

    def verify(self, name: str, password: bytes) -> bool:
        """Whether the principal exists and this is the password."""
        stored = self._passwords.get(name)
        return stored is not None and verified(password, stored)

    def __call__(
        self, username: str | None, password: bytes | None, client_id: str, certificate_name: str | None
    ) -> Identity | None:
        """Log a client in: by the name in its verified certificate, else by password.

        The session is keyed on the user name, so that a stranger's client id disconnects nobody: a device
        has one session; the others may run several processes, each known as ``name:client id``.

        A file that somebody broke while we run locks nobody out: the last good one holds.
        """
        try:
            self.refresh()
        except ConfigError as error:
            log.error("credentials unchanged: %s", error)
        name = certificate_name if certificate_name is not None else username
        if name is None or name not in self.roles:
            return None
        if certificate_name is None and not (password is not None and self.verify(name, password)):
            return None
        if self.roles[name] is Role.DEVICE:
            return Identity(name, name)
        return Identity(name, client_id if client_id.startswith(f"{name}:") else f"{name}:{client_id}")

    def _save(self) -> None:
        """Passwords first: after a crash in between, the new one can log in and may do nothing."""
        write_private(self.directory / PASSWORDS, render_passwords(self._passwords))
        write_private(self.directory / ROLES, render_roles(self.roles))
        self._seen = tuple(_version(self.directory / name) for name in (PASSWORDS, ROLES))


def _version(path: Path) -> object:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a device is given; it belongs into that device's own configuration file and nowhere else."""

    username: str
    password: str


def enrol(credentials: Credentials, node: str) -> Enrolment:
    """Add a device, or give it a new password; its user name is its node id, as the access rules expect."""
    return Enrolment(node, credentials.add(node, Role.DEVICE))
