"""What was promised, and where each promise finds its figure in the results of a run.

Those of the other suites stand beside their benchmarks: ``wasm/``, ``data/`` and ``federated/goals.py``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]  # benchmark -> what it wrote as JSON


@dataclass(frozen=True, slots=True)
class Goal:
    """``limit`` is the most that ``figure`` may be, or the least where ``at_least``."""

    what: str
    figure: Callable[[Results], float]
    limit: float
    unit: str
    at_least: bool = False
    part: str = ""  # of `python -m benchmarks.data`

    def met(self, figure: float) -> bool:
        """Whether the figure keeps the promise."""
        return figure >= self.limit if self.at_least else figure <= self.limit

    @property
    def promise(self) -> str:
        """The limit for a person to read."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:,g} {self.unit}"


def embedded(results: Results) -> Results:
    """The transport's figures on our own broker."""
    summaries: list[Results] = results["transport"]["results"]
    return next(one for one in summaries if one["broker"] == "embedded")


def biggest(results: Results) -> Results:
    """The balancer's figures for the largest fleet."""
    rows: list[Results] = results["balancer"]
    return max(rows, key=lambda row: float(row["nodes"]))


def growth(results: Results) -> float:
    """MiB per minute of the one that grows faster."""
    return max(float(results["scale"][name]["rss_mib_per_minute"]) for name in ("broker", "cloud"))


GOALS = (
    Goal(
        "native bus, request and reply, p50",
        lambda r: embedded(r)["echo_native_over_raw"],
        1.5,
        "x bare echo",
    ),
    Goal(
        "native bus, QoS 1 receive through a core",
        lambda r: embedded(r)["receive_native_over_aiomqtt"],
        5,
        "x aiomqtt",
        at_least=True,
    ),
    Goal("inference over MQTT, one device, p50", lambda r: r["fleet"]["latency"]["ratio"], 3, "x bare echo"),
    Goal(
        "inference, five devices, 64 in flight",
        lambda r: r["fleet"]["throughput"]["requests_per_s"],
        2000,
        "requests/s",
        at_least=True,
    ),
    Goal("1,000 devices: cloud", lambda r: r["scale"]["cloud"]["cores"] * 100, 15, "% of a core"),
    Goal("1,000 devices: broker", lambda r: r["scale"]["broker"]["cores"] * 100, 15, "% of a core"),
    Goal("1,000 devices: memory grows by", growth, 1, "MiB a minute"),
    Goal("idle agent, PSS", lambda r: r["device"]["memory"]["1_agent"]["pss_mib"], 60, "MiB"),
    Goal(
        "cold start to the first local answer",
        lambda r: r["device"]["cold_start"]["local_answer_s"],
        1.5,
        "s",
    ),
    Goal(
        "cold start to the first answer over MQTT",
        lambda r: r["device"]["cold_start"]["fleet_answer_s"],
        1.5,
        "s",
    ),
    Goal("balancer pick, 10,000 nodes, p50", lambda r: biggest(r)["asked_p50_us"], 20, "us"),
)
