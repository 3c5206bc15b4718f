"""What the broker counts: a mutable tally inside, a frozen snapshot for everybody else."""

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Counters:
    """Totals since the start. Nothing is dropped or refused without one of these moving."""

    packets_received: int = 0
    packets_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    publishes_received: int = 0
    publishes_sent: int = 0
    connections_opened: int = 0
    connections_refused: int = 0  # by the authenticator or a limit
    faults: int = 0  # connections closed because of what they sent
    keep_alives_missed: int = 0
    sessions_taken_over: int = 0
    sessions_expired: int = 0
    publishes_refused: int = 0  # by the access rules or a quota, whatever the QoS
    subscriptions_refused: int = 0
    wills_refused: int = 0
    dropped_queue_full: int = 0
    dropped_slow_consumer: int = 0  # QoS 0 for a client that does not read fast enough
    dropped_offline: int = 0  # QoS 0 for a session, or any QoS for a group, that nobody attends
    dropped_too_large: int = 0  # above the maximum packet size of the receiver
    dropped_expired: int = 0
    dropped_session_ended: int = 0
    shared_redispatched: int = 0  # taken back from a lost group member and given to another
    acknowledgements_unknown: int = 0


@dataclass(frozen=True, slots=True)
class BrokerStats:
    """The broker at one moment. ``totals`` are the fields of :class:`Counters`."""

    uptime_s: float
    clients_connected: int
    clients_connected_max: int
    sessions: int
    subscriptions: int
    retained_messages: int
    retained_bytes: int
    queued_bytes: int  # queued or unacknowledged, all sessions and groups together, estimated
    totals: dict[str, int]


def totals(counters: Counters) -> dict[str, int]:
    """The counters as a dictionary, in the order of their definition."""
    return {counter.name: getattr(counters, counter.name) for counter in fields(counters)}
