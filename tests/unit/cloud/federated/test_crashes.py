"""The coordinator dies at every piece of work, before it and after it, and the job ends in the same bits.

Devices do what devices do: they send again what got no receipt. The application asks again for the job
that it did not hear of.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from cloud.federated.events import Judge, Write
from cloud.federated.journal import Log
from shared.core import Failed, Work
from shared.learning import Codec, CodecName, Phase
from tests.unit.cloud.federated.world import JOB_NAME, SERVE, World, digest_of, statuses

SETTINGS = {"serve": digest_of(SERVE), "evaluate_every": 1, "rounds": 2}
KINDS = {
    "int8": {},
    "top-k": {"codec": Codec(name=CodecName.TOPK, ratio=0.25)},
    "momentum": {"strategy": "fedavgm"},
    "robust": {"strategy": "trimmed-mean"},
    "asynchronous": {"strategy": "fedbuff"},
}


class Crash(Exception):
    """The process is gone."""


@dataclass
class Plan:
    """Die at the piece of work with this number; -1: never. ``seen``: what was done."""

    number: int = -1
    when: str = "before"
    seen: list[str] = field(default_factory=list)

    def __call__(self, work: Work, when: str) -> None:
        if when == "before":
            self.seen.append(type(work).__name__)
        if len(self.seen) - 1 == self.number and self.when.startswith(when):
            self.number = -1
            raise Crash(self.when)


def lived(folder, plan: Plan, settings) -> World:
    """A whole life of a job, with the crash that is planned in it."""
    world = World(folder)
    world.on_work = plan
    for _ in range(40):
        try:
            if JOB_NAME not in world.core.jobs:
                world.create(**settings)
            world.run()
            break
        except Crash as crash:
            if "power" in str(crash):
                cut_power(world)
            world.crash()
    world.executor.close()
    return world


def cut_power(world: World) -> None:
    """Files that were not synced are not what they were."""
    for path in world.executor.artifacts.iterdir():
        path.write_bytes(b"")
    for path in world.unsynced():
        path.write_bytes(path.read_bytes()[:10])


def ending(world: World) -> tuple[object, ...]:
    """Everything that must not depend on what happened on the way."""
    state, views = world.state(), world.core.jobs[JOB_NAME].views
    rows = [
        (view.row.round, view.row.accepted, view.row.bytes_up, view.row.metrics, view.row.version)
        for view in views
    ]
    ref = state.version.ref  # the delta to it may be gone: that is a way to get it, no part of it
    return ref.version, ref.check, ref.snapshot, state.model, state.metrics, state.best, state.norms, rows


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_at_any_piece_of_work_changes_nothing(tmp_path, kind):
    settings = SETTINGS | KINDS[kind]
    plan = Plan()
    clean = lived(tmp_path / "clean", plan, settings)
    assert clean.state().closed
    assert {"Prepare", "Write", "Judge", "Aggregate", "MakeModel"} <= set(plan.seen)
    for number in range(len(plan.seen)):
        for when in ("before", "after", "after and the power was cut"):
            other = lived(tmp_path / f"{number}-{when}", Plan(number, when), settings)
            assert ending(other) == ending(clean), f"after a crash {when} {plan.seen[number]} ({number})"
            assert all(row.accepted == 3 for row in (v.row for v in other.core.jobs[JOB_NAME].views))


def test_an_update_whose_receipt_was_lost_in_the_crash_is_a_duplicate_and_counts_once(tmp_path):
    world = World(tmp_path)
    world.create()
    world.send("a", work=False)
    assert isinstance(world.works[0], Judge)
    world.executor.perform(list(world.works))
    world.crash()
    assert statuses(world.send("a")) == ["a: duplicate"]
    assert world.job_fact().accepted == 1
    assert world.fact().term == 2
    world.executor.close()


def test_what_was_judged_leaves_no_bytes_behind_in_the_story_of_the_service(tmp_path):
    world = World(tmp_path)
    world.create()
    world.send("a", work=False)
    (judge,) = world.works
    assert len(judge.whole.data) > 0
    world.works_done()
    assert len(judge.whole.data) == 0
    world.tick(0.25)
    assert world.job_fact().accepted == 1
    world.executor.close()


def test_an_update_that_became_durable_before_its_judge_failed_counts_once(tmp_path):
    """As when the disk syncs the log and then the process can't go on with it."""
    clean = lived(tmp_path / "clean", Plan(), {"rounds": 1})
    world = World(tmp_path / "other")
    world.create(rounds=1)
    world.send("a", work=False)
    judge = world.works.popleft()
    world.executor.perform([judge])
    world.feed(Failed(judge, "the thread is gone"))
    assert world.job_fact().accepted == 0
    assert statuses(world.send("a")) == ["a: accepted"]
    world.send("b")
    world.send("c")
    assert world.state().version.ref == clean.state().version.ref
    world.executor.close()


