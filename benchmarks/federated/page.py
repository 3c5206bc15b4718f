"""docs/benchmarks-federated.md, from the figures that were kept."""

from collections.abc import Mapping
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.federated import aggregation, chaos, pfedme, robust
from benchmarks.federated.goals import FEDERATED_GOALS
from benchmarks.federated.tables import overhead_table
from benchmarks.measuring import Found
from benchmarks.report import goals_table

HEAD = """\
# Learning together: benchmarks

Written by `python -m benchmarks.federated --docs`, from the figures in `benchmarks/results/federated/`.
`make bench-federated` measures all of it (about half an hour, most of it Flower's) and each part has a
command of its own. Training runs in WebAssembly everywhere but beside Flower.
"""

SECTIONS: Mapping[str, tuple[str, str, str]] = {
    "aggregation": (
        "The sum",
        "python -m benchmarks.federated.aggregation",
        """\
Goal: at least half of the memory's bandwidth, as numpy's own add has it. `Accumulator.add` reads a float32
update and an int64 sum and writes the sum: 20 bytes a parameter are counted, however it is done. numpy's
`add(sum, sum2, out=sum)` of int64 counts 24, its `add(update, update2, out=update)` of float32 counts 12, and
the faster of the two is the bandwidth. One thread; the three alternate; medians. Models of 199,210 and of a
million parameters fit into the last cache of this machine (for numpy, whose one pass is then bound by that),
the one of 16 million does not: there the ratio is one of memory, and that is the one of the goal.

To round, to look at the range, to weigh and to add are five passes over a block that stays in the cache, in
32 bits; the int64 sum is touched only when 32 bits could overflow, every some dozen updates. In the smaller
models those five passes stand against numpy's one.""",
    ),
    "pfedme": (
        "pFedMe Synthetic(0.5, 0.5)",
        "python -m benchmarks.federated.pfedme",
        """\
100 users, 600 rounds of 10, 20 steps, batches of 20, learning rate 0.02, multinomial logistic regression
(610 parameters), every update through codec, gate and integer sum. Published: 77.62 +- 0.11; goal: 77.4 +-
0.5, and at most half a point lost to int8 and to top-10 %. Accuracy of the last model, mean and standard
deviation over the seeds. "x smaller": against 4 bytes a parameter, with all that the codec writes; the last
column is one update of random numbers of a larger model.

int8 spends nearly all of its byte a parameter: codes that fill their range hardly compress, whichever way
they are rounded (nearest was measured beside it: 4.2 x as well). Of an update of 610 parameters where top-2 %
keeps twelve, numbers, gaps and scales are 31 bytes: there the 85 x of the design is out of reach, in a larger
model it is exceeded.""",
    ),
    "robust": (
        "Liars",
        "python -m benchmarks.federated.robust",
        """\
Digits, 20 devices, each asked in each of 50 rounds of five passes over its images; 4 send -10 x what they
learned; means of three seeds. Goal: trimmed mean and multi-Krum at most two points under "expected". With the
gate open, the rule alone helps. "expected" comes from another model and schedule, which are not known; how
much a device trains was chosen here after a first run with two passes. That one had not converged in 50
rounds, and missed three of the four goals: without liars the mean reached .949 (even) and .953 (Dirichlet),
with four of them the trimmed mean .913 and .873, multi-Krum .949 and .949.""",
    ),
    "chaos": (
        "Trouble",
        "python -m benchmarks.federated.chaos",
        """\
50 devices learn the digits in the simulation: the coordinator's and the devices' own cores, journal, gate and
sums, every message through the wire format, training in WebAssembly, time and network played from a seed. In
each round 20 % of the devices that were asked drop out (they crash, or lose their link), 10 % of all
deliveries come twice, 10 % of the updates come late, 10 % of the devices lie (numbers that are not finite,
huge ones, -10 x what they learned), and the coordinator is killed once at a random moment and started again
from its journal. Goal: at most a point less than the same job without any of it, a receipt for exactly
what the journal has, and every new model equal, to the bit, to the one computed again from the updates that
the journal says were accepted, each counted once.""",
    ),
    "ours": (
        "A round of ours",
        "python -m benchmarks.federated.ours",
        """\
Real processes: our broker, the cloud, one process for each device, each behind a counting proxy of its own,
int8 updates, and Flower's training function in place of a module. Goal: under 50 ms beyond training with 8
devices and 199,210 parameters, at least four times fewer bytes than Flower, an idle device under a quarter
of Flower's memory. A round lasts from the moment in which the cloud tells that it is open until it tells so
of the next one: drawing the cohort, the model's way down, the updates' way up, the journal, the sum and the
next version are in it. "Beyond training" is that less the longest training in it. Memory is the proportional
set size of one device's process after 15 idle seconds, CPU that of all processes in one round; the first
round of a run is left out.

One machine plays all of it. A round of 199,210 parameters takes each device 7.6 ms of CPU (a third of it
Python, a fifth the function that stands for training, the rest copies, hashes, threads and the network), the
cloud 18, the broker 6 and the proxies 4, so that eight devices on two cores need 45 ms for a round, training
included, however little is waited for. With 610 parameters what is left is the way of the messages and a
dozen syncs of the disk.""",
    ),
    "flower": (
        "A round of Flower's",
        "python -m benchmarks.federated.flower",
        """\
Flower 1.41.0 in an environment of its own, telemetry off: its simulation (Ray, in one machine's memory) and
its deployment (a superlink, a supernode process for each device, gRPC through a counting proxy). The client
adds noise to a vector. "Beyond training": a round's time less the longest training in it. Bytes are those of
TCP's payload, of one device in one round, polling included; memory is the proportional set size of the
processes of one device after 15 idle seconds; CPU is of all processes in one round. The first round of a run
is left out; with 32 deployed devices one round counts, else five, and eleven in the simulation. Its
simulation has no devices and no network: bytes and memory of one are not defined there.""",
    ),
}


def page(results: Mapping[str, Found]) -> str:
    """Markdown: the goals first, then each part; those that were never measured are left out."""
    parts = [HEAD, "## Goals\n", _markdown(goals_table(results, FEDERATED_GOALS))]
    for name, (title, command, text) in SECTIONS.items():
        found = results.get(name)
        if found is not None:
            parts += [
                f"## {title}\n",
                f"```\n{command}\n```\n",
                f"{text}\n",
                _where(found),
                *(_titled(table) for table in _tables(name, found)),
            ]
    return "\n".join(parts).rstrip() + "\n"


def _tables(name: str, found: Found) -> list[Table]:
    match name:
        case "aggregation":
            return aggregation.tables(found)
        case "pfedme":
            return [pfedme.table(found["rows"])]
        case "robust":
            return [robust.table(found["rows"])]
        case "chaos":
            return chaos.tables(found)
        case _:
            return [overhead_table(found["rows"])]


def _where(found: Found) -> str:
    one = found["machine"]
    return (
        f"Measured on {one['date']}: {one['cpu']}, {one['cores']} cores, {one['system']}, Python "
        f"{one['python']}, numpy {one['packages']['numpy']}; load before {one['load_before']:.2f}.\n"
    )


def _titled(table: Table) -> str:
    title = str(table.title)
    return f"{title[0].upper()}{title[1:]}:\n\n{_markdown(table)}"


def _markdown(table: Table) -> str:
    table.title, table.box = None, box.MARKDOWN
    text = StringIO()
    Console(file=text, width=400, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines()) + "\n"
