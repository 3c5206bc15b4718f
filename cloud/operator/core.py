"""Answers operators: reads the other capabilities' views, and relays commands to nodes.

    Query ──> a reader from the table ──> Reply
    NodeCommand ──> is the node there? ──> Command to the node, which answers the application itself

It holds nothing of its own. The readers are functions of the capabilities that own the facts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.ids import is_id
from shared.messages import Command, NodeCommand, Query, QueryKind, Reply, ReplyStatus
from shared.topics import APP_REPLY, COMMAND
from shared.wire import packed

BODY_BYTES_MAX = APP_REPLY.bytes_max - 4096

Reader = Callable[[Query], object]


class NotThere(Exception):
    """A reader's word for "no such thing". ``code`` travels in the reply."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True, slots=True)
class QueryArrived:
    """An application wants to read."""

    app: str
    query: Query


@dataclass(frozen=True, slots=True)
class NodeCommandArrived:
    """An application wants a node to do something."""

    app: str
    command: NodeCommand


Event = QueryArrived | NodeCommandArrived | Tick | LinkUp | LinkDown | Failed


@dataclass(slots=True)
class Operator:
    """``epoch_of``: the boot of a node that can be reached now; raises :class:`NotThere` otherwise."""

    readers: Mapping[QueryKind, Reader]
    epoch_of: Callable[[str], int]

    def step(self, event: Event, now: float) -> list[Effect]:  # noqa: ARG002 (nothing here waits)
        """See :class:`shared.core.Core`."""
        match event:
            case QueryArrived(app, query):
                return [self._read(app, query)]
            case NodeCommandArrived(app, command):
                return [self._relay(app, command)]
            case Failed(_, reason):
                return [Ignore(reason)]
            case _:
                return []

    def _read(self, app: str, query: Query) -> Effect:
        reader = self.readers.get(query.kind)
        if reader is None:
            return _refused(
                app, query.correlation, "no-such-query", f"this cloud does not answer {query.kind}"
            )
        try:
            body = packed(reader(query))
        except NotThere as error:
            return _refused(app, query.correlation, error.code, str(error))
        if len(bytes(body)) > BODY_BYTES_MAX:
            detail = f"the answer is {len(bytes(body))} bytes; {BODY_BYTES_MAX} fit into one reply"
            return _refused(app, query.correlation, "too-large", detail)
        return Publish(APP_REPLY.at(app=app), Reply(correlation=query.correlation, body=body))

    def _relay(self, app: str, wanted: NodeCommand) -> Effect:
        if not is_id(wanted.node):
            return _refused(
                app, wanted.correlation, "no-such-node", "a node id is 1 to 64 of a-z, 0-9 and '-'"
            )
        try:
            epoch = self.epoch_of(wanted.node)
        except NotThere as error:
            return _refused(app, wanted.correlation, error.code, str(error))
        command = Command(correlation=wanted.correlation, budget_s=wanted.budget_s, caller=app, epoch=epoch)
        return Publish(COMMAND.at(node=wanted.node, verb=wanted.verb), command)

    def check(self) -> None:
        """Invariants: it has no state that could break one."""


def _refused(app: str, correlation: str, code: str, detail: str) -> Effect:
    reply = Reply(correlation=correlation, status=ReplyStatus.REFUSED, code=code, detail=detail)
    return Publish(APP_REPLY.at(app=app), reply)
