"""What the demo does, without a word about how it looks.

Five devices, a broker and a cloud as processes of their own; the digits model goes to all of them over
MQTT; 500 held-out digits are classified by requests app -> broker -> balancer -> device -> app. When half of
them are answered, the device that answered most is killed with SIGKILL, and the answers keep coming. Those
that are left then learn the digits together (cloud/demo/learning.py).
"""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.bus import Delivery
from broker.settings import read_config
from cloud.client import Answer, Fleet, connected
from cloud.demo.learning import Learned, learn, shares
from cloud.local.processes import LocalFleet
from shared.errors import RequestFailed, ShoalError, Unavailable
from shared.topics import TELEMETRY
from shared.wire import decode

MODEL = "digits"
IN_FLIGHT = 64
READY_S_MAX = 30.0
_POLL_S = 0.05
_ASK_S = 0.5

Progress = Callable[[str, int, int], None]  # step, done, total


class DeviceShare(msgspec.Struct, frozen=True, kw_only=True):
    """What one device did."""

    node: str
    answers: int
    service_us_median: float
    killed: bool


class KilledDevice(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the requests that were with the device when it died."""

    node: str
    answers_before: int
    in_flight: int
    answered_elsewhere: int
    failed: int
    rescue_s_max: float
    offline_after_s: float | None


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the summary shows."""

    digits: int
    correct: int
    accuracy: float
    torch_accuracy: float
    same_as_torch: int
    requests_per_s: float
    latency_p50_ms: float
    latency_p99_ms: float
    devices: tuple[DeviceShare, ...]
    killed: KilledDevice
    learned: Learned
    telemetry_samples: int
    model_bytes: int
    deploy_s: float
    start_s: float
    total_s: float


@dataclass(slots=True)
class _Run:
    """The inference part, as it goes."""

    answers: list[Answer | None]
    latencies_s: list[float]
    started: dict[int, float] = field(default_factory=dict)
    answered: int = 0
    killed: str = ""
    killed_at: float = 0.0
    answers_before: int = 0
    in_flight_at_kill: tuple[int, ...] = ()


async def play(examples: Path, folder: Path, devices: int, progress: Progress) -> DemoResult:
    """Run it all in ``folder``. Raises :class:`ShoalError` when a step does not come to its end in time."""
    began = time.monotonic()
    package = await asyncio.to_thread((examples / "digits.shoal").read_bytes)
    images, labels, torch_classes = await asyncio.to_thread(_held_out, examples / "heldout.npz")
    settings = {"heartbeat_s": 1.0, "telemetry_s": 1.0, "benchmark_s": 0.2}
    nodes = {f"edge-{number}": settings for number in range(1, devices + 1)}
    progress("start", 0, devices)
    training = await asyncio.to_thread(shares, examples, folder / "data", devices)
    async with LocalFleet(folder, nodes, training=training, log_level="warning") as local:
        config = read_config(local.workspace.config("operator"))
        # Whoever asks before the cloud listens is not answered: ask often, and wait briefly each time.
        async with connected(config, "operator", budget_s=_ASK_S) as asking:
            await _until_serving(asking, local, devices, progress)
        async with connected(config, "operator") as fleet:
            samples = _count_telemetry(fleet)
            start_s = time.monotonic() - began
            deploy_s = await _deploy(fleet, package, devices, progress)
            run, took_s = await _classify(fleet, local, images, progress)
            killed = await _what_became(fleet, run, progress)
            learned = await learn(fleet, examples, images, labels, progress)
            seen = samples[0]
    classes = np.array([_class(answer) for answer in run.answers])
    correct = int((classes == labels).sum())
    return DemoResult(
        digits=len(images),
        correct=correct,
        accuracy=correct / len(images),
        torch_accuracy=float((torch_classes == labels).mean()),
        same_as_torch=int((classes == torch_classes).sum()),
        requests_per_s=len(images) / took_s,
        latency_p50_ms=float(np.percentile(run.latencies_s, 50)) * 1e3,
        latency_p99_ms=float(np.percentile(run.latencies_s, 99)) * 1e3,
        devices=_shares(run, nodes),
        killed=killed,
        learned=learned,
        telemetry_samples=seen,
        model_bytes=len(package),
        deploy_s=deploy_s,
        start_s=start_s,
        total_s=time.monotonic() - began,
    )


def _held_out(path: Path) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return file["images"].astype(np.float32) / 16, file["labels"], file["predictions"]


def _count_telemetry(fleet: Fleet) -> list[int]:
    count = [0]

    def seen(delivery: Delivery) -> None:
        count[0] += len(decode(TELEMETRY, delivery.payload).samples)

    fleet.bus.subscribe([TELEMETRY.filter], seen)
    return count


async def _until_serving(fleet: Fleet, local: LocalFleet, devices: int, progress: Progress) -> None:
    async def serving() -> int:
        try:
            return sum(node.status in ("idle", "busy") for node in await fleet.nodes())
        except RequestFailed:
            return 0  # the cloud is not there yet

    try:
        async with asyncio.timeout(READY_S_MAX):
            while (count := await serving()) < devices:
                progress("start", count, devices)
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        ended = [process for process in local.processes if not process.running]
        tail = ended[0].tail() if ended else local.cloud.tail()
        raise Unavailable(f"the fleet did not come up in {READY_S_MAX:g} s:\n{tail}") from None
    progress("start", devices, devices)


async def _deploy(fleet: Fleet, package: bytes, devices: int, progress: Progress) -> float:
    began = time.monotonic()
    await fleet.upload(package)
    await fleet.deploy(MODEL, "all")
    async with asyncio.timeout(READY_S_MAX):
        while True:
            rules = await fleet.deployments()
            ready = sum(rule.ready for rule in rules)
            progress("deploy", ready, devices)
            if ready >= devices:
                return time.monotonic() - began
            if failures := [rule.failures for rule in rules if rule.failures]:
                raise Unavailable(f"a device refused the model: {failures[0]}")
            await asyncio.sleep(_POLL_S)


async def _classify(
    fleet: Fleet, local: LocalFleet, images: NDArray[np.float32], progress: Progress
) -> tuple[_Run, float]:
    run = _Run(answers=[None] * len(images), latencies_s=[0.0] * len(images))
    todo = iter(range(len(images)))
    # The first calls of a module measure it and run in a thread; the fleet is warm before the clock starts.
    await asyncio.gather(*(fleet.infer(MODEL, images[:1]) for _ in range(4 * len(local.devices))))
    began = time.monotonic()
    async with asyncio.TaskGroup() as workers:
        for _ in range(IN_FLIGHT):
            workers.create_task(_worker(fleet, local, images, todo, run, progress))
    return run, time.monotonic() - began


async def _worker(
    fleet: Fleet,
    local: LocalFleet,
    images: NDArray[np.float32],
    todo: Iterable[int],
    run: _Run,
    progress: Progress,
) -> None:
    for index in todo:
        run.started[index] = time.monotonic()
        try:
            run.answers[index] = await fleet.infer(MODEL, images[index : index + 1], budget_s=10.0)
        except RequestFailed:
            continue  # it stays None and is counted as failed
        finally:
            run.latencies_s[index] = time.monotonic() - run.started.pop(index)
            run.answered += 1
        progress("classify", run.answered, len(images))
        if not run.killed and run.answered >= len(images) // 2:
            _kill_the_busiest(local, run)


def _kill_the_busiest(local: LocalFleet, run: _Run) -> None:
    shares = Counter(answer.node for answer in run.answers if answer is not None)
    run.killed, run.answers_before = shares.most_common(1)[0]
    run.killed_at = time.monotonic()
    local.devices[run.killed].signal(signal.SIGKILL)
    run.in_flight_at_kill = tuple(run.started)


async def _what_became(fleet: Fleet, run: _Run, progress: Progress) -> KilledDevice:
    """Of the requests that were under way, which had gone to the killed device first? The balancer knows."""
    under_way = [(index, run.answers[index]) for index in run.in_flight_at_kill]
    failed = sum(answer is None for _, answer in under_way)
    rescued, rescue_s_max = 0, 0.0
    for index, answer in under_way:
        if answer is not None and (await fleet.why(answer.request)).retried:
            rescued += 1
            rescue_s_max = max(rescue_s_max, run.latencies_s[index])
    offline_after_s = await _until_offline(fleet, run, progress)
    return KilledDevice(
        node=run.killed,
        answers_before=run.answers_before,
        in_flight=rescued + failed,
        answered_elsewhere=rescued,
        failed=failed,
        rescue_s_max=rescue_s_max,
        offline_after_s=offline_after_s,
    )


async def _until_offline(fleet: Fleet, run: _Run, progress: Progress) -> float | None:
    """Seconds from the kill until the cloud called the device offline."""
    progress("offline", 0, 1)
    try:
        async with asyncio.timeout(READY_S_MAX):
            while (await fleet.node(run.killed)).status != "offline":
                await asyncio.sleep(_POLL_S)
    except (TimeoutError, ShoalError):
        return None
    progress("offline", 1, 1)
    return time.monotonic() - run.killed_at


def _class(answer: Answer | None) -> int:
    if answer is None or isinstance(answer.outputs, bytes):
        return -1
    scores: NDArray[Any] = answer.outputs[0]
    return int(scores.argmax())


def _shares(run: _Run, nodes: Iterable[str]) -> tuple[DeviceShare, ...]:
    answers = [answer for answer in run.answers if answer is not None]
    return tuple(
        DeviceShare(
            node=node,
            answers=sum(answer.node == node for answer in answers),
            service_us_median=_median([answer.service_s for answer in answers if answer.node == node]) * 1e6,
            killed=node == run.killed,
        )
        for node in nodes
    )


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else 0.0
