"""The models core: stories, any history, and its table."""

import re
from dataclasses import replace
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.artifacts.core import NEXT, Limits, Models
from edge.artifacts.events import (
    BlobLost,
    ChunkArrived,
    ChunkWritten,
    DeleteBlob,
    DesiredArrived,
    Land,
    Landed,
    Listen,
    Loaded,
    LoadModule,
    ManifestArrived,
    OpenPart,
    PartOpened,
    Remembered,
    Restored,
    Unlisten,
    UnloadModule,
    Version,
    WriteChunk,
)
from edge.artifacts.fetch import NEXT as STAGES
from edge.artifacts.fetch import FetchLimits, Stage
from shared.artifacts import chunk_count, chunk_digest, make_manifest
from shared.core import Failed, LinkDown, LinkUp, Publish, Tick
from shared.messages import DesiredModel, DesiredModels, Manifest, ModelState, ReportedModels, Want
from shared.package import ModuleKind
from tests.transcript import Transcript, shown

CHUNK = 1024


def artifact(letter: str, chunks: int = 3) -> Manifest:
    data = b"".join(letter.encode() * 16 + bytes([n]) * (CHUNK - 16) for n in range(chunks))
    return make_manifest(data, name="digits", version=letter, kind=ModuleKind.PLAIN, chunk_bytes=CHUNK)


A, B, C = artifact("a"), artifact("b"), artifact("c", chunks=10)


def models(**limits: object) -> Models:
    return Models("n1", 7, lambda: 0.0, replace(Limits(), **limits))


def desired(version: int, **manifests: Manifest) -> DesiredArrived:
    wanted = {name: DesiredModel(digest=one.digest, version=one.version) for name, one in manifests.items()}
    return DesiredArrived(DesiredModels(version=version, models=wanted))


def chunk(of: Manifest, index: int) -> ChunkArrived:
    return ChunkArrived(of.digest, index, chunk_digest(of, index))


def arrived(of: Manifest, index: int) -> tuple[ChunkArrived, ChunkWritten]:
    return chunk(of, index), ChunkWritten(of.digest, index)


def fetched(of: Manifest) -> list[object]:
    """Everything that happens from the manifest to the blob."""
    pieces = [event for index in range(chunk_count(of)) for event in arrived(of, index)]
    return [
        ManifestArrived(of.digest, of),
        PartOpened(of.digest, frozenset()),
        *pieces,
        Landed(of.digest, of.size_bytes),
    ]


def run(core: Models, *events: object, now: float = 0.0) -> list[object]:
    effects: list[object] = []
    for event in events:
        effects += core.step(event, now)
        core.check()
    return effects


def ready(core: Models, of: Manifest, version: int = 1) -> list[object]:
    return run(
        core, LinkUp(False), desired(version, digits=of), *fetched(of), Loaded("digits", of.digest, 64)
    )


def told(effects: list[object]) -> ReportedModels:
    """The last report among the effects."""
    said = [one.message for one in effects if isinstance(one, Publish)]
    return [message for message in said if isinstance(message, ReportedModels)][-1]


def of_type(effects: list[object], *types: type) -> list[object]:
    return [one for one in effects if isinstance(one, types)]


def wants(effects: list[object]) -> list[object]:
    """The ranges asked for."""
    said = [one.message for one in of_type(effects, Publish)]
    return [message.ranges for message in said if isinstance(message, Want)]


def brief(thing: object) -> str:
    """Digests cut to what a reader can compare."""
    return re.sub(r"\b([0-9a-f]{6})[0-9a-f]{58}\b", r"\1", shown(thing))


# Stories ----------------------------------------------------------------------------------------------


def test_a_model_is_fetched_loaded_and_replaced_while_the_old_one_answers():
    (
        Transcript("artifacts/replaced", models(), brief)
        .at(0.0, LinkUp(False))
        .at(1.0, desired(1, digits=A), *fetched(A), Loaded("digits", A.digest, 64))
        .at(2.0, desired(2, digits=B), *fetched(B)[:-1])
        .at(3.0, Landed(B.digest, B.size_bytes), Loaded("digits", B.digest, 96))
        .at(4.0, desired(1, digits=A))
        .at(5.0, desired(3))
        .until(3700.0)
        .matches()
    )


