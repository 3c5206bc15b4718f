"""The fast bus: ``asyncio.Protocol`` on the ``mqtt5`` codec, MQTT 5 over TCP or TLS."""

from broker.native.bus import NativeBus
from broker.options import LinkOptions

__all__ = ["LinkOptions", "NativeBus"]
