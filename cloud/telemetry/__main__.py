"""``python -m cloud.telemetry``: one more ingest worker, beside the one in the cloud process."""

import argparse
import asyncio
import logging
import secrets
import sys
from pathlib import Path

from broker.connect import open_bus
from broker.process import common_options, configured, main, on_signals, until
from cloud.store.store import DATABASE_FILE, Store
from cloud.telemetry.core import Ingest
from cloud.telemetry.service import IngestWorker
from shared.config import Config
from shared.errors import ConfigError

log = logging.getLogger(__name__)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="shoal ingest",
        description="One more worker that takes telemetry in: it shares the messages with the cloud process.",
        epilog="examples: shoal ingest --config .shoal/ingest.toml\n"
        "          shoal ingest --broker mqtts://ingest-2@host --store postgresql://shoal@db/shoal\n"
        "It needs the cloud's store, and a user with the cloud's role ('shoal enrol ingest-2 --role cloud').",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--broker", help="mqtt://host:1883 or mqtts://user@host")
    parser.add_argument("--fleet", help="name of the fleet (default: main)")
    parser.add_argument("--data", help="the cloud's data folder, where its SQLite store is")
    parser.add_argument("--store", help="SQLAlchemy URL of the cloud's store, instead of SQLite in --data")
    common_options(parser)
    return parser.parse_args(argv)


def settings(options: argparse.Namespace) -> Config:
    """The configuration of this process. Raises :class:`ConfigError`."""
    cloud = {"data": options.data, "store": options.store}
    config = configured(options, {"fleet": options.fleet, "broker": {"url": options.broker}, "cloud": cloud})
    if config.broker.protocol < 5:
        raise ConfigError("broker.protocol: workers share a subscription, which needs MQTT 5")
    return config


def sqlite_of(data: str) -> str:
    """The URL of the store in the cloud's data folder."""
    return Store.url_of(Path(data).absolute() / DATABASE_FILE)


async def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT."""
    store = await asyncio.to_thread(Store.open, config.cloud.store or sqlite_of(config.cloud.data))
    stopped = asyncio.Event()
    on_signals(lambda _: stopped.set())
    core = Ingest()
    try:
        group = await asyncio.to_thread(store.telemetry.telemetry_group)
        bus = open_bus(
            config.broker, config.fleet, client_id=f"ingest-{secrets.token_hex(4)}", receive_max=1000
        )
        running = asyncio.create_task(bus.run(), name="bus")
        try:
            await until(stopped, IngestWorker(core, bus, store.telemetry, group=group).run())
        finally:
            await bus.close()
            await asyncio.gather(running, return_exceptions=True)
    finally:
        store.close()
    log.info("took in %s", dict(core.counts))


if __name__ == "__main__":
    chosen = arguments()
    sys.exit(main(chosen, lambda: serve(settings(chosen))))
