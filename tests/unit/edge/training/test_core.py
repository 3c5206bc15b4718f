"""The training core: stories, any history, and its table."""

from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.training.core import Limits, Training
from edge.training.events import (
    Available,
    CancelTraining,
    Conditions,
    ConditionsRead,
    DrainStarted,
    DropVersion,
    ForgetJob,
    KeepLearned,
    ModelOpened,
    OpenModel,
    PartSent,
    ReadConditions,
    ReadSources,
    ReceiptArrived,
    Release,
    RememberDone,
    Require,
    Restored,
    SendPart,
    SettleUpdate,
    SourcesRead,
    Stored,
    Train,
    Trained,
    Unavailable,
    UnloadPackage,
    UpdateKey,
    round_arrived,
)
from edge.training.job import NEXT, Phase
from edge.training.outbox import OutboxLimits
from edge.training.policy import Policy
from shared import learning as fl
from shared.core import Failed, Ignore, LinkDown, LinkUp, Publish, Tick

PACKAGE = "a" * 64
PLAN = fl.TrainingPlan(source="digits", budget_s=20.0)
HERE = SourcesRead({"digits": fl.Source(samples=90, held_out=10)})
FINE = ConditionsRead(Conditions())


def digest(version: int, delta: bool = False) -> str:
    return f"{version:02d}{'d' if delta else 'e'}" + "0" * 61


def fact(number: int = 1, *, term: int = 1, version: int | None = None, **changed: object) -> fl.RoundFact:
    version = number if version is None else version
    model = fl.ModelRef(
        version=version,
        layout_hash="layout",
        n_params=4,
        check=f"check {version}",
        snapshot=digest(version),
        delta=digest(version, delta=True) if version > 1 else "",
        base=version - 1 if version > 1 else -1,
    )
    one = fl.RoundFact(
        job="digits",
        round=number,
        term=term,
        phase=fl.Phase.TRAINING,
        cohort=("n1", "n2"),
        package=PACKAGE,
        model=model,
        plan=PLAN,
        budget_s=60.0,
    )
    return msgspec.structs.replace(one, **changed)


def asks(*args: int, job: str = "digits", **changed: object) -> object:
    return round_arrived("n1", job, fact(*args, **changed))


def closed(number: int, phase: fl.Phase = fl.Phase.COMPLETED, **changed: object) -> object:
    return asks(number, phase=phase, cohort=(), **changed)


def core(**changed: object) -> Training:
    return Training("n1", 7, lambda: 0.0, **changed)


def run(one: Training, *events: object, now: float = 0.0) -> list[object]:
    effects: list[object] = []
    for event in events:
        effects += one.step(event, now)
        one.check()
    return effects


def of(effects: list[object], *types: type) -> list[object]:
    return [one for one in effects if isinstance(one, types)]


def ready(**changed: object) -> Training:
    """A device that is linked, knows its examples and may train."""
    one = core(**changed)
    run(one, LinkUp(False), Tick(), HERE, FINE)
    return one


def lent(*digests: str) -> list[object]:
    return [Available(one, f"/blobs/{one}") for one in digests]


def update(work: Train, size: int = 100, letter: str = "f") -> Stored:
    header = fl.UpdateHeader(
        task=work.fact.task,
        version=work.fact.model.version,
        codec="int8",
        n_params=4,
        layout_hash="layout",
        size_bytes=size,
        digest=f"{work.fact.round}{letter}",
        weight=90,
        steps=3,
    )
    return Stored(UpdateKey(work.job, work.fact.round, header.digest), header, work.ask)


def trained(
    one: Training, number: int = 1, now: float = 0.0, **changed: object
) -> tuple[Stored, list[object]]:
    """A round from the ask to the outbox."""
    effects = run(one, asks(number, **changed), now=now)
    if of(effects, Require) or not of(effects, Train):
        wanted = [effect.digest for effect in of(effects, Require)]
        effects += run(one, *lent(*wanted), now=now)
        (opening,) = of(effects, OpenModel)
        effects += run(one, FINE, ModelOpened(opening.number), now=now)
    (work,) = of(effects, Train)
    stored = update(work)
    return stored, [*effects, *run(one, Trained(work.number, stored), now=now)]


