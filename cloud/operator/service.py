"""The operator's desk, bound to the bus."""

from broker.bus import Bus
from broker.service import Service, on
from cloud.operator.core import Event, NodeCommandArrived, Operator, QueryArrived
from shared.topics import APP_COMMAND, APP_QUERY


def operator_service(core: Operator, bus: Bus) -> Service[Event]:
    """Queries and commands of every application."""
    return Service(
        "operator",
        core,
        bus,
        [
            on(APP_QUERY, lambda ids, query: QueryArrived(ids["app"], query)),
            on(APP_COMMAND, lambda ids, command: NodeCommandArrived(ids["app"], command)),
        ],
    )
