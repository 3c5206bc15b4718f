"""The balancer, bound to the bus. What the registry tells comes in through the service's ``feed``."""

from broker.bus import Bus
from broker.service import Service, on, overheard
from cloud.balancer.core import Balancer, DeclineHeard, Event, InferAsked, ReplyHeard
from shared.topics import APP_INFER, DECLINED, REPLY

TICK_S = 0.1  # how late a silent node is noticed at the most


def balancer_service(core: Balancer, bus: Bus) -> Service[Event]:
    """Who asks is taken from the topic, never from the payload; so is who answers."""
    return Service(
        "balancer",
        core,
        bus,
        [
            on(APP_INFER, lambda ids, ask: InferAsked(ids["app"], ask)),
            overheard(REPLY, lambda ids, reply: ReplyHeard(ids["node"], ids["caller"], reply)),
            on(DECLINED, lambda ids, declined: DeclineHeard(ids["node"], declined)),
        ],
        tick_s=TICK_S,
    )
