"""``python -m broker``: the embedded MQTT 5 broker as a process of its own."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from broker.acl import Access
from broker.credentials import Credentials
from broker.embedded import AllowAll, BrokerConfig, BrokerLimits, EmbeddedBroker, accept_anyone
from broker.mosquitto import PACKET_BYTES_MAX
from broker.process import common_options, configured, main, on_signals
from broker.tls import server_context
from shared.errors import ConfigError

log = logging.getLogger(__name__)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="shoal broker",
        description="MQTT 5 broker for one machine. Without --credentials it refuses to start, "
        "unless --allow-anonymous says that everybody may do everything.",
        epilog="examples: shoal broker --port 1883 --allow-anonymous\n"
        "          shoal broker --credentials .shoal/credentials --tls-cert cert.pem --tls-key key.pem",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=1883, help="0 takes a free one (default: 1883)")
    parser.add_argument("--credentials", type=Path, help="directory with 'passwords' and 'roles.toml'")
    parser.add_argument("--allow-anonymous", action="store_true", help="no passwords, no access rules")
    parser.add_argument("--fleet", help="the fleet whose access rules hold (default: main)")
    parser.add_argument("--tls-cert", type=Path, help="PEM certificate; turns TLS on")
    parser.add_argument("--tls-key", type=Path, help="PEM private key")
    parser.add_argument(
        "--tls-client-ca", type=Path, help="PEM of the CA whose client certificates are asked for"
    )
    common_options(parser)
    return parser.parse_args(argv)


def build(options: argparse.Namespace) -> EmbeddedBroker:
    """The broker that these options describe. Raises :class:`ConfigError`."""
    tls = None
    if options.tls_cert is not None:
        if options.tls_key is None:
            raise ConfigError("--tls-cert needs --tls-key")
        tls = server_context(options.tls_cert, options.tls_key, client_ca=options.tls_client_ca)
    config = BrokerConfig(
        host=options.host,
        port=options.port,
        tls=tls,
        certificate_is_username=options.tls_client_ca is not None,
        limits=BrokerLimits(packet_bytes_max=PACKET_BYTES_MAX),
    )
    if options.allow_anonymous:
        return EmbeddedBroker(config, authenticate=accept_anyone, authorize=AllowAll())
    if options.credentials is None:
        raise ConfigError("give --credentials DIR, or --allow-anonymous if nobody else can reach this broker")
    credentials = Credentials(options.credentials)
    fleet = configured(options, {"fleet": options.fleet}).fleet
    return EmbeddedBroker(config, authenticate=credentials, authorize=Access(fleet, credentials.roles))


async def serve(options: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    on_signals(lambda _: stopped.set())
    async with build(options) as broker:
        log.info("listening on %s:%d", options.host, broker.port)
        sys.stdout.write(f"{broker.port}\n")  # for whoever asked for port 0
        sys.stdout.flush()
        await stopped.wait()


if __name__ == "__main__":
    chosen = arguments()
    sys.exit(main(chosen, lambda: serve(chosen)))
