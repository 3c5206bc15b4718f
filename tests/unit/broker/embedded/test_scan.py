"""The scanner lets every honest packet through and never crashes on another one."""

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.embedded.scan import scan
from broker.embedded.wire import Fault, fixed_header
from tests.unit.broker.embedded.test_fuzz import SEEDS

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


def look_at(data: bytes) -> None:
    header = fixed_header(memoryview(data))
    if header is not None and header[0] <= len(data):
        scan(memoryview(data)[: header[0]], header[1])


@pytest.mark.parametrize("packet", SEEDS, ids=lambda packet: f"type {packet[0] >> 4}")
def test_honest_packets_pass(packet: bytes) -> None:
    look_at(packet)


@given(
    topic=texts.filter(lambda text: text and not set(text) & set("+#")),
    payload=st.binary(max_size=50),
    qos=st.sampled_from(list(range(3))),
    content_type=st.none() | texts,
    correlation_data=st.none() | st.binary(max_size=20),
    message_expiry_interval=st.none() | st.integers(0, 2**32 - 1),
    subscription_ids=st.lists(st.integers(1, 2**28 - 1), max_size=3),
    user_properties=st.lists(st.tuples(texts, texts), max_size=3),
)
def test_every_publish_the_codec_can_write_passes(
    topic: str, payload: bytes, qos: int, **properties: object
) -> None:
    packet_id = 0xFFFF if qos else None
    look_at(
        mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS(qos), packet_id=packet_id, **properties).write()
    )


@given(st.sampled_from(SEEDS), st.binary(max_size=30), st.integers(0, 80))
def test_what_passes_never_makes_the_codec_panic(seed: bytes, noise: bytes, at: int) -> None:
    data = seed[:at] + noise + seed[at + len(noise) :]
    try:
        look_at(data)
        mqtt5.read(memoryview(data))
    except (Fault, ValueError, IndexError):
        pass  # anything else, a panic above all, fails the test
