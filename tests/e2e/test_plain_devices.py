"""Devices that know nothing of Shoal: plain MQTT clients with JSON, and one with the reference msgpack."""

import asyncio
import json
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.publish import single

from broker.credentials import Credentials, enrol
from cloud.local.processes import LocalFleet, LocalProcess
from shared.topics import TELEMETRY, root
from tests.e2e.fleets import on_mosquitto, until
from tests.integration.secured import Client, Secured

pytestmark = pytest.mark.timeout(150)

EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_device.py"
HOST, FLEET, LISTEN_S_MAX = "127.0.0.1", "main", 30.0
SENSOR, OTHER = "sensor-1", "sensor-2"
BROKERS = ("embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto))

# What `shoal watch` makes of what a sensor says: a plain object is a batch of one sample of unknown time.
UNDERSTOOD = [
    {"epoch": 0, "first": 0, "samples": [{"at_unix_s": 0.0, "values": {"celsius": 21.5}}]},
    {"epoch": 7, "first": 40, "samples": [{"at_unix_s": 1.5, "values": {"celsius": 22.5}}]},
    {"epoch": 0, "first": 0, "samples": [{"at_unix_s": 0.0, "values": {"celsius": 23.5, "open": 1.0}}]},
]


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    return request.param


def fleet_on(broker: str, folder: Path, *devices: str) -> LocalFleet:
    """A cloud, and devices that are enrolled and otherwise not ours."""
    local = LocalFleet(folder, {})
    for node in devices:
        password = enrol(Credentials(local.workspace.credentials_dir), node).password
        password_file(local, node).write_text(password)
    return on_mosquitto(local) if broker == "mosquitto" else local


def password_file(local: LocalFleet, node: str) -> Path:
    return local.workspace.folder / f"{node}.password"


def shoal(local: LocalFleet, *command: str) -> list[str]:
    """The command line of the operator, ready to be run."""
    config = str(local.workspace.config("operator"))
    return [sys.executable, "-m", "cloud.cli", *command, "--json", "--config", config]


# Telemetry ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sensor:
    """One device and the ways in which it may speak. ``speaks_3_1_1``: its broker understands that, too."""

    port: int
    password: str
    speaks_3_1_1: bool

    @property
    def says(self) -> list[str]:
        """What is said, once in each way."""
        said = ['{"celsius": 21.5}', '{"epoch": 7, "first": 40, "samples": [[1.5, {"celsius": 22.5}]]}']
        return [*said, '{"celsius": 23.5, "open": true}'] if self.speaks_3_1_1 else said

    def speak(self) -> None:
        """Everything once, one after the other."""
        flat, batch, *old = self.says
        login = ["-h", HOST, "-p", str(self.port), "-u", SENSOR, "-P", self.password, "-V", "mqttv5"]
        command = ["mosquitto_pub", *login, "-i", "anything", "-q", "1", "-t", topic_of(SENSOR), "-m", flat]
        subprocess.run(command, check=True, timeout=10)
        self._by_paho(SENSOR, batch, paho.MQTTv5)
        for said in old:
            self._by_paho(SENSOR, said, paho.MQTTv311)

    def forge(self) -> None:
        """In another's name: refused where the protocol can say so, and heard by nobody in any case."""
        liar = Client(Secured(HOST, self.port, {SENSOR: self.password}), SENSOR)
        assert liar.publish(topic_of(OTHER), b'{"celsius": 99}') >= 0x80
        liar.close()
        if self.speaks_3_1_1:
            self._by_paho(OTHER, '{"celsius": 99}', paho.MQTTv311)

    def _by_paho(self, node: str, said: str, protocol: paho.MQTTProtocolVersion) -> None:
        login: Any = {"username": SENSOR, "password": self.password}
        single(topic_of(node), said, 1, hostname=HOST, port=self.port, auth=login, protocol=protocol)


def topic_of(node: str) -> str:
    return f"{root(FLEET)}/{TELEMETRY.at(node=node, stream='room')}"


def heard_by(command: Sequence[str], sensor: Sensor) -> list[str]:
    """The lines of a listener that ends after as many messages as there are ways to speak.

    When it has subscribed we can't know. So everything is said over and over: whichever message it hears
    first, so many in a row are one of each, unless it hears a forgery.
    """
    listener = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + LISTEN_S_MAX
        while listener.poll() is None and time.monotonic() < deadline:
            sensor.forge()
            sensor.speak()
        heard, _ = listener.communicate(timeout=10)
    finally:
        listener.kill()
    assert listener.returncode == 0
    return heard.splitlines()


def test_json_telemetry_of_any_mqtt_client_is_heard_and_a_forgery_is_not(broker, tmp_path):
    async def story():
        local = fleet_on(broker, tmp_path, SENSOR, OTHER)
        await local.broker.start()
        try:
            await local.listening(local.broker, local.port)
            sensor = Sensor(local.port, password_file(local, SENSOR).read_text(), broker == "mosquitto")
            await asyncio.to_thread(listen, local, sensor)
        finally:
            await local.broker.stop()

    def listen(local: LocalFleet, sensor: Sensor) -> None:
        count, anybody = str(len(sensor.says)), TELEMETRY.filter
        secret = operator_password(local)
        login = ["-h", HOST, "-p", str(local.port), "-u", "operator", "-P", secret, "-V", "mqttv5"]
        command = ["mosquitto_sub", *login, "-q", "1", "-C", count, "-F", "%t %p"]
        lines = heard_by([*command, "-t", f"{root(FLEET)}/{anybody}"], sensor)
        assert sorted(lines) == sorted(f"{topic_of(SENSOR)} {said}" for said in sensor.says)

        lines = [json.loads(line) for line in heard_by(shoal(local, "watch", anybody, "-n", count), sensor)]
        assert {line["topic"] for line in lines} == {f"node/{SENSOR}/up/telemetry/room"}
        heard = sorted((line["message"] for line in lines), key=str)
        assert heard == sorted(UNDERSTOOD[: len(lines)], key=str)

    asyncio.run(story())


def operator_password(local: LocalFleet) -> str:
    return tomllib.loads(local.workspace.config("operator").read_text())["broker"]["password"]


# A device of one's own ----------------------------------------------------------------------------------


def test_a_device_of_a_few_lines_is_listed_answers_and_is_missed(broker, tmp_path):
    async def story():
        local = fleet_on(broker, tmp_path, "plain-1")
        address, secret = f"{HOST}:{local.port}", password_file(local, "plain-1")
        command = (sys.executable, str(EXAMPLE), address, "plain-1", str(secret))
        device = LocalProcess("plain-1", command, tmp_path / "plain-1.log")

        async def told(*command: str) -> subprocess.CompletedProcess[str]:
            asked = shoal(local, *command)
            return await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True, timeout=30)

        async def doubled(numbers: np.ndarray) -> subprocess.CompletedProcess[str]:
            np.save(tmp_path / "x.npy", numbers)
            return await told("infer", "double", "--input", str(tmp_path / "x.npy"))

        async def wait_for(what: str, status: str) -> None:
            async def it_is() -> bool:
                nonlocal listed
                listed = await told("nodes")
                nodes = json.loads(listed.stdout) if listed.returncode == 0 else []
                return [(node["node"], node["status"]) for node in nodes] == [("plain-1", status)]

            listed: object = None
            try:
                await until(what, it_is)
            except AssertionError as error:
                error.add_note(f"listed last: {listed}\nthe device said: {device.tail()}")
                raise

        async with local:
            await local.listening(local.cloud, local.http_port)
            await device.start()
            try:
                await wait_for("it is listed as idle", "idle")
                good = await doubled(np.array([[1, 2], [3, -4]], np.float32))
                assert json.loads(good.stdout)["node"] == "plain-1"
                assert json.loads(good.stdout)["outputs"] == [[[2, 4], [6, -8]]]
                bad = await doubled(np.array([1], np.int8))
                assert "double takes a float32 array" in bad.stderr
            finally:
                device.signal(signal.SIGKILL)
                await device.wait()
            await wait_for("its will, or its silence, is noticed", "offline")

    asyncio.run(story())
