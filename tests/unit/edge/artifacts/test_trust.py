"""Signatures, from the cloud's key to the device's answer."""

import msgspec
import pytest

from cloud.artifacts.keys import public_hex, signed, signing_key
from edge.artifacts.trust import verifier
from shared.artifacts import make_manifest
from shared.errors import ConfigError
from shared.package import ModuleKind

PLAIN = make_manifest(b"x" * 2000, name="digits", version="1", kind=ModuleKind.PLAIN)


def test_a_device_believes_the_key_it_was_enrolled_with_and_no_other(tmp_path):
    key = signing_key(tmp_path / "cloud")
    genuine = verifier(public_hex(key))
    manifest = signed(PLAIN, key)
    assert genuine(manifest)
    assert not genuine(PLAIN)
    assert not genuine(msgspec.structs.replace(manifest, name="faces"))
    assert not genuine(signed(PLAIN, signing_key(tmp_path / "stranger")))


def test_the_key_survives_a_restart_and_only_its_owner_can_read_it(tmp_path):
    key = signing_key(tmp_path)
    assert public_hex(signing_key(tmp_path)) == public_hex(key)
    assert [path.name for path in tmp_path.iterdir()] == ["signing.key"]
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600


def test_a_damaged_key_is_an_error_and_not_a_new_key(tmp_path):
    signing_key(tmp_path)
    (tmp_path / "signing.key").write_bytes(b"half a k")
    with pytest.raises(ConfigError, match="restore it from a backup"):
        signing_key(tmp_path)


@pytest.mark.parametrize("text", ["", "zz", "00" * 31, "00" * 33])
def test_what_is_no_key_is_refused_at_the_start(text):
    with pytest.raises(ConfigError, match="64 hex digits"):
        verifier(text)