def test_a_device_that_loses_chunks_asks_again_and_then_gives_up_for_a_while():
    (
        Transcript("artifacts/silence", models(), brief)
        .at(0.0, LinkUp(False), desired(1, digits=C))
        .at(1.0, ManifestArrived(C.digest, C), PartOpened(C.digest, frozenset({9})))
        .at(2.0, ChunkArrived(C.digest, 0, b"\0" * 32), *arrived(C, 2), chunk(C, 2), *arrived(C, 8))
        .until(60.0)
        .at(60.5, LinkDown())
        .until(400.0)
        .at(401.0, LinkUp(True))
        .matches()
    )


def test_after_a_boot_without_a_network_the_device_answers_with_what_it_has():
    saved = {
        "digits": Remembered(Version(A.digest, "a"), Version(A.digest, "a")),
        "faces": Remembered(Version(C.digest, "c"), Version(B.digest, "b")),
    }
    sizes = {A.digest: 10, B.digest: 20}
    (
        Transcript("artifacts/offline-boot", models(), brief)
        .at(0.0, Restored(4, saved, sizes, {C.digest: 30}))
        .at(1.0, Loaded("digits", A.digest, 64), Loaded("faces", B.digest, 32))
        .until(40.0)
        .at(50.0, LinkUp(False))
        .matches()
    )


def test_a_version_that_does_not_load_leaves_the_one_before_in_service():
    core = models()
    ready(core, A)
    run(core, desired(2, digits=B), *fetched(B))
    effects = run(core, Failed(LoadModule("digits", B.digest, "b"), "Trap: out of memory"))
    report = told(effects).models["digits"]
    assert report.state is ModelState.FAILED
    assert report.reason == "Trap: out of memory; version a keeps answering"
    assert not of_type(effects, UnloadModule, DeleteBlob)


def test_a_boot_with_a_broken_new_version_falls_back_to_the_last_good_one_and_does_not_loop():
    core = models()
    saved = {"digits": Remembered(Version(B.digest, "b"), Version(A.digest, "a"))}
    first = run(core, Restored(1, saved, {A.digest: 1, B.digest: 1}, {}))
    assert of_type(first, LoadModule) == [LoadModule("digits", B.digest, "b")]
    second = run(core, Failed(LoadModule("digits", B.digest, "b"), "it traps"))
    assert of_type(second, LoadModule) == [LoadModule("digits", A.digest, "a")]
    third = run(core, Loaded("digits", A.digest, 64))
    assert not of_type(third, LoadModule)
    assert told(third).models["digits"].reason == "it traps; version a keeps answering"
    assert of_type(run(core, Tick(), now=6.0), LoadModule) == [LoadModule("digits", B.digest, "b")]


def test_a_blob_that_rotted_on_the_disk_is_fetched_again():
    core = models()
    saved = {"digits": Remembered(Version(A.digest, "a"), Version(A.digest, "a"))}
    run(core, Restored(1, saved, {A.digest: 1}, {}), LinkUp(False))
    assert of_type(run(core, BlobLost("digits", A.digest)), Listen) == [Listen(A.digest)]


def test_going_back_to_the_version_in_service_needs_no_fetch_and_no_load():
    core = models()
    ready(core, A)
    run(core, desired(2, digits=B), ManifestArrived(B.digest, B), PartOpened(B.digest, frozenset()))
    effects = run(core, desired(3, digits=A))
    assert of_type(effects, Unlisten) == [Unlisten(B.digest)]
    assert not of_type(effects, LoadModule, UnloadModule, Listen)
    assert told(effects).models["digits"].state is ModelState.READY
    assert Want(digest=B.digest, ranges=()) in [one.message for one in of_type(effects, Publish)]


def test_only_one_load_per_name_is_in_flight_and_the_version_desired_last_stays():
    core = models()
    run(core, LinkUp(False), desired(1, digits=A), *fetched(A))
    run(core, desired(2, digits=B), *fetched(B)[:0])
    late = run(core, Loaded("digits", A.digest, 64))
    assert of_type(late, Listen) == [Listen(B.digest)]
    assert told(late).models["digits"].reason == "version a keeps answering"


