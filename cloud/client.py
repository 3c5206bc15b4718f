"""An application's view of the fleet: inference, models, nodes, commands, all over the broker.

The command line, the REST API and the demo use this; so may any Python program.

    async with connected(config, "my-app") as fleet:
        result = await fleet.infer("digits", x)
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from broker.ask import Asker
from broker.bus import Bus
from broker.connect import open_bus
from cloud.learning.client import LearningClient
from cloud.sync.client import SyncClient
from shared.audit_views import AuditPage, ProofView, ResidencyView
from shared.config import Config, broker_address
from shared.deploys import DeployResult
from shared.errors import Unavailable
from shared.messages import (
    CommandVerb,
    Deploy,
    InferAsk,
    NodeCommand,
    Query,
    QueryKind,
    Reply,
    Upload,
)
from shared.replies import UploadProgress
from shared.telemetry import (
    POINTS_MAX,
    LedgerPage,
    LedgerRow,
    LettersPage,
    LetterView,
    Series,
    TelemetryAsk,
    TelemetryKind,
)
from shared.tensors import AnyArray, pack_inputs, unpack_inputs
from shared.topics import (
    APP_COMMAND,
    APP_DEPLOY,
    APP_INFER,
    APP_QUERY,
    APP_TELEMETRY,
    APP_UPLOAD,
    CHUNK_BYTES,
)
from shared.views import DeploymentView, Explanation, ModelView, NodeView, Overview
from shared.wire import unpacked

T = TypeVar("T")

CONNECT_S_MAX = 10.0


class Answer(msgspec.Struct, frozen=True):
    """What a device computed. ``outputs``: arrays, or JSON bytes of a WASI module.

    ``request``: what to ask ``shoal why`` about.
    """

    outputs: list[AnyArray] | bytes
    node: str
    service_s: float
    request: str


class Fleet:
    """One application on the broker. Each call raises ``Refused`` (it did not happen) or ``TimedOut``."""

    def __init__(self, bus: Bus, app: str, *, budget_s: float = 10.0) -> None:
        self.bus, self.app, self.budget_s = bus, app, budget_s
        self._asker = Asker(bus, app, secrets.token_hex(4))
        self._infer_at = APP_INFER.at(app=app)
        self.learning = LearningClient(bus, app, self._asker, lambda: self.budget_s)
        self.sync = SyncClient(app, self._asker, lambda: self.budget_s)

    def close(self) -> None:
        """Stop listening for replies."""
        self._asker.close()

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
        """Ask the fleet; the cloud picks the node, unless ``node`` names one."""
        body = pack_inputs(json if json is not None else inputs)
        reply = await self.ask_packed(
            model, body, function=function, node=node, idempotent=idempotent, budget_s=budget_s
        )
        request = f"{self.app}/{reply.correlation}"
        return Answer(unpack_inputs(reply.body), reply.node, reply.service_s, request)

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
        """As :meth:`infer`, with inputs and outputs as they travel."""

        def build(correlation: str, left_s: float) -> InferAsk:
            return InferAsk(
                correlation=correlation,
                budget_s=left_s,
                model=model,
                inputs=inputs,
                function=function,
                node=node,
                idempotent=idempotent,
            )

        return await self._asker.ask(self._infer_at, build, budget_s or self.budget_s, repeatable=True)

    async def upload(self, package: bytes, progress: Callable[[int], None] | None = None) -> UploadProgress:
        """Put a ``.shoal`` package into the cloud's store; goes on where an earlier try stopped.

        ``progress`` is called with the number of bytes that the cloud holds.
        """
        digest = hashlib.sha256(package).hexdigest()
        state = await self._upload(digest, package, 0)
        while not state.done:
            if progress is not None:
                progress(state.bytes_have)
            state = await self._upload(digest, package, state.bytes_have)
        if progress is not None:
            progress(len(package))
        return state

    async def _upload(self, digest: str, package: bytes, offset: int) -> UploadProgress:
        def build(correlation: str, left_s: float) -> Upload:
            return Upload(
                correlation=correlation,
                budget_s=left_s,
                digest=digest,
                size_bytes=len(package),
                offset=offset,
                data=package[offset : offset + CHUNK_BYTES],
            )

        reply = await self._asker.ask(APP_UPLOAD.at(app=self.app), build, self.budget_s)
        return unpacked(reply.body, UploadProgress)

    async def deploy(self, model: str, target: str = "all", *, remove: bool = False) -> DeployResult:
        """Make it a standing rule that the nodes which match ``target`` hold the model (or no longer do)."""

        def build(correlation: str, left_s: float) -> Deploy:
            return Deploy(correlation=correlation, budget_s=left_s, model=model, target=target, remove=remove)

        reply = await self._asker.ask(APP_DEPLOY.at(app=self.app), build, self.budget_s)
        return unpacked(reply.body, DeployResult)

    async def command(self, node: str, verb: CommandVerb, budget_s: float | None = None) -> Reply:
        """Tell one node to do something, and wait until it answers."""

        def build(correlation: str, left_s: float) -> NodeCommand:
            return NodeCommand(correlation=correlation, budget_s=left_s, node=node, verb=verb)

        return await self._asker.ask(APP_COMMAND.at(app=self.app), build, budget_s or self.budget_s)

    async def nodes(self) -> list[NodeView]:
        """Every node that the cloud knows, by id."""
        found: list[NodeView] = []
        while page := await self._query(
            QueryKind.NODES, list[NodeView], after=found[-1].node if found else ""
        ):
            found += page
        return found

    async def node(self, node: str) -> NodeView:
        """One node."""
        return await self._query(QueryKind.NODE, NodeView, node)

    async def overview(self) -> Overview:
        """The fleet in a few numbers."""
        return await self._query(QueryKind.OVERVIEW, Overview)

    async def models(self) -> list[ModelView]:
        """The catalog, newest version of a name last."""
        return await self._query(QueryKind.MODELS, list[ModelView])

    async def deployments(self) -> list[DeploymentView]:
        """The standing rules and how far the fleet is."""
        return await self._query(QueryKind.DEPLOYMENTS, list[DeploymentView])

    async def why(self, request: str) -> Explanation:
        """Why a request went where it went; ``last`` is this cloud's latest."""
        return await self._query(QueryKind.WHY, Explanation, request)

    async def telemetry(
        self,
        node: str,
        stream: str,
        since_unix_s: float = 0.0,
        until_unix_s: float = 0.0,
        every_s: float = 0.0,
        limit: int = POINTS_MAX,
    ) -> Series:
        """Samples of a stream, one point for every ``every_s`` seconds; see :class:`TelemetryAsk`."""
        return await self._telemetry(
            Series,
            kind=TelemetryKind.SERIES,
            node=node,
            stream=stream,
            since_unix_s=since_unix_s,
            until_unix_s=until_unix_s,
            every_s=every_s,
            limit=limit,
        )

    async def ledger(self, node: str = "") -> list[LedgerRow]:
        """What every stream of a node (empty: of all nodes) produced, and what became of it."""
        rows: list[LedgerRow] = []
        after = ""
        while True:
            page = await self._telemetry(LedgerPage, kind=TelemetryKind.LEDGER, node=node, after=after)
            rows += page.rows
            after = page.next
            if not after:
                return rows

    async def letters(self, node: str = "", limit: int = 100) -> list[LetterView]:
        """Telemetry that could not be taken, the newest first."""
        page = await self._telemetry(LettersPage, kind=TelemetryKind.LETTERS, node=node, limit=limit)
        return list(page.rows)

    async def _telemetry(self, of: type[T], **what: Any) -> T:
        def build(correlation: str, left_s: float) -> TelemetryAsk:
            return TelemetryAsk(correlation=correlation, budget_s=left_s, **what)

        reply = await self._asker.ask(APP_TELEMETRY.at(app=self.app), build, self.budget_s)
        return unpacked(reply.body, of)

    async def residency(self) -> ResidencyView:
        """The policy in force, where the nodes are, how the audit log is."""
        return await self._query(QueryKind.RESIDENCY, ResidencyView)

    async def audit(self, first: int = 0) -> AuditPage:
        """Up to 100 records of the audit log from ``first`` on; negative: that many before its end."""
        return await self._query(QueryKind.AUDIT, AuditPage, str(first))

    async def proof(self, *, index: int = -1, old: int = -1, size: int = 0) -> ProofView:
        """That a record is in the log, or that ``old`` records are its beginning; ``size`` 0: newest head."""
        question = f"inclusion:{index}:{size}" if index >= 0 else f"consistency:{old}:{size}"
        return await self._query(QueryKind.PROOF, ProofView, question)

    async def status(self) -> dict[str, Any]:
        """Versions, clock and counters of the cloud process."""
        return await self._query(QueryKind.STATUS, dict)

    async def _query(self, kind: QueryKind, of: type[T], key: str = "", after: str = "") -> T:
        def build(correlation: str, left_s: float) -> Query:
            return Query(correlation=correlation, budget_s=left_s, kind=kind, key=key, after=after)

        reply = await self._asker.ask(APP_QUERY.at(app=self.app), build, self.budget_s)
        return unpacked(reply.body, of)


