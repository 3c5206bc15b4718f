"""Tasks survive what happens to the cloud, end exactly once, and are run again only when that is safe."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cloud.tasks.core import (
    ATTEMPTS_MAX,
    KEPT_S,
    NEXT,
    Announce,
    Answered,
    CancelAsked,
    Refused,
    Restored,
    RunTask,
    Saved,
    SaveTask,
    Submitted,
    Task,
    Tasks,
    TaskSpec,
    TaskState,
)
from shared.core import Failed, Tick
from tests.transcript import Transcript

SPEC = TaskSpec(model="digits", inputs=b"\x90")


def task(id: str = "t1", **changes) -> Task:
    return replace(Task(id, SPEC, 1000.0), **changes)


def durable(core: Tasks, event: object, now: float) -> list[object]:
    """Step, and let every save succeed at once."""
    seen, todo = [], [event]
    while todo:
        for effect in core.step(todo.pop(0), now):
            core.check()
            seen.append(effect)
            if isinstance(effect, SaveTask):
                todo.append(Saved(effect.task))
    return seen


def test_a_task_is_saved_before_it_is_announced_and_again_before_its_result_is():
    one = task()
    running = replace(one, state=TaskState.RUNNING, attempts=1)
    done = replace(running, state=TaskState.DONE, node="n1", outputs=b"\x91\x01")
    (
        Transcript("tasks/saved-before-announced", Tasks())
        .at(0.0, Submitted(one), Saved(one), Saved(running))
        .at(1.0, Answered("t1", "n1", b"\x91\x01"), Saved(done))
        .at(2.0, Answered("t1", "n2", b"\x91\x01"), CancelAsked("t1"))
        .at(KEPT_S + 2.0, Tick())
        .matches()
    )


def test_an_attempt_that_found_no_node_is_repeated_with_growing_pauses_and_then_given_up():
    core, now, runs = Tasks(), 0.0, []
    durable(core, Submitted(task()), now)
    while core.tasks["t1"].state is not TaskState.FAILED:
        if core.tasks["t1"].state is TaskState.RUNNING:
            runs.append(now)
            durable(core, Refused("t1", "no-node", "all are offline", definite=True), now)
        now += 0.5
        durable(core, Tick(), now)
    pauses = [later - earlier for earlier, later in pairwise(runs)]
    assert len(runs) == ATTEMPTS_MAX
    assert pauses == [1.0, 2.0, 4.0, 8.0]


def test_nobody_knows_is_no_reason_to_repeat_what_must_not_happen_twice():
    core = Tasks()
    durable(core, Submitted(task(spec=TaskSpec(model="m", inputs=b"\x90", idempotent=False))), 0.0)
    durable(core, Refused("t1", "deadline", "no reply", definite=False), 1.0)
    assert core.visible["t1"].state is TaskState.FAILED


def test_a_refusal_that_would_only_repeat_ends_the_task():
    core = Tasks()
    durable(core, Submitted(task()), 0.0)
    durable(core, Refused("t1", "no-such-model", "there is digits", definite=True), 1.0)
    assert core.visible["t1"].code == "no-such-model"


def test_after_a_crash_what_was_running_goes_on_or_says_that_nobody_knows():
    once = TaskSpec(model="m", inputs=b"\x90", idempotent=False)
    journal = (
        task("queued"),
        task("running", state=TaskState.RUNNING, attempts=1),
        task("once", state=TaskState.RUNNING, attempts=1, spec=once),
        task("done", state=TaskState.DONE),
    )
    core = Tasks()
    effects = durable(core, Restored(journal), 0.0)
    assert {one.id for one in effects if isinstance(one, RunTask)} == {"queued", "running"}
    assert core.visible["once"].code == "interrupted"
    assert core.visible["done"] == journal[3]


def test_a_save_that_fails_is_tried_again_and_nothing_is_announced_before():
    core = Tasks()
    (save,) = core.step(Submitted(task()), 0.0)
    effects = core.step(Failed(save, "disk full"), 1.0)
    assert save in effects
    assert not any(isinstance(one, Announce) for one in effects)


ids = st.sampled_from(["a", "b", "c"])
events = st.one_of(
    st.builds(lambda id: Submitted(task(id)), ids),
    st.builds(Answered, ids, st.just("n1"), st.just(b"\x90")),
    st.builds(Refused, ids, st.sampled_from(["no-node", "bad-input"]), st.just(""), st.booleans()),
    st.builds(CancelAsked, ids),
    st.just(Tick()),
)


class Journal:
    """A store that saves when told to, and a reader who holds the core to its promises."""

    def __init__(self) -> None:
        self.core, self.unsaved, self.stored = Tasks(), [], {}
        self.ended: set[str] = set()

    def step(self, event: object, now: float) -> None:
        if isinstance(event, Saved):
            self.stored[event.task.id] = event.task
        for effect in self.core.step(event, now):
            match effect:
                case SaveTask(saved):
                    assert all(other.id != saved.id for other in self.unsaved), "one save at a time"
                    self.unsaved.append(saved)
                case Announce(shown):
                    self.announced(shown)
                case RunTask(id):
                    assert self.stored[id].state is TaskState.RUNNING, "durable before a device is asked"
        self.core.check()
        assert self.core.visible == self.stored

    def announced(self, shown: Task) -> None:
        assert self.stored[shown.id] == shown
        assert shown.id not in self.ended, "an end is the last word"
        if not NEXT[shown.state]:
            self.ended.add(shown.id)

    def flush(self, now: float) -> None:
        saves, self.unsaved = self.unsaved, []
        for saved in saves:
            self.step(Saved(saved), now)


@given(st.lists(st.tuples(events, st.booleans()), max_size=40))
def test_no_history_ends_a_task_twice_or_shows_what_is_not_durable(history):
    journal, now = Journal(), 0.0
    for event, flush in history:
        now += 0.7
        journal.step(event, now)
        if flush:
            journal.flush(now)
