"""The bus on aiomqtt: for MQTT 3.1.1 brokers and for websockets. The same contract, some of it weaker.

- MQTT 3.1.1 has no receive maximum: held acknowledgements slow the broker only at *its* limit of messages
  in flight (20 in Mosquitto). It has no subscription identifiers: topics are matched against the filters,
  and a broker that sends one copy per overlapping filter delivers each. No expiry, no refused PUBACK.
- paho knows what is in flight only as long as its connection lives: after a reconnect, unacknowledged
  messages are sent anew and not as duplicates of the old packets.
- Connecting runs in a thread of paho's: cancelled meanwhile, the attempt ends there at its own timeout.
"""

import random
import time
from collections.abc import Callable

from broker.client import ClientBus, Ears
from broker.names import Topics
from broker.options import LinkOptions
from broker.paho import MQTT_5, PahoWire


class AiomqttBus(ClientBus):
    """See :class:`broker.bus.ConnectedBus`. ``protocol``: 5, or 4 for MQTT 3.1.1."""

    def __init__(
        self,
        options: LinkOptions,
        *,
        protocol: int = MQTT_5,
        websockets: bool = False,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        def wire(options: LinkOptions, topics: Topics, ears: Ears) -> PahoWire:
            return PahoWire(options, topics, ears, clock, protocol=protocol, websockets=websockets)

        super().__init__(options, wire, rng=rng, clock=clock)
