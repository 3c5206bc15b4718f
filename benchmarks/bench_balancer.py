"""What one request costs in the balancer: step(InferAsked) and step(ReplyHeard), by size of the fleet.

python -m benchmarks.bench_balancer [--requests N] [--in-flight N] [--json PATH]
"""

import argparse
import gc
import json
import random
import time
from collections import deque
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cloud.balancer.core import Balancer, InferAsked, ReplyHeard
from cloud.facts import NodeChanged, NodeFact, NodeStatus
from shared.config import BalancerSection
from shared.core import LinkUp, Publish, Tick
from shared.messages import Array, Capabilities, InferAsk, ModelState, Reply
from shared.wire import packed

FLEETS = (5, 10, 1_000, 10_000)


def fleet(size: int, seed: int) -> Balancer:
    core, rng = Balancer(BalancerSection()), random.Random(seed)
    core.step(LinkUp(False), 0.0)
    core.step(Tick(), 0.0)
    for number in range(size):
        fact = NodeFact(
            f"node-{number}",
            1,
            NodeStatus.IDLE,
            capabilities=Capabilities(cores=4, memory_bytes=1 << 30, wasm_gflops=rng.uniform(0.5, 4)),
            slots=rng.choice((1, 2, 4)),
            models={"digits": ("d1", ModelState.READY), "sounds": ("d2", ModelState.READY)},
            heartbeat=1,
        )
        core.step(NodeChanged(fact), 0.0)
    return core


def measure(size: int, requests: int, in_flight: int, seed: int = 1) -> dict[str, float]:
    core, rng = fleet(size, seed), random.Random(seed)
    inputs = packed((Array("float32", (1, 784), bytes(3136)),))
    flying: deque[tuple[str, str]] = deque()
    asked_ns, replied_ns, now = [], [], 1.0
    clock = time.perf_counter_ns
    gc.disable()
    for number in range(requests):
        now += 0.0005
        ask = InferAsked(
            "app", InferAsk(correlation=f"c{number}", budget_s=5.0, model="digits", inputs=inputs)
        )
        start = clock()
        effects = core.step(ask, now)
        asked_ns.append(clock() - start)
        [sent] = effects
        assert isinstance(sent, Publish)
        flying.append((sent.to.name.split("/")[1], sent.message.correlation))
        if len(flying) <= in_flight:
            continue
        node, correlation = flying.popleft()
        reply = ReplyHeard(
            node, "app", Reply(correlation=correlation, node=node, service_s=rng.uniform(0.0005, 0.0015))
        )
        start = clock()
        core.step(reply, now)
        replied_ns.append(clock() - start)
    gc.enable()
    core.check()
    both_ns = [one + other for one, other in zip(asked_ns, replied_ns, strict=False)]
    return {
        "nodes": size,
        "asked_p50_us": percentile_us(asked_ns, 0.5),
        "asked_p99_us": percentile_us(asked_ns, 0.99),
        "replied_p50_us": percentile_us(replied_ns, 0.5),
        "replied_p99_us": percentile_us(replied_ns, 0.99),
        "total_p50_us": percentile_us(both_ns, 0.5),
        "total_p99_us": percentile_us(both_ns, 0.99),
    }


def percentile_us(samples_ns: list[int], at: float) -> float:
    return sorted(samples_ns)[min(int(len(samples_ns) * at), len(samples_ns) - 1)] / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [measure(size, arguments.requests, arguments.in_flight) for size in FLEETS]
    table = Table("nodes", "asked p50", "p99", "replied p50", "p99", "both p50", "p99", title="microseconds")
    for row in rows:
        table.add_row(f"{row['nodes']:,.0f}", *(f"{row[name]:.1f}" for name in list(row)[1:]))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
