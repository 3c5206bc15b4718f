"""The benchmarks' own arithmetic and their page. Running them all takes minutes: `make bench`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, PAGE, ROOT
from benchmarks.bench_balancer import measure
from benchmarks.bench_scale import enrol
from benchmarks.goals import GOALS
from benchmarks.measuring import cpu_s, machine, median_of, memory_bytes, percentile, slope, write_json
from benchmarks.report import BEGIN, END, figures, missed, page, update
from benchmarks.simulated import name_of
from broker.acl import Role
from broker.credentials import Credentials

RESULTS = {
    "machine": {
        "date": "2025-01-01",
        "cpu": "a cpu",
        "cores": 2,
        "system": "Linux x86_64",
        "python": "3.11",
        "packages": {"mqtt5": "0.8"},
        "load_before": 0.1,
    },
    "transport": {
        "results": [
            {"broker": "mosquitto", "echo_native_over_raw": 9.0, "receive_native_over_aiomqtt": 1.0},
            {"broker": "embedded", "echo_native_over_raw": 1.2, "receive_native_over_aiomqtt": 8.0},
        ]
    },
    "balancer": [{"nodes": 5, "asked_p50_us": 1.0}, {"nodes": 10_000, "asked_p50_us": 25.0}],
    "fleet": {
        "latency": {
            "echo": {"p50_ms": 0.2, "p99_ms": 0.4},
            "inference": {"p50_ms": 0.5, "p99_ms": 0.9},
            "ratio": 2.5,
        },
        "throughput": {
            "requests_per_s": 3964.0,
            "p50_ms": 14.0,
            "p99_ms": 40.0,
            "ceiling_per_s": 5000.0,
            "cpu_us_per_request": {"app": 70.0, "broker": 80.0},
        },
    },
    "device": None,
    "scale": {
        "broker": {"cores": 0.02, "rss_mib_per_minute": 0.01},
        "cloud": {"cores": 0.03, "rss_mib_per_minute": -0.2},
    },
}


def test_percentiles_and_slopes_are_those_of_the_textbook():
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0], 0.99) == 1.0
    assert median_of([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [4.0, 5.0, 6.0]], 0.5) == 5.0
    assert slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == pytest.approx(2.0)
    assert slope([(1.0, 7.0)]) == 0.0


def test_this_process_uses_cpu_and_memory_and_runs_on_a_machine():
    before = cpu_s(os.getpid())
    while cpu_s(os.getpid()) == before:  # the test's own time limit ends it if that never changes
        sum(range(100_000))
    assert cpu_s(os.getpid()) > before
    memory = memory_bytes(os.getpid())
    assert 1 << 20 < memory["Pss"] <= memory["Rss"]
    assert machine()["cores"] >= 1


def test_every_goal_finds_its_figure_and_says_how_it_went():
    said = {goal.what: figure for goal, figure in figures(RESULTS)}
    assert said["native bus, request and reply, p50"] == 1.2, "on our own broker"
    assert said["balancer pick, 10,000 nodes, p50"] == 25.0, "for the largest fleet"
    assert said["1,000 devices: memory grows by"] == 0.01
    assert said["idle agent, PSS"] is None, "its benchmark has failed"
    assert [goal.what for goal in missed(RESULTS)] == ["balancer pick, 10,000 nodes, p50"]


def test_a_benchmark_that_failed_leaves_its_goals_unmeasured_and_the_page_says_so():
    text = page(RESULTS)
    assert "| idle agent, PSS |  | ≤ 60 MiB | not measured |" in text
    assert "| inference, five devices, 64 in flight | 3,964 | ≥ 2,000 requests/s | met |" in text
    assert "| balancer pick, 10,000 nodes, p50 | 25.00 | ≤ 20 us | missed |" in text


def test_new_figures_replace_the_old_ones_and_nothing_else():
    text = f"before\n{BEGIN}\nthe figures of last year\n{END}\nafter\n"
    once = update(text, RESULTS)
    assert "last year" not in once
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert update(once, RESULTS) == once
    with pytest.raises(ValueError, match="no place"):
        update("a page without marks", RESULTS)


def test_the_page_in_the_docs_has_a_place_for_figures():
    assert BEGIN in PAGE.read_text()
    assert END in PAGE.read_text()


def test_goals_and_benchmarks_know_each_other():
    assert len({goal.what for goal in GOALS}) == len(GOALS)
    for name in BENCHMARKS:
        assert (ROOT / "benchmarks" / f"bench_{name}.py").exists(), name


@pytest.mark.parametrize("module", ["", ".soak", *(f".bench_{name}" for name in BENCHMARKS)])
def test_every_benchmark_explains_itself(module):
    command = [sys.executable, "-m", f"benchmarks{module}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout


def test_figures_are_written_where_they_were_asked_for(tmp_path):
    path = tmp_path / "deep" / "results.json"
    write_json(path, {"a": 1.5})
    assert json.loads(path.read_text()) == {"a": 1.5}
    write_json(None, {"a": 1.5})


def test_simulated_devices_can_log_in_and_those_before_them_still_can(tmp_path: Path):
    known = Credentials(tmp_path).add("cloud", Role.CLOUD)
    passwords = enrol(tmp_path, 3)
    credentials = Credentials(tmp_path)
    assert credentials.verify("cloud", known.encode())
    for number, password in enumerate(passwords):
        assert credentials.roles[name_of(number)] is Role.DEVICE
        assert credentials.verify(name_of(number), password.encode())


def test_the_balancers_benchmark_measures_a_small_fleet():
    row = measure(5, 50, 4)
    assert row["nodes"] == 5
    assert 0 < row["asked_p50_us"] <= row["asked_p99_us"]
