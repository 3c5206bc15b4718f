"""Configuration: a frozen value, made once from TOML and the environment, then passed down.

``SHOAL_<SECTION>_<KEY>`` in the environment overrides ``key`` under ``[section]`` of the file. Unknown keys
are errors: a misspelt limit must not be a silent default.
"""

import tomllib
from collections.abc import Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from shared.errors import ConfigError
from shared.ids import is_id

C = TypeVar("C")

_PREFIX = "SHOAL_"
# Replaced as a whole, and written name=value,name=value in the environment.
_MAPS = ("labels", "sources", "grades")
_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 9001, "wss": 9443}


class BrokerAddress(msgspec.Struct, frozen=True):
    """Where the broker is and who we are to it."""

    scheme: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ("mqtts", "wss")


def broker_address(url: str) -> BrokerAddress:
    """Parse ``mqtt://[user[:password]@]host[:port]`` (or ``mqtts``, ``ws``, ``wss``)."""
    try:
        parts = urlsplit(url if "://" in url else f"mqtt://{url}")
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is not a broker address: {error}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ConfigError(f"{url!r} is not a broker address; write mqtt://host:1883 or mqtts://user@host")
    return BrokerAddress(
        parts.scheme,
        parts.hostname,
        port or _PORTS[parts.scheme],
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
    )


class BrokerSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach the broker. ``password_file``: kept out of the process list; ``ca``, ``cert``, ``key``:
    PEM files. ``protocol`` 4 is MQTT 3.1.1."""

    url: str = "mqtt://127.0.0.1:1883"
    username: str = ""
    password: str = ""
    password_file: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    protocol: int = 5
    keepalive_s: int = 30


class DeviceSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One edge device. ``cloud_key``: Ed25519 public key (hex) whose manifests it trusts."""

    node: str = ""
    data: str = ".shoal/edge"
    labels: dict[str, str] = {}
    cloud_key: str = ""
    heartbeat_s: float = 10.0
    telemetry_s: float = 5.0
    session_expiry_s: int = 3600
    slots: int = 1
    queue_max: int = 256
    module_memory_bytes_max: int = 256 << 20
    deadline_s: float = 10.0
    benchmark_s: float = 1.0


class SourceSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where examples come from: one of ``file`` (.npz), ``function`` (package.module:function), and
    ``fields`` of the device's own telemetry: windows of ``window`` readings, one every ``stride``, whose
    target is the first field ``ahead`` readings later (0: the window itself)."""

    file: str = ""
    function: str = ""
    fields: tuple[str, ...] = ()
    window: int = 32
    ahead: int = 1
    stride: int = 1


class TrainingSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Federated learning on a device; off without ``sources`` (a file or function, or a whole section).

    ``data``: the folder of relative files; empty: the device's own. ``room``: pieces of training at a time.
    ``link``: class of the connection, as job specifications name it. ``power``: ac or battery, where the
    machine can't tell. ``hours``: such as 22:00-06:00, local time. ``load_ratio_max``: load per core, 0 for
    any. ``held_out_ratio``: where a source does not say.
    """

    sources: dict[str, str | SourceSection] = {}
    data: str = ""
    room: int = 1
    link: str = ""
    power: Literal["", "ac", "battery"] = ""
    held_out_ratio: float = 0.2
    battery_ratio_min: float = 0.3
    ac_only: bool = False
    load_ratio_max: float = 0.0
    hours: str = ""


class TelemetrySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Telemetry on a device. ``grades``: stream -> critical, normal (where nothing is said) or bulk.

    ``bytes_max``: room on the disk for what waits to be acknowledged; beyond it the oldest of the lowest
    grade is dropped and reported. ``linger_s``: how long a sample waits for company (critical: not at all).
    """

    grades: dict[str, Literal["critical", "normal", "bulk"]] = {}
    bytes_max: int = 64 << 20
    linger_s: float = 1.0


class BalancerSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seed weights of the score: how much each kind of evidence counts. 1 is the measured value itself."""

    state: float = 1.0
    capability: float = 1.0
    latency: float = 1.0
    load: float = 1.0
    suspect_penalty: float = 4.0
    waiting_max: int = 4096


class CloudSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cloud process. ``store``: an SQLAlchemy URL, or empty for SQLite in ``data``.

    The API is an application like any other, on a connection of its own: ``api_username`` is its user.
    """

    data: str = ".shoal/cloud"
    store: str = ""
    http_host: str = "127.0.0.1"
    http_port: int = 8080
    api_username: str = ""
    api_password: str = ""
    upload_bytes_max: int = 512 << 20


class ResidencySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where data may be (the cloud's). ``policy``: a TOML file, see docs/residency.md; empty: everything is
    public. ``region``: where the cloud itself is; empty: nobody knows, so what has a region stays away.
    ``head_s``: a head of the audit log is signed at most so long after a record."""

    policy: str = ""
    region: str = ""
    head_s: float = 10.0


class KeepSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long samples of a stream are kept: ``days``, and ``samples`` of each node (0: no limit)."""

    days: float = 30.0
    samples: int = 0


class RetentionSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the cloud keeps of telemetry: by stream, else by the device's grade of it, else ``default``.

    ``letters``: dead letters, all nodes together. ``every_s``: how often old samples are looked for.
    """

    default: KeepSection = KeepSection()
    grades: dict[Literal["critical", "normal", "bulk"], KeepSection] = {}
    streams: dict[str, KeepSection] = {}
    letters: int = 10_000
    every_s: float = 600.0


class SyncSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Replicated keys on a device. ``compare_s``: how often it compares digests with the cloud, which is
    also the schedule of keys that are pulled."""

    compare_s: float = 30.0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a process of a fleet can be told."""

    fleet: str = "main"
    broker: BrokerSection = BrokerSection()
    device: DeviceSection = DeviceSection()
    cloud: CloudSection = CloudSection()
    balancer: BalancerSection = BalancerSection()
    training: TrainingSection = TrainingSection()
    telemetry: TelemetrySection = TelemetrySection()
    retention: RetentionSection = RetentionSection()
    residency: ResidencySection = ResidencySection()
    sync: SyncSection = SyncSection()


def parse(toml: str, environ: Mapping[str, str], *overrides: Mapping[str, Any]) -> Config:
    """Read a file's text, then the environment, then ``overrides`` (nested maps; what is None is absent).

    Raises :class:`ConfigError` that names the key and what it may be.
    """
    try:
        tree: dict[str, Any] = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the configuration file is not TOML: {error}") from None
    _merge(tree, _from_environment(environ))
    for override in overrides:
        _merge(tree, override)
    try:
        config = msgspec.convert(tree, Config, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration: {error}") from None
    if not is_id(config.fleet):
        raise ConfigError(f"fleet = {config.fleet!r}: use 1 to 64 of a-z, 0-9 and '-'")
    return config


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """``SHOAL_FLEET`` and ``SHOAL_DEVICE_NODE`` -> {"fleet": ..., "device": {"node": ...}}."""
    sections = {name for name in Config.__struct_fields__ if name != "fleet"}
    tree: dict[str, Any] = {}
    for name, value in environ.items():
        if not name.startswith(_PREFIX):
            continue
        section, _, key = name[len(_PREFIX) :].lower().partition("_")
        if section == "fleet" and not key:
            tree["fleet"] = value
        elif section in sections and key:
            tree.setdefault(section, {})[key] = _labels(value) if key in _MAPS else value
    return tree


def _labels(text: str) -> dict[str, str]:
    """``region=eu,site=a`` -> a map."""
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)


def _merge(into: dict[str, Any], update: Mapping[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict) and key not in _MAPS:
            _merge(into[key], value)
        elif isinstance(value, Mapping):
            into[key] = {name: one for name, one in value.items() if one is not None}
        elif value is not None:
            into[key] = value
