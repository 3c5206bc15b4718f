"""The catalog: its core, and its shell on real files."""

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.ask import Asker as Client
from broker.memory import MemoryBroker, MemoryBus
from cloud.artifacts.blobs import BlobFolder
from cloud.artifacts.catalog import NEXT, Catalog, CatalogLimits, Phase, next_version
from cloud.artifacts.entry import Entry
from cloud.artifacts.events import (
    Announce,
    Asker,
    Discard,
    Examine,
    Examined,
    Offered,
    PieceArrived,
    PieceWritten,
    Record,
    Recorded,
    Restored,
    WritePiece,
)
from cloud.artifacts.examine import examine
from cloud.artifacts.keys import public_hex, signing_key
from cloud.artifacts.service import catalog_service
from edge.artifacts.trust import verifier
from shared.artifacts import SIZE_BYTES_MAX, check_manifest
from shared.core import Failed, LinkUp, Publish, Tick
from shared.errors import Refused, Unreadable
from shared.messages import Manifest, Reply, ReplyStatus, Upload
from shared.package import ModuleKind, Package, PackageInfo, pack
from shared.replies import UploadProgress
from shared.topics import APP_UPLOAD, CHUNK_BYTES, MANIFEST
from shared.wire import decode, encode, unpacked
from tests.transcript import Transcript, shown
from tests.unit.cloud.artifacts.support import WASM, MemoryCatalogStore, package
from tests.unit.edge.runtime.stories import story

ONE, TWO = package(seed=1), package(seed=2)


def digest_of(data: bytes) -> str:
    return sha256(data).hexdigest()


def piece(data: bytes, offset: int, length: int, *, app: str = "app", number: int = 0) -> PieceArrived:
    return PieceArrived(Asker(app, f"c{number}"), digest_of(data), len(data), offset, length)


def examined(data: bytes, at_unix_s: float = 100.0) -> Examined:
    return Examined(digest_of(data), *examine(data), at_unix_s)


def run(core: Catalog, *events: object, now: float = 0.0) -> list[object]:
    effects: list[object] = []
    for event in events:
        effects += core.step(event, now)
        core.check()
    return effects


def received(core: Catalog, data: bytes, **asker: object) -> list[object]:
    ask = piece(data, 0, len(data), **asker)
    return run(core, ask, PieceWritten(ask.asker, ask.digest, ask.length))


def stored(core: Catalog, data: bytes) -> list[object]:
    effects = [*received(core, data), *run(core, examined(data))]
    entry = next(one.entry for one in effects if isinstance(one, Record))
    return [*effects, *run(core, Recorded(entry))]


def replies(effects: list[object]) -> list[Reply]:
    said = [one.message for one in effects if isinstance(one, Publish)]
    return [message for message in said if isinstance(message, Reply)]


def progress(effects: list[object]) -> UploadProgress:
    (reply,) = replies(effects)
    return unpacked(reply.body, UploadProgress)


def refusal(effects: list[object]) -> str:
    (reply,) = replies(effects)
    assert reply.status is ReplyStatus.REFUSED
    return reply.code


def brief(thing: object) -> str:
    """Digests cut to what a reader can compare, replies opened."""
    match thing:
        case Publish(to, Reply(body=body)):
            return f"Reply to {to}: {brief(unpacked(body, UploadProgress))}"
        case Recorded(entry) | Record(entry) | Announce(entry):
            one = entry.manifest
            return (
                f"{type(thing).__name__}({one.name} {one.version}, {len(one.signature)} bytes of signature)"
            )
    return re.sub(r"\b([0-9a-f]{6})[0-9a-f]{58}\b", r"\1", shown(thing))


# The core ---------------------------------------------------------------------------------------------


