"""Every request gets exactly one answer, whatever happens."""

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edge.inference.core import (
    ANSWERED_BYTES_MAX,
    OUTPUT_BYTES_MAX,
    AnswerLocally,
    DrainStarted,
    InferArrived,
    Inference,
    LocalAsked,
    ModelsChanged,
    Ran,
    Refusal,
    RunModule,
)
from shared.core import Failed, Ignore, Publish, Tick
from shared.messages import InferCommand, ReplyStatus
from shared.wire import packed
from tests.transcript import Transcript

INPUTS = packed(())
READY = ModelsChanged(frozenset({"digits"}))


def asked(correlation: str, model: str = "digits", budget_s: float = 1.0, epoch: int = 7, caller="app"):
    command = InferCommand(
        correlation=correlation, budget_s=budget_s, caller=caller, epoch=epoch, inputs=INPUTS
    )
    return InferArrived(model, command)


def replies(effects):
    return [one.message for one in effects if isinstance(one, Publish)]


def test_requests_are_run_in_turn_and_answered_once():
    (
        Transcript("inference/in-turn", Inference("n1", 7, slots=1, queue_max=2))
        .at(0.0, asked("before-the-model"))
        .at(0.1, READY)
        .at(0.2, asked("1"), asked("2"), asked("3"), asked("too-many"))
        .at(0.3, asked("2"))
        .at(0.4, Ran("app/1", packed((1,)), 0.2))
        .at(0.5, asked("1"))
        .at(0.6, Refusal("app/2", "deadline", "stopped after 0.5 s"))
        .at(1.0, asked("old-boot", epoch=6))
        .at(2.0, Ran("app/3", packed((3,)), 0.2), Ran("app/3", packed((3,)), 0.2))
        .matches()
    )


def test_an_answer_needs_an_acknowledgement_only_where_the_cloud_would_not_ask_again():
    core = Inference("n1", 7, slots=2)
    core.step(READY, 0.0)
    arrived = asked("1")
    repeatable = InferArrived("digits", msgspec.structs.replace(arrived.command, repeatable=True))

    def qos_of(*events):
        return [
            one.qos
            for event in events
            for one in core.step(event, 0.1)
            if isinstance(one, Publish) and one.message.correlation == "1"
        ]

    assert qos_of(repeatable, Ran("app/1", packed((1,)), 0.1)) == [0]
    assert qos_of(arrived) == [None]  # asked again: the first answer got lost
    core = Inference("n1", 7, slots=2)
    core.step(READY, 0.0)
    assert qos_of(arrived, Ran("app/1", packed((1,)), 0.1)) == [None]


def test_a_request_that_waited_past_its_deadline_is_refused_and_not_run():
    core = Inference("n1", 7, slots=1)
    core.step(READY, 0.0)
    core.step(asked("slow", budget_s=10.0), 0.0)
    core.step(asked("hasty", budget_s=0.5), 0.0)
    (reply,) = replies(core.step(Tick(), 0.6))
    assert (reply.correlation, reply.code) == ("hasty", "deadline")
    core.step(asked("hasty too", budget_s=0.5), 1.0)
    effects = core.step(Ran("app/slow", packed(()), 1.0), 2.0)
    assert [one.code for one in replies(effects)] == ["", "deadline"]
    assert not any(isinstance(one, RunModule) for one in effects)


def test_a_model_that_hangs_leaves_a_lane_to_its_neighbours():
    core = Inference("n1", 7, slots=1)
    core.step(ModelsChanged(frozenset({"digits", "hostile"})), 0.0)
    core.step(asked("h1", "hostile", budget_s=9.0), 0.0)
    assert not any(isinstance(one, RunModule) for one in core.step(asked("h2", "hostile", budget_s=9.0), 0.1))
    for number in range(3):
        assert any(isinstance(one, RunModule) for one in core.step(asked(f"d{number}"), 0.2))
        assert replies(core.step(Ran(f"app/d{number}", packed(()), 0.01), 0.3))[0].status is ReplyStatus.OK
        core.check()
    effects = core.step(Refusal("app/h1", "deadline", "stopped"), 9.2)
    assert [one.code for one in replies(effects)] == ["deadline", "deadline"]