@asynccontextmanager
async def connected(
    config: Config, app: str, *, budget_s: float = 10.0, grace_s: float = CONNECT_S_MAX
) -> AsyncIterator[Fleet]:
    """A fleet client on its own connection.

    Raises :class:`Unavailable` when there is none within ``CONNECT_S_MAX``, or after ``grace_s`` once the
    broker has said no.
    """
    bus = open_bus(config.broker, config.fleet, client_id=f"{app}-{secrets.token_hex(4)}")
    running = asyncio.create_task(bus.run(), name="bus")
    try:
        await _until_up(bus, running, config.broker.url, grace_s)
        fleet = Fleet(bus, app, budget_s=budget_s)
        try:
            yield fleet
        finally:
            fleet.close()
    finally:
        await bus.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _until_up(bus: Bus, running: "asyncio.Task[None]", url: str, grace_s: float) -> None:
    up = asyncio.Event()
    unwatch = bus.watch_link(lambda link: up.set() if link.up else None)
    waiting = asyncio.create_task(up.wait(), name="link")
    watched: Sequence[asyncio.Task[Any]] = (waiting, running)
    try:
        done, _ = await asyncio.wait(watched, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        if not done and not bus.link.reason:  # no answer yet: neither yes nor no
            await asyncio.wait(watched, timeout=CONNECT_S_MAX - grace_s, return_when=asyncio.FIRST_COMPLETED)
        if not up.is_set():
            raise Unavailable(_no_broker(url, bus.link.reason or "no answer"))
    finally:
        unwatch()
        waiting.cancel()


def _no_broker(url: str, reason: str) -> str:
    """Passwords in the address stay out of the message."""
    address = broker_address(url)
    where = f"{address.scheme}://{address.host}:{address.port}"
    if "authoriz" in reason.lower() or "password" in reason.lower():
        advice = "check user and password (--config FILE, or mqtt://user@host and SHOAL_BROKER_PASSWORD)"
    else:
        advice = "start one with 'shoal up', or name yours with --broker URL"
    return f"no connection to the broker at {where}: {reason}; {advice}"