def test_an_upload_in_pieces_goes_on_where_it_stopped_and_ends_in_the_catalog():
    half = len(ONE) // 2
    asker = Asker("app", "c0")
    entry = Entry(
        manifest=msgspec.structs.replace(examine(ONE)[1], signature=b"s" * 64),
        info=examine(ONE)[0],
        created_at_unix_s=100.0,
    )
    (
        Transcript("artifacts/upload", Catalog(), brief)
        .at(0.0, LinkUp(False))
        .at(1.0, piece(ONE, 0, half), PieceWritten(asker, digest_of(ONE), half))
        .at(2.0, piece(ONE, 0, half), piece(ONE, half, 0))
        .at(3.0, piece(ONE, half, len(ONE) - half), PieceWritten(asker, digest_of(ONE), len(ONE) - half))
        .at(4.0, piece(ONE, len(ONE), 0, app="other"), examined(ONE), Recorded(entry))
        .at(5.0, piece(ONE, 0, half))
        .at(6.0, LinkUp(False))
        .matches()
    )


def test_the_same_name_and_version_with_other_bytes_becomes_the_next_version():
    core = Catalog()
    assert progress(stored(core, ONE)).version == "1"
    assert progress(stored(core, TWO)).version == "2"
    assert progress(run(core, piece(ONE, 0, 10))).version == "1"
    assert [(one.name, one.version) for one in core.models()] == [("digits", "1"), ("digits", "2")]


def test_two_uploads_that_end_together_do_not_get_the_same_version():
    core = Catalog()
    received(core, ONE)
    received(core, TWO, app="other")
    works = [one for one in run(core, examined(ONE), examined(TWO)) if isinstance(one, Record)]
    assert [work.entry.manifest.version for work in works] == ["1", "2"]
    run(core, *(Recorded(work.entry) for work in works))


@pytest.mark.parametrize(
    ("version", "taken", "expected"),
    [
        ("1", set(), "1"),
        ("1", {"1", "9", "beta"}, "10"),
        ("1.2", {"1.2"}, "1.2-2"),
        ("1.2", {"1.2", "1.2-2"}, "1.2-3"),
    ],
)
def test_the_next_free_version(version, taken, expected):
    assert next_version(version, taken) == expected


def test_bytes_that_are_no_model_are_refused_and_not_kept():
    core = Catalog()
    received(core, ONE)
    effects = run(core, Failed(Examine(digest_of(ONE)), "not a .shoal package"))
    assert refusal(effects) == "not-a-model"
    assert Discard(digest_of(ONE)) in effects
    assert core.uploads == {}


def test_what_another_part_of_the_cloud_has_made_goes_the_same_way_and_nobody_is_answered():
    core = Catalog()
    digest = digest_of(ONE)
    assert run(core, Offered(digest, len(ONE))) == [Examine(digest)]
    (record,) = run(core, examined(ONE))
    effects = run(core, Recorded(record.entry))
    assert Announce(record.entry) in effects
    assert replies(effects) == []
    assert run(core, Offered(digest, len(ONE))) == [Announce(record.entry)], "it is said again"


def test_a_package_on_its_way_from_an_application_is_not_begun_a_second_time():
    core = Catalog()
    ask = piece(ONE, 0, len(ONE))
    run(core, ask)
    (ignored,) = run(core, Offered(ask.digest, len(ONE)))
    assert "on its way already" in ignored.reason


def test_a_model_that_could_not_be_saved_is_not_in_the_catalog_and_its_version_is_free_again():
    core = Catalog()
    received(core, ONE)
    (work,) = run(core, examined(ONE))
    assert refusal(run(core, Failed(work, "the database is locked"))) == "not-stored"
    assert core.models() == ()
    assert progress(stored(core, TWO)).version == "1"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"digest": "../../x"}, "bad-digest"),
        ({"size_bytes": 0}, "too-large"),
        ({"size_bytes": 1 << 40}, "too-large"),
        ({"offset": -1}, "bad-piece"),
        ({"length": 1 << 20}, "bad-piece"),
    ],
)
def test_a_piece_of_nonsense_is_refused_with_a_code(change, code):
    assert refusal(run(Catalog(), replace(piece(ONE, 0, 10), **change))) == code


