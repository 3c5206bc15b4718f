"""The coordinator: jobs from their creation to a model that can be deployed, on a real disk."""

import msgspec
import numpy as np
import pytest

from cloud.facts import NodeStatus
from cloud.federated.events import (
    Aggregated,
    CloudSeen,
    Judged,
    LearnAsked,
    LearnerSeen,
    Offer,
    PartArrived,
    Prepared,
    Withdraw,
    Written,
)
from cloud.federated.job import NEXT, RESETS_MAX
from edge.training.job import identity_of
from shared.core import Clear, LinkUp, Publish, Work
from shared.errors import InvalidTransition
from shared.learning import Criteria, JobFact, LearnAsk, LearnVerb, Phase, Receipt, RoundFact, Stop, Task
from shared.messages import Capabilities, Manifest, Reply, ReplyStatus
from shared.vectors import check_of
from tests.transcript import Transcript, shown
from tests.unit.cloud.federated.world import (
    JOB_NAME,
    LAYOUT,
    RAW,
    SERVE,
    World,
    digest_of,
    learned,
    learner,
    parameters,
    same_bits,
    served,
    spec,
    statuses,
    update,
    weight_of,
)


@pytest.fixture
def world(tmp_path):
    one = World(tmp_path / "learning")
    yield one
    one.executor.close()


def made(tmp_path, *clients: str) -> World:
    return World(tmp_path / "learning", clients)


# From a job to a model -----------------------------------------------------------------------------


def test_a_job_runs_its_rounds_and_ends_in_a_package_that_can_be_deployed(world):
    world.create(serve=digest_of(SERVE), codec=RAW)
    world.run()
    state = world.state()
    assert (state.phase, state.closed, state.round, state.version.ref.version) == ("completed", True, 3, 3)
    assert (state.model_version, state.detail) == ("2", "all 3 rounds are done")
    tensors = served(world.shelf.packages[state.model])
    assert check_of(LAYOUT.flatten(tensors)) == state.version.ref.check
    assert world.job_fact().model == state.model


def test_the_first_round_is_the_weighted_mean_of_what_devices_learned(world):
    world.create(codec=RAW, rounds=1)
    world.run()
    weights = {client: weight_of(client) for client in world.clients}
    mean = sum(w * learned(c, 1).astype(np.float64) for c, w in weights.items()) / sum(weights.values())
    expected = LAYOUT.flatten(parameters(1)) + mean
    assert np.abs(world.vector() - expected).max() < 1e-6


def test_a_device_that_holds_the_version_before_gets_the_next_one_by_the_delta_to_the_bit(world):
    world.create(rounds=22)
    held = world.vector()
    for number in range(1, 23):
        world.everybody()
        ref = world.state().version.ref
        assert ref.version == number
        snapshot = world.downloaded(ref.snapshot)
        assert check_of(snapshot) == ref.check
        held = world.downloaded(ref.delta, held)
        assert same_bits(held, snapshot), "who follows along needs no snapshot, however long"


def test_artifacts_of_versions_that_nobody_starts_from_are_cleared_everywhere(world):
    world.create(rounds=10)
    world.run()
    kept = {one.digest for v in (world.state().version, world.state().before) for one in v.manifests}
    manifests = {name for name, fact in world.retained.items() if isinstance(fact, Manifest)}
    assert manifests == {f"all/manifest/{digest}" for digest in kept}
    assert world.sendable == kept
    assert {path.stem for path in world.executor.artifacts.iterdir()} == kept
    folder = world.folder / "jobs" / JOB_NAME
    assert sorted(path.name for path in folder.glob("version-*")) == ["version-10.state", "version-9.state"]
    assert [path.name for path in sorted(folder.glob("*-*-*.log"))] == ["10-train-0.log", "9-train-0.log"]


