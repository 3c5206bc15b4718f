"""Cloud-edge sync: the documented names over the sync core. It holds nothing of its own.

manager = CloudEdgeSyncManager(fleet)
await manager.start_sync_service()
task_id = await manager.sync_data("limits", {"max": 21.5}, ["edge-1"], level=ConsistencyLevel.STRONG)
await manager.get_sync_status(task_id)
"""

from dataclasses import replace
from typing import Any

import msgspec

from cloud.client import Fleet
from cloud.sync.client import How
from cloud.sync.records import SyncTask
from shared.errors import Refused, Unavailable
from shared.sync import ConsistencyLevel, SyncStrategy

__all__ = ["CloudEdgeSyncManager", "ConsistencyLevel", "How", "SyncStrategy", "SyncTask"]

_USUAL = How()


class CloudEdgeSyncManager:
    """One fleet, over the broker like any application.

    The writing methods raise :class:`Refused` (definite: ``conflict``, ``cancelled`` because no target may
    have it, ``too-large``, ...) and :class:`TimedOut` (``indeterminate``: it may land later, exactly once).
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._sync = fleet, fleet.sync

    async def start_sync_service(self) -> bool:
        """True when the cloud's sync service answers. It runs in the cloud process; this only looks."""
        try:
            await self._sync.tasks()
        except (Refused, Unavailable):
            return False
        return True

    async def sync_data(
        self,
        data_key: str,
        data: Any,
        target_nodes: list[str],
        *,
        strategy: SyncStrategy = SyncStrategy.PUSH,
        level: ConsistencyLevel = ConsistencyLevel.EVENTUAL,
        how: How = _USUAL,
        budget_s: float | None = None,
    ) -> str:
        """Bring ``data`` (what JSON can say and bytes, at most 64 KiB) to these nodes.

        Returns the task's id, once the level's promise is kept. ``how``: everything else.
        """
        how = replace(how, strategy=strategy, level=level)
        return (await self._sync.put(data_key, data, target_nodes, how, budget_s=budget_s)).task_id

    async def sync_config(
        self,
        key: str,
        value: Any,
        target_nodes: list[str],
        *,
        strategy: SyncStrategy = SyncStrategy.PUSH,
        level: ConsistencyLevel = ConsistencyLevel.EVENTUAL,
        how: How = _USUAL,
        budget_s: float | None = None,
    ) -> str:
        """Set one key of the desired state of each of these nodes. Returns the task's id."""
        how = replace(how, strategy=strategy, level=level)
        return (await self._sync.put(key, value, target_nodes, how, config=True, budget_s=budget_s)).task_id

    async def sync_model(
        self,
        model_id: str,
        model_data: bytes | None,
        target_nodes: list[str],
        *,
        strategy: SyncStrategy = SyncStrategy.HYBRID,
        level: ConsistencyLevel = ConsistencyLevel.EVENTUAL,
        how: How = _USUAL,
        budget_s: float | None = None,
    ) -> str:
        """Have these nodes hold a model: its artifact is announced by digest, and they fetch it.

        ``model_data``: a ``.shoal`` package, put into the catalog first; None: the model is there already.
        ``model_id`` must be the name that the package gives itself (``name@version`` once it is there).
        """
        if model_data is not None:
            state = await self._fleet.upload(model_data)
            if state.name != model_id.partition("@")[0]:
                raise Refused("bad-model", f"the package calls itself {state.name!r}, not {model_id!r}")
            model_id = f"{state.name}@{state.version}"
        how = replace(how, strategy=strategy, level=level)
        return (await self._sync.model(model_id, target_nodes, how, budget_s=budget_s)).task_id

    async def get_sync_status(self, task_id: str) -> dict[str, Any] | None:
        """State, attempts, each target's acknowledgement, lag and conflicts of a task; None: not known."""
        try:
            view = await self._sync.status(task_id)
        except Refused as refused:
            if refused.code != "no-such-task":
                raise
            return None
        found: dict[str, Any] = msgspec.to_builtins(view)
        return found
