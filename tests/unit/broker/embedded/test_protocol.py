"""What a client may not say, and the reason code it gets for it: one row per rule."""

import mqtt5
import pytest

from broker.embedded import EmbeddedBroker
from broker.embedded.connection import _decode
from broker.embedded.wire import Fault, fixed_header
from tests.unit.broker.embedded.client import Client, with_broker


def connect(
    flags: int = 0x02,
    name: bytes = b"MQTT",
    version: int = 5,
    properties: bytes = b"\0",
    payload: bytes = b"\0\1c",
    first: int = 0x10,
) -> bytes:
    body = len(name).to_bytes(2, "big") + name + bytes([version, flags, 0, 0]) + properties + payload
    return bytes([first, len(body)]) + body


REFUSED_CONNECTS = {
    "reserved connect flag": (connect(flags=0x03), 0x81),
    "will qos 3": (connect(flags=0x1E, payload=b"\0\1c\0\0\1t\0\0"), 0x81),
    "will qos without will": (connect(flags=0x0A), 0x81),
    "will retain without will": (connect(flags=0x22), 0x81),
    "fixed header flags": (connect(first=0x11), 0x81),
    "bytes after the end": (connect(payload=b"\0\1cxx"), 0x81),
    "client id not utf-8": (connect(payload=b"\0\2\xff\xfe"), 0x81),
    "surrogate in client id": (connect(payload=b"\0\3\xed\xa0\x80"), 0x81),
    "null in client id": (connect(payload=b"\0\1\0"), 0x81),
    "receive maximum 0": (connect(properties=b"\3\x21\0\0"), 0x82),
    "packet size 0": (connect(properties=b"\5\x27\0\0\0\0"), 0x82),
    "a property twice": (connect(properties=b"\6\x21\0\1\x21\0\1"), 0x82),
    "a property of another packet": (connect(properties=b"\2\x01\0"), 0x81),
    "request problem information 2": (connect(properties=b"\2\x17\2"), 0x82),
    "authentication data without method": (connect(properties=b"\4\x16\0\1x"), 0x82),
    "authentication method": (connect(properties=b"\4\x15\0\1x"), 0x8C),
    "will topic with wildcard": (connect(flags=0x06, payload=b"\0\1c\0\0\1#\0\0"), 0x82),
    "will topic empty": (connect(flags=0x06, payload=b"\0\1c\0\0\0\0\0"), 0x82),
    "will response topic with wildcard": (
        connect(flags=0x06, payload=b"\0\1c\4\x08\0\1+\0\1t\0\0"),
        0x82,
    ),
    "will payload format 9": (connect(flags=0x06, payload=b"\0\1c\2\x01\x09\0\1t\0\0"), 0x82),
    "too large by its header": (b"\x10\xff\xff\xff\x7f", 0x95),
    "length of five bytes": (b"\x10\xff\xff\xff\xff\x01", 0x81),
    "version 6": (connect(version=6), 0x84),
    "version 0": (connect(version=0), 0x84),
}

CUT_CONNECTS = {
    "not mqtt": connect(name=b"HTTP"),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "publish first": mqtt5.PublishPacket("a", b"").write(),
    "ping first": b"\xc0\x00",
    "packet type 0": b"\x00\x00",
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00",
}

