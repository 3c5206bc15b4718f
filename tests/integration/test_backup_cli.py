"""``shoal backup`` and ``shoal restore`` beside a real fleet that runs."""

from cloud.store.store import Store
from tests.support.fleet import RunningFleet


def test_a_running_cloud_is_backed_up_and_restored_elsewhere(with_digits: RunningFleet) -> None:
    made = with_digits.shoal("backup", "monday.shoal-backup", "--json").json
    assert made["tables"]["models"]["rows"] == 1
    assert made["tables"]["nodes"]["rows"] == 2
    assert made["left_out"]["signing.key"] == "a key, not asked for"
    assert any(name.startswith("artifacts/") for name in made["files"])
    checked = with_digits.shoal("restore", "monday.shoal-backup", "--check", "--json").json
    assert checked["tables"] == made["tables"]
    restored = with_digits.shoal("restore", "monday.shoal-backup", "--data", "elsewhere", "--json").json
    assert restored["set_aside"] == ""
    folder = with_digits.folder / "elsewhere"
    store = Store.open(Store.url_of(folder / "shoal.db"))
    assert [entry.manifest.name for entry in store.load_catalog()] == ["digits"]
    assert set(store.load_births()) == {"edge-1", "edge-2"}
    store.close()
    digest = next(name for name in made["files"] if name.startswith("artifacts/"))
    assert (folder / digest).exists()


def test_people_see_what_is_in_it_and_what_is_not(with_digits: RunningFleet) -> None:
    said = with_digits.shoal("backup", "tuesday.shoal-backup", "--no-artifacts")
    assert said.code == 0, said
    assert "not in it: signing.key" in said.out
    assert max(map(len, said.out.splitlines())) <= 80


def test_what_can_not_be_done_is_one_line_that_says_why(with_digits: RunningFleet) -> None:
    with_digits.shoal("backup", "wednesday.shoal-backup", "--json").json  # noqa: B018
    torn = with_digits.folder / "torn.shoal-backup"
    torn.write_bytes((with_digits.folder / "wednesday.shoal-backup").read_bytes()[:-100])
    for arguments, reason in (
        (["restore", "wednesday.shoal-backup", "--force"], "stop the cloud first"),
        (["restore", "wednesday.shoal-backup"], "stop the cloud first"),
        (["restore", "torn.shoal-backup", "--check"], "not a backup, or only a part of one"),
        (["restore", "nowhere.shoal-backup"], "No such file"),
        (["backup", "wednesday.shoal-backup"], "is there already"),
        (["backup", "x", "--data", "nowhere"], "not the data folder"),
        (["backup", "x", "--store", "postgresql://127.0.0.1:1/shoal"], "can't open the cloud's store"),
    ):
        said = with_digits.shoal(*arguments)
        assert said.code == 1, said
        assert said.out == ""
        assert said.err.startswith("error: "), said
        assert said.err.count("\n") == 1, said
        assert reason in said.err
