"""What happens in these stories."""

from dataclasses import replace

from cloud.balancer.core import Balancer, DeclineHeard, InferAsked, ReplyHeard
from cloud.facts import NodeChanged, NodeFact, NodeStatus
from shared.config import BalancerSection
from shared.core import Effect, LinkUp, Publish, Tick
from shared.messages import Capabilities, Declined, InferAsk, InferCommand, ModelState, Reply, ReplyStatus
from shared.wire import packed
from tests.transcript import shown

INPUTS = packed([1.0, 2.0])


def fact(
    node: str,
    *,
    status: NodeStatus = NodeStatus.IDLE,
    epoch: int = 1,
    heartbeat: int = 1,
    gflops: float = 2.0,
    models: tuple[str, ...] = ("digits",),
    state: ModelState = ModelState.READY,
    suspect: bool = False,
    draining: bool = False,
    slots: int = 1,
    in_flight: int = 0,
    memory_available_bytes: int = 0,
) -> NodeChanged:
    return NodeChanged(
        NodeFact(
            node,
            epoch,
            status,
            suspect=suspect,
            draining=draining,
            capabilities=Capabilities(cores=4, memory_bytes=1 << 30, wasm_gflops=gflops),
            slots=slots,
            in_flight=in_flight,
            memory_available_bytes=memory_available_bytes,
            models={model: ("d1", state) for model in models},
            heartbeat=heartbeat,
        )
    )


def ask(
    correlation: str,
    *,
    app: str = "app",
    model: str = "digits",
    budget_s: float = 2.0,
    idempotent: bool = True,
    node: str = "",
) -> InferAsked:
    message = InferAsk(
        correlation=correlation,
        budget_s=budget_s,
        model=model,
        inputs=INPUTS,
        idempotent=idempotent,
        node=node,
    )
    return InferAsked(app, message)


def reply(
    node: str,
    correlation: str,
    *,
    app: str = "app",
    status: ReplyStatus = ReplyStatus.OK,
    code: str = "",
    service_s: float = 0.01,
) -> ReplyHeard:
    message = Reply(correlation=correlation, status=status, code=code, node=node, service_s=service_s)
    return ReplyHeard(node, app, message)


def declined(node: str, correlation: str, *, app: str = "app", code: str = "overloaded") -> DeclineHeard:
    message = Declined(caller=app, correlation=correlation, code=code, detail="256 requests wait")
    return DeclineHeard(node, message)


def watching(*facts: NodeChanged, section: BalancerSection | None = None, **limits: int) -> Balancer:
    """A balancer whose link is up since time 0 and that knows these nodes."""
    core = Balancer(section or BalancerSection(), **limits)
    core.step(LinkUp(False), 0.0)
    core.step(Tick(), 0.0)
    for one in facts:
        core.step(one, 0.0)
    return core


def sent_to(effects: list[Effect]) -> str:
    """The node that the one request among the effects goes to."""
    [sent] = [one for one in effects if isinstance(one, Publish) and isinstance(one.message, InferCommand)]
    return str(sent.to).split("/")[1]


def code_of(effects: list[Effect]) -> str:
    """The code of the one reply to the app."""
    [sent] = [one for one in effects if isinstance(one, Publish)]
    assert isinstance(sent.message, Reply)
    return sent.message.code


def told(thing: object) -> str:
    """Of a fact only what these stories turn on."""
    if not isinstance(thing, NodeChanged):
        return shown(thing)
    bare = NodeFact(thing.fact.node, thing.fact.epoch, thing.fact.status)
    return shown(NodeChanged(replace(bare, suspect=thing.fact.suspect, heartbeat=thing.fact.heartbeat)))