def test_metrics_of_an_evaluation_are_means_over_all_examples(world):
    world.create(evaluate_every=1, rounds=1)
    assert world.fact().task is Task.TRAIN
    world.everybody()
    fact = world.fact()
    assert (fact.task, fact.round, fact.model.version, fact.cohort) == (Task.EVALUATE, 1, 1, ("a", "b", "c"))
    for client, hits in (("a", 20.0), ("b", 10.0), ("c", 0.0)):
        world.send(client, fact, metrics={"hits": hits, "loss": 40.0, "count": 20.0})
    (view,) = world.core.jobs[JOB_NAME].views
    assert view.row.metrics == {"accuracy": 0.5, "loss": 2.0, "count": 60.0}
    assert world.job_fact().metrics == view.row.metrics
    assert [row.metrics["hits"] for row in view.clients] == [20.0, 10.0, 0.0]


def test_an_evaluation_takes_whoever_answers_in_time_and_asks_only_those_with_held_out_examples(tmp_path):
    world = made(tmp_path, "a", "b", "c")
    world.feed(LearnerSeen("c", learner(held_out=0)))
    world.create(evaluate_every=1, rounds=1)
    world.everybody()
    fact = world.fact()
    assert fact.cohort == ("a", "b")
    world.send("a", fact)
    world.tick(fact.budget_s + 1)
    assert world.state().closed
    assert world.state().metrics["count"] == 20.0


def test_where_nobody_has_held_out_examples_rounds_go_on_without_metrics(tmp_path):
    world = made(tmp_path)
    for client in "abc":
        world.feed(LearnerSeen(client, learner(held_out=0)))
    world.create(evaluate_every=1)
    world.run()
    assert world.state().closed
    assert world.state().metrics == {}


@pytest.mark.parametrize(
    ("stop", "rounds", "detail"),
    [
        (Stop(target=0.6), 2, "accuracy 0.6 reached the target of 0.6"),
        (Stop(metric="loss", target=0.2), 3, "loss 0.1667 reached the target of 0.2"),
        (Stop(patience=2), 12, "no better accuracy than 1 for 2 rounds"),
    ],
)
def test_a_job_stops_when_it_is_good_enough_or_no_longer_gets_better(world, stop, rounds, detail):
    world.create(evaluate_every=1, rounds=40, stop=stop)
    world.run(100)
    assert (world.state().round, world.state().detail) == (rounds, detail)


# Cohorts -------------------------------------------------------------------------------------------


def test_more_clients_are_asked_than_are_needed_and_the_first_ones_count(tmp_path):
    world = made(tmp_path, "a", "b", "c", "d", "e", "f")
    world.create(over_select=1.5, rounds=1)
    cohort = world.fact().cohort
    assert len(cohort) == 5
    world.everybody(cohort[:3])
    assert world.state().closed
    assert statuses(world.send(cohort[3], world.asked_in(1))) == [f"{cohort[3]}: late"]
    (view,) = world.core.jobs[JOB_NAME].views
    assert {row.client: row.status for row in view.clients} == {
        **dict.fromkeys(cohort[:3], "accepted"),
        cohort[3]: "late",
        cohort[4]: "asked",
    }


def test_the_same_seed_asks_the_same_devices_and_another_seed_others(tmp_path):
    def cohorts(name: str, **changes) -> list[tuple[str, ...]]:
        world = World(tmp_path / name, tuple("hgfedcba"))
        world.create(rounds=5, **changes)
        asked = []
        while not world.state().closed:
            asked.append(world.fact().cohort)
            world.everybody()
        world.executor.close()
        return asked

    first = cohorts("first")
    assert first == cohorts("second")
    assert first != cohorts("third", seed=8)
    assert {client for cohort in first for client in cohort} == set("abcdefgh"), "everybody has a turn"


