"""Telemetry of real processes, each of which is killed while samples flow: the ledger is exact afterwards."""

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloud.client import Fleet
from cloud.local.processes import LocalFleet, LocalProcess
from edge.agent.local import LocalRecord, ask_locally
from shared.errors import Unavailable
from shared.messages import ReplyStatus
from tests.e2e.fleets import FAST, on_mosquitto, operated, until

pytestmark = pytest.mark.timeout(180)
BROKERS = ("embedded", pytest.param("mosquitto", marks=[pytest.mark.mosquitto, pytest.mark.long]))
PACE_S = 0.004


class Sensor:
    """A program on the device that says one number after the other. ``promised``: those that are durable."""

    def __init__(self, data: Path) -> None:
        self.data, self.said, self.promised = data, 0, []

    async def speak(self) -> None:
        while True:
            self.said += 1
            sample = LocalRecord(stream="counter", values={"x": float(self.said)})
            try:
                reply = await ask_locally(self.data, sample)
                if reply.status is ReplyStatus.OK:
                    self.promised.append(float(self.said))
            except Unavailable:  # the agent is away
                await asyncio.sleep(0.05)
            await asyncio.sleep(PACE_S)


async def kill_and_start(process: LocalProcess, away_s: float = 0.0) -> None:
    process.signal(signal.SIGKILL)
    await process.wait()
    await asyncio.sleep(away_s)
    await process.start()


async def values(fleet: Fleet, node: str) -> list[float]:
    """Every number of the stream in the store."""
    found, since = [], 0.0
    while True:
        page = await fleet.telemetry(node, "counter", since)
        found += [point.values["x"][0] for point in page.points]
        since = page.next_unix_s
        if not since:
            return found


async def more_arrives(fleet: Fleet, when: str, samples: int = 50) -> None:
    """Wait until so many more are stored than now."""
    enough: list[int] = []

    async def arrived() -> bool:
        rows = await fleet.ledger("edge-1")
        stored = sum(row.stored for row in rows if row.stream == "counter")
        enough.append(stored + samples)
        return stored >= enough[0]

    await until(when, arrived)


async def all_there(fleet: Fleet, sensor: Sensor) -> bool:
    return set(sensor.promised) <= set(await values(fleet, "edge-1"))


async def settled(fleet: Fleet, node: str) -> bool:
    rows = await fleet.ledger(node)
    return bool(rows) and all(row.exact for row in rows)


@pytest.mark.parametrize("broker", BROKERS)
def test_device_cloud_and_broker_are_killed_while_telemetry_flows(broker, tmp_path):
    async def story() -> None:
        local = LocalFleet(tmp_path, {"edge-1": {**FAST, "telemetry_s": 0.25}})
        if broker == "mosquitto":
            on_mosquitto(local)
        async with operated(local) as fleet:
            sensor = Sensor(tmp_path / "edge-1")
            speaking = asyncio.create_task(sensor.speak())
            await more_arrives(fleet, "it arrives")
            await kill_and_start(local.devices["edge-1"])
            await more_arrives(fleet, "the device is back")
            await kill_and_start(local.cloud)
            await kill_and_start(local.devices["edge-1"])
            await more_arrives(fleet, "cloud and device are back")
            await kill_and_start(local.broker, away_s=0.5)
            await more_arrives(fleet, "they found the broker again")
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)
            await until("all that was promised is there", lambda: all_there(fleet, sensor))
            await until("everything is settled", lambda: settled(fleet, "edge-1"))

            rows = await fleet.ledger("edge-1")
            assert {row.stream for row in rows} == {"counter", "system"}
            assert len({row.epoch for row in rows}) == 3, "three boots"
            assert all(row.produced == row.stored for row in rows), rows
            stored = await values(fleet, "edge-1")
            assert len(stored) == len(set(stored)), "something is there twice"
            assert await fleet.letters() == []

    asyncio.run(story())


def test_a_worker_beside_the_cloud_shares_the_work_and_may_be_killed(tmp_path):
    async def story() -> None:
        local = LocalFleet(tmp_path, {"edge-1": {**FAST, "telemetry_s": 0.25}})
        command = (sys.executable, "-m", "cloud.telemetry", "--config", str(local.workspace.config("ingest")))
        worker = LocalProcess("ingest", command, tmp_path / "ingest.log")
        async with operated(local) as fleet:
            await worker.start()
            await until("the worker listens", lambda: listening(worker, 1))
            sensor = Sensor(tmp_path / "edge-1")
            speaking = asyncio.create_task(sensor.speak())
            try:
                await more_arrives(fleet, "samples", 200)
                await kill_and_start(worker)
                await more_arrives(fleet, "samples after a worker was killed", 200)
                await until("the worker listens again", lambda: listening(worker, 2))
                await more_arrives(fleet, "samples of both", 200)
                await worker.stop()
                await more_arrives(fleet, "samples after a worker has left", 50)
                await a_command_records(str(sensor.data))
            finally:
                speaking.cancel()
                await asyncio.gather(speaking, return_exceptions=True)
                worker.signal(signal.SIGKILL)
            await until("all that was promised is there", lambda: all_there(fleet, sensor))
            await until("everything is settled", lambda: settled(fleet, "edge-1"))
            assert all(row.produced == row.stored for row in await fleet.ledger("edge-1"))
            took = re.search(r"took in .*'samples': (\d+)", worker.log.read_text())
            assert took is not None, worker.tail()
            assert int(took[1]) > 0
            assert COMMANDED in await values(fleet, "edge-1")

    async def listening(worker: LocalProcess, times: int) -> bool:
        return worker.log.read_text().count("connected to") >= times

    asyncio.run(story())


COMMANDED = 1e6


async def a_command_records(data: str) -> None:
    """``python -m edge.record`` hands a sample to the agent, and says in a line what it can't do."""
    said = await record("counter", f"x={COMMANDED}", "--data", data)
    assert (said.returncode, said.stderr) == (0, "")
    for wrong, why in (
        (("Counter", "x=1"), "is no stream"),
        (("counter", "x=nan"), "not finite"),
        (("counter", "x"), "name=number"),
        (("counter", "x=1", "--data", "/nowhere"), "no agent answers"),
    ):
        said = await record("--data", data, *wrong)
        assert said.returncode != 0
        assert why in said.stderr
        assert "Traceback" not in said.stderr


async def record(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "edge.record", *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=30, check=False
    )
