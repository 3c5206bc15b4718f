"""Where data may be: what a decision costs, what the log takes, and whether anything ever slipped through.

The canaries and the mutations are the long tests' (`make test-long`), counted here: a random world is a
policy, places, a careless service that sends everything to everybody, and a log whose disk fails.
"""

import logging
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.table import Table

from benchmarks.data import Part
from benchmarks.measuring import Found, percentile, progress
from cloud.residency.log import AuditLog
from cloud.residency.verify import verify
from shared.residency import RULES_MAX, Action, DataClass, Place, PolicyText, Rule, decide, ready
from shared.tags import Label, Tag
from tests.support.audit import KEY, MUTATIONS, PUBLIC, filled, record
from tests.support.canary import Case

WORLDS, WORLD_STEPS, WORLDS_AT_ONCE = 100_000, 25, 500
MUTATED = 10_000
RECORDS, BATCH = 200_000, 1_000
DECISIONS = 50_000
REGIONS = tuple(f"eu/r{number}" for number in range(60))


def measure(share: float) -> Found:
    """Everything about residency."""
    logging.disable(logging.CRITICAL)  # each message that is withheld is a warning
    progress("decisions")
    found: Found = {"decision": _decisions(max(1000, int(DECISIONS * share)))}
    progress("the audit log")
    found["log"] = _log(max(10_000, int(RECORDS * share)))
    found["mutations"] = _mutations(max(200, int(MUTATED * share)))
    progress("canaries in random worlds")
    found["canary"] = _canaries(max(1000, int(WORLDS * share)))
    return found


def _decisions(count: int) -> Found:
    """The largest policy there may be, each question a new one, so that nothing can be remembered."""
    rng = random.Random(1)
    forbids = tuple(
        Rule(
            name=f"f{number}",
            label=rng.choice(list(Label)),
            regions=tuple(rng.sample(REGIONS, 3)),
            keys=(f"secret/{number}/*",),
            purposes=("research",),
        )
        for number in range(RULES_MAX - 1)
    )
    text = PolicyText(
        version=1,
        data=(DataClass(keys=("*",), label=Label.PERSONAL, allowed=("eu",)),),
        permit=(Rule(name="eu", regions=("eu",)),),
        forbid=forbids,
    )
    policy = ready(text)
    asked = [
        (
            Tag(label=rng.choice(list(Label)), home=rng.choice(REGIONS), allowed=("eu", "us")),
            Place(f"n{number}", rng.choice(REGIONS)),
            Action(key=f"patients/{number}", at_unix_s=1.0),
        )
        for number in range(count)
    ]
    took_us = []
    for tag, place, action in asked:
        start = time.perf_counter_ns()
        decide(policy, tag, place, action)
        took_us.append((time.perf_counter_ns() - start) / 1e3)
    return {
        "decisions": count,
        "rules": RULES_MAX,
        "p50_us": statistics.median(took_us),
        "p99_us": percentile(took_us, 0.99),
        "p999_us": percentile(took_us, 0.999),
    }


def _log(count: int) -> Found:
    """Batches as the service makes them under load, each synced before the next."""
    records = [record(number) for number in range(BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(Path(folder), KEY)
        start = time.perf_counter()
        for _ in range(count // BATCH):
            log.append(records)
        appended_s = time.perf_counter() - start
        log.sign(1.0)
        size = sum(path.stat().st_size for path in (Path(folder) / "records").iterdir())
        start = time.perf_counter()
        again = AuditLog(Path(folder), KEY)
        opened_s = time.perf_counter() - start
        start = time.perf_counter()
        verdict = verify(Path(folder), PUBLIC)
        verified_s = time.perf_counter() - start
        assert verdict.good
        assert again.size == log.size
    return {
        "records": log.size,
        "appends_per_s": log.size / appended_s,
        "bytes_per_record": size / log.size,
        "opened_per_s": log.size / opened_s,
        "verified_per_s": log.size / verified_s,
    }


def _mutations(count: int) -> Found:
    """A log of forty records and six heads, of which a device holds the newest."""
    rng, done, missed = random.Random(2), 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        log, folder = filled(Path(scratch) / "good", 40), Path(scratch) / "bad"
        assert log.head is not None
        while done < count:
            shutil.copytree(log.folder, folder)
            if MUTATIONS[done % len(MUTATIONS)](folder, rng):
                done += 1
                missed += verify(folder, PUBLIC, [("a device", log.head)]).good
            shutil.rmtree(folder)
    return {"mutations": count, "kinds": len(MUTATIONS), "missed": missed}


def _canaries(count: int) -> Found:
    starts = range(0, count, WORLDS_AT_ONCE)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        rows = list(pool.map(_worlds, starts))
    arrived, withheld, leaked = (sum(column) for column in zip(*rows, strict=True))
    return {
        "worlds": len(starts) * WORLDS_AT_ONCE,
        "arrived": arrived,
        "withheld": withheld,
        "leaked": leaked,
    }


def _worlds(first: int) -> tuple[int, int, int]:
    logging.disable(logging.CRITICAL)
    arrived = withheld = leaked = 0
    for seed in range(first, first + WORLDS_AT_ONCE):
        case = Case(seed)
        try:
            case.run(WORLD_STEPS)
        except AssertionError:
            leaked += 1
        arrived, withheld = arrived + case.arrivals, withheld + case.refused
    return arrived, withheld, leaked


def tables(found: Found) -> Iterable[Table]:
    decision, log, canary = found["decision"], found["log"], found["canary"]
    table = Table(title="residency", box=None, pad_edge=False)
    table.add_column("what")
    table.add_column("figure", justify="right")
    rows = [
        (f"a decision, {decision['rules']} rules, p50", f"{decision['p50_us']:.1f} us"),
        ("p99", f"{decision['p99_us']:.1f} us"),
        ("p99.9", f"{decision['p999_us']:.1f} us"),
        (f"records appended, synced in batches of {BATCH}", f"{log['appends_per_s']:,.0f}/s"),
        ("bytes a record", f"{log['bytes_per_record']:.0f}"),
        ("records read at a start", f"{log['opened_per_s']:,.0f}/s"),
        ("records verified", f"{log['verified_per_s']:,.0f}/s"),
        (f"mutations missed, of {found['mutations']['mutations']:,}", f"{found['mutations']['missed']}"),
        (f"canaries where they must not be, in {canary['worlds']:,} worlds", f"{canary['leaked']}"),
        ("canaries that arrived rightly", f"{canary['arrived']:,}"),
        ("messages withheld", f"{canary['withheld']:,}"),
    ]
    for row in rows:
        table.add_row(*row)
    return [table]


PARTS = (
    Part(
        "residency",
        measure,
        tables,
        "One thread decides with the largest policy there may be, and no question is asked twice. The audit "
        "log is the cloud's own, on this machine's disk. A *mutation* changes the files of a log in one of "
        "eleven ways, up to rewriting it with the cloud's own key; `shoal audit verify` has to notice, given "
        "the head that one device holds. A *world* is a random policy that changes, places that change, a "
        "service that sends everything to everybody on every kind of topic, a link that comes and goes, and "
        "an audit log whose disk fails; every token that a listener hears is judged again by other code.",
        seconds_max=3600.0,
    ),
)