def test_a_model_that_is_removed_while_it_loads_is_unloaded_when_the_load_ends():
    core = models()
    run(core, LinkUp(False), desired(1, digits=A), *fetched(A), desired(2))
    assert of_type(run(core, Loaded("digits", A.digest, 64)), UnloadModule) == [UnloadModule("digits")]


def test_a_load_that_never_ends_is_reported_and_a_late_end_is_taken():
    core = models()
    run(core, LinkUp(False), desired(1, digits=A), *fetched(A))
    assert told(run(core, Tick(), now=121.0)).models["digits"].reason == "still loading after 120 s"
    late = run(core, Loaded("digits", A.digest, 64), now=122.0)
    assert told(late).models["digits"].state is ModelState.READY


def test_an_older_desired_set_is_ignored_and_a_broken_one_changes_nothing():
    core = models(models_max=2)
    ready(core, A, version=5)
    run(core, desired(4))
    run(core, desired(6, **{name: A for name in "abc"}))
    bad = DesiredModels(version=7, models={"digits": DesiredModel(digest="../../x")})
    run(core, DesiredArrived(bad))
    assert (core.version, core.slots["digits"].state) == (5, ModelState.READY)


@pytest.mark.parametrize(
    ("manifest", "genuine", "reason"),
    [
        (A, False, "signature does not verify"),
        (msgspec.structs.replace(A, size_bytes=1), True, "limit|match the size"),
        (msgspec.structs.replace(A, agent_version_min="9.0"), True, "needs agent 9.0"),
        (msgspec.structs.replace(A, kind=ModuleKind.WASI), True, "does not run wasi"),
        (B, True, "describes another artifact"),
    ],
)
def test_a_manifest_that_is_refused_fails_the_model_with_the_reason_and_touches_no_disk(
    manifest, genuine, reason
):
    core = models(fetch=FetchLimits(kinds=frozenset({ModuleKind.PLAIN})))
    effects = run(core, LinkUp(False), desired(1, digits=A), ManifestArrived(A.digest, manifest, genuine))
    assert re.search(reason, told(effects).models["digits"].reason)
    assert not of_type(effects, OpenPart, WriteChunk)
    assert of_type(effects, Unlisten) == [Unlisten(A.digest)]


def test_garbage_makes_room_before_its_grace_is_over_and_what_is_needed_never_does():
    core = models(disk_bytes_max=2 * A.size_bytes)
    ready(core, A)
    run(core, desired(2, digits=B), *fetched(B), Loaded("digits", B.digest, 64))
    effects = run(
        core, desired(3, digits=B, more=artifact("d")), ManifestArrived(artifact("d").digest, artifact("d"))
    )
    assert of_type(effects, DeleteBlob) == [DeleteBlob(A.digest)]
    effects = run(core, desired(4, digits=B, more=artifact("d"), big=C), ManifestArrived(C.digest, C))
    assert (
        told(effects).models["big"].reason
        == f"no room: need {C.size_bytes} bytes, have 0 of this device's share"
    )
    assert not of_type(effects, DeleteBlob)


def test_a_full_disk_fails_the_model_says_so_and_is_tried_again():
    core = models()
    run(core, LinkUp(False), desired(1, digits=A), ManifestArrived(A.digest, A))
    effects = run(core, Failed(OpenPart(A.digest, A), "no room: need 3072 bytes, have 12"))
    assert told(effects).models["digits"].reason == "no room: need 3072 bytes, have 12"
    assert of_type(run(core, Tick(), now=6.0), Listen) == [Listen(A.digest)]


def test_two_names_for_the_same_bytes_share_one_fetch():
    core = models()
    effects = run(core, LinkUp(False), desired(1, digits=A, numbers=A), *fetched(A))
    assert of_type(effects, Listen) == [Listen(A.digest)]
    assert [work.name for work in of_type(effects, LoadModule)] == ["digits", "numbers"]