def test_who_may_be_asked_is_said_by_the_job_the_device_and_the_registry(tmp_path):
    world = made(tmp_path, "a", "b", "c", "d", "e", "f", "g")
    room = Capabilities(cores=1, memory_bytes=1 << 30)
    for node in "abcdefg":
        world.online(node, labels={"site": "x"}, capabilities=room)
    world.online("a", NodeStatus.OFFLINE, labels={"site": "x"})
    world.online("b", NodeStatus.UNKNOWN, labels={"site": "x"}, capabilities=room)
    world.online("c", labels={"site": "y"}, capabilities=room)
    world.feed(LearnerSeen("d", learner(samples=5)))
    world.feed(LearnerSeen("e", learner(room=0)))
    world.online("f", labels={"site": "x"})  # says nothing of its memory
    criteria = Criteria(labels={"site": "x"}, samples_min=10, memory_bytes_min=1 << 20)
    world.create(criteria=criteria, quorum=1)
    world.tick(5.0)
    assert world.fact().cohort == ("b", "g"), "unknown is not offline"


def test_a_job_that_finds_too_few_devices_waits_and_then_says_so(tmp_path):
    world = made(tmp_path, "a")
    world.create(deadline_s_max=20.0)
    assert world.job_fact().phase is Phase.INITIALIZING
    assert world.job_fact().detail == "1 devices fit and have room; the quorum is 2", (
        "it says what it waits for"
    )
    world.tick(19.0)
    assert world.job_fact().phase is Phase.INITIALIZING
    world.tick(2.0)
    assert world.job_fact().detail == "1 devices fit and have room; the quorum is 2"
    world.feed(LearnerSeen("b", learner()))
    for _ in range(5):
        world.tick(1.0)
    assert world.fact().cohort == ("a", "b"), "it was reset by itself"


def test_a_round_waits_a_moment_for_those_who_are_about_to_register(tmp_path):
    world = made(tmp_path, "a", "b")
    world.create()
    world.tick(1.0)
    assert world.job_fact().phase is Phase.INITIALIZING
    world.feed(LearnerSeen("c", learner()))
    world.tick(1.0)
    assert world.fact().cohort == ("a", "b", "c")


def test_the_deadline_follows_how_long_answers_took(world):
    world.create(rounds=5)
    assert world.fact().budget_s == 60.0, "nothing is known yet"
    for client in "abc":
        world.now += 4.0
        world.send(client)
    assert world.fact().budget_s == 1.5 * 8.0
    for _ in range(3):
        world.everybody()
    assert world.fact().budget_s == 5.0, "the least that the job allows"


def test_two_jobs_over_the_same_devices_take_turns(world):
    world.create()
    world.create(job="other")
    assert world.fact("digits").phase is Phase.TRAINING
    assert world.fact("other").phase is Phase.INITIALIZING
    turns = []
    for _ in range(4):
        job = next(name for name in ("digits", "other") if world.fact(name).phase is Phase.TRAINING)
        turns.append(job)
        for client in world.clients:
            world.send(client, world.fact(job))
        world.tick()
    assert turns == ["digits", "other", "digits", "other"]


def test_devices_with_room_answer_both_jobs_at_once(world):
    for client in world.clients:
        world.feed(LearnerSeen(client, learner(room=2)))
    world.create()
    world.create(job="other")
    assert world.fact("digits").phase is world.fact("other").phase is Phase.TRAINING


# Errors and resets ---------------------------------------------------------------------------------


def test_a_round_without_a_quorum_is_an_error_and_is_tried_again_with_growing_pauses(world):
    world.create(deadline_s_max=10.0)
    pauses, begun = [], world.now
    for _ in range(RESETS_MAX + 1):
        world.send("a")
        while world.fact().phase is not Phase.ERROR:
            world.tick(1.0)
        begun = world.now
        while world.fact().phase is Phase.ERROR and world.now < begun + 100:
            world.tick(1.0)
        pauses.append(world.now - begun)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 100.0], "and then a person has to look"
    assert "quorum is 2" in world.job_fact().detail
    assert world.ask(LearnVerb.RESET).status is ReplyStatus.OK
    world.tick(5.0)
    assert (world.fact().phase, world.fact().round) == (Phase.TRAINING, 1)
    world.run()
    assert world.state().closed


def test_an_error_ends_the_row_of_failures_once_a_round_has_worked(world):
    world.create(deadline_s_max=10.0)
    world.tick(11.0)
    assert world.state().failures == 1
    world.tick(5.0)
    world.everybody()
    assert world.state().failures == 0
    assert world.core.jobs[JOB_NAME].views[0].row.detail == "attempt 2"


