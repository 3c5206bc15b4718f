"""``python -m edge``: the device agent. This file builds the parts and joins them; it decides nothing."""

import argparse
import asyncio
import logging
import random
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from broker.connect import open_bus
from broker.process import common_options, configured, labels, main, on_signals, until
from broker.service import Service
from edge.agent.capabilities import capabilities
from edge.agent.core import Agent, LoadSeen, StopAsked, TroubleSeen
from edge.agent.local import LocalData, LocalRecord, LocalRequest, serve_locally
from edge.agent.service import agent_service, last_will
from edge.agent.vitals import Machine
from edge.artifacts.blobs import Blobs
from edge.artifacts.core import Models
from edge.artifacts.events import Released, Required
from edge.artifacts.service import models_service
from edge.artifacts.trust import verifier
from edge.inference.core import DrainStarted, Inference, LoadChanged, ModelsChanged
from edge.inference.service import LocalClients, inference_service
from edge.residency.service import DeviceResidency
from edge.runtime import Limits, ModuleHost, measure
from edge.store.state import DeviceState
from edge.sync.local import answer_data
from edge.sync.service import SyncService
from edge.telemetry.core import Telemetry
from edge.telemetry.limits import Limits as TelemetryLimits
from edge.telemetry.service import Streams
from edge.training import events as training
from edge.training.answered import Answered
from edge.training.core import Limits as TrainingLimits
from edge.training.core import Training
from edge.training.policy import Policy, hours_of
from edge.training.recorder import Recorder
from edge.training.service import Disk, training_service
from edge.training.sources import fields_of, sources_of
from edge.training.updates import Updates
from edge.training.versions import Versions
from shared.allocator import keep_freed
from shared.codecs import decode, encode
from shared.config import Config, DeviceSection, TrainingSection
from shared.errors import ConfigError
from shared.ids import is_id
from shared.learning import Power
from shared.messages import Capabilities, Grade, Reply, Sample
from shared.tensors import unpack_inputs

log = logging.getLogger(__name__)

GOODBYE_S_MAX = 5.0
SETTLED_AFTER_S = 60.0
SWITCH_S = 0.0005  # how long a busy thread keeps the interpreter from the event loop; Python's own is 5 ms
BOOTS_UNSETTLED_MAX = 5  # more boots in a row that died young: a module is the likely killer


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="shoal edge",
        description="The device agent: runs modules, answers inference, works offline.",
        epilog="examples: shoal edge --node edge-1 --broker mqtt://127.0.0.1:1883 --label region=eu\n"
        "          shoal edge --config /etc/shoal/edge.toml\n"
        "ask the running agent without any broker: python -m edge.ask MODEL --input x.npy --data DIR\n"
        "give it something to send: python -m edge.record room celsius=21.5 --data DIR",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--node", help="this device's name in the fleet")
    parser.add_argument("--broker", help="mqtt://host:1883 or mqtts://user@host")
    parser.add_argument("--fleet", help="name of the fleet (default: main)")
    parser.add_argument("--data", help="folder for state, modules and the local socket")
    parser.add_argument(
        "--label", action="append", metavar="NAME=VALUE", help="for 'shoal deploy --to NAME=VALUE'"
    )
    parser.add_argument("--cloud-key", help="hex of the Ed25519 key whose modules this device trusts")
    common_options(parser)
    return parser.parse_args(argv)


def settings(options: argparse.Namespace) -> Config:
    """The configuration of this device. Raises :class:`ConfigError`."""
    device = {
        "node": options.node,
        "data": options.data,
        "cloud_key": options.cloud_key,
        "labels": labels(options.label),
    }
    overrides = {"fleet": options.fleet, "broker": {"url": options.broker}, "device": device}
    config = configured(options, overrides)
    one = config.device
    if not is_id(one.node):
        raise ConfigError(f"--node {one.node!r}: give the device a name, 1 to 64 of a-z, 0-9 and '-'")
    if one.slots < 1 or one.queue_max < 0 or one.heartbeat_s <= 0 or one.telemetry_s <= 0:
        raise ConfigError("slots must be at least 1, queue_max at least 0, the intervals above 0")
    if config.training.room < 1:
        raise ConfigError(f"training.room = {config.training.room}: at least one piece of training at a time")
    return config


async def serve(config: Config) -> None:
    """Live one boot of the device, until SIGTERM or a drain command."""
    sys.setswitchinterval(SWITCH_S)
    device = config.device
    data = Path(device.data)
    state = DeviceState(data)
    try:
        await Boot(config, data, state).run()
    finally:
        state.close()


