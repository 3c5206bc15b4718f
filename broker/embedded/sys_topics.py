"""The broker about itself: retained messages under ``$SYS/broker/``, by the names Mosquitto made common."""

from importlib.metadata import PackageNotFoundError, version

import mqtt5

from broker.embedded.broker import Broker
from broker.embedded.message import Message
from broker.embedded.stats import BrokerStats

_ROOT = "$SYS/broker/"


class SysTopics:
    """Publishes what has changed since the last time."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._published: dict[str, str] = {}

    def publish(self) -> None:
        """Renew every topic whose value has changed."""
        for name, value in readings(self._broker.stats()).items():
            if self._published.get(name) != value:
                self._published[name] = value
                packet = mqtt5.PublishPacket(_ROOT + name, value.encode(), retain=True)
                self._broker.publish(Message(packet, packet.topic, 0, origin="", expires_at=None))


def readings(stats: BrokerStats) -> dict[str, str]:
    """Topic below ``$SYS/broker/`` -> text of its value."""
    totals = stats.totals
    dropped = sum(count for name, count in totals.items() if name.startswith("dropped_"))
    return {
        "version": f"shoal {_version()}",
        "uptime": f"{stats.uptime_s:.0f} seconds",
        "clients/connected": str(stats.clients_connected),
        "clients/disconnected": str(stats.sessions - stats.clients_connected),
        "clients/total": str(stats.sessions),
        "clients/maximum": str(stats.clients_connected_max),
        "clients/expired": str(totals["sessions_expired"]),
        "messages/received": str(totals["packets_received"]),
        "messages/sent": str(totals["packets_sent"]),
        "bytes/received": str(totals["bytes_received"]),
        "bytes/sent": str(totals["bytes_sent"]),
        "publish/messages/received": str(totals["publishes_received"]),
        "publish/messages/sent": str(totals["publishes_sent"]),
        "publish/messages/dropped": str(dropped),
        "publish/messages/refused": str(totals["publishes_refused"]),
        "retained messages/count": str(stats.retained_messages),
        "retained messages/bytes": str(stats.retained_bytes),
        "store/messages/bytes": str(stats.queued_bytes),
        "subscriptions/count": str(stats.subscriptions),
    }


def _version() -> str:
    try:
        return version("shoal")
    except PackageNotFoundError:  # run from a checkout
        return "0"
