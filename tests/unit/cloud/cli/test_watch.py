"""``shoal watch`` shows whatever passes: ours decoded, a stranger's JSON, and what is broken."""

import msgspec

from broker.bus import Delivery
from cloud.cli.watch import described
from shared.messages import Heartbeat, InferAsk, NodeState
from shared.topics import APP_INFER
from shared.wire import encode, packed


def told(topic: str, payload: bytes) -> dict[str, object]:
    line = described(Delivery(topic, payload))
    assert msgspec.json.encode(line)  # whatever it is, JSON can say it
    assert (line["topic"], line["bytes"]) == (topic, len(payload))
    return line


def test_a_message_of_ours_is_decoded() -> None:
    beat = Heartbeat(epoch=1, sequence=2, state=NodeState.IDLE, cpu_ratio=0.5)
    line = told("node/edge-1/up/heartbeat", encode(beat))
    assert line["type"] == "Heartbeat"
    message = line["message"]
    assert isinstance(message, dict)
    assert (message["sequence"], message["cpu_ratio"]) == (2, 0.5)


def test_plain_json_of_any_device_is_decoded() -> None:
    line = told("node/thermometer/up/telemetry/room", b'{"celsius": 21.5}')
    assert line["type"] == "TelemetryBatch"
    assert "21.5" in str(line["message"])


def test_packed_parts_are_opened_and_long_bytes_cut_short() -> None:
    ask = InferAsk(correlation="c", budget_s=1.0, model="m", inputs=packed((b"x" * 1000, b"\x01\x02")))
    message = told(APP_INFER.at(app="me").name, encode(ask))["message"]
    assert isinstance(message, dict)
    assert message["inputs"] == ["<1000 bytes>", "0102"]


def test_what_can_not_be_read_says_why() -> None:
    line = told("node/edge-1/up/heartbeat", b"\xc1junk")
    assert line["type"] == "Heartbeat"
    assert line["error"]
    assert told("nobody/knows/this", b"x")["error"] == "no topic of the platform"
    assert told("node/edge-1/up/heartbeat", b"")["message"] == "cleared"