FAULTS = {
    "second connect": (connect(), 0x82),
    "packet type 0": (b"\x00\x00", 0x81),
    "connack from a client": (mqtt5.ConnAckPacket().write(), 0x82),
    "pingresp from a client": (b"\xd0\x00", 0x82),
    "suback from a client": (mqtt5.SubAckPacket(1, [mqtt5.SubAckReasonCode(0)]).write(), 0x82),
    "auth": (b"\xf0\x06\x18\x04\x15\x00\x01a", 0x82),
    "short auth": (b"\xf0\x00", 0x82),
    "ping flags": (b"\xc1\x00", 0x81),
    "ping with a body": (b"\xc0\x01\x00", 0x81),
    "overlong length": (b"\xc0\x80\x00", 0x81),
    "length of five bytes": (b"\x30\xff\xff\xff\xff\x01", 0x81),
    "publish qos 3": (b"\x36\x08\0\1a\0\1\0hi", 0x81),
    "publish qos 0 with dup": (b"\x38\x04\0\1a\0", 0x81),
    "publish packet id 0": (b"\x32\x06\0\1a\0\0\0", 0x82),
    "publish qos 2 packet id 0": (b"\x34\x06\0\1a\0\0\0", 0x82),
    "publish topic with wildcard": (b"\x30\x04\0\1#\0", 0x82),
    "publish topic of 202 levels": (b"\x30\xcc\1\0\xc9" + b"/" * 201 + b"\0", 0x90),
    "publish topic with null": (b"\x30\x04\0\1\0\0", 0x81),
    "publish topic not utf-8": (b"\x30\x05\0\2\xc3\x28\0", 0x81),
    "publish without topic": (b"\x30\x03\0\0\0", 0x82),
    "publish alias 0": (b"\x30\x07\0\1a\3\x23\0\0", 0x94),
    "publish alias too large": (b"\x30\x07\0\1a\3\x23\xff\xff", 0x94),
    "publish alias never set": (b"\x30\x06\0\0\3\x23\0\1", 0x82),
    "publish with subscription id": (b"\x30\x06\0\1a\2\x0b\1", 0x82),
    "publish response topic with wildcard": (b"\x30\x08\0\1a\4\x08\0\1#", 0x82),
    "publish response topic empty": (b"\x30\x07\0\1a\3\x08\0\0", 0x82),
    "publish payload format 2": (b"\x30\x06\0\1a\2\x01\2", 0x82),
    "publish content type with null": (b"\x30\x08\0\1a\4\x03\0\1\0", 0x81),
    "publish user property with null": (b"\x30\x0b\0\1a\7\x26\0\1k\0\1\0", 0x81),
    "publish unknown property": (b"\x30\x06\0\1a\2\x7f\1", 0x81),
    "publish property past the properties": (b"\x30\x08\0\1a\2\x08\0\1x", 0x81),
    "publish response topic not utf-8": (b"\x30\x08\0\1a\4\x08\0\1\xff", 0x81),
    "subscribe filter not utf-8": (b"\x82\x07\0\1\0\0\1\xff\0", 0x81),
    "unsubscribe filter not utf-8": (b"\xa2\x06\0\1\0\0\1\xff", 0x81),
    "puback reason not utf-8": (b"\x40\x08\0\1\0\4\x1f\0\1\xff", 0x81),
    "disconnect reason not utf-8": (b"\xe0\x06\0\4\x1f\0\1\xff", 0x81),
    "publish cut short": (b"\x30\x02\0\5", 0x81),
    "subscribe without filter": (b"\x82\x03\0\1\0", 0x82),
    "subscribe packet id 0": (b"\x82\x07\0\0\0\0\1a\0", 0x82),
    "subscribe flags": (b"\x80\x07\0\1\0\0\1a\0", 0x81),
    "subscribe qos 3": (b"\x82\x07\0\1\0\0\1a\3", 0x81),
    "subscribe retain handling 3": (b"\x82\x07\0\1\0\0\1a\x30", 0x82),
    "subscribe reserved option bits": (b"\x82\x0b\0\1\0\0\1a\0\0\1b\x40", 0x81),
    "subscribe id 0": (b"\x82\x09\0\1\2\x0b\0\0\1a\0", 0x82),
    "subscribe two ids": (b"\x82\x0b\0\1\4\x0b\1\x0b\2\0\1a\0", 0x82),
    "subscribe null": (b"\x82\x07\0\1\0\0\1\0\0", 0x81),
    "no-local on a shared subscription": (b"\x82\x10\0\1\0\0\x0a$share/g/a\4", 0x82),
    "unsubscribe without filter": (b"\xa2\x03\0\1\0", 0x82),
    "unsubscribe packet id 0": (b"\xa2\x06\0\0\0\0\1a", 0x82),
    "unsubscribe flags": (b"\xa0\x06\0\1\0\0\1a", 0x81),
    "puback packet id 0": (b"\x40\x02\0\0", 0x82),
    "puback unknown reason": (b"\x40\x03\0\1\x55", 0x81),
    "pubrel flags": (b"\x60\x02\0\1", 0x81),
    "pubrel packet id 0": (b"\x62\x02\0\0", 0x82),
    "disconnect flags": (b"\xe1\x00", 0x81),
    "disconnect unknown reason": (b"\xe0\x01\x05", 0x81),
    "disconnect with expiry after none": (b"\xe0\x07\0\5\x11\0\0\0\5", 0x82),
    "disconnect with server reference": (b"\xe0\x06\0\4\x1c\0\1x", 0x82),
    "too large by its header": (b"\x30\xff\xff\xff\x7f", 0x95),
}


def test_every_refused_connect_is_told_why() -> None:
    @with_broker()
    async def story(broker: EmbeddedBroker) -> None:
        for rule, (data, code) in REFUSED_CONNECTS.items():
            client = await Client.dial(broker)
            await client.send(data)
            seen = await client.closed()
            assert [(type(p), int(p.reason_code)) for p in seen] == [(mqtt5.ConnAckPacket, code)], rule
        assert broker.stats.totals["connections_refused"] == len(REFUSED_CONNECTS)
        assert broker.stats.sessions == 0

    story()


