"""What all queues of the broker hold together, and who must yield when that is too much.

A message that waits for a thousand clients is in memory once. So its bytes count with its first holder, and
every further one adds only what its place in a queue costs:

    hold      +message +entry        hold again  +entry
    release   -entry                 the last    -entry -message

At the bound a client that already holds more than its reserve gets nothing new (the newest message is
dropped and counted, as at its own bound). A client within its reserve is served on: whoever fills the
broker's memory does not silence the others. The worst case is ``queue_bytes_total_max`` and the reserve of
every session.
"""

from broker.embedded.config import BrokerLimits
from broker.embedded.message import Message

MESSAGE_BYTES = 1_024  # of objects around a message's own bytes: what tracemalloc says, rounded up
COPIES = 2  # of a message's bytes: as it came, and as it goes out
ENTRY_BYTES = 160  # of one place in one queue, likewise


class Holdings:
    """One per broker. ``bytes_held`` estimates the memory of everything queued or unacknowledged."""

    __slots__ = ("_limits", "bytes_held")

    def __init__(self, limits: BrokerLimits) -> None:
        self._limits = limits
        self.bytes_held = 0

    def admit(self, queue_bytes: int, message: Message) -> bool:
        """True when a queue that holds ``queue_bytes`` may take this message too."""
        grown = queue_bytes + message.size_bytes
        limits = self._limits
        if grown <= limits.queue_bytes_reserved:
            return grown <= limits.queue_bytes_max
        return grown <= limits.queue_bytes_max and self.bytes_held < limits.queue_bytes_total_max

    def hold(self, message: Message) -> None:
        """One more queue holds the message."""
        if not message.holders:
            self.bytes_held += COPIES * message.size_bytes + MESSAGE_BYTES
        message.holders += 1
        self.bytes_held += ENTRY_BYTES

    def release(self, message: Message) -> None:
        """One queue less."""
        message.holders -= 1
        self.bytes_held -= ENTRY_BYTES
        if not message.holders:
            self.bytes_held -= COPIES * message.size_bytes + MESSAGE_BYTES
