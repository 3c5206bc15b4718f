"""The cloud's signing key: Ed25519 (RFC 8032), made on the first start, readable by its owner only."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.artifacts import signed_bytes
from shared.errors import ConfigError
from shared.messages import Manifest

KEY_FILE = "signing.key"
KEY_BYTES = 32


def signing_key(folder: Path) -> Ed25519PrivateKey:
    """The key in ``folder``, made when there is none. Raises :class:`ConfigError` when it is damaged:
    a new key in its place would lock out every device that was enrolled with the old one."""
    return Ed25519PrivateKey.from_private_bytes(secret_key(folder / KEY_FILE))


def secret_key(path: Path) -> bytes:
    """32 random bytes in a file, made when there is none. Raises :class:`ConfigError` when it is damaged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _create(path, secrets.token_bytes(KEY_BYTES))
    secret = path.read_bytes()
    if len(secret) != KEY_BYTES:
        raise ConfigError(f"{path} is not a key of {KEY_BYTES} bytes; restore it from a backup")
    return secret


def public_hex(key: Ed25519PrivateKey) -> str:
    """What devices are enrolled with: 64 hex digits."""
    return key.public_key().public_bytes_raw().hex()


def signed(manifest: Manifest, key: Ed25519PrivateKey) -> Manifest:
    """The manifest with its signature."""
    return msgspec.structs.replace(manifest, signature=key.sign(signed_bytes(manifest)))


def _create(path: Path, secret: bytes) -> None:
    """Whole or not at all, and never over a key that another process made meanwhile (``link`` refuses)."""
    fresh = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, secret)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with suppress(FileExistsError):
        os.link(fresh, path)
    fresh.unlink()
