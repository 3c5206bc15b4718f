"""The files that docker-compose.yml puts together, on Debian's Mosquitto and, where an engine answers, on
the one of its own image. ``scenario`` is the same for both: a broker's address and the prepared volumes.

What the containers would run runs here as processes: the commands of the Dockerfiles and the environment of
the compose file, each in its own volume.
"""

import asyncio
import importlib.util
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.acl import Role
from broker.credentials import PASSWORDS, ROLES, parse_roles
from broker.mosquitto import Mosquitto, configuration
from broker.settings import read_config
from cloud.client import connected
from cloud.local.processes import LocalProcess
from shared.topics import BIRTH, DESIRED, root
from tests.e2e.fleets import deploy_digits, right_answer, serving, until
from tests.integration.secured import FLEET, Client, Secured, await_port, free_port

ROOT = Path(__file__).resolve().parents[2]
NODES = ("edge-1", "edge-2", "edge-3")
IMAGE = "eclipse-mosquitto:2.0"
HOME = "/var/lib/shoal"  # in a container; here it is that container's volume


def scenario(host: str, port: int, volumes: Path) -> None:
    """Strangers first, whose words the fleet then finds retained and can't read; then the fleet itself."""
    names_and_rights(host, port, volumes)
    asyncio.run(fleet_at_work(f"mqtt://{host}:{port}", volumes))


async def fleet_at_work(broker: str, volumes: Path) -> None:
    """The devices register, get a model and answer, over MQTT and over the API."""
    web = f"http://127.0.0.1:{free_port()}"
    here = {"SHOAL_BROKER_URL": broker}
    there = {**here, "SHOAL_CLOUD_HTTP_PORT": web.rpartition(":")[2], "SHOAL_CLOUD_DATA": HOME}
    quick = {**here, "SHOAL_DEVICE_DATA": HOME, "SHOAL_DEVICE_BENCHMARK_S": "0.05"}
    processes = [
        container("cloud", "cloud", volumes, there),
        *(container(node, "edge", volumes, quick) for node in NODES),
    ]
    config = read_config(volumes / "operator" / "operator.toml", {"broker": {"url": broker}})
    try:
        for process in processes:
            await process.start()
        async with connected(config, "operator", budget_s=2.0) as fleet:
            await until("the devices serve", lambda: serving(fleet, *NODES))
            await deploy_digits(fleet, *NODES)
            for node in NODES:
                assert await right_answer(fleet, node)
            await until("the API reaches the fleet", lambda: healthy(web))
    finally:
        await asyncio.gather(*(process.stop() for process in processes if process.running))


def container(service: str, image: str, volumes: Path, settings: dict[str, str]) -> LocalProcess:
    """A service of the compose file as a process whose home is the service's volume."""
    given = compose()["services"][service].get("environment", {}) | settings
    home = str(volumes / service)
    environment = [f"{name}={value}".replace(HOME, home) for name, value in given.items()]
    python, *command = command_of(image)
    assert python == "python"
    ran = ("env", "-C", home, f"PYTHONPATH={ROOT}", *environment, sys.executable, *command)
    return LocalProcess(service, ran, volumes / f"{service}.log")


def command_of(image: str) -> list[str]:
    """The last line of its Dockerfile."""
    last = (ROOT / "docker" / f"{image}.Dockerfile").read_text().splitlines()[-1]
    command: list[str] = json.loads(last.removeprefix("CMD "))
    return command


def compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


