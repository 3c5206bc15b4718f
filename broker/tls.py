"""TLS: contexts for both ends, and a small certificate authority for fleets and tests.

With mutual TLS the common name of a device's certificate is its node id, which a broker takes for the user
name; the access rules then work as they do with passwords.
"""

import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.errors import ConfigError

_CLOCK_SKEW = timedelta(minutes=5)  # a device whose clock lags still accepts what was issued just now


def client_context(ca: str | Path = "", cert: str | Path = "", key: str | Path = "") -> ssl.SSLContext:
    """For a client. ``ca``: PEM file to trust instead of the system's; ``cert`` and ``key``: who we are.

    Raises :class:`ConfigError` that names the file.
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    if ca:
        # Instead of the system's: a broker of ours is never vouched for by a public authority.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load_authority(context, ca, "ca")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert or key:
        _load_identity(context, cert, key)
    return context


def server_context(
    cert: str | Path, key: str | Path, *, client_ca: str | Path | None = None
) -> ssl.SSLContext:
    """For a broker. With ``client_ca`` a client must show a certificate of that authority.

    Raises :class:`ConfigError` that names the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_identity(context, cert, key)
    if client_ca:
        _load_authority(context, client_ca, "client ca")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_authority(context: ssl.SSLContext, path: str | Path, what: str) -> None:
    try:
        context.load_verify_locations(_existing(path, what))
    except ssl.SSLError as error:
        raise ConfigError(f"{what} = {str(path)!r} is not a certificate: {error}") from None


def _load_identity(context: ssl.SSLContext, cert: str | Path, key: str | Path) -> None:
    certificate, private = _existing(cert, "cert"), _existing(key, "key")
    try:
        context.load_cert_chain(certificate, private)
    except ssl.SSLError as error:
        raise ConfigError(f"{cert} and {key} are not a certificate and its key: {error}") from None


def _existing(path: str | Path, what: str) -> str | Path:
    if not path:
        raise ConfigError(f"the {what} is missing: a certificate and its key go together")
    if not os.path.isfile(path):
        raise ConfigError(f"{what} = {str(path)!r}: there is no such file")
    return path


# A small certificate authority -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write ``{name}.crt`` and ``{name}.key`` (readable by the owner only); returns both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.certificate)
        with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(self.key)
        return certificate, key


def make_ca(name: str, now: datetime, days: int = 3650) -> Identity:
    """A self-signed authority (P-256). ``now``: aware, UTC."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name)
    builder = (
        _certificate(subject, subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _identity(builder.sign(key, hashes.SHA256()), key)


def issue(ca: Identity, name: str, now: datetime, *, hosts: Sequence[str] = (), days: int = 365) -> Identity:
    """A certificate named ``name``: for a client, or for a server at ``hosts`` (names, addresses)."""
    ca_certificate = x509.load_pem_x509_certificate(ca.certificate)
    ca_key = load_pem_private_key(ca.key, password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _certificate(_subject(name), ca_certificate.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
        )
    return _identity(builder.sign(ca_key, hashes.SHA256()), key)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _identity(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Identity:
    return Identity(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
