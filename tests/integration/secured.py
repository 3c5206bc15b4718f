"""Both brokers as they are run in production: generated files, passwords, access rules. And a plain client.

Every principal has its password in one directory, read by whichever broker is started.
"""

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.acl import Access, Role
from broker.credentials import PASSWORDS, Credentials
from broker.embedded import BrokerConfig, EmbeddedBroker
from broker.mosquitto import Mosquitto, access_file, configuration

FLEET = "main"
WAIT_S = 10.0


@dataclass(frozen=True)
class Secured:
    """A running broker and everybody's password."""

    host: str
    port: int
    passwords: Mapping[str, str]


def enrolled(directory: Path, principals: Mapping[str, Role]) -> tuple[Credentials, dict[str, str]]:
    credentials = Credentials(directory)
    return credentials, {name: credentials.add(name, role) for name, role in principals.items()}


@contextmanager
def mosquitto(directory: Path, principals: Mapping[str, Role]) -> Iterator[Secured]:
    """Mosquitto with the generated configuration; only its user and its log differ."""
    credentials, passwords = enrolled(directory / "secrets", principals)
    port = free_port()
    (directory / "data").mkdir()
    of = Mosquitto(
        passwords=str(credentials.directory / PASSWORDS),
        access=str(directory / "acl"),
        data=str(directory / "data"),
        host="127.0.0.1",
        port=port,
    )
    path = directory / "mosquitto.conf"
    path.write_text("user root\n" + configuration(of))
    (directory / "acl").write_text(access_file(FLEET, principals))
    with (
        open(directory / "log", "w") as log,
        subprocess.Popen(["mosquitto", "-c", path], stderr=log) as process,
    ):
        try:
            await_port(port, process)
            yield Secured("127.0.0.1", port, passwords)
        finally:
            process.terminate()
            process.wait(WAIT_S)


@contextmanager
def embedded(directory: Path, principals: Mapping[str, Role]) -> Iterator[Secured]:
    """The broker that comes with the platform, on an event loop of its own."""
    credentials, passwords = enrolled(directory / "secrets", principals)
    broker = EmbeddedBroker(
        BrokerConfig(port=0), authenticate=credentials, authorize=Access(FLEET, credentials.roles)
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="embedded broker")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(broker.start(), loop).result(WAIT_S)
        yield Secured("127.0.0.1", broker.port, passwords)
    finally:
        asyncio.run_coroutine_threadsafe(broker.stop(), loop).result(WAIT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the broker ended at once; see its log"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port}")


class Client:
    """One connection of one principal: says, hears, and remembers everything that arrived."""

    def __init__(
        self,
        broker: Secured,
        user: str,
        *,
        client_id: str = "",
        password: str | None = None,
        will: tuple[str, bytes, bool] | None = None,
    ) -> None:
        self.user = user
        self.refused: str | None = None
        self.arrived: list[tuple[str, bytes]] = []
        self._changed = threading.Condition()
        self._connected = False
        self._answers: dict[int, int] = {}
        self._mqtt = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id or user,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        self._mqtt.username_pw_set(user, broker.passwords.get(user, "none") if password is None else password)
        self._mqtt.on_connect = self._on_connect
        self._mqtt.on_disconnect = self._on_disconnect
        self._mqtt.on_message = self._on_message
        self._mqtt.on_publish = lambda *a: self._answered(a[2], a[3].value)
        self._mqtt.on_subscribe = lambda *a: self._answered(a[2], a[3][0].value)
        self._mqtt.on_unsubscribe = lambda *a: self._answered(a[2], 0)
        self._mqtt.on_socket_open = lambda *a: a[2].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if will is not None:
            self._mqtt.will_set(will[0], will[1], qos=1, retain=will[2])
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 0
        self._mqtt.connect(broker.host, broker.port, keepalive=30, clean_start=True, properties=session)
        self._mqtt.loop_start()
        self._wait(lambda: self._connected or self.refused is not None, f"{user}: no CONNACK")

    @property
    def connected(self) -> bool:
        return self._connected

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Publish with QoS 1; the reason code of the PUBACK."""
        return self._answer(self._mqtt.publish(topic, payload, qos=1, retain=retain).mid)

    def subscribe(self, filter: str) -> int:
        """The reason code of the SUBACK; 0x80 and above: refused."""
        return self._answer(self._mqtt.subscribe(filter, qos=1)[1])

    def unsubscribe(self, filter: str) -> None:
        self._answer(self._mqtt.unsubscribe(filter)[1])

    def wait_for(self, payload: bytes) -> None:
        self._wait(lambda: self.heard(payload), f"{self.user} never heard {payload!r}")

    def heard(self, payload: bytes) -> bool:
        return any(body == payload for _, body in self.arrived)

    def cut(self) -> None:
        """Drop the connection without a DISCONNECT, as a crash would: the will fires."""
        sock = self._mqtt.socket()
        assert sock is not None
        sock.shutdown(socket.SHUT_RDWR)
        self._wait(lambda: not self._connected, "the connection still stands")
        self._mqtt.loop_stop()

    def close(self) -> None:
        self._mqtt.disconnect()
        self._mqtt.loop_stop()

    def _answer(self, mid: int | None) -> int:
        assert mid is not None
        self._wait(lambda: mid in self._answers or not self._connected, f"{self.user}: no acknowledgement")
        return self._answers.pop(mid, 0x80)

    def _wait(self, condition, complaint: str) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_S), complaint

    def _answered(self, mid: int, code: int) -> None:
        with self._changed:
            self._answers[mid] = code
            self._changed.notify_all()

    def _on_connect(self, client, userdata, flags, reason, properties) -> None:
        with self._changed:
            self._connected = not reason.is_failure
            self.refused = str(reason) if reason.is_failure else None
            self._changed.notify_all()

    def _on_disconnect(self, client, userdata, flags, reason, properties) -> None:
        with self._changed:
            self._connected = False
            self._changed.notify_all()

    def _on_message(self, client, userdata, message) -> None:
        with self._changed:
            self.arrived.append((message.topic, message.payload))
            self._changed.notify_all()
