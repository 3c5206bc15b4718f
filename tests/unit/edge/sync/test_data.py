"""``agent.data`` over the real service, disk and socket of one device, with no network at all."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from broker.memory import MemoryBroker, MemoryBus
from edge import data as command
from edge.agent.local import LocalData, LocalRequest, ask_locally, serve_locally
from edge.store.atomic import StoreFull
from edge.sync.data import CHANGES_MAX, Change, Conflict, checked
from edge.sync.disk import ReplicaDisk
from edge.sync.events import Save
from edge.sync.local import answer_data
from edge.sync.service import SyncService
from shared.errors import Refused, TimedOut
from shared.messages import Reply, ReplyStatus
from shared.sync import ConsistencyLevel, Outcome, Status
from shared.versions import Entry, fields_in, written

Story = Callable[[SyncService], Coroutine[Any, Any, Any]]


def lived(folder: Path, story: Story) -> Any:
    """One boot without a link."""

    async def main() -> Any:
        service = SyncService("n1", int(time.time_ns()), MemoryBus(MemoryBroker()), folder / "sync")
        running = asyncio.create_task(service.run())

        async def answer(request: LocalRequest) -> Reply:
            assert isinstance(request, LocalData)
            return await answer_data(service.data, request)

        try:
            async with asyncio.timeout(20), serve_locally(folder, answer):
                return await story(service)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    return asyncio.run(main())


def test_what_was_put_is_there_after_a_restart_and_unsynced(tmp_path):
    async def first(service: SyncService) -> None:
        await service.data.put("room/limits", {"max": 1, "min": 0})
        await service.data.put("room/limits", {"max": 2, "min": 0})
        await service.data.put("gone", 1)
        await service.data.put("gone", None)
        await service.data.report("interval", 30)
        assert service.data.keys() == ["reported/n1/interval", "room/limits"]

    async def second(service: SyncService) -> None:
        assert service.data.get("room/limits") == {"max": 2, "min": 0}
        assert service.data.get("gone") is None
        assert service.data.desired("interval") is None
        assert service.data.status()["unsynced"] == ["gone", "reported/n1/interval", "room/limits"]
        assert not service.data.status()["connected"]

    lived(tmp_path, first)
    lived(tmp_path, second)


def test_a_large_value_is_one_change_and_there_after_a_restart(tmp_path):
    large = {"log": "x" * 300_000}

    async def first(service: SyncService) -> None:
        await service.data.put("room/log", large)
        assert [(one.key, one.value) for one in service.data.changes("", 0)[0]] == [("room/log", large)]

    async def second(service: SyncService) -> None:
        assert service.data.get("room/log") == large
        assert service.data.keys() == ["room/log"]
        await service.data.put("room/log", None)
        assert service.data.get("room/log") is None

    lived(tmp_path, first)
    lived(tmp_path, second)


def test_changes_are_watched_by_prefix_and_from_a_number_on(tmp_path):
    async def story(service: SyncService) -> list[Change]:
        found = []

        async def watch() -> None:
            async for change in service.data.watch("room/"):
                found.append(change)
                if len(found) == 3:
                    return

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)
        for key, value in (("room/a", 1), ("other", 2), ("room/b", 3), ("room/a", None)):
            await service.data.put(key, value)
        await watching
        assert await service.data.wait("nowhere", 0, 0.01) == []
        assert [one.key for one in await service.data.wait("other", 0, 1.0)] == ["other"]
        return found

    assert [(one.key, one.value) for one in lived(tmp_path, story)] == [
        ("room/a", 1),
        ("room/b", 3),
        ("room/a", None),
    ]


def test_whoever_looks_too_rarely_is_told_that_something_was_missed(tmp_path):
    async def story(service: SyncService) -> None:
        for number in range(CHANGES_MAX + 10):
            service.data.changed(type("Seen", (), {"name": f"k{number}"})())
        changes, missed = service.data.changes("", 0)
        assert missed
        assert len(changes) == CHANGES_MAX
        assert not service.data.changes("", changes[0].number)[1]

    lived(tmp_path, story)


def test_a_strong_write_without_a_cloud_is_definitely_not_done(tmp_path):
    async def story(service: SyncService) -> None:
        with pytest.raises(Refused, match="can't be reached"):
            await service.data.put("k", 1, level=ConsistencyLevel.STRONG, budget_s=0.05)
        with pytest.raises(Refused, match="can't be reached"):
            await service.data.read("k", budget_s=0.05)
        with pytest.raises(Refused, match="not a key"):
            await service.data.put("desired/other-node/x", 1)
        with pytest.raises(Refused, match="the limit is"):
            await service.data.put("k", "x" * 5_000_000)
        with pytest.raises(TypeError):
            await service.data.put("k", {1: 2})

    lived(tmp_path, story)


def test_outcomes_become_the_errors_that_say_whether_a_retry_is_safe():
    with pytest.raises(Conflict) as stale:
        checked(Outcome(status=Status.CONFLICT, revision=7))
    assert (stale.value.revision, stale.value.definite) == (7, True)
    with pytest.raises(TimedOut) as unknown:
        checked(Outcome(status=Status.INDETERMINATE))
    assert not unknown.value.definite


def test_a_full_disk_is_told_and_the_write_is_kept_for_later(tmp_path, monkeypatch):
    async def story(service: SyncService) -> None:
        await service.data.put("before", 1)
        save, full = ReplicaDisk.save, [True]

        def refuse(disk: ReplicaDisk, work: Save) -> object:
            if full[0]:
                raise StoreFull("no space left")
            return save(disk, work)

        monkeypatch.setattr(ReplicaDisk, "save", refuse)
        with pytest.raises(TimedOut, match="no space left"):
            await service.data.put("k", 2)
        assert service.data.get("k") == 2
        full[0] = False
        await service.data.put("later", 3)

    lived(tmp_path, story)
    disk = ReplicaDisk(tmp_path / "sync")
    disk.close()
    assert sorted(one.name for one in disk.restored.entries) == ["before", "k", "later"]


def test_the_log_is_folded_into_a_snapshot_and_damage_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("edge.sync.disk.LOG_BYTES_MIN", 2_000)
    disk = ReplicaDisk(tmp_path)
    for number in range(1, 200):
        entry = written(Entry(f"k{number % 10}"), ("n1", 1, number), number, fields_in(number))
        disk.save(Save((entry,), frozenset({entry.name}) if number % 3 else frozenset(), term=number))
    disk.save(Save(clean=frozenset({"k1"}), forgotten=("k2",), term=200, cleared=4))
    disk.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 8_000
    again = ReplicaDisk(tmp_path)
    found = again.restored
    assert {one.name for one in found.entries} == {f"k{number}" for number in range(10)} - {"k2"}
    dirty = {f"k{number % 10}" for number in range(190, 200) if number % 3}
    assert found.dirty == dirty - {"k1", "k2"}
    assert (found.term, found.cleared, again.trouble) == (200, 4, "")
    for number in range(3):
        again.save(Save((written(Entry("x"), ("n1", 2, number + 1), 1, fields_in("x" * 50)),), term=201))
    again.close()
    (log,) = tmp_path.glob("*.log")
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    hurt = ReplicaDisk(tmp_path)
    hurt.close()
    assert "1 records were unreadable" in hurt.trouble
    assert len(hurt.restored.entries) >= 9


# The socket and the command ---------------------------------------------------------------------------


def said(capfd: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capfd.readouterr().out.splitlines()[-1])


async def run(folder: Path, *arguments: str) -> int:
    verb, *rest = arguments
    return await command.run(command.arguments([verb, *rest, "--data", str(folder)]))


def test_the_command_puts_gets_lists_and_erases(tmp_path, capfd):
    async def story(service: SyncService) -> None:
        assert await run(tmp_path, "put", "room/limits", '{"max": 21.5}') == 0
        assert said(capfd) == {"key": "room/limits", "status": "ok", "revision": 0}
        assert await run(tmp_path, "get", "room/limits") == 0
        assert said(capfd) == {
            "key": "room/limits",
            "value": {"max": 21.5},
            "level": "eventual",
            "strategy": "push",
            "revision": 0,
            "conflicts": {},
        }
        assert await run(tmp_path, "list", "room/") == 0
        assert said(capfd) == ["room/limits"]
        assert await run(tmp_path, "status") == 0
        assert said(capfd)["unsynced"] == ["room/limits"]
        assert await run(tmp_path, "erase", "room/limits") == 0
        assert await run(tmp_path, "get", "room/limits") == 1
        assert "no-such-key" in capfd.readouterr().err
        assert await run(tmp_path, "put", "k", "1", "--level", "strong", "--deadline", "0.1") == 1
        assert "offline" in capfd.readouterr().err
        assert await run(tmp_path, "conflicts") == 0
        assert said(capfd) == {}
        with pytest.raises(ValueError, match="a text needs quotes"):
            await run(tmp_path, "put", "k", "text")

    lived(tmp_path, story)


def test_the_command_watches_until_it_is_interrupted(tmp_path, capfd):
    async def story(service: SyncService) -> None:
        watching = asyncio.create_task(run(tmp_path, "watch", "room/"))
        seen = ""
        while not seen:
            await service.data.put("room/a", time.time_ns())
            await asyncio.sleep(0.01)
            seen = capfd.readouterr().out
        watching.cancel()
        assert json.loads(seen.splitlines()[0])["key"] == "room/a"

    lived(tmp_path, story)


@pytest.mark.parametrize("how", [{"verb": "format"}, {"verb": "put", "key": "k", "value": b"\xc1"}])
def test_a_request_without_sense_is_refused(tmp_path, how):
    async def story(service: SyncService) -> Reply:
        return await ask_locally(tmp_path, LocalData(**how))

    reply = lived(tmp_path, story)
    assert reply.status is ReplyStatus.REFUSED
    assert reply.code in ("bad-request", "bad-value")


def test_without_an_agent_the_command_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["edge.data", "get", "k", "--data", str(tmp_path)])
    assert command.main() == 1
    assert "start it with 'shoal edge --node NAME'" in capsys.readouterr().err
    assert not os.listdir(tmp_path)
