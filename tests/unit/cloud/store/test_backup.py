"""A backup and its way back, from each database to each."""

import hashlib
import json
import random
import threading
import zipfile

import msgspec
import pytest
from alembic.script import ScriptDirectory
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import MetaData, Table, func, insert, make_url, select

from cloud.artifacts.entry import Entry
from cloud.artifacts.keys import signing_key
from cloud.rollout.events import NodeDesired
from cloud.rollout.rules import Rule
from cloud.store.archive import ArchiveWriter, BackupDamaged, Manifest, Proof, reading, writing
from cloud.store.backup import Choice, back_up
from cloud.store.dump import table_bytes
from cloud.store.engine import configuration, connected, migrate
from cloud.store.restore import restore
from cloud.store.store import Store
from cloud.store.tables import METADATA
from cloud.tasks.core import Task, TaskSpec
from cloud.telemetry.store import BatchItem, Letter, StreamKey
from shared.errors import ConfigError
from shared.messages import Birth, Capabilities, DesiredModel, DesiredModels
from shared.messages import Manifest as ArtifactManifest
from shared.package import ModuleKind, PackageInfo
from tests.unit.cloud.store.conftest import ENGINES, example

PACKAGE = b"\0asm" * 1000
DIGEST = hashlib.sha256(PACKAGE).hexdigest()


def silent(*_):
    """Nobody watches."""


def batch(first, node="berlin"):
    return BatchItem(StreamKey(node, 1, "s"), first, 1, float(first), float(first), b"\x91\x92\xc0\x80", 5.0)


def fill(store):
    """Rows in every table, with what is hard to carry over: order, signs, bytes, JSON, empty texts."""
    store.next_term(7.9)
    for node in ("b-1", "b", "ba"):
        able = Capabilities(cores=4, memory_bytes=1 << 40)
        store.save_birth(node, Birth(epoch=2**53, agent_version="0.1", capabilities=able), -1.5)
    manifest = ArtifactManifest(
        digest=DIGEST,
        name="cat",
        version="1 🐟",
        kind=ModuleKind.WASI,
        size_bytes=len(PACKAGE),
        chunk_bytes=96 * 1024,
        chunk_digests=bytes(range(256)),
        signature=b"\x00\xff",
    )
    store.save_entry(Entry(manifest=manifest, info=PackageInfo(name="cat"), created_at_unix_s=0.1))
    models = {"z": DesiredModel(digest=DIGEST, version=""), "a": DesiredModel(digest="ab")}
    orders = NodeDesired("b", DesiredModels(version=2**62, models=models))
    store.save_rollout([Rule(1, "cat", "all", "1", DIGEST, 1e-300, "cli")], [], [orders])
    store.save_task(Task("t", TaskSpec(model="cat", inputs=b"\x00"), 1 / 3))
    store.telemetry.telemetry_group()
    letters = [Letter("b", "s", "too strange", b"\x00\xff", 1.0) for _ in range(3)]
    store.telemetry.ingest([*(batch(0, f"n{n}") for n in range(1200)), *letters])
    store.telemetry.trim_letters(1)
    with store._database.transaction() as connection:  # and what the capabilities to come will keep
        for table in METADATA.sorted_tables:
            if not connection.scalar(select(func.count()).select_from(table)):
                connection.execute(insert(table), [example(table)])


def digests(store):
    with store._database.snapshot() as connection:
        return {
            table.name: hashlib.sha256(
                b"".join(block for _, block in table_bytes(connection, table))
            ).hexdigest()
            for table in METADATA.sorted_tables
        }


@pytest.fixture
def data(tmp_path):
    """The folder of a cloud that has lived."""
    folder = tmp_path / "data"
    signing_key(folder)
    for name, content in {
        f"artifacts/{DIGEST}.shoal": PACKAGE,
        f"artifacts/{'ab' * 32}.shoal": b"rotten",
        f"artifacts/{'cd' * 32}.part": b"half",
        "audit/log.jsonl": b"{}\n" * 1000,
        "regions.toml": b"[regions]\n",
        "shoal.db": b"not looked at",
    }.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def filled(store):
    fill(store)
    return store


@pytest.fixture
def backup(filled, url, data, tmp_path):
    target = tmp_path / "monday"
    back_up(url, data, target, Choice(keys=True), silent)
    return target


def restored(backup, url, folder, **how):
    with reading(backup) as archive:
        return restore(archive, url, folder, silent, **how)


