"""The checker itself: right histories, wrong ones, and a checker that tries every order."""

from collections.abc import Sequence
from itertools import permutations
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import linearizability
from tests.support.linearizability import (
    Done,
    Get,
    Operation,
    Put,
    Register,
    Stale,
    TooHard,
    Value,
    linearizable,
)


def put(call: float, end: float, value: object, revision: int | None, expected: int = -1) -> Operation:
    result = None if revision is None else Done(revision)
    return Operation("k", call, Put(value, expected), inf if revision is None else end, result)


def get(call: float, end: float, value: object, revision: int | None = None) -> Operation:
    return Operation("k", call, Get(), end, Value(value, revision))


def stale(call: float, end: float, expected: int, revision: int | None = None) -> Operation:
    return Operation("k", call, Put("never", expected), end, Stale(revision))


GOOD = {
    "nothing happened": [],
    "one after the other": [put(0, 1, "a", 1), get(2, 3, "a", 1), put(4, 5, "b", 2), get(6, 7, "b")],
    "a read of the empty register": [get(0, 1, None, 0)],
    "a read beside a write may see either": [put(0, 10, "a", 1), get(1, 2, "a"), get(3, 4, "a")],
    "or not yet": [put(0, 10, "a", 1), get(1, 2, None), get(3, 4, "a")],
    "two writes at once in the order of their revisions": [
        put(0, 10, "a", 2),
        put(0, 10, "b", 1),
        get(11, 12, "a", 2),
    ],
    "a write of which nobody knows, and that never was": [
        put(0, 0, "a", None),
        get(1, 2, None),
        get(5, 6, None),
    ],
    "and one that landed late": [put(0, 0, "a", None), get(1, 2, None), get(9, 10, "a")],
    "late, between others": [
        put(0, 0, "a", None),
        put(1, 2, "b", 1),
        get(3, 4, "b", 1),
        get(5, 6, "a", 2),
        put(7, 8, "c", 3),
    ],
    "compare and set": [
        put(0, 1, "a", 1),
        put(2, 3, "b", 2, expected=1),
        stale(4, 5, 1, 2),
        get(6, 7, "b", 2),
    ],
    "of two that race one wins": [put(0, 1, "a", 1), put(2, 9, "b", 2, expected=1), stale(2, 9, 1)],
    "one of which nobody knows was stale": [
        put(0, 1, "a", 1),
        Operation("k", 2, Put("b", 7)),
        get(3, 4, "a", 1),
    ],
    "an erasure is a write of nothing": [put(0, 1, "a", 1), put(2, 3, None, 2), get(4, 5, None, 2)],
}
BAD = {
    "a read of what nobody wrote": [put(0, 1, "a", 1), get(2, 3, "b")],
    "a stale read": [put(0, 1, "a", 1), put(2, 3, "b", 2), get(4, 5, "a")],
    "a read of an older state after a newer one": [put(0, 10, "a", 1), get(1, 2, "a"), get(3, 4, None)],
    "a write that was a success and is gone": [put(0, 1, "a", 1), get(2, 3, None)],
    "two writes with one revision": [put(0, 1, "a", 1), put(2, 3, "b", 1)],
    "a write that was done twice": [put(0, 1, "a", 1), put(2, 3, "b", 3)],
    "a write of which nobody knows, in two places": [
        put(0, 0, "a", None),
        get(1, 2, "a"),
        put(3, 4, "b", 2),
        get(5, 6, "b"),
        get(7, 8, "a"),
    ],
    "a conflict without a reason": [put(0, 1, "a", 1), stale(2, 3, 1)],
    "both of two that race win": [
        put(0, 1, "a", 1),
        put(2, 9, "b", 2, expected=1),
        put(2, 9, "c", 3, expected=1),
    ],
    "a value with the wrong revision": [put(0, 1, "a", 1), get(2, 3, "a", 2)],
    "an effect before its call": [get(0, 1, "a"), put(2, 3, "a", 1)],
    "an erasure that did not hold": [put(0, 1, "a", 1), put(2, 3, None, 2), get(4, 5, "a")],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_right_history_is_accepted(name: str) -> None:
    verdict = linearizable(GOOD[name], Register())
    assert verdict, str(verdict)


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_history_is_refused(name: str) -> None:
    verdict = linearizable(BAD[name], Register())
    assert not verdict
    assert "not linearizable" in str(verdict)


def test_keys_are_checked_alone() -> None:
    other = [Operation("other", one.call, one.what, one.end, one.result) for one in BAD["a stale read"]]
    verdict = linearizable([*GOOD["compare and set"], *other], Register())
    assert (verdict.good, verdict.key) == (False, "other")


def test_a_search_without_end_is_given_up_and_not_called_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linearizability, "NODES_MAX", 100)
    many = [put(0, 0, number, None) for number in range(20)]
    with pytest.raises(TooHard):
        linearizable([*many, get(1, 2, "never")], Register())


# Against one that tries every order -------------------------------------------------------------------

results = st.one_of(st.none(), st.integers(1, 4).map(Done), st.sampled_from([Stale(), Stale(1)]))


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    call = draw(st.integers(0, 6))
    if draw(st.booleans()):
        what, result = (
            Get(),
            Value(draw(st.sampled_from([None, "a", "b"])), draw(st.none() | st.integers(0, 3))),
        )
        return Operation("k", call, what, call + draw(st.integers(1, 5)), result)
    what, result = (
        Put(draw(st.sampled_from(["a", "b", None])), draw(st.sampled_from([-1, -1, 0, 1]))),
        draw(results),
    )
    return Operation("k", call, what, inf if result is None else call + draw(st.integers(1, 5)), result)


def naive(history: Sequence[Operation]) -> bool:
    """Every subset of those that nobody knows of, in every order that time allows."""
    known = [one for one in history if one.end < inf]
    unknown = [one for one in history if one.end == inf]
    for chosen in range(1 << len(unknown)):
        some = [*known, *(one for at, one in enumerate(unknown) if chosen >> at & 1)]
        if any(_fits(order) for order in permutations(some)):
            return True
    return False


def _fits(order: Sequence[Operation]) -> bool:
    model, state = Register(), Register().initial()
    for at, one in enumerate(order):
        if any(later.end < one.call for later in order[at + 1 :]):
            return False
        state = model.step(state, one.what, one.result)  # type: ignore[assignment,arg-type]
        if state is None:
            return False
    return True


@settings(max_examples=150, deadline=None)
@given(st.lists(operations(), max_size=5))
def test_it_agrees_with_one_that_tries_everything(history: list[Operation]) -> None:
    assert linearizable(history, Register()).good == naive(history)
