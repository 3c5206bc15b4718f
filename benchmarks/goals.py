"""What was promised, and where each promise finds its figure in the results of a run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from statistics import geometric_mean
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


# The compiler (`make bench-wasm`) -------------------------------------------------------------------
#
# A model of ours that failed counts as infinitely slow, or as wrong; a peer that failed leaves the goal
# without a figure.

OURS = "shoal fast"
SMALL = ("mlp", "gru", "transformer")


def _timed(rows: list[Results], candidate: str, **where: object) -> float:
    """Microseconds. Raises KeyError where there are none; infinite for ours."""
    wanted = {"candidate": candidate, **where}
    for row in rows:
        if all(row[key] == value for key, value in wanted.items()):
            if row["us"] is not None:
                return float(row["us"])
            if candidate.startswith("shoal"):
                return inf
    raise KeyError(candidate)


def speedups(results: Results, peer: str, batch: int | None = None, ours: str = OURS) -> dict[str, float]:
    """ "model xbatch" -> how many times as fast as the peer ours is. ``batch``: None for all."""
    rows: list[Results] = results["inference"]
    cases = dict.fromkeys((row["model"], row["batch"]) for row in rows if batch in (None, row["batch"]))
    if not cases:
        raise KeyError(peer)
    return {
        f"{model} x{size}": _timed(rows, peer, model=model, batch=size)
        / _timed(rows, ours, model=model, batch=size)
        for model, size in cases
    }


def overall(factors: Mapping[str, float]) -> float:
    """The geometric mean; nothing if one of them is nothing."""
    return geometric_mean(factors.values()) if min(factors.values()) > 0 else 0.0


def step_speedup(results: Results, model: str) -> float:
    """How many times as fast as torch eager our train step is."""
    rows: list[Results] = results["training"]
    return _timed(rows, "torch", model=model) / _timed(rows, OURS, model=model)


def worst_error(results: Results, precision: str) -> float:
    """The largest difference over all models from torch in float64, relative to the output's scale."""
    rows = [row for row in results["agreement"] if row["precision"] == precision]
    return max(inf if row["from_float64"] is None else float(row["from_float64"]) for row in rows)


def module_of(results: Results, model: str) -> Results:
    """The figures of one module, all of them infinite if it has none."""
    row: Results = next(row for row in results["modules"] if row["model"] == model)
    return _Failed() if row["error"] else row


class _Failed(dict[str, float]):
    def __missing__(self, key: str) -> float:
        return inf


def interruptions(results: Results) -> Iterator[float]:
    """Of each model."""
    return (float(module_of(results, row["model"])["interruption"]) for row in results["modules"])


WASM_GOALS = (
    Goal(
        "slowest against onnxruntime-web, batch 1 and 32",
        lambda r: min(speedups(r, "onnxruntime-web").values()),
        1,
        "x",
        at_least=True,
    ),
    Goal(
        "onnxruntime-web, batch 1 and 32, geometric mean",
        lambda r: overall(speedups(r, "onnxruntime-web")),
        3,
        "x",
        at_least=True,
    ),
    Goal(
        "native onnxruntime, batch 1, geometric mean",
        lambda r: overall(speedups(r, "onnxruntime", 1)),
        0.7,
        "x",
        at_least=True,
    ),
    Goal(
        f"native onnxruntime, batch 1, slowest of {', '.join(SMALL)}",
        lambda r: min(speedups(r, "onnxruntime", 1)[f"{model} x1"] for model in SMALL),
        1,
        "x",
        at_least=True,
    ),
    Goal(
        "slowest against torch eager, batch 1",
        lambda r: min(speedups(r, "torch", 1).values()),
        1,
        "x",
        at_least=True,
    ),
    Goal("train step against torch eager, mlp", lambda r: step_speedup(r, "mlp"), 3, "x", at_least=True),
    Goal("train step against torch eager, cnn", lambda r: step_speedup(r, "cnn"), 0.75, "x", at_least=True),
    Goal(
        "exact, difference from torch in float64",
        lambda r: worst_error(r, "exact") * 1e6,
        1,
        "x 1e-6 of the scale",
    ),
    Goal(
        "fast, difference from torch in float64",
        lambda r: worst_error(r, "fast") * 1e6,
        50,
        "x 1e-6 of the scale",
    ),
    Goal("mobilenet, module", lambda r: module_of(r, "mobilenet")["module_bytes"] / 1000, 100, "KB"),
    Goal("mobilenet, emit", lambda r: module_of(r, "mobilenet")["emit_ms"], 100, "ms"),
    Goal("mobilenet, compile on the device", lambda r: module_of(r, "mobilenet")["compile_ms"], 60, "ms"),
    Goal("mobilenet, cached start", lambda r: module_of(r, "mobilenet")["cached_start_ms"], 1, "ms"),
    Goal("interruption on against off, worst model", lambda r: max(interruptions(r)), 1.1, "x"),
)


