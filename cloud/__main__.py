"""``python -m cloud``: the cloud process. This file builds the parts and joins them; it decides nothing."""

import argparse
import asyncio
import logging
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec

from broker.bus import Will
from broker.connect import open_bus
from broker.process import common_options, configured, main, on_signals, until
from cloud.api.app import create_app
from cloud.api.server import serve_http
from cloud.api.tasks import TaskWaiters
from cloud.artifacts import sender
from cloud.artifacts.blobs import BlobFolder, BlobFolders
from cloud.artifacts.catalog import Catalog, CatalogLimits
from cloud.artifacts.entry import Entry
from cloud.artifacts.events import Offered
from cloud.artifacts.keys import public_hex, signed, signing_key
from cloud.artifacts.service import OwnPackages, catalog_service, sender_service
from cloud.balancer.core import Balancer
from cloud.balancer.service import balancer_service
from cloud.client import Fleet
from cloud.facts import NodeNews
from cloud.federated import events as federated
from cloud.federated.core import Coordinator
from cloud.federated.executor import Executor
from cloud.federated.service import learning_service
from cloud.federated.views import LearningViews
from cloud.history.core import History
from cloud.history.service import history_service
from cloud.operator.core import Operator
from cloud.operator.service import operator_service
from cloud.readers import Readers, residency_table
from cloud.registry.core import Registry
from cloud.registry.service import registry_service
from cloud.residency.service import FOLDER, Localisation
from cloud.rollout.core import Rollout
from cloud.rollout.events import ModelAdded
from cloud.rollout.service import deploy_here, rollout
from cloud.store.store import DATABASE_FILE, Store
from cloud.sync.service import sync_service
from cloud.tasks.core import Restored, Tasks
from cloud.tasks.service import tasks_service
from cloud.telemetry.core import Ingest
from cloud.telemetry.retention import Retention
from cloud.telemetry.service import IngestWorker, group_of, policy_of, retention_service
from shared.allocator import keep_freed
from shared.carried import MODEL_PREFIX
from shared.config import Config
from shared.messages import CloudPresence
from shared.topics import CLOUD
from shared.wire import encode

log = logging.getLogger(__name__)

GOODBYE_S_MAX = 5.0
PRESENCE_EVERY_S = 30.0


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="shoal cloud",
        description="The cloud process: registry, balancer, artifacts, deployments, REST API.",
        epilog="examples: shoal cloud --broker mqtt://127.0.0.1:1883 --data .shoal/cloud\n"
        "          shoal cloud --config /etc/shoal/cloud.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--broker", help="mqtt://host:1883 or mqtts://user@host")
    parser.add_argument("--fleet", help="name of the fleet (default: main)")
    parser.add_argument("--data", help="folder for the signing key, models and the SQLite store")
    parser.add_argument("--store", help="SQLAlchemy URL instead of SQLite in --data")
    parser.add_argument("--http-host", help="address of the REST API (default: 127.0.0.1)")
    parser.add_argument("--http-port", type=int, help="port of the REST API; 0 turns it off (default: 8080)")
    common_options(parser)
    return parser.parse_args(argv)


def settings(options: argparse.Namespace) -> Config:
    """The configuration of this process. Raises :class:`ConfigError`."""
    cloud = {
        "data": options.data,
        "store": options.store,
        "http_host": options.http_host,
        "http_port": options.http_port,
    }
    return configured(options, {"fleet": options.fleet, "broker": {"url": options.broker}, "cloud": cloud})


