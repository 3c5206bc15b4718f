"""What learning together promises (`make bench-federated`). Each part's figures are under its name."""

from benchmarks.goals import Goal, Results

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