def test_a_package_can_not_change_its_size_on_the_way():
    core = Catalog()
    run(core, piece(ONE, 0, 10), PieceWritten(Asker("app", "c0"), digest_of(ONE), 10))
    assert refusal(run(core, replace(piece(ONE, 10, 10), size_bytes=20))) == "bad-piece"


def test_the_store_and_the_uploads_are_bounded():
    core = Catalog(CatalogLimits(store_bytes_max=2500, uploads_per_app_max=1, uploads_max=2))
    run(core, piece(ONE, 0, 0))
    assert refusal(run(core, piece(TWO, 0, 0))) == "busy"
    run(core, piece(TWO, 0, 0, app="other"))
    third = package(seed=3)
    assert refusal(run(core, piece(third, 0, 0, app="third"))) == "busy"
    run(core, Tick(), now=601.0)
    stored(core, ONE)
    stored(core, TWO)
    assert refusal(run(core, piece(third, 0, 0, app="third"))) == "no-room"


def test_an_upload_that_nobody_goes_on_with_is_reaped():
    core = Catalog()
    run(core, piece(ONE, 0, 10), PieceWritten(Asker("app", "c0"), digest_of(ONE), 10))
    assert run(core, Tick(), now=599.0) == []
    assert run(core, Tick(), now=601.0) == [Discard(digest_of(ONE))]


def test_after_a_restart_uploads_go_on_and_every_manifest_is_published_again():
    first = Catalog()
    stored(first, ONE)
    core = Catalog()
    effects = run(
        core,
        Restored(tuple(first.entries.values()), frozenset({digest_of(ONE), "f" * 64}), {digest_of(TWO): 300}),
    )
    assert effects == [Announce(first.entries[digest_of(ONE)]), Discard("f" * 64)]
    (published,) = run(core, LinkUp(False))
    assert published.to.name == MANIFEST.at(artifact=digest_of(ONE)).name
    assert progress(run(core, piece(TWO, 0, 100))).bytes_have == 300
    assert run(core, piece(TWO, 300, 50)) == [WritePiece(Asker("app", "c0"), digest_of(TWO), 300, 50)]


def test_an_entry_whose_bytes_are_gone_is_left_out_until_they_come_again():
    first = Catalog()
    stored(first, ONE)
    core = Catalog()
    run(core, Restored(tuple(first.entries.values()), frozenset(), {}))
    assert core.models() == ()
    assert progress(stored(core, ONE)).done


def test_many_manifests_are_published_a_few_at_a_time():
    first = Catalog()
    for seed in range(5):
        stored(first, package(seed=seed))
    core = Catalog(CatalogLimits(announced_max=2))
    run(core, Restored(tuple(first.entries.values()), frozenset(first.entries), {}))
    counts = [len(run(core, event)) for event in (LinkUp(False), Tick(), Tick(), Tick())]
    assert counts == [2, 2, 1, 0]


def test_every_phase_is_reachable_and_every_dead_end_is_meant():
    assert {after for phase in Phase for after in NEXT[phase]} | {Phase.RECEIVING} == set(Phase)
    assert {phase for phase in Phase if not NEXT[phase]} == {Phase.RECORDING}


DATA = [package(seed=seed, size_bytes=50) for seed in range(3)]
steps = st.one_of(
    st.tuples(
        st.just("piece"),
        st.sampled_from(DATA),
        st.integers(-1, 300),
        st.integers(0, 300),
        st.sampled_from(["a", "b"]),
    ),
    st.tuples(st.just("next"), st.sampled_from(DATA), st.integers(0, 300)),
    st.tuples(st.just("answer"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 700.0])),
)