def test_who_does_not_speak_mqtt_is_cut_without_a_word() -> None:
    @with_broker()
    async def story(broker: EmbeddedBroker) -> None:
        for rule, data in CUT_CONNECTS.items():
            client = await Client.dial(broker)
            await client.send(data)
            assert await client.closed() == [], rule

    story()


def test_every_fault_ends_its_own_connection_with_the_right_reason_and_no_other() -> None:
    @with_broker()
    async def story(broker: EmbeddedBroker) -> None:
        witness = await Client.connect(broker, "witness")
        await witness.subscribe("a")
        for number, (rule, (data, code)) in enumerate(FAULTS.items(), start=1):
            client = await Client.connect(broker, f"c{number}")
            await client.send(data)
            assert await client.disconnected() == code, rule
            assert await witness.fence() == [], rule
        assert broker.stats.totals["faults"] == len(FAULTS)
        assert broker.stats.clients_connected == 1

    story()


@pytest.mark.parametrize(("name", "version"), [(b"MQTT", 4), (b"MQIsdp", 3), (b"MQTT", 3)])
def test_an_older_client_is_refused_in_its_own_words(name: bytes, version: int) -> None:
    @with_broker()
    async def story(broker: EmbeddedBroker) -> None:
        client = await Client.dial(broker)
        body = len(name).to_bytes(2, "big") + name + bytes([version, 2, 0, 60]) + b"\0\1c"
        await client.send(bytes([0x10, len(body)]) + body)
        assert await client.raw(4) == b"\x20\x02\x00\x01"
        assert await client.closed() == []

    story()


@with_broker()
async def test_a_packet_may_arrive_byte_by_byte(broker: EmbeddedBroker) -> None:
    client = await Client.dial(broker)
    for byte in connect():
        await client.send(bytes([byte]))
    assert (await client.expect(mqtt5.ConnAckPacket)).reason_code == 0
    for byte in mqtt5.PublishPacket("a", b"x" * 200, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=7).write():
        await client.send(bytes([byte]))
    assert (await client.expect(mqtt5.PubAckPacket)).packet_id == 7


@with_broker()
async def test_everything_may_arrive_at_once(broker: EmbeddedBroker) -> None:
    client = await Client.dial(broker)
    flood = [
        mqtt5.PublishPacket("a", b"x", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=n).write()
        for n in range(1, 101)
    ]
    await client.send(connect(), *flood)
    await client.expect(mqtt5.ConnAckPacket)
    assert [packet.packet_id for packet in await client.fence()] == list(range(1, 101))


@with_broker()
async def test_nothing_after_a_fault_or_a_disconnect_is_listened_to(broker: EmbeddedBroker) -> None:
    witness = await Client.connect(broker, "witness")
    await witness.subscribe("a")
    for last_words in (b"\xc1\x00", b"\xe0\x00"):
        client = await Client.connect(broker, "c")
        await client.send(last_words, mqtt5.PublishPacket("a", b"too late"))
        await client.closed()
        assert await witness.fence() == []


@with_broker()
async def test_who_goes_on_talking_after_a_fault_still_hears_why(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker)
    await client.send(b"\xc1\x00")
    farewell = await client.expect(mqtt5.DisconnectPacket)
    for _ in range(10):
        await client.send(mqtt5.PublishPacket("t", b"x" * 10_000))
    assert farewell.reason_code == 0x81
    assert await client.closed() == []
    assert broker.stats.totals["publishes_received"] == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_should_the_codec_panic_it_is_the_fault_of_the_packet() -> None:
    with pytest.raises(Fault, match="0x81"):
        _decode(memoryview(b"\x30\x05\0\2\xc3\x28\0"))


@with_broker()
async def test_a_farewell_that_is_too_large_for_the_client_loses_its_text(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker, "c", max_packet_size=16)
    await client.send(b"\xc1\x00")
    (farewell,) = await client.closed()
    assert (farewell.reason_code, farewell.reason_str) == (0x81, None)


def test_the_size_of_a_packet_by_its_header() -> None:
    assert fixed_header(memoryview(b"\x30")) is None
    assert fixed_header(memoryview(b"\x30\xff\xff")) is None
    assert fixed_header(memoryview(b"\x30\x05")) == (7, 2)
    assert fixed_header(memoryview(b"\x30\x80\x01")) == (131, 3)
    assert fixed_header(memoryview(b"\x30\xff\xff\xff\x7f")) == ((1 << 28) - 1 + 5, 5)
