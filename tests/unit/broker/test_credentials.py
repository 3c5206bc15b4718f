"""Passwords that Mosquitto reads too, roles, and files that are never half written."""

import base64
import stat
import subprocess
from pathlib import Path

import pytest

from broker.acl import Role
from broker.credentials import (
    PASSWORDS,
    ROLES,
    Credentials,
    enrol,
    hashed,
    parse_passwords,
    parse_roles,
    render_roles,
    verified,
    write_private,
)
from broker.embedded.access import Identity
from shared.errors import ConfigError

# `mosquitto_passwd -b file n1 secret`, version 2.0.11
FROM_MOSQUITTO = (
    "$7$101$A+YfnAq8hLy4PpjW$"
    "+CqUEgXWLYtk3iiRz+9z3e5GHAI4tIfCBP02R5DOWOAtFdZTvtzVpxRu+ykI19TnR6h0yedJq1sGSwQsMoRUnQ=="
)


def test_a_password_that_mosquitto_hashed_is_verified() -> None:
    assert verified(b"secret", FROM_MOSQUITTO)
    assert not verified(b"Secret", FROM_MOSQUITTO)
    assert not verified(b"", FROM_MOSQUITTO)


def test_the_same_salt_gives_the_bytes_that_mosquitto_wrote() -> None:
    assert hashed(b"secret", base64.b64decode("A+YfnAq8hLy4PpjW")) == FROM_MOSQUITTO


@pytest.mark.mosquitto
def test_mosquitto_hashes_into_a_form_we_read(tmp_path: Path) -> None:
    path = tmp_path / PASSWORDS
    path.touch(0o600)
    subprocess.run(["mosquitto_passwd", "-b", path, "n1", "p:a$s s"], check=True, timeout=10)
    assert verified(b"p:a$s s", parse_passwords(path.read_text())["n1"])


@pytest.mark.parametrize(
    "stored",
    ["", "secret", "$6$salt$hash", "$7$0$AAAA$AAAA", "$7$-1$AAAA$AAAA", "$7$101$AAAA$", "$7$x$AAAA$AAAA",
     "$7$101$A$A", "$7$99999999999$AAAA$AAAA", "$7$101$AAAA$AAAA$"],
)  # fmt: skip
def test_a_line_of_another_form_lets_nobody_in_and_is_named(stored: str) -> None:
    assert not verified(b"", stored)
    with pytest.raises(ConfigError, match="line 2"):
        parse_passwords(f"# ours\nn1:{stored}\n")


def test_roles_survive_being_written() -> None:
    roles = {
        "n1": Role.DEVICE,
        "n2": Role.DEVICE,
        "ann": Role.OPERATOR,
        "cloud": Role.CLOUD,
        "till": Role.APP,
    }
    assert parse_roles(render_roles(roles)) == roles


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[devices]\nnames = ["n1"]\n[apps]\nnames = ["n1"]', "one role"),
        ('[device]\nnames = ["n1"]', "none of devices"),
        ('[devices]\nnames = ["N 1"]', "a-z"),
        ('[devices]\nnames = "n1"', "needs names"),
        ("devices = 3", "needs names"),
        ("[devices", "not TOML"),
    ],
)
def test_a_broken_roles_file_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_roles(text)


def test_a_new_principal_logs_in_with_its_password_and_no_other(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path)
    password = credentials.add("n1", Role.DEVICE)
    assert credentials("n1", password.encode(), "anything", None) == Identity("n1", "n1")
    assert credentials("n1", b"guess", "n1", None) is None
    assert credentials("n1", None, "n1", None) is None
    assert credentials("n2", password.encode(), "n1", None) is None
    assert credentials(None, None, "n1", None) is None


def test_a_strangers_client_id_never_names_anothers_session(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path)
    device, ann = credentials.add("n1", Role.DEVICE).encode(), credentials.add("ann", Role.OPERATOR).encode()
    sessions = {
        identity.client_id
        for identity in (
            credentials("n1", device, "ann:watch", None),
            credentials("ann", ann, "n1", None),
            credentials("ann", ann, "watch", None),
            credentials("ann", ann, "ann:watch", None),  # as the broker named it the first time
        )
        if identity is not None
    }
    assert sessions == {"n1", "ann:n1", "ann:watch"}


def test_a_verified_certificate_needs_no_password_but_a_known_name(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path)
    credentials.add("n1", Role.DEVICE)
    assert credentials("ignored", None, "x", "n1") == Identity("n1", "n1")
    assert credentials("n1", None, "x", "stranger") is None


def test_a_device_enrolled_by_another_process_logs_in_without_a_restart(tmp_path: Path) -> None:
    broker, tool = Credentials(tmp_path), Credentials(tmp_path)
    enrolment = enrol(tool, "n7")
    assert broker("n7", enrolment.password.encode(), "n7", None) == Identity("n7", "n7")
    assert broker.roles == {"n7": Role.DEVICE}
    assert tool.remove("n7")
    assert broker("n7", enrolment.password.encode(), "n7", None) is None
    assert not tool.remove("n7")


def test_a_file_broken_while_the_broker_runs_locks_nobody_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = Credentials(tmp_path)
    password = credentials.add("n1", Role.DEVICE).encode()
    (tmp_path / ROLES).write_text("[devices")
    assert credentials("n1", password, "n1", None) == Identity("n1", "n1")
    assert "not TOML" in caplog.text
    with pytest.raises(ConfigError):
        credentials.add("n2", Role.DEVICE)
    assert (tmp_path / ROLES).read_text() == "[devices"


def test_a_name_keeps_its_role_and_can_get_a_new_password(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path)
    old = credentials.add("n1", Role.DEVICE)
    with pytest.raises(ConfigError, match="device already"):
        credentials.add("n1", Role.CLOUD)
    new = credentials.add("n1", Role.DEVICE)
    assert not credentials.verify("n1", old.encode())
    assert credentials.verify("n1", new.encode())


@pytest.mark.parametrize("name", ["", "N1", "n/1", "n+", "#", "n:1", "n\n", "a" * 65])
def test_a_name_that_cannot_stand_in_a_topic_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="user name"):
        Credentials(tmp_path).add(name, Role.DEVICE)
    assert list(tmp_path.iterdir()) == []


def test_the_files_are_private_and_replaced_as_a_whole(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path / "secrets")
    credentials.add("n1", Role.DEVICE)
    files = sorted((tmp_path / "secrets").iterdir())
    assert [file.name for file in files] == [PASSWORDS, ROLES]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_enrolling_a_device_again_replaces_its_password(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path)
    first, second = enrol(credentials, "n1"), enrol(credentials, "n1")
    assert (first.username, second.username) == ("n1", "n1")
    assert not credentials.verify("n1", first.password.encode())
    assert credentials.verify("n1", second.password.encode())
