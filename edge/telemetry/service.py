"""Telemetry bound to the bus and the machine."""

from collections.abc import Callable

from broker.bus import Bus
from broker.service import Service
from edge.telemetry.core import Event, ReadSample, SampleRead, Telemetry
from shared.messages import Sample


def telemetry_service(core: Telemetry, bus: Bus, read: Callable[[], Sample]) -> Service[Event]:
    """Readings of this machine, in batches, on the node's own telemetry topic."""
    return Service("telemetry", core, bus, [], work={ReadSample: lambda _: SampleRead(read())})
