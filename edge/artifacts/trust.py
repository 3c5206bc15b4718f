"""Whose manifests a device believes: the Ed25519 key (RFC 8032) that it was enrolled with."""

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.artifacts import signed_bytes
from shared.errors import ConfigError
from shared.messages import Manifest


def verifier(public_key_hex: str) -> Callable[[Manifest], bool]:
    """A function that says whether a manifest was signed with this key (64 hex digits).

    Raises :class:`ConfigError` when that is no key.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key_hex))
    except ValueError:
        raise ConfigError("device.cloud_key must be an Ed25519 public key: 64 hex digits") from None

    def genuine(manifest: Manifest) -> bool:
        try:
            key.verify(manifest.signature, signed_bytes(manifest))
        except InvalidSignature:
            return False
        return True

    return genuine
