"""An MQTT 5 broker in one process, for one machine: ``async with EmbeddedBroker(BrokerConfig(port=0)) as b``.

    server          listens, accepts, stops                                  asyncio
      connection    bytes <-> packets, keep alive, write buffer              an asyncio.Protocol per socket
    ──────────────────────────────────────────────────────── nothing below knows sockets or asyncio ───
        wire, scan    the border to the codec: framing, reason codes; what the codec lets pass
        handshake     CONNECT -> CONNACK, once per connection
        conversation  one handler per packet type, once per connection
          broker      who is connected, takeover, expiry, wills; publish
            router        filters -> the plan of a topic, cached
            topics        what is a topic, and the tree that matches
            retained      facts by topic
            session       what outlives a connection
            outbox        QoS 0, 1 and 2 towards one client
            shared_group  one message to one of many
            holdings      what all queues hold together, and its bound
            message       one encoding for many receivers
          sys_topics  $SYS/broker/...
    config, access, stats   values and hooks of the public interface

How a PUBLISH travels: ``connection`` finds a whole packet, scans it and has the codec decode it;
``conversation`` checks it and asks whether this client may publish there; ``broker`` routes it through the
topic's plan into the ``outbox`` of every session concerned; an outbox writes to its connection or queues;
each connection writes once at the end of the event loop's turn; the publisher gets its PUBACK in the same
turn.

Three choices a reader would question:

* One event loop owns everything, so there are no locks and no half-routed message. A second core is not used;
  Python would not let it help.
* QoS 2 messages are routed when they arrive, not at their PUBREL (method B of section 4.3.3): the held packet
  identifier makes a repeat harmless, and the order of a publisher's messages stays whole.
* Nothing is on disk. Devices repeat their retained facts and what was not acknowledged by the application, so
  a restarted broker is a reconnect, not a loss.

Not here on purpose: MQTT 3.1.1 (refused in its own words), WebSockets, enhanced authentication, bridging.
"""

from broker.embedded.access import AllowAll, Authenticator, Authorizer, Identity, accept_anyone
from broker.embedded.config import BrokerConfig, BrokerLimits
from broker.embedded.server import EmbeddedBroker
from broker.embedded.stats import BrokerStats

__all__ = [
    "AllowAll",
    "Authenticator",
    "Authorizer",
    "BrokerConfig",
    "BrokerLimits",
    "BrokerStats",
    "EmbeddedBroker",
    "Identity",
    "accept_anyone",
]
