"""Rounds that are over: found again, bounded, and asked about updates long after."""

import pytest

from cloud.federated import history
from cloud.federated.history import History
from shared.learning import ClientRow, RoundRow, RoundView
from tests.unit.cloud.federated.test_round import header


def view(number: int, *clients: str) -> RoundView:
    row = RoundRow(
        round=number,
        phase="completed",
        version=number,
        asked=len(clients),
        accepted=len(clients),
        rejected=0,
        late=0,
        bytes_up=0,
        bytes_down=0,
        wall_s=1.0,
        aggregate_s=0.1,
    )
    rows = tuple(ClientRow(client=one, status="accepted", digest=f"{one}-{number}") for one in clients)
    return RoundView(row=row, clients=rows)


def test_rounds_are_found_by_their_numbers_and_the_last_time_of_a_client_is_known():
    kept = History.of([view(1, "a", "b"), view(2, "b"), view(3, "c")])
    assert [kept.find(number).row.round for number in (1, 2, 3)] == [1, 2, 3]
    assert kept.find(0) is kept.find(4) is History().find(1) is None
    assert kept.last == {"a": 1, "b": 2, "c": 3}


def test_the_oldest_rounds_lose_their_clients_at_the_bound_and_keep_their_numbers(monkeypatch):
    monkeypatch.setattr(history, "ROWS_KEPT", 5)
    kept = History()
    for number in range(1, 11):
        kept.add(view(number, "a", "b"))
        kept.check()
    assert [len(one.clients) for one in kept.views] == [0] * 8 + [2, 2]
    assert [one.row.accepted for one in kept.views] == [2] * 10
    kept.add(view(11, *"abcdefgh"))
    kept.check()
    assert len(kept.find(11).clients) == 8, "the newest round is whole, however many were in it"


@pytest.mark.parametrize(
    ("number", "client", "digest", "overlap", "expected"),
    [
        (1, "a", "a-1", 0, True),
        (2, "a", "a-1", 0, False),
        (1, "b", "a-1", 0, False),
        (1, "a", "a-2", 0, False),
        (1, "a", "a-2", 1, True),  # an asynchronous job counted it a round later
        (1, "a", "", 1, False),
        (7, "a", "a-7", 0, False),
    ],
)
def test_an_update_that_counts_is_known_by_its_digest(number, client, digest, overlap, expected):
    kept = History.of([view(1, "a", "b"), view(2, "a")])
    assert kept.counted(number, client, header(digest=digest), overlap) is expected


def test_only_the_newest_round_is_told_who_was_late():
    asked = RoundView(row=view(2).row, clients=(ClientRow(client="a", status="asked"),))
    kept = History.of([view(1, "a"), asked])
    kept.late(2, "a")
    kept.late(1, "a")
    kept.late(2, "nobody")
    assert [(one.row.late, [row.status for row in one.clients]) for one in kept.views] == [
        (0, ["accepted"]),
        (1, ["late"]),
    ]
