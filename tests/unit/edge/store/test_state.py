"""The device's memory as the agent uses it."""

import threading
from pathlib import Path

import pytest

from edge.store.atomic import StoreUnwritable
from edge.store.state import DeviceState, StoreBusy


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "device"


def reopened(state: DeviceState, folder: Path) -> DeviceState:
    state.close()
    return DeviceState(folder)


def test_documents_survive_a_restart(folder):
    state = DeviceState(folder)
    state.put("models", "desired", {"version": 3, "models": {"mnist": {"digest": "ab", "version": "1"}}})
    state.put("models", "ready", {"models": {}})
    state = reopened(state, folder)
    assert state.get("models", "desired") == {
        "version": 3,
        "models": {"mnist": {"digest": "ab", "version": "1"}},
    }
    assert state.all("models").keys() == {"desired", "ready"}
    assert state.get("models", "nothing") is None
    assert state.all("nowhere") == {}


def test_put_replaces_the_whole_document_and_delete_forgets_it(folder):
    state = DeviceState(folder)
    state.put("models", "desired", {"old": 1})
    state.put("models", "desired", {"new": 2})
    assert state.get("models", "desired") == {"new": 2}
    state.delete("models", "desired")
    state.delete("models", "desired")
    assert reopened(state, folder).get("models", "desired") is None


def test_a_reader_cannot_change_the_store_by_changing_what_it_got(folder):
    state = DeviceState(folder)
    state.put("models", "desired", {"models": {}})
    found = state.get("models", "desired")
    assert found is not None
    found["models"]["sneaked"] = "in"
    assert state.get("models", "desired") == {"models": {}}


def test_a_refused_write_leaves_no_trace_in_memory(folder):
    state = DeviceState(folder)
    state.put("models", "desired", {"n": 1})
    (folder / "state.json.tmp").mkdir()
    with pytest.raises(StoreUnwritable):
        state.put("models", "desired", {"n": 2})
    assert state.get("models", "desired") == {"n": 1}


def test_several_verbs_in_a_transaction_are_one_write(folder):
    state = DeviceState(folder)
    with state.transaction():
        state.put("models", "desired", {"n": 1})
        state.put("models", "ready", {"n": 1})
    assert (folder / "state.json").read_bytes().startswith(b"shoal-state 1 1 ")
    assert reopened(state, folder).all("models") == {"desired": {"n": 1}, "ready": {"n": 1}}


def test_epochs_only_grow_even_when_the_clock_jumps_back(folder):
    state, epochs = DeviceState(folder), []
    for unix_s in (1_700_000_000.9, 1_700_000_000.9, 0.0, -5.0, 1_800_000_000.0, 86_400.0):
        epochs.append(state.next_epoch(unix_s))
        state = reopened(state, folder)
    assert epochs == [
        1_700_000_000,
        1_700_000_001,
        1_700_000_002,
        1_700_000_003,
        1_800_000_000,
        1_800_000_001,
    ]


def test_a_lost_store_does_not_take_the_epoch_back(folder):
    state = DeviceState(folder)
    before = state.next_epoch(1_700_000_000)
    for name in ("state.json", "state.json.1"):
        (folder / name).write_bytes(b"")
    state = reopened(state, folder)
    assert len(state.damage) == 2
    assert state.next_epoch(1_700_000_060) > before


@pytest.mark.parametrize("clock", [0.0, 1_700_000_000.0])
def test_one_damaged_generation_repeats_neither_an_epoch_nor_an_identity(folder, clock):
    state = DeviceState(folder)
    key, before = state.device_key(), state.next_epoch(1_700_000_000)
    (folder / "state.json").write_bytes(b"torn")
    state = reopened(state, folder)
    assert len(state.damage) == 1
    assert state.device_key() == key
    assert state.next_epoch(clock) > before


def test_the_key_is_made_once_kept_private_and_different_everywhere(folder, tmp_path):
    state = DeviceState(folder)
    key = state.device_key()
    assert len(key) == 32
    assert reopened(state, folder).device_key() == key
    assert DeviceState(tmp_path / "another").device_key() != key
    assert {file.stat().st_mode & 0o077 for file in folder.iterdir()} == {0}


def test_boots_that_never_settle_are_counted_for_the_crash_loop_breaker(folder):
    state = DeviceState(folder)
    assert state.boots_unsettled == 0
    for boots in (1, 2, 3):
        state.next_epoch(1_700_000_000)
        assert state.boots_unsettled == boots
        state = reopened(state, folder)
    state.settle()
    assert reopened(state, folder).boots_unsettled == 0


def test_a_second_agent_is_kept_out_of_the_folder(folder):
    state = DeviceState(folder)
    with pytest.raises(StoreBusy, match="another running agent"):
        DeviceState(folder)
    state.close()
    DeviceState(folder).close()


def test_threads_do_not_lose_each_others_documents(folder):
    state = DeviceState(folder)
    threads = [
        threading.Thread(target=lambda at=at: [state.put("t", f"{at}-{n}", {"n": n}) for n in range(5)])
        for at in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reopened(state, folder).all("t")) == 20