@settings(deadline=None)
@given(st.lists(steps, max_size=50))
def test_any_history_keeps_the_invariants_and_answers_every_request_once(history):
    core = Catalog(CatalogLimits(uploads_max=2, uploads_per_app_max=1, askers_max=2))
    now, work, asked, answered = 0.0, [], 0, 0
    for number, step in enumerate(history):
        match step:
            case ("piece", data, offset, length, app):
                event = piece(data, offset, length, app=app, number=number)
            case ("next", data, length):
                upload = core.uploads.get(digest_of(data))
                have = upload.bytes_have if upload else 0
                event = piece(data, have, min(length, len(data) - have), number=number)
            case ("answer", good):
                event = outcome(work.pop(0), good) if work else Tick()
            case ("wait", seconds):
                now += seconds
                event = Tick()
        asked += isinstance(event, PieceArrived)
        effects = run(core, event, now=now)
        if effects and isinstance(effects[0], WritePiece):  # The shell writes within the same step.
            effects = run(core, outcome(effects[0], good=number % 5 > 0), now=now)
        work += [one for one in effects if isinstance(one, Examine | Record)]
        answered += len(replies(effects))
    while work:
        effects = run(core, outcome(work.pop(0), good=True), now=now)
        work += [one for one in effects if isinstance(one, Record)]
        answered += len(replies(effects))
    assert answered == asked


def outcome(work: object, good: bool) -> object:
    match work:
        case WritePiece(asker, digest, _, length) if good:
            return PieceWritten(asker, digest, length)
        case Examine(digest) if good:
            return examined(next(data for data in DATA if digest_of(data) == digest))
        case Record(entry) if good:
            return Recorded(entry)
    return Failed(work, "it broke")


# What may come in -------------------------------------------------------------------------------------


def packed_with(info: PackageInfo | None = None, modules: dict[int, bytes] | None = None) -> bytes:
    info = info or PackageInfo(name="digits", kind=ModuleKind.PLAIN)
    return pack(Package(info=info, modules=modules or {0: WASM}))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"MZ" + b"\0" * 100, "not a .shoal package"),
        (packed_with()[:-3], "broken .shoal package"),
        (packed_with(PackageInfo(name="Not An Id", kind=ModuleKind.PLAIN)), "not a usable model name"),
        (packed_with(PackageInfo(name="x", version="1 2", kind=ModuleKind.PLAIN)), "not a usable version"),
        (packed_with(PackageInfo(name="x", version="1" * 60, kind=ModuleKind.PLAIN)), "not a usable version"),
        (packed_with(modules={0: b"#!/bin/sh"}), "not a WebAssembly module"),
        (packed_with(modules={n: WASM for n in range(65)}), "at most 64"),
        (packed_with(modules={-1: WASM}), "by batch size"),
        (packed_with(PackageInfo(name="x", kind=ModuleKind.TENSOR)), "no shoal.abi section"),
        (packed_with(PackageInfo(name="x", kind=ModuleKind.PLAIN, memory_bytes_max=0)), "not a size"),
        (packed_with(PackageInfo(name="x", kind=ModuleKind.PLAIN, description="x" * 5000)), "too long"),
    ],
)
def test_a_package_that_no_device_could_run_is_refused_with_the_reason(data, complaint):
    with pytest.raises(Unreadable, match=complaint):
        examine(data)


# The shell --------------------------------------------------------------------------------------------


class Cloud:
    """A catalog with its bus, folder and store; ``restart`` keeps what a real one would keep."""

    def __init__(self, tmp_path) -> None:
        self.broker, self.store = MemoryBroker(), MemoryCatalogStore()
        self.blobs, self.key = BlobFolder(tmp_path / "blobs"), signing_key(tmp_path)
        self.told: list[Entry] = []

    @asynccontextmanager
    async def running(self):
        bus, app = MemoryBus(self.broker), MemoryBus(self.broker)
        bus.connect()
        app.connect()
        self.core = Catalog()
        service = catalog_service(
            self.core, bus, self.blobs, self.store, self.key, self.told.append, tick_s=0.01
        )
        task = asyncio.ensure_future(service.run())
        self.client = Client(app, "app", "s")
        await asyncio.sleep(0)  # the subscriptions stand
        yield
        self.client.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        bus.disconnect()
        app.disconnect()

    async def send(self, data: bytes, offset: int, length: int = CHUNK_BYTES) -> UploadProgress:
        def build(correlation: str, budget_s: float) -> Upload:
            return Upload(
                correlation=correlation,
                budget_s=budget_s,
                digest=digest_of(data),
                size_bytes=len(data),
                offset=offset,
                data=data[offset : offset + length],
            )

        reply = await self.client.ask(APP_UPLOAD.at(app="app"), build, 10.0)
        return unpacked(reply.body, UploadProgress)

    async def upload(self, data: bytes) -> UploadProgress:
        state = await self.send(data, 0)
        while not state.done:
            state = await self.send(data, state.bytes_have)
        return state


