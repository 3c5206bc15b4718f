"""The embedded broker in its own process, and clients nobody here wrote: paho, over TCP and mutual TLS."""

import asyncio
import ipaddress
import queue
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.embedded import BrokerConfig, EmbeddedBroker

DEADLINE_S = 15.0

SERVER = """
import asyncio, ssl, sys
import uvloop
from broker.embedded import BrokerConfig, EmbeddedBroker

async def main() -> None:
    context = None
    if len(sys.argv) > 1:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1] + "/server.pem")
        context.load_verify_locations(sys.argv[1] + "/authority.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    rules = OwnTopicOnly() if context else None
    config = BrokerConfig(port=0, tls=context, certificate_is_username=context is not None)
    async with EmbeddedBroker(config, authorize=rules) as broker:
        print(broker.port, flush=True)
        await asyncio.Event().wait()

class OwnTopicOnly:
    unconditional = False
    def may_publish(self, identity, topic, retain):
        return topic == f"from/{identity.username}"
    def may_subscribe(self, identity, filter):
        return True
    def may_receive(self, identity, topic):
        return True

uvloop.run(main())
"""


@dataclass
class PahoClient:
    """paho with its callbacks turned into queues."""

    client: paho.Client
    messages: "queue.Queue[paho.MQTTMessage]"
    acknowledged: "queue.Queue[int]"

    def message(self) -> paho.MQTTMessage:
        return self.messages.get(timeout=DEADLINE_S)

    def publish(self, topic: str, payload: bytes, qos: int = 0, **properties: Any) -> None:
        self.client.publish(topic, payload, qos=qos, **properties).wait_for_publish(DEADLINE_S)

    def subscribe(self, topic_filter: str, qos: int = 2, **options: Any) -> None:
        self.client.subscribe(topic_filter, options=SubscribeOptions(qos=qos, **options))
        self.acknowledged.get(timeout=DEADLINE_S)

    def leave(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def vanish(self) -> None:
        """The network is gone: no DISCONNECT, no reconnect."""
        self.client.loop_stop()
        sock = self.client.socket()
        assert sock is not None
        sock.close()


def connect(
    port: int,
    client_id: str,
    clean: bool = True,
    expiry_s: int = 0,
    tls: ssl.SSLContext | None = None,
    **will: Any,
) -> PahoClient:
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
    ours = PahoClient(client, queue.Queue(), queue.Queue())
    connected: queue.Queue[ReasonCode] = queue.Queue()
    client.on_connect = lambda c, u, flags, reason, properties: connected.put(reason)
    client.on_message = lambda c, u, message: ours.messages.put(message)
    client.on_subscribe = lambda c, u, packet_id, reasons, properties: ours.acknowledged.put(packet_id)
    if tls is not None:
        client.tls_set_context(tls)
    if will:
        client.will_set(**will)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = expiry_s
    client.connect("127.0.0.1", port, keepalive=30, clean_start=clean, properties=properties)
    client.loop_start()
    assert not connected.get(timeout=DEADLINE_S).is_failure
    return ours


@pytest.fixture
def port() -> Iterator[int]:
    yield from serve()


def serve(*arguments: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", SERVER, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        assert process.poll() is None, "the broker is still alive"
    finally:
        process.kill()
        process.wait()


def test_paho_publishes_and_subscribes_at_every_qos(port: int) -> None:
    subscriber, publisher = connect(port, "s"), connect(port, "p")
    subscriber.subscribe("a/+")
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("k", "v")]
    properties.ResponseTopic = "answers"
    properties.CorrelationData = b"7"
    for qos in range(3):
        publisher.publish("a/b", b"%d" % qos, qos, properties=properties)
        message = subscriber.message()
        assert (message.payload, message.qos, message.retain) == (b"%d" % qos, qos, False)
        assert message.properties is not None
        assert message.properties.UserProperty == [("k", "v")]
        assert (message.properties.ResponseTopic, message.properties.CorrelationData) == ("answers", b"7")
    publisher.leave()
    subscriber.leave()


def test_paho_finds_retained_messages_and_clears_them(port: int) -> None:
    publisher = connect(port, "p")
    publisher.publish("r/1", b"kept", qos=1, retain=True)
    reader = connect(port, "s")
    reader.subscribe("r/#")
    message = reader.message()
    assert (message.payload, message.retain) == (b"kept", True)
    publisher.publish("r/1", b"", qos=1, retain=True)
    assert reader.message().payload == b""
    late = connect(port, "t")
    late.subscribe("r/#")
    publisher.publish("r/2", b"fence", qos=1)
    assert late.message().payload == b"fence"
    for client in (publisher, reader, late):
        client.leave()


def test_paho_comes_back_to_a_session_with_what_it_missed(port: int) -> None:
    client = connect(port, "c", clean=False, expiry_s=60)
    client.subscribe("q", qos=2)
    client.leave()
    publisher = connect(port, "p")
    for number in range(50):
        publisher.publish("q", b"%d" % number, qos=1 + number % 2)
    client = connect(port, "c", clean=False, expiry_s=60)
    missed = [client.message() for _ in range(50)]
    for qos in (1, 2):  # paho hands a QoS 2 message over at its PUBREL, so the two may interleave
        assert [int(m.payload) for m in missed if m.qos == qos] == list(range(qos - 1, 50, 2))
    publisher.leave()
    client.leave()


def test_a_paho_client_that_vanishes_leaves_its_will(port: int) -> None:
    mourner = connect(port, "m")
    mourner.subscribe("w")
    connect(port, "c", topic="w", payload=b"gone", qos=1).vanish()
    assert mourner.message().payload == b"gone"
    mourner.leave()


def test_paho_receives_a_large_message_whole(port: int) -> None:
    client = connect(port, "c")
    client.subscribe("big")
    payload = bytes(range(256)) * 4000
    client.publish("big", payload, qos=2)
    assert client.message().payload == payload
    client.leave()


def test_an_older_paho_is_refused_without_a_hang(port: int) -> None:
    """It tries 3.1.1, understands the refusal, tries 3.1, and gives up."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, "old", protocol=paho.MQTTv311)
    reasons: queue.Queue[ReasonCode] = queue.Queue()
    client.on_connect = lambda c, u, flags, reason, properties: reasons.put(reason)
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert str(reasons.get(timeout=DEADLINE_S)) == "Unsupported protocol version"
    client.loop_stop()


def test_fifty_clients_hear_one_publisher_and_leave_no_trace() -> None:
    async def story() -> None:
        async with EmbeddedBroker(BrokerConfig(port=0)) as broker:
            loop = asyncio.get_running_loop()
            clients = await loop.run_in_executor(
                None, lambda: [connect(broker.port, f"c{n}") for n in range(50)]
            )
            await loop.run_in_executor(None, lambda: [client.subscribe("all") for client in clients])
            await loop.run_in_executor(None, clients[0].publish, "all", b"x", 2)
            payloads = await loop.run_in_executor(
                None, lambda: [client.message().payload for client in clients]
            )
            assert payloads == [b"x"] * 50
            await loop.run_in_executor(None, lambda: [client.leave() for client in clients])
            deadline = time.monotonic() + DEADLINE_S
            while broker.stats.sessions and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            assert (broker.stats.sessions, broker.stats.subscriptions) == (0, 0)

    asyncio.run(story())


# --- mutual TLS -----------------------------------------------------------------------------------------


def test_a_client_certificate_names_the_user(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    for name in ("server", "alice", "bob"):
        authority.issue(name)
    for port in serve(str(tmp_path)):
        alice, bob = (
            connect(port, "a", tls=authority.context("alice")),
            connect(port, "b", tls=authority.context("bob")),
        )
        bob.subscribe("from/#")
        alice.publish("from/bob", b"forged", qos=1)
        alice.publish("from/alice", b"true", qos=1)
        assert bob.message().payload == b"true"
        alice.leave()
        bob.leave()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            say_hello_without_certificate(port, authority)


def say_hello_without_certificate(port: int, authority: "Authority") -> None:
    """TLS 1.3 reports a missing client certificate with the first bytes read, not while shaking hands."""
    context = ssl.create_default_context(cafile=str(authority.folder / "authority.pem"))
    plain = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
        sock.sendall(b"\x10\x0d\0\4MQTT\5\2\0\0\0\0\0")
        if not sock.recv(1):
            raise ConnectionError("cut")


class Authority:
    """Signs certificates and keeps each in one PEM file with its key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        certificate = self._sign("test authority", self.key.public_key(), ca=True)
        (folder / "authority.pem").write_bytes(certificate)

    def issue(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / f"{name}.pem").write_bytes(pem + self._sign(name, key.public_key(), ca=False))

    def context(self, name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "authority.pem"))
        context.load_cert_chain(self.folder / f"{name}.pem")
        return context

    def _sign(self, name: str, public_key: ec.EllipticCurvePublicKey, ca: bool) -> bytes:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
        )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
