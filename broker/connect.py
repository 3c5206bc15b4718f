"""From the configuration to the right bus."""

from ssl import SSLContext

from broker.bus import ConnectedBus, Will
from broker.native import NativeBus
from broker.options import LinkOptions
from shared.config import BrokerAddress, BrokerSection, broker_address
from shared.errors import ConfigError
from shared.topics import root

_MQTT_5, _MQTT_3_1_1 = 5, 4


def open_bus(
    config: BrokerSection,
    fleet: str,
    client_id: str,
    *,
    will: Will | None = None,
    clean_start: bool = True,
    session_expiry_s: int = 0,
    receive_max: int = 64,
) -> ConnectedBus:
    """The bus for this broker: native for MQTT 5 over TCP or TLS, aiomqtt for websockets and MQTT 3.1.1.

    Nothing is connected before :meth:`broker.bus.ConnectedBus.run`. Raises :class:`ConfigError`.
    """
    address = broker_address(config.url)
    if config.protocol not in (_MQTT_5, _MQTT_3_1_1):
        raise ConfigError(f"broker.protocol = {config.protocol}: 5 is MQTT 5.0, 4 is MQTT 3.1.1")
    options = LinkOptions(
        host=address.host,
        port=address.port,
        root=root(fleet),
        client_id=client_id,
        username=config.username or address.username,
        password=_password(config, address),
        tls=_tls(config) if address.tls else None,
        clean_start=clean_start,
        session_expiry_s=session_expiry_s,
        keepalive_s=config.keepalive_s,
        receive_max=receive_max,
        will=will,
    )
    websockets = address.scheme in ("ws", "wss")
    if config.protocol == _MQTT_5 and not websockets:
        return NativeBus(options)
    # Imported here: a process that talks MQTT 5 over TCP needs neither aiomqtt nor paho.
    from broker.aiomqtt_bus import AiomqttBus

    return AiomqttBus(options, protocol=config.protocol, websockets=websockets)


def _tls(config: BrokerSection) -> SSLContext:
    # Imported here: what makes and reads certificates is 3 MB that nobody else needs.
    from broker.tls import client_context

    return client_context(config.ca, config.cert, config.key)


def _password(config: BrokerSection, address: BrokerAddress) -> str | None:
    if not config.password_file:
        return config.password or address.password
    try:
        with open(config.password_file, encoding="utf-8") as file:
            return file.read().strip()
    except OSError as error:
        raise ConfigError(f"can't read broker.password_file {config.password_file}: {error}") from None
