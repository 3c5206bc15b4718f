"""Settings are read once, typed, and a mistake names its key."""

import pytest

from shared.config import BrokerAddress, Config, SourceSection, broker_address, parse
from shared.errors import ConfigError


def test_defaults_need_no_file():
    assert parse("", {}) == Config()


def test_the_environment_overrides_the_file_and_options_override_both():
    text = (
        'fleet = "plant"\n[broker]\nurl = "mqtt://a"\nkeepalive_s = 10\n[device]\nlabels = { site = "x" }\n'
    )
    environ = {
        "SHOAL_BROKER_URL": "mqtt://b",
        "SHOAL_DEVICE_HEARTBEAT_S": "2.5",
        "SHOAL_DEVICE_LABELS": "region=eu,site=y",
        "SHOAL_BALANCER_SUSPECT_PENALTY": "8",
        "PATH": "/bin",
    }
    config = parse(text, environ, {"broker": {"url": "mqtt://c", "username": None}})
    assert config.fleet == "plant"
    assert config.broker.url == "mqtt://c"
    assert config.broker.keepalive_s == 10
    assert config.device.heartbeat_s == 2.5
    assert config.device.labels == {"region": "eu", "site": "y"}
    assert config.balancer.suspect_penalty == 8.0


@pytest.mark.parametrize(
    ("text", "environ", "named"),
    [
        ("[device]\nqueue_maximum = 3", {}, "queue_maximum"),
        ("[device]\nslots = 'many'", {}, "slots"),
        ("fleet = 'a/b'", {}, "fleet"),
        ("fleet = ", {}, "TOML"),
        ("", {"SHOAL_CLOUD_HTTP_PORT": "http"}, "http_port"),
    ],
)
def test_a_mistake_is_named(text, environ, named):
    with pytest.raises(ConfigError, match=named):
        parse(text, environ)


def test_broker_addresses():
    assert broker_address("mqtts://dev%40x:p%3Aw@example.org") == BrokerAddress(
        "mqtts", "example.org", 8883, "dev@x", "p:w"
    )
    assert broker_address("localhost:1884") == BrokerAddress("mqtt", "localhost", 1884)
    assert broker_address("mqtt://[::1]:99").host == "::1"
    assert broker_address("wss://h").tls


@pytest.mark.parametrize("url", ["http://x", "mqtt://", "mqtt://h:port", "mqtt://h:99999"])
def test_other_addresses_are_refused_with_advice(url):
    with pytest.raises(ConfigError, match="broker address"):
        broker_address(url)


def test_sources_of_training_are_written_short_or_whole_and_from_the_environment():
    toml = '[training.sources]\ndigits = "digits.npz"\nload = {fields = ["load_1m"], window = 16}'
    section = parse(toml, {}).training
    assert section.sources["digits"] == "digits.npz"
    assert section.sources["load"] == SourceSection(fields=("load_1m",), window=16)
    section = parse(toml, {"SHOAL_TRAINING_SOURCES": "a=x.npz,b=y.npz", "SHOAL_TRAINING_ROOM": "2"}).training
    assert (section.sources, section.room) == ({"a": "x.npz", "b": "y.npz"}, 2)
    assert parse("", {}).training.sources == {}