def receipt(stored: Stored, status: fl.ReceiptStatus = fl.ReceiptStatus.ACCEPTED) -> ReceiptArrived:
    return ReceiptArrived(
        stored.key.job, fl.Receipt(round=stored.key.round, digest=stored.key.digest, status=status)
    )


# Stories ----------------------------------------------------------------------------------------------


def test_a_device_says_what_it_could_contribute_and_says_it_again_when_that_changes():
    one = core(link="lora")
    assert of(run(one, LinkUp(False)), Publish) == []
    effects = run(one, Tick())
    assert of(effects, ReadSources, ReadConditions) == [ReadSources(), ReadConditions()]
    (told,) = of(run(one, HERE, ConditionsRead(Conditions(fl.Power.BATTERY, 0.77))), Publish)
    assert told.to.name == "node/n1/up/learner"
    assert told.message == fl.Learner(
        epoch=7, sources=HERE.sources, room=1, power=fl.Power.BATTERY, battery_ratio=0.8, link="lora"
    )
    assert of(run(one, HERE, ConditionsRead(Conditions(fl.Power.BATTERY, 0.81))), Publish) == []
    (again,) = of(run(one, SourcesRead({"digits": fl.Source(samples=120)})), Publish)
    assert again.message.sources["digits"].samples == 120
    assert of(run(one, LinkDown(), LinkUp(True)), Publish) == [again], "a broker may have forgotten it"
    (last,) = of(run(one, DrainStarted()), Publish)
    assert last.message.room == 0


def test_what_was_learned_is_kept_a_while_after_the_first_of_many_rounds_and_once():
    one = ready()
    for number in (1, 2):
        stored, effects = trained(one, number, now=float(number))
        effects += run(one, receipt(stored), now=float(number))
        assert of(effects, KeepLearned) == []
    assert of(run(one, Tick(), now=5.9), KeepLearned) == []
    assert of(run(one, Tick(), now=6.0), KeepLearned) == [KeepLearned()]
    assert of(run(one, Tick(), Failed(KeepLearned(), "full"), Tick(), now=60.0), KeepLearned) == []
    trained(one, 3, now=61.0)
    assert of(run(one, Tick(), now=66.0), KeepLearned) == [KeepLearned()]


def test_a_round_is_fetched_trained_sent_and_settled():
    one = ready()
    assert of(run(one, asks(1)), Require) == [Require(digest(1)), Require(PACKAGE)]
    (opening,) = of(run(one, *lent(digest(1), PACKAGE)), OpenModel)
    assert (opening.path, opening.base, opening.model.version) == (f"/blobs/{digest(1)}", -1, 1)
    effects = run(one, ModelOpened(opening.number))
    (work,) = of(effects, Train)
    assert of(effects, Release) == [Release(digest(1))], "the vector is on the disk: its artifact may go"
    assert (work.package, work.budget_s, work.ask) == (f"/blobs/{PACKAGE}", 20.0, "1/train/check 1/0")
    stored = update(work)
    (part,) = of(run(one, Trained(work.number, stored)), SendPart)
    assert part == SendPart(stored.key, 0, 1)
    assert one.jobs["digits"].phase is Phase.SENDING
    run(one, PartSent(stored.key, 0))
    assert run(one, receipt(stored)) == [
        SettleUpdate(stored.key, True),
        RememberDone("digits", "1/train/check 1/0"),
    ]
    assert one.jobs["digits"].phase is Phase.DONE
    assert of(run(one, asks(1)), Train, Require) == [], "the fact is sent again; the work is not"
    assert of(run(one, asks(1, term=2)), Train, Require) == [], "not even by a new process"


def test_who_holds_the_version_before_fetches_the_difference_only():
    one = ready()
    stored, _ = trained(one, 1)
    run(one, receipt(stored))
    assert of(run(one, asks(2)), Require) == [Require(digest(2, delta=True))]
    (opening,) = of(run(one, *lent(digest(2, delta=True))), OpenModel)
    assert opening.base == 1
    run(one, FINE, ModelOpened(opening.number), closed(2))
    assert one.jobs["digits"].versions == {1: "check 1", 2: "check 2"}
    run(one, asks(3))
    (opening,) = of(run(one, *lent(digest(3, delta=True))), OpenModel)
    assert of(run(one, ModelOpened(opening.number)), DropVersion) == [DropVersion("digits", 1)]