# There and back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("into", ENGINES)
def test_every_table_and_file_is_the_same_wherever_it_is_restored(
    backup, filled, data, tmp_path, into, request
):
    target = f"sqlite:///{tmp_path / 'new' / 'x.db'}"
    if into == "postgresql":
        target = request.getfixturevalue("postgres").new_database()
    assert restored(backup, target, tmp_path / "new") == ""
    again = Store.open(target)
    assert digests(again) == digests(filled)
    assert again.load_rollout() == filled.load_rollout()
    # What comes next has a number of its own, as it would have had.
    for store in (again, filled):
        store.telemetry.ingest([Letter("b", "s", "one more", b"", 2.0)])
    assert again.telemetry.letters() == filled.telemetry.letters()
    again.close()
    for name in (f"artifacts/{DIGEST}.shoal", "audit/log.jsonl", "regions.toml", "signing.key"):
        assert (tmp_path / "new" / name).read_bytes() == (data / name).read_bytes()
        assert (tmp_path / "new" / name).stat().st_mode & 0o077 == 0
    assert not (tmp_path / "new" / "artifacts" / f"{'ab' * 32}.shoal").exists()


def test_the_digest_of_a_backup_is_the_digest_of_its_content(backup, filled):
    with reading(backup) as archive:
        assert {name: member.sha256 for name, member in archive.manifest.tables.items()} == digests(filled)
        rows = {name: member.rows for name, member in archive.manifest.tables.items()}
    assert rows["telemetry_chunks"] == 1200
    assert min(rows[table.name] for table in METADATA.sorted_tables) > 0


def test_what_is_not_in_it_is_said(filled, url, data, tmp_path):
    manifest = back_up(url, data, tmp_path / "monday", Choice(artifacts=False), silent)
    assert manifest.left_out["signing.key"] == "a key, not asked for"
    assert manifest.left_out[f"artifacts/{DIGEST}.shoal"] == "an artifact, not asked for"
    assert manifest.files.keys() == {"audit/log.jsonl", "regions.toml"}
    manifest = back_up(url, data, tmp_path / "tuesday", Choice(), silent)
    assert "damaged" in manifest.left_out[f"artifacts/{'ab' * 32}.shoal"]


def test_a_backup_is_of_one_moment_while_others_write(filled, url, data, tmp_path):
    """The rows of a transaction are in it together: counts of a stream and its chunks."""
    stop, busy = threading.Event(), threading.Event()

    def write():
        writer, first = Store.open(url), 0
        while not stop.is_set():
            writer.telemetry.ingest([batch(first + n, "oslo") for n in range(3)])
            first += 3
            busy.set()
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert busy.wait(30)
        for turn in range(5):
            back_up(url, data, tmp_path / str(turn), Choice(), silent)
    finally:
        stop.set()
        thread.join()
    stored = []
    for turn in range(5):
        target = f"sqlite:///{tmp_path / f'new-{turn}' / 'x.db'}"
        restored(tmp_path / str(turn), target, tmp_path / f"new-{turn}")
        store = Store.open(target)
        position = store.telemetry.ledger("oslo")[0]
        chunks = store.telemetry.chunks("oslo", "s", 0.0, 1e9, limit=10**6)
        assert sum(chunk.end - chunk.first for chunk in chunks) == position.stored
        stored.append(position.stored)
        store.close()
    assert stored == sorted(stored)
    assert stored[-1] > stored[0]


def test_a_backup_of_an_older_revision_is_brought_to_the_newest_form(new_url, tmp_path):
    """What an older shoal would have written: its tables only, in its form."""
    oldest = list(ScriptDirectory.from_config(configuration()).walk_revisions())[-1].revision
    engine = connected(make_url(new_url("old")))
    with engine.begin() as connection:
        migrate(connection, oldest)
        known = MetaData()
        known.reflect(connection)
        meta = known.tables["meta"]
        connection.execute(insert(meta), [{"name": "term", "value": 41}])
        with writing(tmp_path / "old", replace=False) as archive:
            tables = [table for table in known.sorted_tables if table.name != "alembic_version"]
            for table in tables:
                archive.table(table.name, table_bytes(connection, table))
            archive.finish(manifest_of(archive, revision=oldest), None)
    engine.dispose()
    target = new_url("new")
    restored(tmp_path / "old", target, tmp_path / "folder")
    store = Store.open(target)
    assert store.next_term(0.0) == 42
    assert store.telemetry.ledger() == []
    store.close()


def manifest_of(archive: ArchiveWriter, **other):
    fields = {
        "made_at_unix_s": 1.0,
        "version": "0.0",
        "revision": "0001",
        "database": "sqlite",
        "left_out": {},
    }
    return Manifest(**{**fields, "tables": archive.tables, "files": archive.files, **other})


# Refused --------------------------------------------------------------------------------------------


