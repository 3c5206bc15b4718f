"""One pass as a core: who is let in, when it is enough, and what everybody else is told."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.federated.events import Heard, Judge, Judged, Pass, Payload, Verdict, Whole
from cloud.federated.gate import ATTEMPTS_MAX, Expected, Rejection
from cloud.federated.records import Answer, Opening
from cloud.federated.round import JUDGE_S_MAX, NEXT, Round, Stage
from shared.codecs import SUM
from shared.core import Failed, Tick
from shared.errors import InvalidTransition
from shared.learning import ModelRef, ReceiptStatus, Reject, Task, UpdateHeader
from tests.transcript import Transcript, shown
from tests.unit.cloud.federated.world import spec

COHORT = ("a", "b", "c", "d")
MODEL = ModelRef(version=4, layout_hash="l" * 64, n_params=40, check="c" * 64, snapshot="5" * 64)


def a_round(
    wanted: int = 3, quorum: int = 2, budget_s: float = 10.0, *, opened: bool = True, **changes
) -> Round:
    opening = Opening(round=5, attempt=0, task=Task.TRAIN, cohort=COHORT, seed=7, budget_s=10.0)
    expected = Expected(
        task=Task.TRAIN,
        version=MODEL.version,
        layout_hash=MODEL.layout_hash,
        n_params=MODEL.n_params,
        codecs=frozenset({"f32", SUM}),
        samples_max=1000,
        size_bytes_max=4096,
    )
    made = Round(at=Pass(spec(), MODEL, opening), expected=expected, wanted=wanted, quorum=quorum, **changes)
    if opened:
        made.start(0.0)
    return made


def header(client: str = "a", **changes) -> UpdateHeader:
    claims = {
        "task": Task.TRAIN,
        "version": 4,
        "codec": "f32",
        "n_params": 40,
        "layout_hash": MODEL.layout_hash,
        "size_bytes": 100,
        "digest": f"{client}-1",
        "weight": 10,
        "steps": 5,
    }
    return UpdateHeader(**{**claims, **changes})


def whole(client: str, **changes) -> Whole:
    return Whole(client, 5, header(client, **changes), Payload(b"x" * 100))


def good(one: Round, client: str, digest: str = "") -> Judged:
    return Judged(one.at.id, client, 5, digest or f"{client}-1", norm=1.0)


def bad(one: Round, client: str) -> Judged:
    rejection = Rejection(Reject.NOT_FINITE, "a coordinate is not a finite number")
    return Judged(one.at.id, client, 5, f"{client}-1", rejection)


def run(one: Round, *events: object, now: float = 1.0) -> list[object]:
    effects: list[object] = []
    for event in events:
        effects += one.step(event, now)
        one.check()
    return effects


def accepted(one: Round, client: str, now: float = 1.0) -> list[object]:
    return run(one, whole(client), good(one, client), now=now)


def told(effects: list[object]) -> list[str]:
    return [
        f"{one.client}: {one.receipt.status.value} {one.receipt.reason}".strip()
        for one in effects
        if isinstance(one, Verdict)
    ]


def brief(thing: object) -> str:
    """A line without what is the same in all of them."""
    match thing:
        case Judge(_, update, seconds):
            return f"Judge({update.client}, after {seconds:g} s)"
        case Whole(client=client, header=said):
            return f"Whole({client}, digest={said.digest})"
        case Judged(client=client, rejection=rejection):
            return f"Judged({client}{', ' + rejection.reason if rejection else ''})"
        case Verdict(client, _, receipt):
            return f"Verdict({client}, {receipt.status} {receipt.reason})".replace(" )", ")")
        case Heard(client=client, header=said):
            return f"Heard({client}, digest={said.digest})"
        case Failed(Judge(_, update), reason):
            return f"Failed(Judge({update.client}), {reason})"
    return shown(thing)


# Stories -------------------------------------------------------------------------------------------


def test_three_of_four_are_enough_and_the_fourth_is_told_that_it_was_late():
    one = a_round()
    (
        Transcript("federated/three-of-four", one, brief)
        .at(1.0, whole("a"), whole("b"))
        .at(1.5, good(one, "b"))
        .at(2.0, whole("d"), whole("c"))
        .at(2.5, good(one, "a"), Heard("a", 5, header("a")))
        .at(3.0, good(one, "d"), Heard("b", 5, header("b")))
        .until(20.0)
        .matches()
    )
    assert (one.stage, one.accepted, one.late) == (Stage.CLOSED, 3, 1)


def test_a_quorum_is_enough_when_a_device_sleeps_through_the_round():
    one = a_round()
    (
        Transcript("federated/quorum-at-the-deadline", one, brief)
        .at(1.0, whole("a"), good(one, "a"), whole("b"))
        .at(9.9, whole("c"))
        .until(11.0)
        .at(11.5, good(one, "b"), Heard("d", 5, header("d")))
        .at(12.0, bad(one, "c"))
        .at(13.0, Heard("c", 5, header("c", digest="c-2")))
        .matches()
    )
    assert (one.stage, one.accepted, one.rejected, one.late) == (Stage.CLOSED, 2, 1, 1)


def test_without_a_quorum_at_the_deadline_the_round_fails_and_says_by_how_much():
    one = a_round()
    accepted(one, "a")
    run(one, Tick(), now=9.9)
    assert one.stage is Stage.OPEN
    run(one, Tick(), now=10.0)
    assert one.stage is Stage.FAILED
    assert one.reason == "1 of 4 updates were accepted by the deadline; the quorum is 2"


def test_it_does_not_wait_for_the_deadline_when_everybody_has_answered():
    one = a_round(wanted=4)
    for client in "ab":
        accepted(one, client)
    run(one, whole("c"), bad(one, "c"))
    assert one.stage is Stage.OPEN
    run(one, whole("d"), bad(one, "d"))
    assert (one.stage, one.accepted, one.rejected) == (Stage.CLOSED, 2, 2)


def test_no_more_is_with_the_judge_than_may_still_count():
    one = a_round(wanted=2)
    effects = run(one, whole("a"), whole("b"), whole("c"))
    assert [work.whole.client for work in effects if isinstance(work, Judge)] == ["a", "b"]
    effects = run(one, bad(one, "a"))
    assert [work.whole.client for work in effects if isinstance(work, Judge)] == ["c"], "a place became free"


def test_an_update_that_could_not_be_judged_gets_no_receipt_and_may_come_again():
    one = a_round()
    (judge,) = [work for work in run(one, whole("a")) if isinstance(work, Judge)]
    assert told(run(one, Failed(judge, "the disk is full"))) == []
    assert told(accepted(one, "a")) == ["a: accepted"]


def test_a_judge_that_never_answers_does_not_hold_the_round_for_ever():
    one = a_round(quorum=1)
    accepted(one, "a")
    run(one, whole("b"))
    run(one, Tick(), now=10.0)
    assert one.stage is Stage.CLOSING
    run(one, Tick(), now=10.0 + JUDGE_S_MAX)
    assert (one.stage, one.reason) == (Stage.FAILED, "the disk did not answer within 120 s")
    assert told(run(one, good(one, "b"), now=500.0)) == []


# Who is let in -------------------------------------------------------------------------------------


def test_the_same_update_again_is_a_duplicate_and_another_one_is_refused():
    one = a_round()
    accepted(one, "a")
    assert told(run(one, Heard("a", 5, header("a")))) == ["a: duplicate"]
    assert told(run(one, Heard("a", 5, header("a", digest="a-2")))) == ["a: rejected too-many"]
    assert told(run(one, whole("a"))) == ["a: duplicate"]
    assert one.accepted == 1


def test_the_same_update_again_while_it_is_judged_is_neither():
    one = a_round()
    run(one, whole("a"))
    assert told(run(one, Heard("a", 5, header("a")), whole("a"))) == []
    assert list(one.judging) == [("a", 5)]


def test_who_was_not_asked_is_refused_and_takes_no_place_in_the_report():
    one = a_round()
    assert told(run(one, Heard("stranger", 5, header("stranger")))) == ["stranger: rejected not-asked"]
    assert "stranger" not in one.rows


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 3}, "wrong-version"),
        ({"layout_hash": "x"}, "wrong-layout"),
        ({"weight": 1001}, "weight"),
        ({"size_bytes": 5000}, "wrong-size"),
        ({"task": Task.EVALUATE}, "wrong-task"),
        ({"codec": "topk"}, "unreadable"),
    ],
)
def test_a_header_that_breaks_a_rule_costs_its_parts_nothing(change, reason):
    assert told(run(a_round(), Heard("a", 5, header("a", **change)))) == [f"a: rejected {reason}"]


def test_a_client_that_tries_too_often_is_not_looked_at_any_more():
    one = a_round()
    for number in range(ATTEMPTS_MAX):
        digest = f"a-{number}"
        effects = run(one, whole("a", digest=digest), judged_bad(one, digest))
        assert told(effects) == ["a: rejected not-finite"]
    assert told(run(one, Heard("a", 5, header("a")))) == ["a: rejected too-many"]


def judged_bad(one: Round, digest: str) -> Judged:
    return Judged(one.at.id, "a", 5, digest, Rejection(Reject.NOT_FINITE, ""))


# Gateways ------------------------------------------------------------------------------------------


def of_many(*members: str) -> dict[str, object]:
    return {"codec": SUM, "clients": len(members), "members": members, "digest": "g-1"}


def test_a_gateway_answers_for_its_devices_and_they_can_not_answer_again():
    one = a_round(gateways=("g",))
    effects = run(one, whole("g", **of_many("a", "b")), good(one, "g"))
    assert told(effects) == ["g: accepted"]
    assert one.accepted == 2
    assert {client: row.status for client, row in one.rows.items()} == {
        "a": "accepted",
        "b": "accepted",
        "c": "asked",
        "d": "asked",
        "g": "accepted",
    }
    assert told(run(one, whole("c"), good(one, "c"))) == ["c: accepted"]
    assert one.stage is Stage.CLOSED


@pytest.mark.parametrize(
    ("sender", "members", "reason"),
    [
        ("a", ("a", "b"), "not-asked"),  # no gateway of this job
        ("g", ("a", "stranger"), "not-asked"),
        ("g", ("a", "c"), "too-many"),  # c has answered
        ("g", ("a", "d"), "too-many"),  # d is with the judge
    ],
)
def test_a_sum_of_devices_that_are_not_its_own_is_refused(sender, members, reason):
    one = a_round(gateways=("g",))
    accepted(one, "c")
    run(one, whole("d"))
    assert told(run(one, Heard(sender, 5, header(sender, **of_many(*members))))) == [
        f"{sender}: rejected {reason}"
    ]


# After a crash, and at any time --------------------------------------------------------------------


def test_what_the_log_holds_counts_and_is_answered_as_a_duplicate():
    one = a_round(opened=False)
    one.restore([Answer(client="a", asked=5, header=header("a"), norm=2.0, seconds=1.5)])
    one.start(0.0)
    assert (one.accepted, one.norms, one.rows["a"].seconds) == (1, [2.0], 1.5)
    assert told(run(one, Heard("a", 5, header("a")))) == ["a: duplicate"]


def test_a_log_that_holds_enough_closes_the_round_at_once():
    one = a_round(opened=False)
    one.restore([Answer(client=client, asked=5, header=header(client)) for client in "abc"])
    one.start(0.0)
    run(one, Tick())
    assert one.stage is Stage.CLOSED


def test_every_stage_is_reachable_and_every_dead_end_is_meant():
    reached, todo = {Stage.OPEN}, [Stage.OPEN]
    while todo:
        for after in NEXT[todo.pop()] - reached:
            reached.add(after)
            todo.append(after)
    assert reached == set(Stage) == set(NEXT)
    assert {stage for stage, after in NEXT.items() if not after} == {Stage.CLOSED, Stage.FAILED}


def test_a_move_that_the_table_forbids_is_our_own_bug():
    one = a_round()
    one.stage = Stage.CLOSED
    with pytest.raises(InvalidTransition):
        one._enter(Stage.OPEN)


CLIENTS = st.sampled_from([*COHORT, "stranger", "g"])
MOVES: dict[str, Callable[[Round, str], object]] = {
    "heard": lambda one, client: Heard(client, 5, header(client)),
    "whole": lambda one, client: whole(client),
    "other": lambda one, client: whole(client, digest=f"{client}-2"),
    "sum": lambda one, client: whole("g", **of_many(client, "a") if client != "a" else of_many("a")),
    "good": good,
    "bad": bad,
    "broken": lambda one, client: Failed(Judge(one.at, whole(client), 0.0), "disk"),
    "tick": lambda one, client: Tick(),
}


@given(history=st.lists(st.tuples(st.sampled_from(sorted(MOVES)), CLIENTS, st.floats(0, 3)), max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_history_keeps_the_invariants_and_ends(history):
    one, now, receipts = a_round(gateways=("g",)), 0.0, []
    for move, client, seconds in history:
        now += seconds
        effects = one.step(MOVES[move](one, client), now)
        one.check()
        receipts += [verdict for verdict in effects if isinstance(verdict, Verdict)]
    for _ in range(2):
        now += 1000.0
        receipts += [verdict for verdict in one.step(Tick(), now) if isinstance(verdict, Verdict)]
        one.check()
    assert one.over
    counted = [one for one in receipts if one.receipt.status is ReceiptStatus.ACCEPTED]
    assert len({(verdict.client, verdict.asked) for verdict in counted}) == len(counted), "once each"
    assert len(counted) <= len(one.done), "more may count: what a log held that nobody was told of"


@given(order=st.permutations(COHORT))
def test_the_report_does_not_depend_on_the_order_of_arrival(order):
    one = a_round(wanted=4)
    for client in order:
        accepted(one, client)
    rows = {client: msgspec.structs.replace(row, seconds=0.0) for client, row in one.rows.items()}
    assert list(rows) == list(COHORT)
    assert {row.status for row in rows.values()} == {"accepted"}