async def healthy(web: str) -> bool:
    """What the compose file's own health check says, of the address that the API has here."""
    _, python, *check = compose()["services"]["cloud"]["healthcheck"]["test"]
    assert python == "python"
    there = [part.replace("http://127.0.0.1:8080", web) for part in check]
    process = await asyncio.create_subprocess_exec(sys.executable, *there, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait() == 0


def names_and_rights(host: str, port: int, volumes: Path) -> None:
    """Whoever holds a prepared file gets in as who it says; the fleet's first words reach their hearers."""
    passwords = {name: password_in(path) for name, path in handed_out(volumes).items()}
    broker = Secured(host, port, passwords)
    clients = {name: Client(broker, name) for name in passwords}
    try:
        clients["operator"].subscribe(f"{root(FLEET)}/#")
        clients["cloud"].subscribe(f"{root(FLEET)}/{BIRTH.filter}")
        for node in NODES:
            clients[node].subscribe(f"{root(FLEET)}/node/{node}/down/#")
            born = f"{node} is born".encode()
            assert clients[node].publish(f"{root(FLEET)}/{BIRTH.at(node=node)}", born, retain=True) < 0x80
            clients["cloud"].wait_for(born)
            clients["operator"].wait_for(born)
            wanted = f"for {node}".encode()
            assert (
                clients["cloud"].publish(f"{root(FLEET)}/{DESIRED.at(node=node)}", wanted, retain=True) < 0x80
            )
            clients[node].wait_for(wanted)
        assert clients["edge-1"].publish(f"{root(FLEET)}/{BIRTH.at(node='edge-2')}", b"forged") >= 0x80
        assert [body for _, body in clients["edge-1"].arrived] == [b"for edge-1"]
        assert Client(broker, "edge-1", password=passwords["edge-2"], client_id="thief").refused
    finally:
        for client in clients.values():
            client.close()


def handed_out(volumes: Path) -> dict[str, Path]:
    return {
        "cloud": volumes / "cloud" / "cloud.toml",
        "operator": volumes / "operator" / "operator.toml",
        **{node: volumes / node / "edge.toml" for node in NODES},
    }


def password_in(path: Path) -> str:
    return tomllib.loads(path.read_text())["broker"]["password"]


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    prepared(tmp_path / "volumes")
    return tmp_path / "volumes"


def prepared(volumes: Path) -> None:
    """What the service ``prepare`` does."""
    source = importlib.util.spec_from_file_location("prepare", ROOT / "docker" / "prepare.py")
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    for name in ("broker", "cloud", "operator", *NODES):
        (volumes / name).mkdir(parents=True, exist_ok=True)
    module.prepare(volumes, "mqtt://mosquitto:1883", NODES)


def test_every_container_gets_its_own_secrets_and_no_others(volumes: Path) -> None:
    passwords = {name: password_in(path) for name, path in handed_out(volumes).items()}
    for name, path in handed_out(volumes).items():
        told = "".join(file.read_text(errors="replace") for file in path.parent.rglob("*") if file.is_file())
        assert [other for other, password in passwords.items() if password in told] == [name]
        assert path.stat().st_mode & 0o077 == 0
    assert [file.name for file in (volumes / "broker").iterdir()] == [PASSWORDS]
    assert not any(
        password in (volumes / "broker" / PASSWORDS).read_text() for password in passwords.values()
    )


def test_preparing_again_keeps_keys_and_passwords(volumes: Path) -> None:
    files = {file: file.read_bytes() for file in volumes.rglob("*") if file.is_file()}
    prepared(volumes)
    assert {file: file.read_bytes() for file in volumes.rglob("*") if file.is_file()} == files


def test_everybody_who_has_a_password_has_access_rules(volumes: Path) -> None:
    """Mosquitto grants a user without rules what any device has: nothing of use to who is none."""
    roles = parse_roles((volumes / "workspace" / "credentials" / ROLES).read_text())
    known = (ROOT / "docker" / "mosquitto" / "acl").read_text().splitlines()
    others = {name for name, role in roles.items() if role is not Role.DEVICE}
    assert {name for name in others if f"user {name}" not in known} == set()


def test_what_the_compose_file_mounts_and_builds_exists() -> None:
    services, volumes = compose()["services"], compose()["volumes"]
    assert set(services) == {"prepare", "mosquitto", "cloud", "shoal", *NODES}
    assert services["mosquitto"]["image"] == IMAGE
    for service in services.values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith(".") else source in volumes, mount
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert all(node in " ".join(services["prepare"]["command"]) for node in NODES)


def test_compose_itself_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip("the compose plugin of the docker command is not installed here")
    subprocess.run([docker, "compose", "config", "--quiet"], cwd=ROOT, check=True, timeout=60)


@contextmanager
def debian_mosquitto(volumes: Path) -> Iterator[tuple[str, int]]:
    """The committed configuration, with the paths and the port of this machine in it."""
    port, data = free_port(), volumes / "broker-data"
    data.mkdir()
    path = volumes / "mosquitto.conf"
    of = Mosquitto(
        passwords=str(volumes / "broker" / PASSWORDS),
        access=str(ROOT / "docker" / "mosquitto" / "acl"),
        data=str(data),
        host="127.0.0.1",
        port=port,
    )
    path.write_text("user root\n" + configuration(of))
    with (
        open(volumes / "log", "w") as log,
        subprocess.Popen(["mosquitto", "-c", path], stderr=log) as process,
    ):
        try:
            await_port(port, process)
            yield "127.0.0.1", port
        finally:
            process.terminate()


@pytest.mark.mosquitto
def test_the_prepared_fleet_meets_on_debians_mosquitto(volumes: Path) -> None:
    with debian_mosquitto(volumes) as (host, port):
        scenario(host, port, volumes)


def test_the_prepared_fleet_meets_on_mosquitto_in_a_container(volumes: Path) -> None:
    docker = pytest.importorskip("docker", reason="the docker client of testcontainers is not installed")
    try:
        docker.from_env(timeout=5).ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine answers here: {error}")
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    (volumes / "broker").chmod(0o755)
    (volumes / "broker" / PASSWORDS).chmod(0o644)  # the container's user is not ours
    container = (
        DockerContainer(IMAGE)
        .with_exposed_ports(1883)
        .with_volume_mapping(ROOT / "mosquitto.conf", "/mosquitto/config/mosquitto.conf")
        .with_volume_mapping(ROOT / "docker" / "mosquitto" / "acl", "/mosquitto/config/acl")
        .with_volume_mapping(volumes / "broker", "/mosquitto/secrets")
    )
    with container:
        wait_for_logs(container, "running", timeout=60)
        scenario(container.get_container_host_ip(), int(container.get_exposed_port(1883)), volumes)