class Boot:
    """One boot: every core, every service, and the wires between them."""

    def __init__(self, config: Config, data: Path, state: DeviceState) -> None:
        device, node = config.device, config.device.node
        self.epoch = state.next_epoch(time.time())
        self.state, self.data, self.stopped = state, data, asyncio.Event()
        self.looping = state.boots_unsettled > BOOTS_UNSETTLED_MAX
        self.machine, self.local = Machine(data), LocalClients()
        self.host = _host(config, data, state.device_key())
        self.recorder = Recorder(data / "training", fields_of(config.training.sources))
        self.bus = open_bus(
            config.broker,
            config.fleet,
            client_id=node,
            will=last_will(node, self.epoch),
            clean_start=False,
            session_expiry_s=device.session_expiry_s,
        )
        self.residency = DeviceResidency(
            node,
            self.epoch,
            self.bus,
            device.cloud_key,
            saved=state.get("residency", "kept"),
            remember=partial(state.put, "residency", "kept"),
        )
        self.agent = agent_service(
            _agent(device, self.epoch),
            self.bus,
            vitals=self.machine.vitals,
            measure=self._measure,
            drain=self._drain,
            leave=self._leave,
        )
        self.inference = inference_service(
            Inference(node, self.epoch, slots=device.slots, queue_max=device.queue_max),
            self.bus,
            self.host,
            self.local,
            self._load_changed,
        )
        self.telemetry = Streams(
            _telemetry(config, self.epoch),
            self.bus,
            self._sample,
            data / "telemetry",
            lambda what: self.agent.feed(TroubleSeen(what)),
        )
        self.models = models_service(
            Models(node, self.epoch, random.random),
            self.bus,
            Blobs(data / "blobs"),
            load=self._load,
            unload=self._unload,
            remember=partial(state.put, "models", "desired"),
            verify=verifier(device.cloud_key),
            saved=None if self.looping else state.get("models", "desired"),
            answer=self._lent,
        )
        self.sync = SyncService(
            node,
            self.epoch,
            self.residency.bus,
            data / "sync",
            gate=self.residency.gate,
            compare_s=config.sync.compare_s,
        )
        trains = config.training.sources and not self.looping
        self.learned: Disk | None = None
        if trains:
            keep_freed()
        self.training = self._training(config, data) if trains else None
        self.benchmark_s = device.benchmark_s
        self.left = ""

    async def run(self) -> None:
        """Until it is told to stop."""
        on_signals(lambda name: self.agent.feed(StopAsked(name)))
        for damage in self.state.damage:
            log.error("the local store was damaged: %s", damage)
            self.agent.feed(TroubleSeen(f"local store: {damage}"))
        if self.sync.trouble:
            log.error("%s", self.sync.trouble)
            self.agent.feed(TroubleSeen(self.sync.trouble))
        if self.looping:
            boots = self.state.boots_unsettled
            what = f"crash loop: {boots} short boots in a row; models wait until told, nothing is trained"
            log.error("%s", what)
            self.agent.feed(TroubleSeen(what))
        services: list[Service[Any]] = [self.agent, self.inference, self.models, self.residency.service]
        services += [self.training] if self.training else []
        bus = asyncio.create_task(self.bus.run(), name="bus")
        try:
            async with serve_locally(self.data, self._answer_locally):
                running = (
                    self._settle(),
                    self.telemetry.run(),
                    self.sync.run(),
                    *(service.run() for service in services),
                )
                await until(self.stopped, *running)
            await asyncio.to_thread(self.state.settle)  # told to stop: no crash, however short it was
            if self.learned is not None:
                with suppress(OSError):  # a full disk: the next boot fetches it again
                    await asyncio.to_thread(self.learned.keep)
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S_MAX):
                    await self.bus.drained()
        finally:
            await self.bus.close()
            bus.cancel()
            await asyncio.gather(bus, return_exceptions=True)
            await self.host.close()
        log.info("stopped: %s", self.left)

    async def _settle(self) -> None:
        """A boot that lived this long did not crash because of its modules."""
        await asyncio.sleep(SETTLED_AFTER_S)
        await asyncio.to_thread(self.state.settle)
        await asyncio.Event().wait()

    async def _measure(self) -> Capabilities:
        runtime = f"wasmtime {version('wasmtime')}"
        return await capabilities(self.machine, self.state, runtime, lambda: measure(self.benchmark_s))

    def _leave(self, reason: str) -> None:
        self.left = reason
        self.stopped.set()

    def _load_changed(self, load: LoadChanged) -> None:
        self.agent.feed(LoadSeen(load.queue_depth, load.in_flight, load.models))

    async def _load(self, name: str, path: Path) -> "InService":
        loaded = await self.host.load(name, path)
        self._models_changed()
        return InService(loaded.info.memory_bytes_max)

    def _unload(self, name: str) -> None:
        self.host.unload(name)
        self._models_changed()

    def _models_changed(self) -> None:
        self.inference.feed(ModelsChanged(frozenset(filter(is_id, self.host.names()))))

    def _drain(self) -> None:
        self.inference.feed(DrainStarted())
        if self.training is not None:
            self.training.feed(training.DrainStarted())

    def _sample(self) -> Sample:
        sample = self.machine.sample()
        self.recorder.record(sample.values)
        return sample

    def _training(self, config: Config, data: Path) -> Service[training.Event]:
        section, device = config.training, config.device
        folder = data / "training"
        answered = Answered(folder / "answered")
        self.learned = Disk(
            Versions(folder / "versions", decode),
            Updates(folder / "updates"),
            answered.all,
            answered.remember,
        )
        return training_service(
            _trainee(section, device.node, self.epoch),
            self.bus,
            host=self.host,
            disk=self.learned,
            sources=sources_of(
                section.sources, Path(section.data or data), section.held_out_ratio, self.recorder
            ),
            encode=encode,
            conditions=partial(self._conditions, section.power),
            require=lambda digest: self.models.feed(Required(digest)),
            release=lambda digest: self.models.feed(Released(digest)),
        )

    def _lent(self, digest: str, path: Path | None, reason: str) -> None:
        assert self.training is not None, "nothing else requires artifacts"
        answer = training.Available(digest, str(path)) if path else training.Unavailable(digest, reason)
        self.training.feed(answer)

    def _conditions(self, configured: str) -> training.Conditions:
        now, battery = time.localtime(), self.machine.battery()
        power = Power(configured) if configured else Power.UNKNOWN
        if battery is not None:
            power = Power.AC if battery[0] else Power.BATTERY
        ratio = battery[1] if battery is not None else 1.0
        return training.Conditions(power, ratio, self.machine.load_ratio(), now.tm_hour * 60 + now.tm_min)

    async def _answer_locally(self, request: LocalRequest) -> Reply:
        if isinstance(request, LocalData):
            return await answer_data(self.sync.data, request)
        if isinstance(request, LocalRecord):
            return await self.telemetry.answer(
                request.stream, request.values, request.at_unix_s or None, request.budget_s
            )
        inputs: Any = unpack_inputs(request.inputs)
        return await self.local.ask(
            self.inference, request.model, inputs, function=request.function, budget_s=request.budget_s
        )


