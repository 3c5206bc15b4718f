"""What telemetry, stores, sync and residency promise (`make bench-data`).

Each goal names its part, whose figures are under that name.
"""

from benchmarks.goals import Goal, Results


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
