"""What a broker may use, and where it listens. Frozen values: read once, passed down."""

import ssl
from dataclasses import dataclass, field, fields

from shared.errors import ConfigError

_KIB, _MIB = 1 << 10, 1 << 20
_ID_SPACE = 65_535  # packet identifiers, receive maximum and topic aliases are two-byte integers


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """Every bound of the broker. What happens at each bound stands beside it."""

    clients_max: int = 10_000  # CONNACK 0x89 (server busy)
    sessions_max: int = 20_000  # connected and offline together; CONNACK 0x97 (quota exceeded)
    connect_timeout_s: float = 10.0  # a connection that has not said CONNECT by then is cut
    connect_bytes_max: int = 256 * _KIB  # a CONNECT above it: CONNACK 0x95 (packet too large)
    packet_bytes_max: int = _MIB  # told in CONNACK; a packet above it: DISCONNECT 0x95
    receive_max: int = 1_000  # unfinished QoS 2 publishes of one client: DISCONNECT 0x93
    inflight_max: int = 1_000  # unacknowledged messages towards one client; more of them wait
    queue_messages_max: int = 100_000  # waiting for one session or group; the newest is dropped, counted
    queue_bytes_max: int = 64 * _MIB  # same, in bytes of packets, messages in flight included
    queue_bytes_total_max: int = 512 * _MIB  # of all sessions and groups; same for who is above the reserve:
    queue_bytes_reserved: int = 64 * _KIB  # of one session or group, whatever the others hold
    write_buffer_bytes_max: int = 4 * _MIB  # above it QoS 0 is dropped and counted, QoS 1 and 2 wait
    subscriptions_max: int = 1_000  # of one session; SUBACK 0x97
    subscription_bytes_total_max: int = 256 * _MIB  # of all sessions, estimated; same
    topic_bytes_max: int = 65_535  # all that the wire can carry; DISCONNECT 0x90, or SUBACK 0x8F
    topic_levels_max: int = 201  # same; 200 slashes, as Mosquitto
    topic_aliases_max: int = 64  # told in CONNACK; an alias above it: DISCONNECT 0x94
    retained_messages_max: int = 100_000  # PUBACK 0x97, nothing is stored
    retained_bytes_max: int = 256 * _MIB  # of packets and of the tree's nodes; same
    routes_cached_max: int = 200_000  # the cache of routing answers starts afresh
    keep_alive_s_max: int = 60  # a client that asks for more is told this as server keep alive
    session_expiry_s_max: int = 7 * 24 * 3600  # a client that asks for more is told this

    def __post_init__(self) -> None:
        """Raise ``ConfigError`` for a bound that can't work."""
        for limit in fields(self):
            if getattr(self, limit.name) <= 0:
                raise ConfigError(f"{limit.name} must be above 0")
        for name in ("receive_max", "inflight_max", "topic_aliases_max", "keep_alive_s_max"):
            if getattr(self, name) > _ID_SPACE:
                raise ConfigError(f"{name} must be at most {_ID_SPACE}: it is two bytes on the wire")


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Where the broker listens and how it proves who it is. ``port=0`` takes a free port."""

    host: str = "127.0.0.1"
    port: int = 1883
    tls: ssl.SSLContext | None = None
    certificate_is_username: bool = False  # the CN of the client's certificate replaces its user name
    limits: BrokerLimits = field(default_factory=BrokerLimits)
    sys_interval_s: float = 10.0  # how often the $SYS topics are renewed; 0: there are none
    stop_timeout_s: float = 2.0  # how long stop() waits for clients to take their DISCONNECT

    def __post_init__(self) -> None:
        """Raise ``ConfigError`` for settings that contradict each other."""
        if self.certificate_is_username and self.tls is None:
            raise ConfigError("certificate_is_username needs tls")
        if self.sys_interval_s < 0 or self.stop_timeout_s <= 0:
            raise ConfigError("sys_interval_s can't be below 0, nor stop_timeout_s 0")
        if not 0 <= self.port <= _ID_SPACE:
            raise ConfigError(f"port {self.port} is outside 0..{_ID_SPACE}")
