import asyncio
from datetime import UTC, datetime

import pytest

from broker.aiomqtt_bus import AiomqttBus
from broker.connect import open_bus
from broker.native import NativeBus
from broker.tls import client_context, make_ca, server_context
from shared.config import BrokerSection
from shared.errors import ConfigError


def opened(**section):
    async def make():
        return open_bus(BrokerSection(**section), "main", "c1")

    return asyncio.run(make())


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ({"url": "mqtt://h"}, NativeBus),
        ({"url": "mqtts://h"}, NativeBus),
        ({"url": "mqtt://h", "protocol": 4}, AiomqttBus),
        ({"url": "ws://h"}, AiomqttBus),
        ({"url": "wss://h", "protocol": 4}, AiomqttBus),
    ],
)
def test_the_address_and_the_version_choose_the_bus(section, kind):
    assert type(opened(**section)) is kind


def test_an_unknown_version_is_an_error_with_advice():
    with pytest.raises(ConfigError, match=r"5 is MQTT 5\.0, 4 is MQTT 3\.1\.1"):
        opened(protocol=3)


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match="/nowhere/ca"):
        opened(url="mqtts://h", ca="/nowhere/ca")
    with pytest.raises(ConfigError, match="/nowhere/password"):
        opened(password_file="/nowhere/password")


def test_files_that_are_not_certificates_are_named(tmp_path):
    for name in ("cert", "key"):
        (tmp_path / name).write_text("not PEM")
    with pytest.raises(ConfigError, match="are not a certificate and its key"):
        client_context(cert=tmp_path / "cert", key=tmp_path / "key")
    with pytest.raises(ConfigError, match="there is no such file"):
        server_context(tmp_path / "cert", tmp_path / "nothing")
    with pytest.raises(ConfigError, match="key is missing"):
        client_context(cert=tmp_path / "cert")
    with pytest.raises(ConfigError, match="is not a certificate"):
        client_context(ca=tmp_path / "cert")


def test_an_identity_serves_both_ends(tmp_path):
    certificate, key = make_ca("test", datetime.now(UTC)).write(tmp_path, "ca")
    client_context(certificate)
    server_context(certificate, key, client_ca=certificate)
