"""What a bus must know about its broker and itself: one frozen value."""

import ssl
from dataclasses import dataclass

from broker.bus import Will


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """One client of one broker.

    ``root``: prefix of every topic, added and stripped by the bus. ``clean_start`` False with a
    ``session_expiry_s``: the broker keeps subscriptions and messages while we are away. ``receive_max``:
    QoS 1 messages that the broker may send us unacknowledged. ``packet_bytes_max``: a longer packet from
    the broker ends the connection before it is buffered.
    """

    host: str
    port: int
    root: str
    client_id: str
    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None
    clean_start: bool = True
    session_expiry_s: int = 0
    keepalive_s: int = 30
    receive_max: int = 64
    will: Will | None = None
    outbox_messages_max: int = 10_000
    outbox_bytes_max: int = 32 << 20
    packet_bytes_max: int = 2 << 20
    connect_timeout_s: float = 10.0