async def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT."""
    keep_freed()
    data = absolute(config.cloud.data)
    await asyncio.to_thread(data.mkdir, parents=True, exist_ok=True)
    url = config.cloud.store or Store.url_of(data / DATABASE_FILE)
    store = await asyncio.to_thread(Store.open, url)
    try:
        await Cloud(config, data, store, store.next_term(time.time())).run()
    finally:
        store.close()


def absolute(folder: str) -> Path:
    """Where the data lives, whatever the working folder is."""
    return Path(folder).absolute()


class Cloud:
    """One term of the cloud: every core, every service, and the wires between them."""

    def __init__(self, config: Config, data: Path, store: Store, term: int) -> None:
        self.config, self.term = config, term
        key, blobs = signing_key(data), BlobFolder(data / "artifacts")
        log.info("term %d; devices are enrolled with cloud_key = %s", term, public_hex(key))
        self.bus = open_bus(
            config.broker,
            config.fleet,
            client_id=f"cloud-{secrets.token_hex(4)}",
            will=Will(CLOUD.at().name, encode(self._presence(online=False)), delay_s=0),
            receive_max=1000,
        )
        self.residency = Localisation(
            self.bus,
            data / FOLDER,
            key,
            policy=absolute(config.residency.policy) if config.residency.policy else None,
            region=config.residency.region,
            head_s=config.residency.head_s,
        )
        guarded = self.residency.bus  # whoever sends data that may have a home sends them through here
        registry, balancer, rules = Registry(), Balancer(config.balancer), Rollout()
        catalog = Catalog(CatalogLimits(upload_bytes_max=config.cloud.upload_bytes_max))
        coordinator = Coordinator(term, time.time() - time.monotonic())
        learning = LearningViews(coordinator, time.monotonic)
        readers = Readers(
            config.fleet, term, registry, balancer, catalog, rules, learning, version("shoal"), time.time
        )
        self.balancer = balancer_service(balancer, self.bus)
        self.rollout = rollout(rules, self.bus, store)
        self.executor = Executor(
            data / "learning",
            OwnPackages(blobs, self._offered(asyncio.get_running_loop())),
            lambda manifest: signed(manifest, key),
            time.perf_counter,
        )
        self.executor.open()
        versions = BlobFolders(blobs, BlobFolder(self.executor.artifacts))
        self.artifacts = (blobs.folder, self.executor.artifacts)
        self.sender = sender_service(sender.Sender(), guarded, versions)
        self.learning = learning_service(
            coordinator,
            guarded,
            self.executor,
            lambda manifest, readers: self.sender.feed(sender.Known.of(manifest, readers)),
            lambda digest: self.sender.feed(sender.Retired(digest)),
        )
        self.sync = sync_service(
            term,
            guarded,
            store.sync,
            partial(deploy_here, self.rollout, rules),
            gate=self.residency.gate,
            audit=lambda asked: self.residency.decided(asked.action, asked.decision),
            prepare=self.residency.views.prepared,
        )
        self.registry = registry_service(registry, self.bus, store, self._node_changed)
        self.operator = operator_service(
            Operator({**readers.table(), **residency_table(self.residency)}, readers.epoch_of), self.bus
        )
        self.catalog = catalog_service(catalog, guarded, blobs, store, key, self._model_added)
        ingest = Ingest()
        readers.counters["ingest"] = ingest.counts
        self.ingest = IngestWorker(ingest, self.bus, store.telemetry, group=group_of(config, store.telemetry))
        self.retention = retention_service(Retention(policy_of(config.retention)), self.bus, store.telemetry)
        self.history = history_service(History(), self.bus, store.telemetry)
        self.bus.watch_link(lambda link: self._announce(online=True) if link.up else None)
        self.services = (
            self.registry,
            self.balancer,
            self.rollout,
            self.sender,
            self.operator,
            self.catalog,
            self.learning,
            self.sync,
            self.history,
            self.retention,
        )
        readers.counters.update((service.name, service.counts) for service in self.services)
        self.store, self.stopped = store, asyncio.Event()

    async def run(self) -> None:
        """Until it is told to stop."""
        on_signals(lambda _: self.stopped.set())
        buses = [asyncio.create_task(self.bus.run(), name="bus")]
        try:
            await until(
                self.stopped,
                self._repeat(),
                self._api(),
                self.ingest.run(),
                self.residency.run(),
                *(service.run() for service in self.services),
            )
            self._announce(online=False)
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S_MAX):
                    await self.bus.drained()
        finally:
            await asyncio.to_thread(self.residency.close)
            await self.bus.close()
            await asyncio.gather(*buses, return_exceptions=True)
            self.executor.close()

    async def _api(self) -> None:
        """The REST API as an application of its own: its own user, its own connection."""
        cloud = self.config.cloud
        if not cloud.http_port:
            await asyncio.Event().wait()
        user = cloud.api_username or self.config.broker.username
        broker = msgspec.structs.replace(
            self.config.broker, username=user, password=cloud.api_password or self.config.broker.password
        )
        bus = open_bus(broker, self.config.fleet, client_id=f"api-{secrets.token_hex(4)}")
        fleet = Fleet(bus, user or "api")
        tasks, waiters = Tasks(), TaskWaiters()
        service = tasks_service(tasks, bus, fleet, self.store, waiters.announce)
        service.feed(Restored(tuple(self.store.tasks())))
        app = create_app(
            fleet,
            service,
            waiters,
            upload_bytes_max=cloud.upload_bytes_max,
            artifacts=self.artifacts,
        )
        running = asyncio.create_task(bus.run(), name="api bus")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(service.run(), name="tasks")
                group.create_task(serve_http(app, cloud.http_host, cloud.http_port), name="http")
        finally:
            await bus.close()
            await running

    async def _repeat(self) -> None:
        """A device's clock and a doctor's look can lean on a presence that is never old."""
        while True:
            await asyncio.sleep(PRESENCE_EVERY_S)
            if self.bus.link.up:
                self._announce(online=True)

    def _presence(self, *, online: bool) -> CloudPresence:
        return CloudPresence(online=online, term=self.term, version=version("shoal"), at_unix_s=time.time())

    def _announce(self, *, online: bool) -> None:
        self.bus.publish(CLOUD.at().name, encode(self._presence(online=online)), qos=CLOUD.qos, retain=True)

    def _offered(self, loop: asyncio.AbstractEventLoop) -> Callable[[Offered], None]:
        """Into the catalog, from whichever thread made the package."""

        def offered(event: Offered) -> None:
            loop.call_soon_threadsafe(self.catalog.feed, event)

        return offered

    def _node_changed(self, news: NodeNews) -> None:
        self.balancer.feed(news)
        self.rollout.feed(news)
        self.sync.feed(news)
        self.learning.feed(news)

    def _model_added(self, entry: Entry) -> None:
        manifest = entry.manifest
        self.residency.gate.learn(manifest.digest, MODEL_PREFIX + manifest.name)
        self.rollout.feed(ModelAdded(manifest.name, manifest.version, manifest.digest))
        self.learning.feed(federated.ModelAdded(manifest.name, manifest.version, manifest.digest))
        self.sender.feed(sender.Known.of(manifest))


if __name__ == "__main__":
    chosen = arguments()
    sys.exit(main(chosen, lambda: serve(settings(chosen))))