@dataclass(frozen=True, slots=True)
class InService:
    """What the models' core wants to know of a module that answers now."""

    memory_bytes: int


def _agent(device: DeviceSection, epoch: int) -> Agent:
    return Agent(
        device.node,
        epoch,
        version("shoal"),
        random.Random(),
        labels=device.labels,
        slots=device.slots,
        heartbeat_s=device.heartbeat_s,
    )


def _telemetry(config: Config, epoch: int) -> Telemetry:
    device, section = config.device, config.telemetry
    return Telemetry(
        device.node,
        epoch,
        random.Random(),
        grades={stream: Grade(grade) for stream, grade in section.grades.items()},
        interval_s=device.telemetry_s,
        limits=TelemetryLimits(linger_s=section.linger_s, bytes_max=section.bytes_max),
    )


def _trainee(section: TrainingSection, node: str, epoch: int) -> Training:
    policy = Policy(
        section.battery_ratio_min, section.ac_only, section.load_ratio_max, hours_of(section.hours)
    )
    limits = TrainingLimits(room=section.room)
    return Training(node, epoch, random.random, policy, limits, section.link)


def _host(config: Config, data: Path, key: bytes) -> ModuleHost:
    device = config.device
    limits = Limits(
        memory_bytes_max=device.module_memory_bytes_max,
        deadline_s=device.deadline_s,
        queue_max=max(1, device.queue_max),
    )
    trainees = config.training.room if config.training.sources else 0
    return ModuleHost(data / "compiled", key, limits, workers=device.slots + 1 + trainees)


if __name__ == "__main__":
    chosen = arguments()
    sys.exit(main(chosen, lambda: serve(settings(chosen))))
