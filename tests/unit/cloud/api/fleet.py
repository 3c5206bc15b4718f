"""A fleet that we own: the methods of ``cloud.client.Fleet``, answers from memory, refusals on demand."""

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from cloud.client import Answer
from cloud.history.core import senseless
from cloud.history.service import answer
from cloud.residency.core import Remembered, Residency
from cloud.residency.views import NoSuchRecord, page_of, proof_of, residency_view
from cloud.sync.client import SyncClient
from cloud.telemetry.arrivals import batch_items, letter
from cloud.telemetry.memory import MemoryTelemetry
from shared.audit_views import AuditPage, ProofView, ResidencyView
from shared.deploys import DeployResult
from shared.errors import Refused
from shared.messages import Capabilities, CommandVerb, Reply, Sample, TelemetryBatch
from shared.replies import UploadProgress
from shared.telemetry import POINTS_MAX, LedgerRow, LetterView, Series, TelemetryAsk, TelemetryKind
from shared.tensors import AnyArray, pack_inputs, unpack_inputs
from shared.views import (
    CandidateView,
    DeploymentView,
    Explanation,
    ModelView,
    NodeView,
    Overview,
)
from tests.support.syncing import World, client_of
from tests.unit.cloud.learning.fake import FakeLearning

TELEMETRY_UNIX_S = 1_700_000_000.0


def telemetry_of(kind: TelemetryKind, **what: Any) -> Any:
    """The real answer to a question, about a small store: 120 samples of edge-1, one a second from
    ``TELEMETRY_UNIX_S`` on, of which two never came, and a dead letter."""
    ask = TelemetryAsk(correlation="c", budget_s=1.0, kind=kind, **what)
    why = senseless(ask)
    if why:
        raise Refused("bad-request", why)
    return answer(_telemetry(), ask)


def _telemetry() -> MemoryTelemetry:
    store = MemoryTelemetry()
    for first, count in ((0, 60), (62, 60)):
        samples = tuple(
            Sample(TELEMETRY_UNIX_S + number, {"celsius": 20 + number / 10, "humidity": 0.5})
            for number in range(first, first + count)
        )
        batch = TelemetryBatch(epoch=7, first=first, samples=samples)
        store.ingest(batch_items("edge-1", "room", batch, 9.0))
    store.ingest([letter("edge-1", "room", "not a batch", b"\xc1\xffhello", 9.0)])
    return store


CAPABILITIES = Capabilities(
    cores=4,
    memory_bytes=1 << 30,
    disk_free_bytes=1 << 34,
    platform="linux",
    runtime="wasmtime 50.0.1",
    wasm_gflops=2.0,
    wasm_call_s=1e-6,
)


def node_view(name: str, status: str = "idle", **labels: str) -> NodeView:
    return NodeView(
        node=name,
        status=status,
        why="heartbeat 0.2 s ago",
        suspect=False,
        draining=False,
        epoch=7,
        address="10.0.0.1",
        labels=labels,
        capabilities=CAPABILITIES,
        slots=1,
        queue_depth=0,
        in_flight=0,
        cpu_ratio=0.25,
        memory_available_bytes=1 << 30,
        tasks=(),
        models={},
        last_heartbeat_age_s=0.2,
    )


class FakeLocalisation:
    """``log``: given by the test that wants one."""

    log: Any = None

    def view(self) -> ResidencyView:
        core = Residency(Remembered(size=self.log.size, head=self.log.fact()), lambda _: True, "eu")
        return residency_view(core, withheld=3)