def test_a_difference_that_is_of_no_use_makes_way_for_the_snapshot():
    for trouble in ("check", "fetch"):
        one = ready()
        stored, _ = trained(one, 1)
        run(one, receipt(stored), asks(2))
        if trouble == "check":
            (opening,) = of(run(one, *lent(digest(2, delta=True))), OpenModel)
            effects = run(one, Failed(opening, "the check does not agree"))
        else:
            effects = run(one, Unavailable(digest(2, delta=True), "no manifest"))
        assert Require(digest(2)) in effects
        (opening,) = of(run(one, *lent(digest(2))), OpenModel)
        assert opening.base == -1
        assert of(run(one, Failed(opening, "broken too")), Ignore)
        assert one.jobs["digits"].phase is Phase.DONE


def test_what_cannot_be_fetched_is_asked_for_again_until_the_deadline():
    one = ready()
    run(one, asks(1), *lent(PACKAGE))
    assert of(run(one, Unavailable(digest(1), "no manifest")), Require) == []
    assert of(run(one, Tick(), now=1.5), Require) == [Require(digest(1))]
    run(one, Unavailable(digest(1), "no manifest"), now=2.0)
    assert of(run(one, Tick(), now=3.5), Require) == []
    assert of(run(one, Tick(), now=4.5), Require) == [Require(digest(1))]
    assert Release(digest(1)) in run(one, Tick(), now=60.0)
    assert one.jobs["digits"].phase is Phase.DONE


def test_a_cancelled_round_is_let_go_of_in_every_phase():
    one = ready()
    run(one, asks(1), closed(1))
    assert one.borrowing.required == {PACKAGE}
    run(one, asks(2), *lent(digest(2), PACKAGE), closed(2))
    assert one.jobs["digits"].phase is Phase.DONE
    effects = run(one, asks(3), *lent(digest(3)))
    (opening,) = of(effects, OpenModel)
    (work,) = of(run(one, ModelOpened(opening.number)), Train)
    assert of(run(one, closed(3, fl.Phase.AGGREGATING)), CancelTraining) == [CancelTraining(work.number)]
    stored = update(work)
    assert of(run(one, Trained(work.number, stored)), SettleUpdate) == [SettleUpdate(stored.key, False)]
    assert not one.outbox.waiting
    assert not one.working


def test_a_newer_round_replaces_the_one_under_way_and_an_older_fact_is_nothing():
    one = ready()
    effects = run(one, asks(1), *lent(digest(1), PACKAGE))
    (opening,) = of(effects, OpenModel)
    (work,) = of(run(one, ModelOpened(opening.number)), Train)
    assert CancelTraining(work.number) in run(one, asks(2))
    assert one.jobs["digits"].ask.fact.round == 2
    assert [type(effect) for effect in run(one, asks(1), closed(1))] == [Ignore, Ignore]
    run(one, Failed(work, "cancelled"))
    assert one.jobs["digits"].phase is Phase.FETCHING
    run(one, closed(2, term=3), asks(3, term=2))
    assert one.jobs["digits"].phase is Phase.DONE, "the word of an older process"


def test_where_older_versions_count_the_work_goes_on_and_the_newest_ask_follows():
    one = ready()
    effects = run(one, asks(1, overlap=True), *lent(digest(1), PACKAGE))
    (opening,) = of(effects, OpenModel)
    (work,) = of(run(one, ModelOpened(opening.number)), Train)
    assert of(run(one, asks(2, overlap=True), asks(3, overlap=True)), CancelTraining) == []
    stored = update(work)
    effects = run(one, Trained(work.number, stored))
    assert of(effects, SendPart)
    assert one.jobs["digits"].ask.fact.round == 3
    assert one.jobs["digits"].phase is Phase.FETCHING
    run(one, receipt(stored))
    assert one.jobs["digits"].phase is Phase.FETCHING


def test_a_round_whose_deadline_passes_is_over_and_its_work_ends():
    one = ready()
    effects = run(one, asks(1), *lent(digest(1), PACKAGE))
    (opening,) = of(effects, OpenModel)
    (work,) = of(run(one, ModelOpened(opening.number)), Train)
    run(one, asks(1))
    assert CancelTraining(work.number) in run(one, Tick(), now=61.0)
    assert one.jobs["digits"].phase is Phase.DONE