def test_a_window_of_chunks_at_a_time_is_asked_for_and_none_twice_while_they_come():
    big = artifact("w", chunks=60)
    core = models()
    run(core, LinkUp(False), desired(1, digits=big), ManifestArrived(big.digest, big))
    effects = run(core, PartOpened(big.digest, frozenset()))
    for index in range(60):
        effects += run(core, *arrived(big, index), now=index * 20.0)  # a very slow link
        run(core, Tick(), now=index * 20.0 + 4.0)
    wants = [one.message.ranges for one in of_type(effects, Publish) if isinstance(one.message, Want)]
    asked = [index for ranges in wants for start, stop in ranges for index in range(start, stop)]
    assert sorted(asked) == list(range(60))
    assert wants[0] == ((0, 4),)
    assert wants[-1] == ()


def test_silence_on_a_slow_link_is_waited_out():
    core = models()
    run(core, LinkUp(False), desired(1, digits=C), ManifestArrived(C.digest, C))
    run(core, PartOpened(C.digest, frozenset()))
    run(core, *arrived(C, 0), now=4.0)
    run(core, *arrived(C, 1), now=12.0)  # a gap of 8 s: patience is 32 s now
    assert not of_type(run(core, Tick(), now=43.0), Publish)
    assert of_type(run(core, Tick(), now=44.5), Publish)


def test_a_session_that_was_kept_keeps_what_was_asked_for_and_one_that_was_lost_asks_again():
    core = models()
    run(core, LinkUp(False), desired(1, digits=C), ManifestArrived(C.digest, C))
    run(core, PartOpened(C.digest, frozenset()), LinkDown())
    assert not wants(run(core, LinkUp(True)))
    run(core, LinkDown())
    assert wants(run(core, LinkUp(False))) == [((0, 4),)]


def test_what_was_opened_without_a_link_is_asked_for_when_the_link_comes():
    core = models()
    run(core, LinkUp(False), desired(1, digits=C), ManifestArrived(C.digest, C), LinkDown())
    assert not wants(run(core, PartOpened(C.digest, frozenset())))
    assert wants(run(core, LinkUp(True))) == [((0, 4),)]


def test_the_last_good_version_stays_on_the_disk_until_the_new_one_is_ready():
    core = models(grace_s=0.0)
    saved = {"digits": Remembered(Version(B.digest, "b"), Version(A.digest, "a"))}
    run(core, Restored(1, saved, {A.digest: 1, B.digest: 1}, {}))
    assert not of_type(run(core, Tick(), Tick()), DeleteBlob)
    effects = run(core, Loaded("digits", B.digest, 64), Tick())
    assert of_type(effects, DeleteBlob) == [DeleteBlob(A.digest)]


# The tables -------------------------------------------------------------------------------------------


def test_every_state_and_stage_is_reachable_and_every_dead_end_is_meant():
    assert {after for state in ModelState for after in NEXT[state]} == set(ModelState)
    assert {state for state in ModelState if not NEXT[state]} == set()
    assert {after for stage in Stage for after in STAGES[stage]} | {Stage.SEEKING} == set(Stage)
    assert {stage for stage in Stage if not STAGES[stage]} == {Stage.FAILED}
    assert all(Stage.FAILED in STAGES[stage] for stage in Stage if stage is not Stage.FAILED)


# Any history ------------------------------------------------------------------------------------------

MANIFESTS = {one.digest: one for one in (A, B, C)}


