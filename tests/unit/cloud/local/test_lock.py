"""One fleet a folder, one program a port; files that hold passwords are private; TOML survives."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.acl import Role
from broker.credentials import Credentials
from cloud.local.lock import check_free, held
from cloud.local.toml import to_toml
from cloud.local.workspace import Workspace
from shared.config import parse
from shared.errors import ConfigError

URL = "mqtt://127.0.0.1:1883"


def test_a_second_fleet_in_one_folder_is_told_who_has_it(tmp_path: Path) -> None:
    told = f"a fleet runs in {tmp_path} already .process {os.getpid()}"
    with held(tmp_path / "lock", "a fleet"), pytest.raises(ConfigError, match=told):
        held(tmp_path / "lock", "a fleet").__enter__()
    with held(tmp_path / "lock", "a fleet"):
        pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, time\nfrom cloud.local.lock import held\n"
        "with held(pathlib.Path(sys.argv[1]), 'a fleet'):\n    print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ConfigError, match=str(holder.pid)):
            held(tmp_path / "lock", "a fleet").__enter__()
        holder.send_signal(signal.SIGKILL)
    with held(tmp_path / "lock", "a fleet"):
        pass


def test_a_port_in_use_is_named_with_the_option_that_changes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} for the broker .* --port"):
            check_free(port, "broker", "--port")
    check_free(port, "broker", "--port")


def test_every_file_that_holds_a_password_is_its_owners_only(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "fleet")
    workspace.prepare(URL, {"edge-1": {}}, 8080)
    workspace.enrol("edge-2", Role.DEVICE, URL, {})
    private = [*workspace.folder.glob("*.toml"), *workspace.credentials_dir.iterdir()]
    private += list(workspace.cloud_data.iterdir())
    assert len(private) >= 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert stat.S_IMODE(workspace.folder.stat().st_mode) == 0o700


def test_making_a_workspace_again_keeps_every_password_and_key(tmp_path: Path) -> None:
    def made() -> dict[str, str]:
        Workspace(tmp_path).prepare(URL, {"edge-1": {"labels": {"region": "eu"}}}, 8080)
        return {path.name: path.read_text() for path in tmp_path.glob("*.toml")}

    assert made() == made()


def test_an_enrolled_device_finds_everything_in_its_file(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "lab")
    workspace.prepare(URL, {"edge-1": {}}, 8080)
    password = workspace.enrol("edge-9", Role.DEVICE, "mqtts://broker.example", {"labels": {"region": "eu"}})
    config = parse(workspace.config("edge-9").read_text(), {})
    first = parse(workspace.config("edge-1").read_text(), {})
    assert (config.fleet, config.device.node, config.device.labels) == ("lab", "edge-9", {"region": "eu"})
    assert config.device.cloud_key == first.device.cloud_key
    assert (config.broker.url, config.broker.password) == ("mqtts://broker.example", password)
    assert Credentials(workspace.credentials_dir).verify("edge-9", password.encode())


def test_a_known_name_keeps_its_password_unless_it_is_to_be_renewed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.prepare(URL, {}, 8080)
    first = workspace.enrol("dash", Role.APP, URL, {})
    assert parse(workspace.config("dash").read_text(), {}).device.node == ""
    with pytest.raises(ConfigError, match="--renew"):
        workspace.enrol("dash", Role.APP, URL, {})
    with pytest.raises(ConfigError, match="app already"):
        workspace.enrol("dash", Role.DEVICE, URL, {}, renew=True)
    second = workspace.enrol("dash", Role.APP, URL, {}, renew=True)
    credentials = Credentials(workspace.credentials_dir)
    assert credentials.verify("dash", second.encode())
    assert not credentials.verify("dash", first.encode())


@pytest.mark.parametrize("name", ["", "A", "a b", "../cloud", "x" * 65])
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not a usable name"):
        Workspace(tmp_path).enrol(name, Role.DEVICE, URL, {})


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = words | st.booleans() | numbers
keys = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)


@given(st.dictionaries(keys, scalars | st.dictionaries(keys, scalars | st.dictionaries(words, words))))
def test_what_is_written_is_what_is_read(tree: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(tree)) == tree
