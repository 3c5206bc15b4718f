"""The rollout core, bound to the bus and the store."""

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from broker.bus import Bus
from broker.service import Service, on
from cloud.rollout.core import Rollout
from cloud.rollout.events import Deployed, Event, Load, NodeDesired, ReportedSeen, Restored, Save, Saved
from cloud.rollout.rules import Key, Rule
from shared.errors import Refused
from shared.messages import Deploy
from shared.topics import APP_DEPLOY, REPORTED

log = logging.getLogger(__name__)

CALLER = "sync"  # an application's name; what is replied to it, nobody hears
DEPLOY_S_MAX = 30.0
_LOOK_S = 0.02
_numbers = itertools.count(1)


class RolloutStore(Protocol):
    """Where rules and orders survive. Both methods block, and are one transaction each."""

    def load_rollout(self) -> tuple[tuple[Rule, ...], tuple[NodeDesired, ...]]:
        """All rules, oldest first, and the orders of every node."""
        ...

    def save_rollout(
        self, rules: tuple[Rule, ...], withdrawn: tuple[Key, ...], desired: tuple[NodeDesired, ...]
    ) -> None:
        """Durable, all of it, when this returns."""
        ...


def rollout(core: Rollout, bus: Bus, store: RolloutStore) -> Service[Event]:
    """Feed it what the registry says of nodes, and a :class:`ModelAdded` for each model in the catalog."""

    def deployed(ids: dict[str, str], deploy: Deploy) -> Deployed:
        return Deployed(ids["app"], deploy, time.time())

    async def load(_: Load) -> Restored:
        with _failures_told("read"):
            return Restored(*await asyncio.to_thread(store.load_rollout))

    async def save(work: Save) -> Saved:
        with _failures_told("save"):
            await asyncio.to_thread(store.save_rollout, work.rules, work.withdrawn, work.desired)
            return Saved()

    return Service(
        "rollout",
        core,
        bus,
        routes=[
            on(APP_DEPLOY, deployed),
            on(REPORTED, lambda ids, reported: ReportedSeen(ids["node"], reported)),
        ],
        work={Load: load, Save: save},
    )


@contextmanager
def _failures_told(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.warning("rollout: can't %s the deployments, trying again: %s", what, error)
        raise


async def deploy_here(service: Service[Event], core: Rollout, model: str, targets: tuple[str, ...]) -> str:
    """For another capability of this process: a standing rule that these nodes hold the model.

    Returns the digest, once the rule is durable.

    Raises :class:`NoSuchModel`, and :class:`Refused` when the rule could not be made.
    """
    name, version, digest = core.catalog.resolve(model)
    target = ",".join(sorted(targets))
    deploy = Deploy(
        correlation=f"here-{next(_numbers)}", budget_s=DEPLOY_S_MAX, model=f"{name}@{version}", target=target
    )
    service.feed(Deployed(CALLER, deploy, time.time()))
    rule = core.rules.get((name, target))
    if rule is None or rule.digest != digest:
        raise Refused("not-deployed", f"{model} could not be deployed to {target[:200]}: try again")
    async with asyncio.timeout(DEPLOY_S_MAX):
        # The core answers applications on the bus; in here its own state says when the rule is saved.
        while _unsaved(core, rule):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
    return digest


def _unsaved(core: Rollout, rule: Rule) -> bool:
    return rule.key in core.unsaved_rules or (core.saving is not None and rule in core.saving.rules)
