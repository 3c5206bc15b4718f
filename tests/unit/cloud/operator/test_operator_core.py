"""Queries get one answer, commands reach only nodes that are there."""

from cloud.operator.core import BODY_BYTES_MAX, NodeCommandArrived, NotThere, Operator, QueryArrived
from shared.messages import CommandVerb, NodeCommand, Query, QueryKind
from tests.transcript import Transcript


def epoch_of(node: str) -> int:
    if node != "n1":
        raise NotThere("no-such-node", f"no node {node!r}; there is n1")
    return 7


def one_model(query: Query) -> object:
    if query.key == "big":
        return "x" * (BODY_BYTES_MAX + 1)
    if query.key:
        raise NotThere("no-such-model", f"no model {query.key!r}")
    return ["digits"]


def query(kind: QueryKind, key: str = "") -> QueryArrived:
    return QueryArrived("cli", Query(correlation="c", budget_s=5.0, kind=kind, key=key))


def command(node: str) -> NodeCommandArrived:
    return NodeCommandArrived(
        "cli", NodeCommand(correlation="c", budget_s=5.0, node=node, verb=CommandVerb.PING)
    )


def test_an_operator_reads_and_commands():
    (
        Transcript("operator/reads-and-commands", Operator({QueryKind.MODELS: one_model}, epoch_of))
        .at(0.0, query(QueryKind.MODELS), query(QueryKind.MODELS, "nope"), query(QueryKind.MODELS, "big"))
        .at(1.0, query(QueryKind.WHY))
        .at(2.0, command("n1"), command("n2"), command("n1/down/#"))
        .matches()
    )
