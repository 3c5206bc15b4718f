"""Telemetry over REST: series by time, the ledger, dead letters."""

import base64

import httpx
import pytest

from shared.errors import Refused
from tests.unit.cloud.api.conftest import Tell
from tests.unit.cloud.api.fleet import TELEMETRY_UNIX_S, FakeFleet
from tests.unit.cloud.api.test_routes import get

ROOM = "/nodes/edge-1/telemetry/room"
BEGIN = f"since={TELEMETRY_UNIX_S:.0f}"


def test_samples_come_one_by_one_or_gathered(tell: Tell[httpx.Response]) -> None:
    every_one = get(tell, f"{ROOM}?{BEGIN}").json()
    assert len(every_one["points"]) == 120
    assert every_one["points"][0] == {
        "at_unix_s": TELEMETRY_UNIX_S,
        "count": 1,
        "values": {"celsius": [20.0, 20.0, 20.0], "humidity": [0.5, 0.5, 0.5]},
    }
    minutes = get(tell, f"{ROOM}?{BEGIN}&every=1m").json()
    assert [point["count"] for point in minutes["points"]] == [40, 20 + 38, 22]
    assert minutes["points"][0]["values"]["celsius"] == [20.0, pytest.approx(21.95), pytest.approx(23.9)]


def test_a_long_answer_says_where_it_goes_on(tell: Tell[httpx.Response]) -> None:
    found, since = [], f"{TELEMETRY_UNIX_S:.0f}"
    while since:
        page = get(tell, f"{ROOM}?since={since}&limit=50").json()
        found += [point["at_unix_s"] for point in page["points"]]
        since = f"{page['next_unix_s']:.3f}" if page["next_unix_s"] else ""
    assert len(found) == len(set(found)) == 120


def test_times_may_be_iso(tell: Tell[httpx.Response]) -> None:
    iso = "2023-11-14T22:13:50"  # half a minute after the beginning, UTC
    assert len(get(tell, f"{ROOM}?since={iso}&until={iso}Z").json()["points"]) == 0
    assert len(get(tell, f"{ROOM}?since={iso}").json()["points"]) == 90


@pytest.mark.parametrize("query", ["since=yesterday", "every=fast", "until=x", "limit=0", "limit=100000"])
def test_a_question_without_sense_is_a_problem(tell: Tell[httpx.Response], query: str) -> None:
    said = get(tell, f"{ROOM}?{query}")
    assert said.status_code == 400
    assert said.json()["type"] == "urn:shoal:problem:bad-request"


def test_the_ledger_says_what_is_missing(tell: Tell[httpx.Response]) -> None:
    (row,) = get(tell, "/nodes/edge-1/ledger").json()
    assert (row["produced"], row["stored"], row["pending"], row["exact"]) == (122, 120, 2, False)
    assert row["missing"] == [[60, 62]]
    assert get(tell, "/ledger").json() == [row]
    assert get(tell, "/nodes/edge-2/ledger").json() == []


def test_dead_letters_show_their_bytes(tell: Tell[httpx.Response]) -> None:
    (one,) = get(tell, "/nodes/edge-1/letters").json()
    assert one["reason"] == "not a batch"
    assert base64.b64decode(one["payload"]) == b"\xc1\xffhello"


def test_a_cloud_that_refuses_is_a_problem(tell: Tell[httpx.Response], fleet: FakeFleet) -> None:
    fleet.failing = Refused("overloaded", "8 questions are being read")
    assert get(tell, "/nodes/edge-1/ledger").status_code == 503