class FakeFleet:
    """``failing``: raised by every call. The model "double" doubles its arrays, "echo" returns its JSON."""

    def __init__(self) -> None:
        self.failing: Exception | None = None
        self.views = [node_view("edge-1", region="eu"), node_view("edge-2", "offline", region="us")]
        self.catalog: list[ModelView] = []
        self.asked: list[dict[str, Any]] = []
        self.hold: Callable[[], Any] | None = None
        self.learning = FakeLearning()
        self.localisation = FakeLocalisation()
        self.world = World(1)  # the real sync core and devices n1 to n3; they start with the first question

    def close(self) -> None:
        pass

    @property
    def sync(self) -> SyncClient:
        if self.world.cloud.member is None:
            self.world.start()
        return client_of(self.world)

    def _maybe_fail(self) -> None:
        if self.failing is not None:
            raise self.failing

    async def infer(
        self,
        model: str,
        *inputs: AnyArray,
        json: bytes | None = None,
        function: str = "run",
        node: str = "",
        idempotent: bool = True,
        budget_s: float | None = None,
    ) -> Answer:
        body = pack_inputs(json if json is not None else inputs)
        reply = await self.ask_packed(
            model, body, function=function, node=node, idempotent=idempotent, budget_s=budget_s
        )
        return Answer(unpack_inputs(reply.body), reply.node, reply.service_s, f"api/{reply.correlation}")

    async def ask_packed(
        self,
        model: str,
        inputs: msgspec.Raw,
        *,
        function: str = "run",
        node: str = "",
        idempotent: bool = True,
        budget_s: float | None = None,
    ) -> Reply:
        self.asked.append({"model": model, "function": function, "node": node, "budget_s": budget_s})
        if self.hold is not None:
            await self.hold()
        self._maybe_fail()
        given = unpack_inputs(inputs)
        if model == "echo" and isinstance(given, bytes):
            body = pack_inputs(given)
        elif model == "double" and not isinstance(given, bytes):
            body = pack_inputs([np.asarray(one * 2, one.dtype) for one in given])
        else:
            raise Refused("no-such-model", f"no node holds {model!r}")
        return Reply(correlation=f"c{len(self.asked)}", body=body, node=node or "edge-1", service_s=0.001)

    async def upload(self, package: bytes, progress: Callable[[int], None] | None = None) -> UploadProgress:
        self._maybe_fail()
        digest = hashlib.sha256(package).hexdigest()
        self.catalog.append(
            ModelView(
                name="digits",
                version="1",
                digest=digest,
                kind="tensor",
                size_bytes=len(package),
                created_at_unix_s=1.0,
            )
        )
        return UploadProgress(digest=digest, bytes_have=len(package), done=True, name="digits", version="1")

    async def deploy(self, model: str, target: str = "all", *, remove: bool = False) -> DeployResult:
        self._maybe_fail()
        names = tuple(node.node for node in self.views)
        return DeployResult(
            model=model, version="1", digest="00", target=target, matched=2, nodes=names, removed=remove
        )

    async def command(self, node: str, verb: CommandVerb, budget_s: float | None = None) -> Reply:
        self._maybe_fail()
        return Reply(correlation="c", node=node)

    async def nodes(self) -> list[NodeView]:
        self._maybe_fail()
        return self.views

    async def node(self, node: str) -> NodeView:
        self._maybe_fail()
        for view in self.views:
            if view.node == node:
                return view
        raise Refused("no-such-node", f"no node {node!r} has registered")

    async def overview(self) -> Overview:
        self._maybe_fail()
        return Overview(
            fleet="main",
            term=3,
            nodes={"idle": 1, "offline": 1},
            cores=4,
            memory_bytes=1 << 30,
            slots=2,
            in_flight=1,
            cpu_ratio_mean=0.25,
            models={"digits": 1},
            requests={"sent": 5, "ok": 4, "waiting": 2},
        )

    async def telemetry(
        self,
        node: str,
        stream: str,
        since_unix_s: float = 0.0,
        until_unix_s: float = 0.0,
        every_s: float = 0.0,
        limit: int = POINTS_MAX,
    ) -> Series:
        self._maybe_fail()
        return telemetry_of(
            TelemetryKind.SERIES,
            node=node,
            stream=stream,
            since_unix_s=since_unix_s,
            until_unix_s=until_unix_s,
            every_s=every_s,
            limit=limit,
        )

    async def ledger(self, node: str = "") -> list[LedgerRow]:
        self._maybe_fail()
        return list(telemetry_of(TelemetryKind.LEDGER, node=node).rows)

    async def letters(self, node: str = "", limit: int = 100) -> list[LetterView]:
        self._maybe_fail()
        return list(telemetry_of(TelemetryKind.LETTERS, node=node, limit=limit).rows)

    async def models(self) -> list[ModelView]:
        self._maybe_fail()
        return self.catalog

    async def deployments(self) -> list[DeploymentView]:
        self._maybe_fail()
        return []

    async def why(self, request: str) -> Explanation:
        self._maybe_fail()
        return Explanation(
            request=request,
            model="digits",
            chosen="edge-1",
            retried=False,
            candidates=(CandidateView(node="edge-1", score_s=0.001, why="idle"),),
            excluded={"offline": 1},
        )

    async def residency(self) -> ResidencyView:
        self._maybe_fail()
        return self.localisation.view()

    async def audit(self, first: int = 0) -> AuditPage:
        self._maybe_fail()
        return page_of(self.localisation.log, first)

    async def proof(self, *, index: int = -1, old: int = -1, size: int = 0) -> ProofView:
        self._maybe_fail()
        question = f"inclusion:{index}:{size}" if index >= 0 else f"consistency:{old}:{size}"
        try:
            return proof_of(self.localisation.log, question)
        except NoSuchRecord as error:
            raise Refused("no-such-record", str(error)) from None

    async def status(self) -> dict[str, Any]:
        self._maybe_fail()
        counters = {"ingest": {"samples": 7}, "sync": {"received": 2}}
        return {"fleet": "main", "term": 3, "version": "0.1.0", "at_unix_s": 1.0, "counters": counters}