def test_a_store_that_holds_something_is_not_overwritten(backup, new_url, tmp_path):
    target = new_url("other")
    store = Store.open(target)
    store.save_task(Task("mine", TaskSpec(model="cat", inputs=b""), 1.0))
    store.close()
    with pytest.raises(ConfigError, match="not empty; --force"):
        restored(backup, target, tmp_path / "new")
    store = Store.open(target)
    assert [task.id for task in store.tasks()] == ["mine"]
    store.close()
    restored(backup, target, tmp_path / "new", force=True)
    store = Store.open(target)
    assert [task.id for task in store.tasks()] == ["t"]
    store.close()


def test_a_store_that_was_merely_started_is_empty(backup, new_url, tmp_path):
    target = new_url("other")
    store = Store.open(target)
    store.next_term(0.0)
    store.close()
    restored(backup, target, tmp_path / "new")


def test_nothing_is_restored_beside_a_running_cloud(backup, url, filled, data):
    before = digests(filled)
    with pytest.raises(ConfigError, match="stop the cloud first"):
        restored(backup, url, data, force=True)
    assert digests(filled) == before


def test_what_stood_there_is_set_aside(backup, new_url, data, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "regions.toml").write_text("another")
    (folder / "audit").mkdir()
    (folder / "audit" / "later.jsonl").write_text("{}")
    with pytest.raises(ConfigError, match=r"audit/later\.jsonl already; --force"):
        restored(backup, new_url("x"), folder)
    aside = restored(backup, new_url("y"), folder, force=True)
    assert (folder / "regions.toml").read_bytes() == (data / "regions.toml").read_bytes()
    assert not (folder / "audit" / "later.jsonl").exists()
    assert (folder / aside / "regions.toml").read_text() == "another"
    assert (folder / aside / "audit" / "later.jsonl").read_text() == "{}"


def test_a_broken_database_file_makes_way(backup, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "shoal.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    (folder / "shoal.db-wal").write_bytes(b"the log of the broken one")
    target = f"sqlite:///{folder / 'shoal.db'}"
    with pytest.raises(ConfigError, match="not empty"):
        restored(backup, target, folder)
    aside = restored(backup, target, folder, force=True)
    store = Store.open(target)
    assert [task.id for task in store.tasks()] == ["t"]
    store.close()
    assert (folder / aside / "shoal.db-wal").read_bytes() == b"the log of the broken one"


def test_the_key_of_another_cloud_is_never_replaced(backup, new_url, tmp_path):
    folder = tmp_path / "new"
    ours = signing_key(folder).private_bytes_raw()
    with pytest.raises(ConfigError, match="the key of another cloud"):
        restored(backup, new_url("x"), folder, force=True)
    assert (folder / "signing.key").read_bytes() == ours


def test_a_backup_is_not_overwritten(backup, url, data):
    before = backup.read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        back_up(url, data, backup, Choice(), silent)
    assert backup.read_bytes() == before
    back_up(url, data, backup, Choice(), silent, replace=True)
    assert backup.read_bytes() != before
    assert [path.name for path in backup.parent.glob("*.part")] == []


def test_a_backup_by_a_newer_shoal_is_refused(tmp_path):
    with writing(tmp_path / "new", replace=False) as archive:
        archive.finish(manifest_of(archive, revision="9999", version="9.9"), None)
    with pytest.raises(ConfigError, match=r"made by shoal 9\.9, which this one does not know"):
        restored(tmp_path / "new", f"sqlite:///{tmp_path / 'x.db'}", tmp_path / "folder")
    assert not (tmp_path / "x.db").exists()


# Damaged --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One backup of SQLite for the tests that only damage it, and its content."""
    folder = tmp_path_factory.mktemp("small")
    url = f"sqlite:///{folder / 'x.db'}"
    store = Store.open(url)
    fill(store)
    store.close()
    (folder / "data").mkdir()
    signing_key(folder / "data")
    (folder / "data" / "regions.toml").write_bytes(b"[regions]\n")
    back_up(url, folder / "data", folder / "good", Choice(), silent)
    return folder / "good"


def content(path):
    with reading(path) as archive:
        archive.check(silent)
        return archive.manifest


def test_a_torn_backup_is_refused_wherever_it_ends(small, tmp_path):
    whole, rng = small.read_bytes(), random.Random(5)
    torn = tmp_path / "torn"
    for cut in [0, 1, 22, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(60))]:
        torn.write_bytes(whole[:cut])
        with pytest.raises(BackupDamaged):
            content(torn)