def test_a_device_answers_again_in_the_next_attempt_what_it_had_said_in_the_one_before(world):
    world.create(deadline_s_max=10.0)
    assert statuses(world.send("a")) == ["a: accepted"]
    world.tick(11.0)
    assert world.fact().phase is Phase.ERROR
    world.tick(5.0)
    assert statuses(world.send("a")) == ["a: accepted"], "the attempt before is not counted"
    world.tick(0.25)
    assert world.job_fact().accepted == 1


def test_each_attempt_is_a_new_question_to_a_device_that_did_not_hear_of_the_failure(world):
    world.create(deadline_s_max=10.0)
    first = world.fact()
    world.tick(11.0)
    world.tick(5.0)
    second = world.fact()
    assert (second.round, second.model) == (first.round, first.model)
    assert identity_of(second) != identity_of(first)
    world.crash()
    assert identity_of(world.fact()) == identity_of(second), "a restart asks nothing new"


def test_only_an_error_can_be_reset(world):
    world.create()
    reply = world.ask(LearnVerb.RESET)
    assert (reply.status, reply.code) == (ReplyStatus.REFUSED, "not-in-error")


# Steering ------------------------------------------------------------------------------------------


def test_a_job_that_is_stopped_makes_a_model_of_what_it_has(world):
    world.create(serve=digest_of(SERVE), rounds=50)
    world.everybody()
    reply = world.ask(LearnVerb.STOP)
    assert reply.status is ReplyStatus.OK
    world.deliver_models()
    state = world.state()
    assert (state.closed, state.detail, state.version.ref.version) == (True, "stopped on request", 1)
    assert state.model
    assert statuses(world.send("a", world.asked_in(2))) == ["a: late"]


def test_a_job_that_is_stopped_before_its_first_version_has_no_model(world):
    world.create(serve=digest_of(SERVE))
    world.ask(LearnVerb.STOP)
    assert (world.state().closed, world.state().model) == (True, "")


def test_nothing_of_a_deleted_job_stays_anywhere(world):
    world.create()
    world.everybody()
    assert world.ask(LearnVerb.DELETE).status is ReplyStatus.OK
    assert not [name for name in world.retained if not name.startswith("node/")]
    assert not world.sendable
    assert not list(world.executor.artifacts.iterdir())
    assert not list((world.folder / "jobs").iterdir())
    assert statuses(world.send("a", world.asked_in(2))) == ["a: rejected unknown-job"]


def test_the_same_job_twice_is_one_job_and_another_one_of_its_name_is_refused(world):
    first = world.create()
    assert world.create() == msgspec.structs.replace(first, phase=world.state().phase)
    reply = world.ask(LearnVerb.CREATE, JOB_NAME, spec(rounds=4))
    assert (reply.status, reply.code) == (ReplyStatus.REFUSED, "exists")


@pytest.mark.parametrize(
    ("changes", "code", "detail"),
    [
        ({"package": "0" * 64}, "not-usable", "is not in the catalog: upload it first"),
        ({"package": digest_of(SERVE)}, "not-usable", "lacks train_step or evaluate"),
        ({"serve": "1" * 64}, "not-usable", "the package that serves 111111111111 is not in the catalog"),
        ({"rounds": 0}, "bad-job", "rounds 0: 1 to 100000 are possible"),
        ({"strategy": "magic"}, "bad-job", "no strategy 'magic'"),
        ({"clip": 1e9}, "bad-job", "lower the clip"),
    ],
)
def test_a_job_that_can_not_work_is_refused_with_the_reason(world, changes, code, detail):
    wanted = spec(**changes)
    reply = world.ask(LearnVerb.CREATE, wanted.job, wanted)
    assert (reply.status, reply.code) == (ReplyStatus.REFUSED, code)
    assert detail in reply.detail
    assert not world.core.jobs