@story
async def test_an_upload_is_on_the_disk_signed_and_published(tmp_path):
    cloud, data = Cloud(tmp_path), package(size_bytes=300_000)
    async with cloud.running():
        state = await cloud.upload(data)
    assert (state.name, state.version, state.bytes_have) == ("digits", "1", len(data))
    manifest = decode(MANIFEST, cloud.broker.retained[MANIFEST.at(artifact=state.digest).name])
    check_manifest(manifest)
    assert verifier(public_hex(cloud.key))(manifest)
    assert [entry.manifest for entry in cloud.told] == [manifest]
    assert cloud.blobs.read(state.digest, 0, len(data)) == data


@story
async def test_an_upload_goes_on_after_a_restart_and_the_catalog_is_still_there(tmp_path):
    cloud, data, other = Cloud(tmp_path), package(size_bytes=300_000), package("faces")
    async with cloud.running():
        await cloud.upload(other)
        await cloud.send(data, 0)
        await cloud.send(data, CHUNK_BYTES)
    cloud.broker.retained.clear()  # the broker lost its facts as well
    async with cloud.running():
        assert (await cloud.send(data, 0)).bytes_have == 2 * CHUNK_BYTES
        await cloud.upload(data)
        assert [one.name for one in cloud.core.models()] == ["faces", "digits"]
        assert len(cloud.broker.retained) == 2


@story
async def test_bytes_that_do_not_have_their_digest_are_refused_and_gone(tmp_path):
    cloud, data = Cloud(tmp_path), package()
    async with cloud.running():
        digest = digest_of(data)
        spoiled = data[:-1] + bytes([data[-1] ^ 1])

        def build(correlation: str, budget_s: float) -> Upload:
            return Upload(
                correlation=correlation,
                budget_s=budget_s,
                digest=digest,
                size_bytes=len(data),
                offset=0,
                data=spoiled,
            )

        with pytest.raises(Refused, match="do not have the digest"):
            await cloud.client.ask(APP_UPLOAD.at(app="app"), build, 10.0)
        assert list(cloud.blobs.folder.iterdir()) == []
        assert (await cloud.upload(data)).done


@story
async def test_a_store_that_fails_means_that_the_upload_failed(tmp_path):
    cloud, data = Cloud(tmp_path), package()
    cloud.store.broken = True
    async with cloud.running():
        with pytest.raises(Refused, match="disk is full"):
            await cloud.upload(data)
        assert not cloud.broker.retained
        assert list(cloud.blobs.folder.iterdir()) == []
        cloud.store.broken = False
        assert (await cloud.upload(data)).done


def test_what_a_torn_write_left_beyond_the_next_piece_goes(tmp_path):
    blobs = BlobFolder(tmp_path)
    blobs.write("a" * 64, 0, b"x" * 100)
    blobs.write("a" * 64, 40, b"y" * 10)
    assert blobs.held() == (frozenset(), {"a" * 64: 50})


def test_a_manifest_of_the_largest_artifact_fits_its_topic():
    chunks = SIZE_BYTES_MAX // CHUNK_BYTES + 1
    manifest = Manifest(
        digest="a" * 64,
        name="n" * 64,
        version="v" * 64,
        kind=ModuleKind.TENSOR,
        size_bytes=SIZE_BYTES_MAX,
        chunk_bytes=CHUNK_BYTES,
        chunk_digests=b"d" * 32 * chunks,
        signature=b"s" * 64,
    )
    check_manifest(manifest)
    assert len(encode(manifest)) <= MANIFEST.bytes_max
