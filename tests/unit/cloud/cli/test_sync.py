"""What ``shoal sync`` prints, about real views of a simulated world."""

import asyncio
import json
from typing import Any

import pytest
import typer

from cloud.cli import sync as command
from cloud.cli import sync_show
from cloud.sync.client import How
from shared.sync import ConsistencyLevel, SyncStrategy
from tests.support.syncing import World, client_of
from tests.unit.cloud.cli.conftest import Shoal
from tests.unit.cloud.cli.test_show import drawn

STRONG = How(ConsistencyLevel.STRONG, SyncStrategy.EVENT_DRIVEN)


class FakeFleet:
    """A connected client; ``ask`` gives it to the command."""

    def __init__(self) -> None:
        self.world = World(1).start()
        self.sync = client_of(self.world)


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    fleet = FakeFleet()
    monkeypatch.setattr(command, "ask", lambda _, question, *budget: asyncio.run(question(fleet)))
    return fleet


def run(fleet: FakeFleet, *awaitables: Any) -> list[Any]:
    async def main() -> list[Any]:
        return [await one for one in awaitables]

    return asyncio.run(main())


def test_a_value_is_put_shown_listed_and_erased(shoal: Shoal, fleet: FakeFleet) -> None:
    put = ("sync", "put", "room/limits", '{"max": 21.5}', "--to", "n1,n2", "--level", "strong")
    said = shoal(*put, "--strategy", "event-driven")
    assert said.code == 0, said.err
    assert "room/limits at revision 1: done; 2 of 2 targets have it" in said.out
    shown = shoal("sync", "get", "room/limits")
    assert '{"max":21.5}' in shown.out
    assert "strong, event-driven" in shown.out
    listed = json.loads(shoal("sync", "list", "room/", "--json").out)
    assert [(one["key"], one["value"], one["waiting"]) for one in listed] == [
        ("room/limits", {"max": 21.5}, [])
    ]
    assert "revision 2" in shoal("sync", "erase", "room/limits").out
    assert "erased" in shoal("sync", "list").out
    assert shoal("sync", "list", "nowhere").out.startswith("no keys; 'shoal sync put")


def test_text_needs_no_quotes_and_a_repeated_operation_is_done_once(shoal: Shoal, fleet: FakeFleet) -> None:
    first = json.loads(shoal("sync", "put", "k", "on", "--to", "n1", "--json").out)
    again = json.loads(shoal("sync", "put", "k", "off", "--operation", first["task_id"], "--json").out)
    assert again["task_id"] == first["task_id"]
    assert json.loads(shoal("sync", "get", "k", "--json").out)["value"] == "on"
    assert "write EPOCH.SEQUENCE" in shoal("sync", "put", "k", "1", "--operation", "what").err


def test_desired_state_is_put_for_nodes(shoal: Shoal, fleet: FakeFleet) -> None:
    assert shoal("sync", "put", "interval", "30", "--desired", "--to", "n1").code == 0
    assert shoal("sync", "get", "desired/n1/interval").code == 0
    assert "name the targets" in shoal("sync", "put", "interval", "30", "--desired").err


def test_a_task_shows_each_target(shoal: Shoal, fleet: FakeFleet) -> None:
    (done,) = run(fleet, fleet.sync.put("k", 1, ["n1", "n2"], STRONG))
    fleet.world.partition("n2")
    (late,) = run(fleet, fleet.sync.put("j", 2, ["n1", "n2"], How(strategy=SyncStrategy.EVENT_DRIVEN)))
    fleet.world.run(1)
    page = shoal("sync", "status", late.task_id).out
    assert "j (data)" in page
    assert "1 targets" in page
    assert "n2      flying" in page
    table = shoal("sync", "status").out.splitlines()
    (line,) = [one for one in table if one.startswith(done.task_id)]
    assert "2/2" in line
    assert "no task" in shoal("sync", "status", "nobody").err


def test_conflicts_say_what_shows_and_what_lost(shoal: Shoal, fleet: FakeFleet) -> None:
    assert shoal("sync", "conflicts").out == "no conflicts\n"
    run(fleet, fleet.sync.put("k", {"a": 0}, ["n1", "n2"]))
    fleet.world.run(1)
    for node in ("n1", "n2"):
        fleet.world.partition(node)
        fleet.world.devices[node].put("k", {"a": node})
        fleet.world.run(1)
    for node in ("n1", "n2"):
        fleet.world.heal(node)
    fleet.world.until(lambda: fleet.world.converged)
    (line,) = shoal("sync", "conflicts").out.splitlines()[1:]
    assert line.split() == ["k", "a", '"n2"', "n2", "n1:", '"n1"']


def test_a_model_needs_nodes(shoal: Shoal, fleet: FakeFleet) -> None:
    assert "digits: syncing; 0 of 1 targets" in shoal("sync", "model", "digits", "--to", "n1").out
    assert "error: missing option '--to'" in shoal("sync", "model", "digits").err.lower()


def test_no_tasks_and_long_values_are_shown_in_words() -> None:
    assert drawn(sync_show.tasks_table([])).strip() == "no writes within the last hour"
    assert len(sync_show._json("x" * 200)) == sync_show.VALUE_SHOWN_MAX


def test_watch_prints_a_line_a_change(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(fleet, fleet.sync.put("k", 1, ["n1"]))
    news = iter([2, 2, None])

    async def next_value(_: float) -> None:
        value = next(news, "end")
        if value == "end":
            raise typer.Exit
        await (fleet.sync.erase("k") if value is None else fleet.sync.put("k", value))

    monkeypatch.setattr("cloud.cli.sync.asyncio.sleep", next_value)
    with pytest.raises(typer.Exit):
        command.watch()
    assert capsys.readouterr().out.splitlines() == ["k  1", "k  2", "k  erased"]
