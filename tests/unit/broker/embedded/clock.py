"""Time that passes when a test says so, and a connection that only remembers."""

import heapq
from collections.abc import Callable
from itertools import count

import mqtt5

from broker.embedded.wire import PACKET_BYTES_MAX


class FakeTimer:
    def __init__(self, due: float, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        self.due, self.callback, self.args, self.cancelled = due, callback, args, False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0
        self._order = count()
        self._timers: list[tuple[float, int, FakeTimer]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: object) -> FakeTimer:
        timer = FakeTimer(self.now + delay, callback, args)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            self.now, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                timer.callback(*timer.args)
        self.now = until

    @property
    def waiting(self) -> int:
        return sum(not timer.cancelled for _, _, timer in self._timers)


class FakePeer:
    """What the broker sent to one client, decoded."""

    def __init__(self, receive_max: int = 100) -> None:
        self.congested = False
        self.packet_bytes_max = PACKET_BYTES_MAX
        self.receive_max = receive_max
        self.aliases: dict[str, int] | None = None
        self.aliases_max = 0
        self.sent: list[mqtt5.Packet] = []
        self.closed_with: int | None = None

    def send(self, data: bytes) -> None:
        self.sent.append(mqtt5.read(memoryview(data))[0])

    def close(self, code: int, reason: str) -> None:
        self.closed_with = code

    def hang_up(self) -> None:
        self.closed_with = 0

    def forget_permissions(self) -> None:
        pass

    def take(self) -> list[mqtt5.PublishPacket]:
        """The publishes since the last call."""
        taken = [packet for packet in self.sent if isinstance(packet, mqtt5.PublishPacket)]
        self.sent.clear()
        return taken

    def payloads(self) -> list[bytes]:
        return [packet.payload for packet in self.take()]