def test_a_flipped_bit_is_found_or_changes_nothing(small, tmp_path):
    """Some bits of a zip mean nothing (times, for instance); every other one is found."""
    whole, good, rng, found = small.read_bytes(), content(small), random.Random(6), 0
    flipped = tmp_path / "flipped"
    for _ in range(300):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        flipped.write_bytes(data)
        try:
            assert content(flipped) == good
        except BackupDamaged:
            found += 1
    assert found > 280


def edited(small, path, change):
    """The backup with members changed by hand, as a person with any zip tool would."""
    with zipfile.ZipFile(small) as old, zipfile.ZipFile(path, "w") as new:
        members = {name: old.read(name) for name in old.namelist()}
        for name, data in change(members).items():
            new.writestr(name, data)
    return path


def test_an_edit_is_refused_and_named(small, tmp_path):
    def table(members):
        return members | {"tables/tasks": members["tables/tasks"].replace(b"cat", b"dog")}

    def less(members):
        return {name: data for name, data in members.items() if name != "tables/nodes"}

    with pytest.raises(BackupDamaged, match="tables/tasks is not what was backed up"):
        content(edited(small, tmp_path / "table", table))
    with pytest.raises(BackupDamaged, match=r"not those of the manifest: files/extra"):
        content(edited(small, tmp_path / "more", lambda members: members | {"files/extra": b""}))
    with pytest.raises(BackupDamaged, match=r"not those of the manifest: tables/nodes"):
        content(
            edited(small, tmp_path / "less", lambda all: {n: d for n, d in all.items() if "nodes" not in n})
        )
    with pytest.raises(BackupDamaged, match=r"manifest\.json was changed"):
        content(
            edited(small, tmp_path / "m", lambda all: all | {"manifest.json": all["manifest.json"] + b" "})
        )
    with pytest.raises(BackupDamaged, match="no backup of shoal"):
        content(edited(small, tmp_path / "zip", lambda _: {"hello": b"world"}))


def test_an_edit_with_new_digests_needs_the_clouds_key(small, tmp_path):
    def forged(members, key=None):
        members["files/regions.toml"] = b"[regions]\nmine = 'eu'\n"
        manifest = json.loads(members["manifest.json"])
        one = manifest["files"]["regions.toml"]
        one["size_bytes"] = len(members["files/regions.toml"])
        one["sha256"] = hashlib.sha256(members["files/regions.toml"]).hexdigest()
        proof = msgspec.json.decode(members["manifest.proof"], type=Proof)
        if key is not None:
            manifest["cloud_key"] = key.public_key().public_bytes_raw().hex()
        members["manifest.json"] = json.dumps(manifest).encode()
        proof = msgspec.structs.replace(proof, sha256=hashlib.sha256(members["manifest.json"]).hexdigest())
        if key is not None:
            signature = key.sign(b"shoal backup\0" + members["manifest.json"]).hex()
            proof = msgspec.structs.replace(proof, key=manifest["cloud_key"], signature=signature)
        return members | {"manifest.proof": msgspec.json.encode(proof)}

    with pytest.raises(BackupDamaged, match="signature"):
        content(edited(small, tmp_path / "forged", forged))
    # Signed with a key of their own it is a backup of another cloud, and ours does not take it.
    theirs = edited(small, tmp_path / "theirs", lambda all: forged(all, Ed25519PrivateKey.generate()))
    signing_key(tmp_path / "folder")
    with pytest.raises(ConfigError, match="another cloud"):
        restored(theirs, f"sqlite:///{tmp_path / 'x.db'}", tmp_path / "folder")


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "a//b", "."])
def test_no_file_lands_outside_of_the_data_folder(tmp_path, name):
    with writing(tmp_path / "bad", replace=False) as archive:
        archive.file(name, [b"x"])
        archive.finish(manifest_of(archive), None)
    with pytest.raises(BackupDamaged, match="outside the data folder"):
        content(tmp_path / "bad")


def test_a_table_with_columns_of_its_own_is_refused(tmp_path):
    engine = connected(make_url(f"sqlite:///{tmp_path / 'odd.db'}"))
    with engine.begin() as connection, writing(tmp_path / "odd", replace=False) as archive:
        migrate(connection, "0001")
        known = MetaData()
        known.reflect(connection)
        connection.exec_driver_sql("ALTER TABLE meta ADD COLUMN more INTEGER")
        for name in known.tables.keys() - {"alembic_version"}:
            table = Table(name, MetaData(), autoload_with=connection)
            archive.table(name, table_bytes(connection, table))
        archive.finish(manifest_of(archive), None)
    engine.dispose()
    with pytest.raises(BackupDamaged, match="columns of meta"):
        restored(tmp_path / "odd", f"sqlite:///{tmp_path / 'x.db'}", tmp_path / "folder")
