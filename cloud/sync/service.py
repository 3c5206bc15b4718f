"""The sync core bound to the bus, the store, the gate and the models' way."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from broker.bus import Bus
from broker.service import Service, on
from cloud.sync.core import Sync
from cloud.sync.events import (
    Asked,
    Decided,
    DeployModel,
    Event,
    Fenced,
    Load,
    MessageHeard,
    ModelDeployed,
    ReportedHeard,
    Save,
)
from cloud.sync.store import SyncStore
from shared.sync import Gate, OpenGate, SyncAsk
from shared.topics import APP_SYNC, REPORTED_KEY, SYNC_UP

log = logging.getLogger(__name__)

TICK_S = 0.1
FOLLOWING_APP = "residency"  # who asks what follows from what others ask

Deploy = Callable[[str, tuple[str, ...]], Awaitable[str]]
"""(model, nodes) -> the digest of what they are to hold. Raises when there is no such model."""


def sync_service(
    term: int,
    bus: Bus,
    store: SyncStore,
    deploy: Deploy,
    *,
    gate: Gate | None = None,
    audit: Callable[[Decided], None] = lambda _: None,
    prepare: Callable[[SyncAsk], Sequence[SyncAsk]] = lambda ask: (ask,),
) -> Service[Event]:
    """Feed it the registry's news. ``audit`` hears of every answer of the gate; ``prepare``: a request as it
    is to be taken, and the requests that follow from it."""
    core = Sync(term, random.random, gate or OpenGate())

    async def load(_: Load) -> Event:
        return await asyncio.to_thread(store.load_sync)

    async def save(work: Save) -> Event:
        saved = await asyncio.to_thread(store.save_sync, work)
        if isinstance(saved, Fenced):
            log.error("term %d of this cloud is over: term %d has opened the store", term, saved.term)
        return saved

    async def deploy_model(work: DeployModel) -> Event:
        return ModelDeployed(work.task_id, await deploy(work.model, work.targets))

    def asked(ids: dict[str, str], ask: SyncAsk) -> Asked:
        ready, *more = prepare(ask)
        for one in more:
            asyncio.get_running_loop().call_soon(service.feed, Asked(FOLLOWING_APP, one, _unix_ms()))
        return Asked(ids["app"], ready, _unix_ms())

    service: Service[Event] = Service(
        "sync",
        core,
        bus,
        [
            on(SYNC_UP, lambda ids, message: MessageHeard(ids["node"], message, _unix_ms())),
            on(REPORTED_KEY, lambda ids, one: ReportedHeard(ids["node"], ids["key"], one, _unix_ms())),
            on(APP_SYNC, asked),
        ],
        do={Decided: audit},
        work={Load: load, Save: save, DeployModel: deploy_model},
        work_max=1024,
        tick_s=TICK_S,
    )
    return service


def _unix_ms() -> int:
    return int(time.time() * 1000)
