"""What only a real broker can do to us: die, refuse, demand certificates, and speak nonsense."""

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.embedded import AllowAll, BrokerConfig, EmbeddedBroker
from broker.tls import Identity, client_context, issue, make_ca
from tests.contract.worlds import NetworkWorld, ended, maker, settled, until
from tests.support.mosquitto import PLAIN, Mosquitto

both = pytest.mark.parametrize("kind", ["native", "aiomqtt"])


@both
def test_a_killed_broker_comes_back_and_nothing_was_forgotten(kind, tmp_path, caplog):
    broker = Mosquitto(tmp_path).start()

    async def scenario():
        async with ended(NetworkWorld(maker(kind), broker.port)) as world:
            receiver, sender, got = world.bus(), world.bus(), []
            receiver.subscribe(["k/#"], got.append)
            await world.connect(receiver)
            await world.connect(sender)
            broker.kill()
            await until(lambda: not sender.link.up and not receiver.link.up)
            for number in range(3):
                assert sender.publish("k/x", str(number).encode(), qos=1)
            await asyncio.sleep(0.1)  # some attempts fail
            broker.start()
            await until(lambda: receiver.link.up)
            await sender.drained()
            await settled(receiver)
            assert {one.payload for one in got} <= {b"0", b"1", b"2"}
            sender.publish("k/x", b"after", qos=1)
            await until(lambda: got and got[-1].payload == b"after")
            assert receiver.stats.reconnects >= 1

    try:
        asyncio.run(scenario())
    finally:
        broker.stop()
    assert "next attempt in" in caplog.text


@both
def test_a_wrong_password_is_named_as_the_reason(kind, tmp_path, caplog):
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    strict = PLAIN.replace("allow_anonymous true", "allow_anonymous false") + f"password_file {passwords}\n"
    broker = Mosquitto(tmp_path, strict).start()

    async def scenario():
        async with ended(NetworkWorld(maker(kind), broker.port)) as world:
            bus = world.bus(username="n1", password="wrong")
            task = asyncio.create_task(bus.run())
            await until(lambda: bus.link.reason)
            assert "not authorized" in bus.link.reason.lower()
            assert not bus.link.up
            await bus.close()
            await task

    try:
        with caplog.at_level(logging.WARNING):
            asyncio.run(scenario())
    finally:
        broker.stop()
    assert "not authorized" in caplog.text.lower()


def test_a_refused_subscription_is_an_error_in_the_log_and_in_the_link(tmp_path, caplog):
    class NoSecrets(AllowAll):
        unconditional = False

        def may_subscribe(self, *arguments: object) -> bool:
            return not any("secret" in str(one) for one in arguments)

    async def scenario():
        async with (
            EmbeddedBroker(BrokerConfig(host="127.0.0.1", port=0), authorize=NoSecrets()) as broker,
            ended(NetworkWorld(maker("native"), broker.port)) as world,
        ):
            bus, got = world.bus(), []
            bus.subscribe(["secret/#", "secret/+", "open/+"], got.append)
            await world.connect(bus)
            assert "secret" in bus.link.reason
            bus.publish("secret/x", b"1", qos=1)
            bus.publish("open/x", b"2", qos=1)
            await settled(bus)
            assert [one.payload for one in got] == [b"2"]

    asyncio.run(scenario())
    assert "refused the subscription 'secret/#'" in caplog.text


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca, server, node-1, and an authority that nobody trusts."""
    folder, now = tmp_path_factory.mktemp("certificates"), datetime.now(UTC)
    ca = make_ca("test authority", now)
    ca.write(folder, "ca")
    issue(ca, "broker", now, hosts=["127.0.0.1", "localhost"]).write(folder, "server")
    issue(ca, "node-1", now).write(folder, "node-1")
    stranger = make_ca("stranger", now)
    stranger.write(folder, "stranger-ca")
    issue(stranger, "node-1", now).write(folder, "stranger")
    return folder


def tls_listener(folder: Path, *, mutual: bool) -> str:
    lines = [f"cafile {folder}/ca.crt", f"certfile {folder}/server.crt", f"keyfile {folder}/server.key"]
    if mutual:
        lines += ["require_certificate true", "use_identity_as_username true"]
    return "\n".join(lines)


@both
def test_tls_carries_messages_and_a_stranger_is_not_believed(kind, tmp_path, certificates):
    broker = Mosquitto(tmp_path, listener=tls_listener(certificates, mutual=False)).start()

    async def scenario():
        async with ended(NetworkWorld(maker(kind), broker.port)) as world:
            bus, got = world.bus(tls=client_context(certificates / "ca.crt")), []
            bus.subscribe(["t/x"], got.append)
            await world.connect(bus)
            bus.publish("t/x", b"x" * 200_000, qos=1)
            await until(lambda: got)
            assert len(got[0].payload) == 200_000

            wary = world.bus(tls=client_context(certificates / "stranger-ca.crt"))
            task = asyncio.create_task(wary.run())
            await until(lambda: wary.link.reason)
            assert "certificate" in wary.link.reason.lower()
            await wary.close()
            await task

    try:
        asyncio.run(scenario())
    finally:
        broker.stop()


@both
def test_with_mutual_tls_the_name_in_the_certificate_is_the_user(kind, tmp_path, certificates):
    (tmp_path / "acl").write_text("pattern readwrite shoal/1/+/node/%u/#\n")
    (tmp_path / "acl").chmod(0o600)
    configuration = f"{PLAIN}\nacl_file {tmp_path}/acl\n"
    broker = Mosquitto(tmp_path, configuration, tls_listener(certificates, mutual=True)).start()

    def context(name: str) -> object:
        pair = certificates / f"{name}.crt", certificates / f"{name}.key"
        return client_context(certificates / "ca.crt", *pair)

    async def scenario():
        async with ended(NetworkWorld(maker(kind), broker.port)) as world:
            bus, got = world.bus(tls=context("node-1")), []
            bus.subscribe(["node/+/up"], got.append)
            await world.connect(bus)
            bus.publish("node/node-2/up", b"not mine", qos=1)
            bus.publish("node/node-1/up", b"mine", qos=1)
            await until(lambda: got)
            assert [one.payload for one in got] == [b"mine"]

            stranger = world.bus(tls=context("stranger"))
            task = asyncio.create_task(stranger.run())
            await until(lambda: stranger.link.reason)
            assert not stranger.link.up
            await stranger.close()
            await task

    try:
        asyncio.run(scenario())
    finally:
        broker.stop()


def test_identities_are_written_for_their_owner_only(tmp_path):
    identity = make_ca("test", datetime.now(UTC))
    assert isinstance(identity, Identity)
    certificate, key = identity.write(tmp_path / "new", "ca")
    assert certificate.read_bytes() == identity.certificate
    assert key.stat().st_mode & 0o777 == 0o600