@pytest.mark.parametrize("verb", [LearnVerb.STOP, LearnVerb.RESET, LearnVerb.DELETE])
def test_what_is_asked_of_a_job_that_is_not_there_is_refused(world, verb):
    assert world.ask(verb).code == "no-such-job"


# Updates -------------------------------------------------------------------------------------------


def test_an_update_of_a_job_that_is_not_there_gets_its_receipt_too(world):
    world.create()
    fact = world.fact()
    (part,) = update("a", fact)
    world.feed(PartArrived("a", "nobody", 1, part))
    assert statuses(world.receipts) == ["a: rejected unknown-job"]


def test_an_update_of_a_round_that_was_never_opened_is_refused(world):
    world.create()
    (part,) = update("a", world.fact())
    world.feed(PartArrived("a", JOB_NAME, 2, part))
    assert statuses(world.receipts) == ["a: rejected not-asked"]


def test_poison_is_refused_and_the_others_are_enough(tmp_path):
    world = made(tmp_path, "a", "b", "c", "d", "e")
    world.create(clients=4, over_select=1.25, quorum=3)
    fact = world.fact()
    bad = [np.full(LAYOUT.n_params, value, np.float32) for value in (np.nan, 1e3)]
    assert statuses(world.send("a", fact, delta=bad[0])) == ["a: rejected not-finite"]
    assert statuses(world.send("b", fact, delta=bad[1])) == ["b: rejected out-of-range"]
    for client in "cde":
        assert statuses(world.send(client, fact)) == [f"{client}: accepted"]
    assert world.state().round == 2
    row = world.core.jobs[JOB_NAME].views[0].row
    assert (row.asked, row.accepted, row.rejected, row.late) == (5, 3, 2, 0)
    statuses_of = {row.client: row.reason for row in world.core.jobs[JOB_NAME].views[0].clients}
    assert statuses_of == {"a": "not-finite", "b": "out-of-range", "c": "", "d": "", "e": ""}


def test_an_update_much_longer_than_usual_is_refused_once_it_is_known_what_is_usual(world):
    world.create(codec=RAW)
    world.everybody()
    assert statuses(world.send("a", delta=learned("a", 2) * 50)) == ["a: rejected norm"]
    assert statuses(world.send("b", delta=learned("b", 2) * 5)) == ["b: accepted"]


def test_bytes_that_are_not_what_their_header_says_are_refused(world):
    world.create()
    (part,) = update("a", world.fact())
    torn = msgspec.structs.replace(part, data=part.data[:-1] + b"x")
    world.feed(PartArrived("a", JOB_NAME, 1, torn))
    world.works_done()
    assert statuses(world.receipts) == ["a: rejected wrong-digest"]


# Link and term -------------------------------------------------------------------------------------


def test_time_without_a_link_does_not_count_against_the_devices(world):
    world.create(deadline_s_max=10.0)
    world.tick(8.0)
    world.cut(60.0)
    assert world.fact().phase is Phase.TRAINING
    assert world.fact().budget_s == pytest.approx(2.0)
    world.everybody()
    assert world.state().round == 2


def test_a_broker_that_forgot_everything_is_told_everything_again(world):
    world.create()
    world.everybody()
    known = dict(world.retained)
    world.retained.clear()
    world.feed(LinkUp(False))
    assert world.retained.keys() == known.keys()


def test_a_coordinator_that_hears_of_a_later_one_says_nothing_more(world):
    world.create()
    world.feed(CloudSeen(world.term), CloudSeen(world.term + 5, online=False))
    world.send("a")
    world.tick(0.25)
    assert world.job_fact().accepted == 1, "its own presence is no news, nor is the will of another"
    world.feed(CloudSeen(world.term + 1))
    facts, fact = len(world.facts), world.fact()
    assert world.send("b") == []
    world.tick(100.0)
    assert (len(world.facts), world.fact()) == (facts, fact)
    assert not world.works


def test_a_disk_that_a_later_coordinator_has_written_is_left_alone(tmp_path):
    later = World(tmp_path / "learning", term=5)
    later.create()
    later.executor.close()
    world = World(tmp_path / "learning", term=4)
    assert world.core.fenced
    assert not world.core.jobs
    assert not world.retained
    world.executor.close()


