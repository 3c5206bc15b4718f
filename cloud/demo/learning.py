"""The demo's last act: the devices that are left learn the digits together, and serve what they learned.

Each device process has had its share of the training images from the start (Dirichlet 0.5: each mostly has a
few of the ten classes), and trains in WebAssembly. The learned model is deployed like any other, and asked.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud.client import Fleet
from cloud.learning.follow import Watcher, create, follow, succeeded
from cloud.learning.jobfile import JobFile, read_job
from cloud.learning.local import ALPHA, Dealer, training_of
from cloud.learning.report import report_of
from shared.errors import Unavailable
from shared.learning import RoundRow

ROUNDS = 10
NAME = "digits-learned"
BATCH = 32
DEPLOY_S_MAX = 30.0
_POLL_S = 0.05

Progress = Callable[[str, int, int], None]


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """What the devices learned together. ``accuracy``: on the demo's digits, which none of them had;
    ``first_accuracy``: what they said of the first round's model on examples of their own."""

    rounds: int
    devices: int
    first_accuracy: float
    accuracy: float
    bytes_up: int
    bytes_down: int
    learn_s: float
    deploy_s: float


def shares(examples: Path, folder: Path, devices: int) -> dict[str, dict[str, Any]]:
    """Device -> its ``[training]`` section."""
    job = read_job(examples)
    shards = Dealer(job.folder).deal(folder, devices, alpha=ALPHA, seed=job.spec.seed)
    return training_of(job.spec.plan.source, shards)


async def learn(
    fleet: Fleet, examples: Path, images: NDArray[np.float32], labels: NDArray[Any], progress: Progress
) -> Learned:
    """A job of ``ROUNDS`` rounds, its model on every device, and the same digits once more."""
    clock = asyncio.get_running_loop().time
    alive = sum(one.status in ("idle", "busy") for one in await fleet.nodes())
    job = read_job(examples, rounds=ROUNDS, version_name=NAME, clients=alive, quorum=1)
    progress("learn", 0, ROUNDS)
    began, rows = clock(), await _rounds(fleet, job, progress)
    learned = clock()
    report = await report_of(fleet.learning, job.spec.job)
    deploying = clock()
    devices = max(row.accepted for row in rows)
    await _deployed(fleet, devices)
    deployed = clock()
    classes = await _classes(fleet, images)
    return Learned(
        rounds=len(rows),
        devices=devices,
        first_accuracy=rows[0].metrics.get("accuracy", 0.0),
        accuracy=float((classes == labels).mean()),
        bytes_up=report.bytes_up,
        bytes_down=report.bytes_down,
        learn_s=learned - began,
        deploy_s=deployed - deploying,
    )


async def _rounds(fleet: Fleet, job: JobFile, progress: Progress) -> list[RoundRow]:
    rows: list[RoundRow] = []

    def ended(row: RoundRow) -> None:
        rows.append(row)
        progress("learn", len(rows), ROUNDS)

    await create(fleet, job, lambda *_: None)
    succeeded(await follow(fleet.learning, job.spec.job, Watcher(row=ended)))
    return rows


async def _deployed(fleet: Fleet, devices: int) -> None:
    """The learned model is ready on so many."""
    await fleet.deploy(NAME, "all")
    async with asyncio.timeout(DEPLOY_S_MAX):
        while await _ready(fleet) < devices:
            await asyncio.sleep(_POLL_S)


async def _ready(fleet: Fleet) -> int:
    for rule in await fleet.deployments():
        if rule.model == NAME:
            if rule.failures:
                raise Unavailable(f"a device refused the learned model: {rule.failures}")
            return rule.ready
    return 0


async def _classes(fleet: Fleet, images: NDArray[np.float32]) -> NDArray[Any]:
    starts = range(0, len(images), BATCH)
    answers = await asyncio.gather(*(fleet.infer(NAME, images[at : at + BATCH]) for at in starts))
    return np.concatenate([np.asarray(answer.outputs[0]).argmax(axis=1) for answer in answers])