# Telemetry, stores, sync, residency (`make bench-data`) ---------------------------------------------
#
# Each names its part, whose figures are under that name.


def missing(found: Results) -> int:
    """Messages that a program said and that are not in the store exactly once."""
    return int(abs(found["said"] - found["stored"]))


def unstored(found: Results) -> int:
    """Samples that devices recorded and that are not in the store exactly once; gaps count as well."""
    return int(abs(found["recorded"] - found["stored"]) + found["pending"])


DATA_GOALS = (
    *(
        Goal(
            f"ingest to {store}, of 200 bytes, acknowledged after commit",
            lambda r, store=store: r["ingest"][store]["per_s"],  # type: ignore[misc]
            10_000,
            "messages/s",
            at_least=True,
            part="ingest",
        )
        for store in ("sqlite", "postgresql")
    ),
    *(
        Goal(
            f"ingest to {store}, against a client that only decodes",
            lambda r, store=store: r["ingest"][store]["ratio"],  # type: ignore[misc]
            0.5,
            "x",
            at_least=True,
            part="ingest",
        )
        for store in ("sqlite", "postgresql")
    ),
    Goal(
        "desired state, durable before the acknowledgement",
        lambda r: r["desired"]["per_s"],
        800,
        "updates/s",
        at_least=True,
        part="desired",
    ),
    Goal("desired state, p95", lambda r: r["desired"]["p95_ms"], 40, "ms", part="desired"),
    Goal("STRONG write, three replicas, p50", lambda r: r["sync"]["strong"]["p50_ms"], 15, "ms", part="sync"),
    Goal("STRONG write, three replicas, p99", lambda r: r["sync"]["strong"]["p99_ms"], 60, "ms", part="sync"),
    Goal("EVENTUAL write on a device, p50", lambda r: r["sync"]["eventual"]["p50_ms"], 2, "ms", part="sync"),
    Goal(
        "a day offline, 10,000 edits of 1,000 keys: moved",
        lambda r: r["sync"]["offline"]["ratio"],
        1.3,
        "x the live state",
        part="sync",
    ),
    Goal(
        "sync: schedules with a broken promise",
        lambda r: r["consistency"]["broken"],
        0,
        "",
        part="consistency",
    ),
    Goal(
        "sync: seeded mistakes that were found",
        lambda r: r["consistency"]["found"],
        8,
        "mistakes",
        at_least=True,
        part="consistency",
    ),
    Goal(
        "residency: a decision, p99",
        lambda r: r["residency"]["decision"]["p99_us"],
        100,
        "us",
        part="residency",
    ),
    Goal(
        "residency: records appended to the audit log",
        lambda r: r["residency"]["log"]["appends_per_s"],
        10_000,
        "records/s",
        at_least=True,
        part="residency",
    ),
    Goal(
        "residency: mutations of the log that were missed",
        lambda r: r["residency"]["mutations"]["missed"],
        0,
        "",
        part="residency",
    ),
    Goal(
        "residency: canaries where they must not be",
        lambda r: r["residency"]["canary"]["leaked"],
        0,
        "",
        part="residency",
    ),
    *(
        Goal(
            f"{what}: said and not in the store",
            lambda r, part=part: missing(r[part]),  # type: ignore[misc]
            0,
            "samples",
            part=part,
        )
        for part, what in (
            ("burst", "1,000 messages at 10 ms, then flat out"),
            ("steady", "200 messages/s for ten minutes"),
        )
    ),
    *(
        Goal(
            f"{what}: recorded and not in the store",
            lambda r, part=part: unstored(r[part]),  # type: ignore[misc]
            0,
            "samples",
            part=part,
        )
        for part, what in (("fleet", "1,000 devices"), ("kills", "broker killed 10 times"))
    ),
    Goal(
        "1,000 devices: telemetry of 20 samples",
        lambda r: r["fleet"]["messages_per_s"],
        595,
        "messages/s",
        at_least=True,
        part="fleet",
    ),
    Goal(
        "1,000 devices: the cloud's memory",
        lambda r: r["fleet"]["rss_cloud_mib_per_minute"],
        1.0,
        "MiB/min",
        part="fleet",
    ),
    Goal(
        "broker killed 10 times: 95 % of 100 agents back, the worst time",
        lambda r: r["kills"]["back_p95_s_worst"],
        15,
        "s",
        part="kills",
    ),
)


# Learning together (`make bench-federated`) -----------------------------------------------------------
#
# Each part's figures are under its name.

PLAIN, SIZE, FLEET = "f32", 199_210, 8
_BOTH_WAYS = ("bytes_up", "bytes_down")