class World:
    """A runtime, a disk and a cloud that do anything they may do, in any order. It answers each piece of
    work once, and believes nothing that the core says about itself."""

    def __init__(self) -> None:
        self.core = Models("n1", 1, lambda: 0.5, Limits(disk_bytes_max=8 * CHUNK, grace_s=30.0))
        self.now, self.version = 0.0, 0
        self.work: list[object] = []
        self.listening: set[str] = set()
        self.blobs: set[str] = set()
        self.serving: dict[str, str] = {}

    def step(self, event: object) -> None:
        for effect in self.core.step(event, self.now):
            self.perform(effect)
        self.core.check()
        assert self.listening == set(self.core.fetches.going)
        assert self.blobs == set(self.core.shelf.blobs)
        serving = {name: slot.serving.digest for name, slot in self.core.slots.items() if slot.serving}
        assert serving == {name: one for name, one in self.serving.items() if name in self.core.slots}
        assert len({work.name for work in self.loads()}) == len(self.loads()), "one load per name"

    def loads(self) -> list[LoadModule]:
        return [work for work in self.work if isinstance(work, LoadModule)]

    def perform(self, effect: object) -> None:
        match effect:
            case Listen(digest):
                assert digest not in self.listening
                self.listening.add(digest)
            case Unlisten(digest):
                self.listening.remove(digest)
            case DeleteBlob(digest):
                assert digest not in self.serving.values()
                assert all(work.digest != digest for work in self.loads())
                self.blobs.discard(digest)
            case UnloadModule(name):
                del self.serving[name]
            case OpenPart() | WriteChunk() | Land() | LoadModule():
                self.work.append(effect)

    def answer(self, number: int, good: bool) -> None:
        if self.work:
            work = self.work.pop(number % len(self.work))
            self.step(self.outcome(work, number, good))

    def outcome(self, work: object, number: int, good: bool) -> object:
        match work:
            case LoadModule():
                return self.load(work, good, rotten=number % 2 == 0)
            case OpenPart(digest) if good:
                return PartOpened(digest, frozenset({number % 3}))
            case WriteChunk(digest, index) if good:
                return ChunkWritten(digest, index)
            case Land(digest) if good:
                self.blobs.add(digest)
                return Landed(digest, MANIFESTS[digest].size_bytes)
        return Failed(work, "it broke")

    def load(self, work: LoadModule, good: bool, rotten: bool) -> object:
        if work.digest not in self.blobs or (rotten and not good):
            self.blobs.discard(work.digest)
            return BlobLost(work.name, work.digest)
        if not good:
            return Failed(work, "it traps")
        self.serving[work.name] = work.digest
        return Loaded(work.name, work.digest, 64)


digests = st.sampled_from(sorted(MANIFESTS))
steps = st.one_of(
    st.tuples(st.just("desire"), st.dictionaries(st.sampled_from("xyz"), digests, max_size=3)),
    st.tuples(st.just("manifest"), digests, st.booleans()),
    st.tuples(st.just("chunk"), digests, st.integers(0, 9), st.booleans()),
    st.tuples(st.just("answer"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("answer"), st.integers(0, 9), st.just(True)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 2.0, 40.0, 400.0])),
    st.tuples(st.just("link"), st.booleans(), st.booleans()),
)


def play(world: World, step: tuple) -> None:
    match step:
        case ("desire", wanted):
            world.version += 1
            models = {name: DesiredModel(digest=digest, version="1") for name, digest in wanted.items()}
            world.step(DesiredArrived(DesiredModels(version=world.version, models=models)))
        case ("manifest", digest, genuine):
            world.step(ManifestArrived(digest, MANIFESTS[digest], genuine))
        case ("chunk", digest, index, good):
            sha = chunk_digest(MANIFESTS[digest], index) if good else sha256(b"x").digest()
            world.step(ChunkArrived(digest, index, sha))
        case ("answer", number, good):
            world.answer(number, good)
        case ("wait", seconds):
            world.now += seconds
            world.step(Tick())
        case ("link", up, resumed):
            world.step(LinkUp(resumed) if up else LinkDown())


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=60))
def test_no_history_breaks_the_models(history):
    world = World()
    for step in history:
        play(world, step)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=40))
def test_after_any_history_a_kind_world_brings_every_desired_model_into_service(history):
    world = World()
    for step in history:
        play(world, step)
    play(world, ("desire", {"x": A.digest, "y": B.digest}))
    play(world, ("link", True, False))
    for _ in range(40):
        play(world, ("wait", 40.0))
        for digest in sorted(world.listening):
            play(world, ("manifest", digest, True))
            for index in range(chunk_count(MANIFESTS[digest])):
                play(world, ("chunk", digest, index, True))
                while world.work:
                    world.answer(1, True)
        while world.work:
            world.answer(1, True)
    assert {name: slot.state for name, slot in world.core.slots.items()} == dict.fromkeys(
        "xy", ModelState.READY
    )
    assert world.serving == {"x": A.digest, "y": B.digest}
    assert not world.listening