def test_time_for_sending_is_kept_back():
    one = ready()
    effects = run(one, asks(1, budget_s=10.0), *lent(digest(1), PACKAGE))
    (opening,) = of(effects, OpenModel)
    (work,) = of(run(one, FINE, ModelOpened(opening.number), now=5.0), Train)
    assert work.budget_s == 4.0


def test_a_battery_that_is_low_holds_training_until_it_is_charged():
    low = ConditionsRead(Conditions(fl.Power.BATTERY, 0.1))
    one = ready(policy=Policy(battery_ratio_min=0.3))
    run(one, low, asks(1))
    (opening,) = of(run(one, *lent(digest(1), PACKAGE)), OpenModel)
    assert of(run(one, ModelOpened(opening.number)), Train) == []
    assert "battery at 10%" in one.jobs["digits"].detail
    assert of(run(one, Tick(), now=6.0), ReadConditions) == [ReadConditions()]
    assert of(run(one, low, now=6.0), Train) == []
    run(one, Tick(), now=12.0)
    assert of(run(one, ConditionsRead(Conditions(fl.Power.AC)), now=12.0), Train)


def test_jobs_take_turns_where_there_is_room_for_one():
    one = ready()
    effects = run(one, asks(1, budget_s=90.0), asks(1, job="other"), *lent(PACKAGE, digest(1)))
    openings = of(effects, OpenModel)
    effects = run(one, *(ModelOpened(opening.number) for opening in openings))
    assert len(of(effects, Train)) == 1
    (first,) = of(effects, Train)
    (second,) = of(run(one, Trained(first.number, update(first))), Train)
    assert {first.job, second.job} == {"digits", "other"}


def test_what_the_device_cannot_answer_is_refused_with_the_reason():
    one = ready()
    other = fl.TrainingPlan(source="vibration")
    for asked, why in [
        (asks(1, plan=other), "no source 'vibration'"),
        (asks(2, budget_s=0.0), "no time is left"),
        (asks(3, model=None), "names no package"),
    ]:
        said = of(run(one, asked), Ignore)
        assert why in said[0].reason
        assert one.jobs["digits"].phase is Phase.DONE
    run(one, SourcesRead({"digits": fl.Source(samples=5)}))
    assert "no examples" in of(run(one, asks(4, task=fl.Task.EVALUATE)), Ignore)[0].reason
    run(one, DrainStarted())
    assert "out of service" in of(run(one, asks(5)), Ignore)[0].reason


def test_a_big_update_goes_out_a_window_at_a_time_and_again_without_a_receipt():
    one = ready()
    effects = run(one, asks(1), *lent(digest(1), PACKAGE))
    (opening,) = of(effects, OpenModel)
    (work,) = of(run(one, ModelOpened(opening.number)), Train)
    stored = update(work, size=6 * fl.PART_BYTES + 1)
    parts = of(run(one, Trained(work.number, stored)), SendPart)
    assert [part.index for part in parts] == [0, 1, 2, 3]
    assert [part.index for part in of(run(one, PartSent(stored.key, 1)), SendPart)] == [4]
    sent = of(run(one, *(PartSent(stored.key, n) for n in (0, 2, 3, 4))), SendPart)
    assert [part.index for part in sent] == [5, 6]
    assert sent[0].count == 7
    run(one, PartSent(stored.key, 5), PartSent(stored.key, 6), now=1.0)
    assert of(run(one, Tick(), now=5.0), SendPart) == []
    assert len(of(run(one, Tick(), now=6.5), SendPart)) == 4, "no receipt: all of it again"


def test_a_part_that_did_not_get_out_is_sent_again_later():
    one = ready()
    _, effects = trained(one)
    (part,) = of(effects, SendPart)
    assert of(run(one, Failed(part, "the outbox is full")), SendPart) == []
    assert of(run(one, Tick(), now=6.0), SendPart) == [part]


def test_a_link_that_comes_back_asks_for_the_receipt_at_once():
    one = ready()
    stored, effects = trained(one)
    run(one, PartSent(stored.key, 0), LinkDown())
    assert of(run(one, Tick(), now=50.0), SendPart) == []
    assert of(run(one, LinkUp(True), now=51.0), SendPart) == of(effects, SendPart)