def test_answers_kept_for_repeats_are_bounded_in_bytes():
    core = Inference("n1", 7)
    core.step(READY, 0.0)
    for number in range(20):
        core.step(asked(str(number)), 0.0)
        core.step(Ran(f"app/{number}", msgspec.Raw(b"\x00" * 1_000_000), 0.1), 0.1)
        core.check()
    assert len(core.answered) == ANSWERED_BYTES_MAX // 1_000_000
    assert core.step(asked("0"), 0.2) != [], "too old to be remembered: it simply runs again"


def test_draining_finishes_what_is_here_and_takes_nothing_new():
    core = Inference("n1", 7, slots=1)
    core.step(READY, 0.0)
    core.step(asked("here"), 0.0)
    core.step(DrainStarted(), 0.1)
    assert replies(core.step(asked("new"), 0.2))[0].code == "draining"
    assert replies(core.step(Ran("app/here", packed(()), 0.1), 0.3))[0].status is ReplyStatus.OK


def test_a_bug_in_the_runtime_is_an_answer_too():
    core = Inference("n1", 7)
    core.step(READY, 0.0)
    (work, _) = core.step(asked("1"), 0.0)
    (reply,) = replies(core.step(Failed(work, "KeyError: x"), 0.1))
    assert reply.code == "runtime-error"


def test_outputs_that_no_reply_can_carry_are_refused_to_a_caller_but_not_to_the_device():
    big = msgspec.Raw(b"\x00" * (OUTPUT_BYTES_MAX + 1))
    core = Inference("n1", 7, slots=2)
    core.step(READY, 0.0)
    core.step(asked("1"), 0.0)
    assert replies(core.step(Ran("app/1", big, 0.1), 0.1))[0].code == "output-too-large"
    core.step(LocalAsked("t", "digits", "run", INPUTS, 1.0), 0.2)
    (answer, _) = core.step(Ran("/t", big, 0.1), 0.3)
    assert isinstance(answer, AnswerLocally)
    assert answer.reply.status is ReplyStatus.OK


names = st.sampled_from("abcde")
histories = st.lists(
    st.one_of(
        st.builds(
            asked, names, st.sampled_from(["digits", "other"]), st.floats(0.1, 5), st.sampled_from([6, 7])
        ),
        st.builds(LocalAsked, names, st.just("digits"), st.just("run"), st.just(INPUTS), st.floats(0.1, 5)),
        st.builds(lambda name: Ran(f"app/{name}", packed(()), 0.1), names),
        st.builds(lambda name: Refusal(f"app/{name}", "trap", "x"), names),
        st.builds(lambda name: Ran(f"/{name}", packed(()), 0.1), names),
        st.just(Tick()),
        st.just(READY),
        st.just(ModelsChanged(frozenset({"digits", "second"}))),
        st.just(DrainStarted()),
    ),
    max_size=60,
)


@given(histories, st.integers(1, 3), st.integers(0, 4))
def test_no_history_leaves_a_request_without_its_answer_or_runs_it_twice(history, slots, queue_max):
    core, now, runs, taken = Inference("n1", 7, slots=slots, queue_max=queue_max), 0.0, Counter(), 0
    answered = 0
    for number, event in enumerate(history):
        now += 0.05
        if isinstance(event, LocalAsked):  # tickets are never used twice
            event = LocalAsked(f"{event.ticket}{number}", *("digits", "run", INPUTS, event.budget_s))
        effects = core.step(event, now)
        core.check()
        if isinstance(event, InferArrived | LocalAsked) and not any(
            isinstance(one, Ignore) for one in effects
        ):
            taken += 1
        runs.update(one.key for one in effects if isinstance(one, RunModule))
        answered += sum(isinstance(one, Publish | AnswerLocally) for one in effects)
    while core.running:
        now += 0.01
        effects = core.step(Ran(next(iter(core.running)), packed(()), 0.1), now)
        core.check()
        runs.update(one.key for one in effects if isinstance(one, RunModule))
        answered += sum(isinstance(one, Publish | AnswerLocally) for one in effects)
    assert not core.waiting
    assert answered == taken
    answered_keys = Counter(key for key, count in runs.items() if count > 1 and key.startswith("/"))
    assert not answered_keys