def accuracy(results: Results, scheme: str = PLAIN) -> float:
    """Percent, on pFedMe's data, with updates written that way."""
    rows: list[Results] = results["pfedme"]["rows"]
    return next(float(row["accuracy"]) for row in rows if row["scheme"] == scheme)


def smaller(results: Results, scheme: str) -> float:
    """How many times as small as 4 bytes a parameter its updates are."""
    rows: list[Results] = results["pfedme"]["rows"]
    return next(float(row["ratio"]) for row in rows if row["scheme"] == scheme)


def shortfall(results: Results, rule: str) -> float:
    """Points that a rule which bears liars is under what is known of it, in the worse of the two deals."""
    rows: list[Results] = results["robust"]["rows"]
    return max(float(row["shortfall"]) for row in rows if row["rule"] == rule)


def round_of(results: Results, part: str, engine: str, params: int = SIZE) -> Results:
    """The row of eight devices. Raises KeyError where it failed."""
    rows: list[Results] = results[part]["rows"]
    wanted = {"engine": engine, "devices": FLEET, "params": params}
    found = next(row for row in rows if all(row[key] == value for key, value in wanted.items()))
    if found["error"]:
        raise KeyError(found["error"])
    return found


def idle(results: Results, part: str, engine: str) -> float:
    """MiB of one of eight devices: of the first run that measured it."""
    rows: list[Results] = results[part]["rows"]
    measured = (row for row in rows if row["engine"] == engine and row["devices"] == FLEET)
    return next(float(row["idle_mib"]) for row in measured if row["idle_mib"])


def fewer_bytes(results: Results) -> float:
    """How many times as many bytes a device of Flower's moves in a round."""
    ours, flower = round_of(results, "ours", "processes"), round_of(results, "flower", "deployment")
    return sum(flower[way] for way in _BOTH_WAYS) / sum(ours[way] for way in _BOTH_WAYS)


FEDERATED_GOALS = (
    Goal(
        "adding up 16 million parameters, against numpy's own add",
        lambda r: max(r["aggregation"]["throughput"], key=lambda row: row["params"])["share"],
        0.5,
        "of its bandwidth",
        at_least=True,
        part="aggregation",
    ),
    Goal(
        "memory of the sum, 1,000 clients against 10",
        lambda r: (lambda peaks: max(peaks) / min(peaks))(
            [row["peak_bytes"] for row in r["aggregation"]["memory"]]
        ),
        1.01,
        "x",
        part="aggregation",
    ),
    Goal(
        "FedAvg, difference from Flower's",
        lambda r: r["aggregation"]["agreement"]["from_flower"] * 1e6,
        1,
        "x 1e-6",
        part="aggregation",
    ),
    Goal(
        "pFedMe Synthetic(0.5, 0.5), off 77.4 %",
        lambda r: abs(accuracy(r) - 77.4),
        0.5,
        "points",
        part="pfedme",
    ),
    *(
        Goal(
            f"{scheme}, accuracy lost",
            lambda r, scheme=scheme: accuracy(r) - accuracy(r, scheme),  # type: ignore[misc]
            0.5,
            "points",
            part="pfedme",
        )
        for scheme in ("int8", "top-10 %")
    ),
    *(
        Goal(
            f"{scheme}, smaller than float32",
            lambda r, scheme=scheme: smaller(r, scheme),  # type: ignore[misc]
            ratio,
            "x",
            at_least=True,
            part="pfedme",
        )
        for scheme, ratio in (("int8", 4.8), ("top-10 %", 19), ("top-2 %", 85))
    ),
    *(
        Goal(
            f"{rule}, 4 liars of 20, under what is known",
            lambda r, rule=rule: shortfall(r, rule) * 100,  # type: ignore[misc]
            2,
            "points",
            part="robust",
        )
        for rule in ("trimmed mean", "multi-Krum")
    ),
    Goal(
        "50 devices in trouble, accuracy lost", lambda r: r["chaos"]["lost"] * 100, 1, "points", part="chaos"
    ),
    Goal(
        "50 devices in trouble, updates counted twice or without a receipt",
        lambda r: sum(row["wrong"] for row in r["chaos"]["rows"]),
        0,
        "",
        part="chaos",
    ),
    Goal(
        "a round beyond training, 8 devices, 199,210 parameters",
        lambda r: round_of(r, "ours", "processes")["overhead_s"] * 1000,
        50,
        "ms",
        part="ours",
    ),
    Goal("bytes of a device and round, Flower's over ours", fewer_bytes, 4, "x", at_least=True, part="ours"),
    Goal(
        "an idle device, of Flower's memory",
        lambda r: idle(r, "ours", "processes") / idle(r, "flower", "deployment"),
        0.25,
        "x",
        part="ours",
    ),
)
