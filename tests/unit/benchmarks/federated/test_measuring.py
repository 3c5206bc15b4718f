"""What the figures of learning together are made with: the counting proxy, the rows, the data."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.federated import aggregation, robust
from benchmarks.federated.flower.__main__ import kept
from benchmarks.federated.proxy import counting
from benchmarks.federated.rows import Journal, Look, empty, row_of


def test_the_proxy_passes_everything_on_and_counts_it_for_each_device() -> None:
    async def story() -> tuple[list[bytes], list[tuple[int, int]]]:
        async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(2 * await reader.read())
            writer.close()

        server = await asyncio.start_server(twice, "127.0.0.1", 0)
        answers = []
        async with server, counting("127.0.0.1", server.sockets[0].getsockname()[1], 2) as links:
            for link, size in zip(links, (1000, 300_000), strict=True):
                reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
                writer.write(b"x" * size)
                writer.write_eof()
                answers.append(await reader.read())
                writer.close()
            return answers, [(link.up, link.down) for link in links]

    answers, counts = asyncio.run(story())
    assert [len(answer) for answer in answers] == [2000, 600_000]
    assert counts == [(1000, 2000), (300_000, 600_000)]


def test_connections_that_are_open_are_cut_at_the_end() -> None:
    async def story() -> bytes:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with server:
            async with counting("127.0.0.1", server.sockets[0].getsockname()[1], 1) as (link,):
                reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
                writer.write(b"hello")
                while not link.up:
                    await asyncio.sleep(0.001)
            async with asyncio.timeout(2):
                end = await reader.read()
            writer.close()
        return end

    assert asyncio.run(story()) == b""


def test_a_row_leaves_out_the_first_round_and_training(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rounds.jsonl")
    lines = [(9.0, 1.0), (0.5, 0.1), (0.7, 0.1), (0.6, 0.2)]
    journal.path.write_text(
        "".join(json.dumps({"seconds": s, "train_s": t, "clients": 2}) + "\n" for s, t in lines)
    )
    journal.looks = [Look(10_000, 9_000, 50.0), Look(10_200, 9_100, 51.0)]
    journal.looks += [Look(10_400, 9_200, 52.0), Look(10_600, 9_300, 53.0)]
    row = row_of("ours", "memory", 2, 10, journal, 40.0)
    assert row["rounds"] == 3
    assert row["round_s"] == pytest.approx(0.6)
    assert row["overhead_s"] == pytest.approx(0.4)
    assert (row["bytes_up"], row["bytes_down"], row["cpu_s"]) == (100, 50, 1.0)


def test_a_line_that_is_half_written_is_no_round_yet(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rounds.jsonl")
    journal.path.write_text('{"seconds": 1.0, "train_s": 0.5, "clients": 2}\n{"seconds": 1')
    assert len(journal.lines()) == 1


def test_rows_of_an_earlier_run_stay(tmp_path: Path) -> None:
    row = empty("flower", "simulation", 2, 610)
    (tmp_path / "rows.json").write_text(json.dumps({"rows": [row]}))
    assert kept(tmp_path / "rows.json") == {("simulation", 2, 610): row}
    assert kept(tmp_path / "missing.json") == {}


def test_the_sum_takes_no_more_memory_for_more_clients() -> None:
    few, many = (aggregation.memory(10_000, clients)["peak_bytes"] for clients in (3, 60))
    assert many <= 1.05 * few


@pytest.mark.parametrize("how", ["even", "Dirichlet"])
def test_every_image_is_dealt_to_one_device(how: str) -> None:
    dealt = robust.shards(how, seed=0)
    with np.load(robust.DIGITS / "train.npz") as arrays:
        assert sum(len(y) for _, y in dealt) == len(arrays["labels"])
        counts = np.bincount(np.concatenate([y for _, y in dealt]))
        assert (counts == np.bincount(arrays["labels"])).all()


def test_four_liars_spoil_the_mean_and_not_multi_krum() -> None:
    spoilt, borne = (
        asyncio.run(robust.learn(rule, "even", robust.LIARS, seed=0, rounds=8))["accuracy"]
        for rule in ("mean", "multi-Krum")
    )
    assert spoilt < 0.5 < borne
