"""Parts become updates, within bounds that no sender can move."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.federated.assembly import INCOMPLETE_S_MAX, JOB_BYTES_MAX, Assembly
from cloud.federated.events import Whole
from shared.learning import PART_BYTES, PARTS_MAX, UPDATE_BYTES_MAX, Task, UpdateHeader, UpdatePart
from tests.unit.cloud.federated.world import digest_of, parts

PLACE = ("digits", "a")


def header(data: bytes, **changes) -> UpdateHeader:
    claims = {
        "task": Task.TRAIN,
        "version": 0,
        "codec": "f32",
        "n_params": 10,
        "layout_hash": "l",
        "size_bytes": len(data),
        "digest": digest_of(data),
        "weight": 1,
        "steps": 1,
    }
    return UpdateHeader(**{**claims, **changes})


def data_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def begun(assembly: Assembly, data: bytes, place=PLACE, now: float = 0.0, **changes) -> list[UpdatePart]:
    sent = parts(header(data, **changes), data)
    assert assembly.begin(place, 1, sent[0], now) == ""
    return sent


@given(size=st.integers(0, 3 * PART_BYTES + 5), order=st.randoms(), again=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_parts_in_any_order_and_more_than_once_become_the_bytes_that_were_sent(size, order, again):
    assembly, data = Assembly(), data_of(size)
    sent = begun(assembly, data)
    mixed = sent[1:] + [order.choice(sent) for _ in range(again)] if len(sent) > 1 else []
    order.shuffle(mixed)
    whole: list[Whole] = []
    for part in [*mixed, sent[0]]:
        found = assembly.add(PLACE, 1, part, 0.0)
        assembly.check()
        whole += [found] if isinstance(found, Whole) else []
    assert [one.data.data for one in whole] == [data]
    assert not assembly.coming


@pytest.mark.parametrize(
    "change",
    [{"index": 5}, {"index": -1}, {"data": b"short"}, {"data": b""}, {"digest": "other"}],
)
def test_a_part_that_does_not_belong_changes_nothing(change):
    assembly = Assembly()
    sent = begun(assembly, data_of(2 * PART_BYTES))
    assert isinstance(assembly.add(PLACE, 1, msgspec.structs.replace(sent[1], **change), 0.0), str)
    assert assembly.add(PLACE, 2, sent[1], 0.0) == "a part of no update that has begun"
    assembly.add(PLACE, 1, sent[0], 0.0)
    assert isinstance(assembly.add(PLACE, 1, sent[1], 0.0), Whole)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"header": None}, "carries no header"),
        ({"digest": "other"}, "contradict each other"),
        ({"count": 7}, "contradict each other"),
    ],
)
def test_a_first_part_that_contradicts_itself_begins_nothing(change, complaint):
    assembly = Assembly()
    (part,) = parts(header(b"abc"), b"abc")
    assert complaint in assembly.begin(PLACE, 1, msgspec.structs.replace(part, **change), 0.0)
    assert not assembly.coming


def test_what_is_announced_is_set_aside_so_a_job_has_room_for_so_many_claims_only():
    assembly = Assembly()
    claim = header(b"x", size_bytes=UPDATE_BYTES_MAX)
    first = UpdatePart(epoch=1, digest=claim.digest, index=0, count=PARTS_MAX, header=claim)
    fits = JOB_BYTES_MAX // UPDATE_BYTES_MAX
    for number in range(fits):
        assert assembly.begin(("digits", f"c{number}"), 1, first, 0.0) == ""
    assert assembly.begin(("digits", "more"), 1, first, 0.0) == "no room for one more update"
    assert assembly.begin(("other", "c0"), 1, first, 0.0) == "", "another job has room of its own"
    assembly.check()
    assert len(list(assembly.expire(INCOMPLETE_S_MAX))) == fits + 1
    assert assembly.begin(("digits", "more"), 1, first, INCOMPLETE_S_MAX) == ""


def test_an_update_that_does_not_go_on_is_dropped_and_one_that_does_is_not():
    assembly = Assembly()
    sent = begun(assembly, data_of(3 * PART_BYTES))
    assembly.add(PLACE, 1, sent[0], 50.0)
    assert list(assembly.expire(100.0)) == []
    assert list(assembly.expire(50.0 + INCOMPLETE_S_MAX)) == [PLACE]
    assert assembly.add(PLACE, 1, sent[1], 111.0) == "a part of no update that has begun"


def test_a_client_has_one_update_on_its_way_the_one_it_began_last():
    assembly = Assembly()
    begun(assembly, data_of(2 * PART_BYTES, 1))
    sent = begun(assembly, data_of(2 * PART_BYTES, 2))
    assert len(assembly.coming) == 1
    assembly.add(PLACE, 1, sent[0], 0.0)
    assert isinstance(assembly.add(PLACE, 1, sent[1], 0.0), Whole)


def test_sending_all_parts_again_goes_on_where_it_was():
    assembly = Assembly()
    sent = begun(assembly, data_of(3 * PART_BYTES))
    assembly.add(PLACE, 1, sent[0], 0.0)
    assembly.add(PLACE, 1, sent[1], 0.0)
    assert assembly.begin(PLACE, 1, sent[0], 1.0) == ""
    assert isinstance(assembly.add(PLACE, 1, sent[2], 1.0), Whole)
