"""Any history of messages, answers and lost connections: everything arrives, in order, QoS 2 exactly once."""

import mqtt5
from hypothesis import given
from hypothesis import strategies as st

from broker.embedded import BrokerLimits
from broker.embedded.holdings import Holdings
from broker.embedded.message import Message
from broker.embedded.outbox import Outbox
from broker.embedded.stats import Counters
from tests.unit.broker.embedded.clock import FakePeer


class HonestClient:
    """Follows section 4.3 to the letter and remembers what it took in, across connections."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.peer: FakePeer | None = None
        self.taken: list[int] = []
        self.unreleased: set[int] = set()

    def connect(self, receive_max: int) -> None:
        self.lose()
        self.peer = FakePeer(receive_max)
        self.outbox.attach(self.peer)

    def lose(self) -> None:
        """Whatever was on the way is lost with the connection."""
        if self.peer is not None:
            self.outbox.detach()
            self.peer = None

    def answer_one(self) -> bool:
        if self.peer is None or not self.peer.sent:
            return False
        match self.peer.sent.pop(0):
            case mqtt5.PublishPacket() as publish if publish.qos == mqtt5.QoS.AT_LEAST_ONCE:
                assert publish.packet_id is not None
                if int(publish.payload) not in self.taken:
                    self.taken.append(int(publish.payload))
                self.outbox.on_puback(publish.packet_id)
            case mqtt5.PublishPacket() as publish:
                assert publish.packet_id is not None
                if publish.packet_id not in self.unreleased:
                    self.unreleased.add(publish.packet_id)
                    self.taken.append(int(publish.payload))
                self.outbox.on_pubrec(publish.packet_id, accepted=True)
            case mqtt5.PubRelPacket() as release:
                self.unreleased.discard(release.packet_id)
                self.outbox.on_pubcomp(release.packet_id)
        return True


def new_outbox() -> Outbox:
    limits = BrokerLimits()
    return Outbox(limits, Counters(), lambda: 0.0, Holdings(limits))


def message(number: int, qos: int) -> Message:
    packet = mqtt5.PublishPacket("t", b"%d" % number, qos=mqtt5.QoS(qos), packet_id=1)
    return Message(packet, "t", qos, "p", None)


steps = st.one_of(
    st.tuples(st.just("deliver"), st.integers(1, 2)),
    st.tuples(st.just("answer"), st.just(0)),
    st.tuples(st.just("connect"), st.integers(1, 3)),
    st.tuples(st.just("lose"), st.just(0)),
    st.tuples(st.just("congest"), st.just(0)),
)


@given(st.lists(steps, max_size=60))
def test_any_history_delivers_everything_in_order_and_qos_2_once(history: list[tuple[str, int]]) -> None:
    outbox = new_outbox()
    client, count = HonestClient(outbox), 0
    for step, number in history:
        match step:
            case "deliver":
                outbox.deliver(message(count, number), number, False, ())
                count += 1
            case "answer":
                client.answer_one()
            case "connect":
                client.connect(number)
            case "lose":
                client.lose()
            case "congest" if client.peer is not None:
                client.peer.congested = not client.peer.congested
                outbox.pump()
        check(client)
    client.connect(3)
    while client.answer_one():
        check(client)
    assert client.taken == list(range(count))
    assert (len(outbox), outbox.bytes_held, client.unreleased) == (0, 0, set())
    assert outbox._holdings.bytes_held == 0


def check(client: HonestClient) -> None:
    """What holds after every step."""
    outbox, peer = client.outbox, client.peer
    on_wire = sum(delivery.on_wire for delivery in outbox._inflight.values())
    everything = [*outbox._queue, *outbox._inflight.values()]
    assert outbox.bytes_held == sum(delivery.message.size_bytes for delivery in everything)
    if peer is None:
        assert (on_wire, outbox._window) == (0, 0)
    else:
        assert outbox._window + on_wire == peer.receive_max
        assert outbox._window >= 0


def test_packet_ids_go_round_and_step_over_the_ones_in_use() -> None:
    outbox, peer = new_outbox(), FakePeer(receive_max=2)
    outbox.attach(peer)
    outbox.deliver(message(0, 1), 1, False, ())
    assert [p.packet_id for p in peer.take()] == [1]
    for number in range(2, 65_536):
        outbox.deliver(message(number, 1), 1, False, ())
        outbox.on_puback(number)
    peer.take()
    outbox.deliver(message(1, 1), 1, False, ())
    assert [p.packet_id for p in peer.take()] == [2], "1 still waits for its PUBACK"


def test_a_repeat_that_has_become_too_large_for_the_client_is_given_up() -> None:
    outbox, peer = new_outbox(), FakePeer()
    outbox.attach(peer)
    outbox.deliver(message(12345678, 1), 1, False, ())
    outbox.detach()
    small = FakePeer()
    small.packet_bytes_max = 10
    outbox.attach(small)
    assert (small.sent, len(outbox), outbox.bytes_held, outbox._holdings.bytes_held) == ([], 0, 0, 0)