def test_every_receipt_ends_the_sending_but_only_an_accepted_one_keeps_the_rest():
    for status in fl.ReceiptStatus:
        one = ready()
        stored, _ = trained(one)
        kept = status in (fl.ReceiptStatus.ACCEPTED, fl.ReceiptStatus.DUPLICATE)
        assert SettleUpdate(stored.key, kept) in run(one, receipt(stored, status))
        assert one.jobs["digits"].phase is Phase.DONE
        assert [type(effect) for effect in run(one, receipt(stored, status))] == [Ignore]


def test_after_a_restart_the_update_is_sent_and_nothing_is_trained_twice():
    before = ready()
    stored, _ = trained(before)
    one = core()
    run(one, Restored((replace(stored, age_s=30.0),), {"digits": {1: "check 1"}}), Tick(), HERE, FINE)
    assert of(run(one, LinkUp(False)), SendPart) == [SendPart(stored.key, 0, 1)]
    assert of(run(one, asks(1)), Train, Require) == []
    assert RememberDone("digits", stored.ask) in run(one, receipt(stored))
    assert of(run(one, asks(2)), Require) == [Require(digest(2, delta=True)), Require(PACKAGE)]
    again = core()
    run(again, Restored((), {}, {"digits": stored.ask}), LinkUp(False), Tick(), HERE, FINE)
    assert of(run(again, asks(1)), Require) == []


def test_a_round_that_failed_may_be_opened_again():
    one = ready()
    stored, _ = trained(one)
    run(one, receipt(stored))
    assert RememberDone("digits", "") in run(one, closed(1, fl.Phase.ERROR))
    assert of(run(one, FINE, asks(1)), Train), "the version is held: no fetch"


def test_the_outbox_is_bounded_and_gives_up_the_oldest():
    limits = Limits(outbox=OutboxLimits(updates_max=2, keep_s=1000.0))
    one = ready(limits=limits)
    first, _ = trained(one, 1)
    second, _ = trained(one, 2)
    third, effects = trained(one, 3)
    assert of(effects, SettleUpdate) == [SettleUpdate(first.key, False)]
    assert list(one.outbox.waiting) == [second.key, third.key]
    effects = run(one, Tick(), now=1000.0)
    assert of(effects, SettleUpdate) == [SettleUpdate(second.key, False), SettleUpdate(third.key, False)]
    assert one.jobs["digits"].phase is Phase.DONE


def test_what_is_not_used_for_long_is_let_go_of():
    one = ready()
    stored, _ = trained(one)
    run(one, receipt(stored))
    assert of(run(one, Tick(), now=100.0), UnloadPackage) == []
    assert of(run(one, Tick(), now=130.0), UnloadPackage) == [UnloadPackage(PACKAGE)]
    effects = run(one, Tick(), now=700_000.0)
    assert of(effects, ForgetJob, Release) == [ForgetJob("digits"), Release(PACKAGE)]


def test_jobs_are_bounded():
    one = ready()
    run(one, *(asks(1, job=f"job-{n}") for n in range(fl.JOBS_MAX)))
    assert "no room" in of(run(one, asks(1, job="one-more")), Ignore)[0].reason
    run(one, asks(2, job="job-3", phase=fl.Phase.COMPLETED))
    assert ForgetJob("job-3") in run(one, asks(1, job="one-more"))


# Any history ------------------------------------------------------------------------------------------

rounds = st.builds(
    lambda number, term, phase, asked, overlap, job: asks(
        number, term=term, phase=phase, cohort=("n1",) if asked else (), overlap=overlap, job=job
    ),
    st.integers(1, 4),
    st.integers(1, 2),
    st.sampled_from([fl.Phase.TRAINING] * 4 + list(fl.Phase)),
    st.sampled_from([True] * 4 + [False]),
    st.booleans(),
    st.sampled_from(["digits", "other"]),
)
moves = st.one_of(
    rounds,
    st.sampled_from(["answer", "answer", "answer", "answer", "fail", "receipt", "restart", "drop"]),
    st.sampled_from([Tick(), LinkUp(False), LinkDown(), FINE]),
    st.floats(0.1, 40.0),
)