# Tables and transcripts ----------------------------------------------------------------------------


def test_every_phase_is_reachable_from_every_other_so_that_nothing_is_a_dead_end():
    for start in Phase:
        reached, todo = {start}, [start]
        while todo:
            for after in NEXT[todo.pop()] - reached:
                reached.add(after)
                todo.append(after)
        assert reached == set(Phase)


def test_a_move_that_the_table_forbids_is_our_own_bug(world):
    world.create()
    job = world.core.jobs[JOB_NAME]
    with pytest.raises(InvalidTransition, match="job digits: training -> initializing"):
        job.enter(Phase.INITIALIZING, 0.0)


def brief(thing: object) -> str:
    """A line without what is the same in all of them."""
    match thing:
        case Publish(to, RoundFact() as fact):
            task = f", {fact.task} from version {fact.model.version}" if fact.model else ""
            asked = f"{task}, {len(fact.cohort)} asked" if fact.model else ""
            return f"Publish({to}: round {fact.round}, {fact.phase}{asked})"
        case Publish(to, JobFact() as fact):
            counts = f"{fact.accepted} of {fact.asked} accepted, {fact.rejected} rejected"
            return f"Publish({to}: round {fact.round}, {fact.phase}, version {fact.version}, {counts})"
        case Publish(to, Manifest() as manifest):
            return f"Publish(all/manifest/...: version {manifest.version})"
        case Publish(to, Receipt() as receipt):
            return f"Publish({to}: {receipt.status}, round {receipt.round})"
        case Publish(to, Reply() as reply):
            return f"Publish({to}: {reply.status})"
        case Clear() | Withdraw():
            return f"{type(thing).__name__}(an artifact)"
        case Offer(manifest):
            return f"Offer(version {manifest.version})"
        case Work():
            return _brief_work(thing)
    return shown(thing)


def _brief_work(work: Work) -> str:
    entry = getattr(work, "entry", None)
    if entry is not None:
        ended = f", round {entry.ended.row.round} is over" if entry.ended else ""
        return f"Write({entry.state.phase}, round {entry.state.round}, {entry.state.task}{ended})"
    whole = getattr(work, "whole", None)
    return f"{type(work).__name__}({whole.client if whole else ''})"


def _line(thing: object) -> str:
    match thing:
        case PartArrived(client, _, asked, part):
            return f"PartArrived({client}, round {asked}, part {part.index} of {part.count})"
        case Written() | Prepared() | Judged() | Aggregated():
            return f"{type(thing).__name__}({getattr(thing, 'client', '')})"
        case LearnAsked(_, ask):
            return f"LearnAsked({ask.verb})"
    return brief(thing)


class Stepped:
    """The world as a core: what it wants done is done in the world."""

    def __init__(self, world: World) -> None:
        self.world, self.check = world, world.core.check

    def step(self, event: object, now: float) -> list[object]:
        self.world.now = now
        effects = self.world.core.step(event, now)
        for effect in effects:
            self.world.perform(effect)
        return effects


def test_the_story_of_two_rounds_and_an_evaluation(world):
    """Each line is a step; the disk answers at once."""
    story = Transcript("federated/two-rounds", Stepped(world), _line)

    def settle(now: float) -> None:
        while world.works:
            (answer,) = world.executor.perform([world.works.popleft()])
            story.at(now, *([answer] if answer is not None else []))

    wanted = spec(rounds=2, evaluate_every=2)
    ask = LearnAsk(correlation="c1", budget_s=5.0, verb=LearnVerb.CREATE, job=JOB_NAME, spec=wanted)
    story.at(1.0, LearnAsked("app", ask))
    settle(1.0)
    for now in (2.0, 3.0, 4.0):
        fact = world.fact()
        for client in world.clients:
            for part in update(client, fact):
                story.at(now, PartArrived(client, JOB_NAME, fact.round, part))
        settle(now)
    assert world.state().closed
    story.matches()