def test_a_record_that_was_torn_by_the_crash_never_was(tmp_path):
    world = World(tmp_path)
    world.create()
    world.send("a")
    log = tmp_path / "jobs" / JOB_NAME / "1-train-0.log"
    whole = log.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 9, 7, 0):
        log.write_bytes(whole[:length])
        world.crash()
        assert world.job_fact().accepted == 0
        assert statuses(world.send("a")) == ["a: accepted"]
        assert log.read_bytes()[: len(whole)] == whole
    world.executor.close()


def test_a_move_that_was_torn_by_the_crash_is_made_again(tmp_path):
    world = World(tmp_path)
    world.create()
    journal = tmp_path / "jobs" / JOB_NAME / "job.log"
    before = journal.stat().st_size
    world.everybody()
    assert world.state().version.ref.version == 1
    reference = world.state().version.ref.check
    with journal.open("r+b") as file:
        file.truncate(before + 20)  # AGGREGATING was never written, nor was anything after it
    world.crash()
    assert (world.state().phase, world.state().version.ref.version) == (Phase.TRAINING, 0)
    world.tick()
    world.tick()
    assert world.state().version.ref.check == reference
    world.executor.close()


def test_the_first_words_of_a_new_coordinator_carry_its_term_and_the_open_round(tmp_path):
    world = World(tmp_path)
    world.create()
    before = world.fact()
    world.tick(10.0)
    world.crash()
    after = world.fact()
    assert (after.term, after.round, after.phase, after.cohort) == (2, 1, Phase.TRAINING, before.cohort)
    assert (after.model, after.seed) == (before.model, before.seed), "who is at work goes on with it"
    assert after.budget_s == before.budget_s, "nobody knows how long the cloud was away"
    world.executor.close()


def test_what_a_failed_attempt_had_accepted_is_no_duplicate_after_a_restart(tmp_path):
    world = World(tmp_path)
    world.create(deadline_s_max=10.0)
    first = world.fact()
    assert statuses(world.send("a", first)) == ["a: accepted"]
    world.tick(11.0)
    world.crash()
    assert world.state().phase is Phase.ERROR
    assert world.send("a", first) == [], "it will be asked again, and says it then"
    world.tick(5.0)
    world.tick(5.0)
    assert world.state().attempt == 1
    assert statuses(world.send("a")) == ["a: accepted"]
    world.executor.close()


def test_a_disk_that_refuses_once_is_asked_again_and_nothing_is_said_before(tmp_path):
    world = World(tmp_path)
    world.create()
    for client in "ab":
        world.send(client)
    world.send("c", work=False)
    world.work_one()
    log = world.executor.disk.journals[JOB_NAME]
    broken, said = _broken(log), len(world.facts)
    world.works_done()
    assert world.fact().phase is Phase.TRAINING, "AGGREGATING is not written, and so not said"
    assert all(fact.phase is Phase.TRAINING for fact in world.facts[said:])
    log.append = broken
    world.tick(2.0)
    world.tick(2.0)
    assert world.state().version.ref.version == 1
    world.executor.close()


def _broken(log: Log):
    """The disk is full from now on; gives what works."""
    works = log.append

    def full(payloads: Sequence[bytes], *, durable: bool = True) -> None:
        raise OSError(28, "No space left on device")

    log.append = full
    return works


def test_a_write_is_one_record_so_no_crash_finds_half_a_move(tmp_path):
    plan = Plan()
    lived(tmp_path, plan, SETTINGS)
    moves = plan.seen.count(Write.__name__)
    assert moves <= 2 + 4 * SETTINGS["rounds"], "at most two moves to a pass, two passes to a round"