class World:
    """Performs the effects, in any order and not at all, and keeps what a disk would keep."""

    def __init__(self) -> None:
        self.disk: dict[UpdateKey, Stored] = {}
        self.done: dict[str, str] = {}
        self.versions: dict[str, dict[int, str]] = {}
        self.now = 0.0
        self.made: list[str] = []
        self.settled: set[UpdateKey] = set()
        self.boot()

    def boot(self) -> None:
        self.core, self.pending, self.required = (
            core(limits=Limits(outbox=OutboxLimits(updates_max=3))),
            [],
            set(),
        )
        self.feed(Restored(tuple(self.disk.values()), self.versions, self.done))
        self.feed(HERE)

    def feed(self, event: object) -> None:  # noqa: C901 (a case for each effect)
        for effect in self.core.step(event, self.now):
            match effect:
                case Require(digest=one):
                    assert one not in self.required
                    self.required.add(one)
                    self.pending.append(effect)
                case Release(digest=one):
                    self.required.remove(one)
                case SettleUpdate(key=key):
                    self.disk.pop(key, None)
                    self.settled.add(key)
                case RememberDone(job=job, ask=ask):
                    self.done[job] = ask
                case DropVersion(job=job, version=version):
                    del self.versions[job][version]
                case ForgetJob(job=job):
                    self.versions.pop(job, None)
                case Publish() | Ignore() | CancelTraining() | UnloadPackage():
                    pass
                case _:
                    self.pending.append(effect)
        self.core.check()
        for key in self.core.outbox.waiting:
            assert key in self.disk, "what waits is durable"

    def answer(self, fail: bool = False) -> None:  # noqa: C901 (a case for each piece of work)
        if not self.pending:
            return
        effect = self.pending.pop(0)
        match effect:
            case Require(digest=one):
                if one in self.required and fail:
                    self.required.remove(one)
                    self.feed(Unavailable(one, "no"))
                elif one in self.required:
                    self.feed(Available(one, one))
            case _ if fail:
                self.feed(Failed(effect, "no"))
            case ReadSources():
                self.feed(HERE)
            case ReadConditions():
                self.feed(FINE)
            case OpenModel(number=number, job=job, model=model, base=base):
                held = self.versions.setdefault(job, {})
                assert base == -1 or base in held
                held[model.version] = model.check
                self.feed(ModelOpened(number))
            case Train():
                held = self.versions.get(effect.job, {})
                assert effect.fact.model.version in held or effect.job not in self.core.jobs
                stored = update(effect)
                self.made.append(effect.ask)
                self.disk[stored.key] = stored
                self.feed(Trained(effect.number, stored))
            case SendPart(key=key, index=index):
                self.feed(PartSent(key, index))

    def move(self, move: object) -> None:
        match move:
            case "answer" | "fail":
                self.answer(move == "fail")
            case "drop":
                for work in [one for one in self.pending if isinstance(one, SendPart)][:1]:
                    self.pending.remove(work)
                    self.feed(Failed(work, "no answer within 30 s"))
            case "receipt":
                for stored in list(self.disk.values())[:1]:
                    self.feed(receipt(stored))
            case "restart":
                self.boot()
            case float():
                self.now += move
                self.feed(Tick())
            case _:
                self.feed(move)


@settings(max_examples=200, deadline=None)
@given(st.lists(moves, max_size=60))
def test_any_history_keeps_the_invariants_and_comes_to_rest(history: list[object]) -> None:
    world = World()
    for move in history:
        world.move(move)
    # Whatever happened: with a link, time and receipts everything comes to rest.
    world.feed(LinkUp(False))
    for _ in range(300):
        world.now += 2.0
        world.feed(Tick())
        for _ in range(20):
            world.answer()
        for stored in list(world.disk.values()):
            if stored.key in world.core.outbox.waiting:
                world.feed(receipt(stored))
    assert not world.core.outbox.waiting
    assert not world.core.working
    assert all(job.phase is Phase.DONE for job in world.core.jobs.values())
    assert not world.disk, "nothing is left behind"


def test_every_phase_can_be_reached_and_left():
    reached = {Phase.DONE}
    for _ in NEXT:
        reached |= {after for phase in reached for after in NEXT[phase]}
    assert reached == set(Phase)
    assert all(NEXT.values())
