"""Fewer chunks, the same samples."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cloud.telemetry.joining import BYTES_MAX, SAMPLES_MAX, SPAN_S_MAX, joined
from cloud.telemetry.store import Chunk, StreamKey
from shared.messages import Sample

A, B = StreamKey("a", 1, "s"), StreamKey("b", 1, "s")


def chunk(key, first, count, at=0.0, text="n"):
    times = [at + place for place in range(count)]
    samples = [Sample(one, {text: float(first + place)}) for place, one in enumerate(times)]
    return Chunk(key, first, first + count, times[0], times[-1], msgspec.msgpack.encode(samples))


def samples(chunks):
    found = {}
    for one in chunks:
        decoded = msgspec.msgpack.decode(one.samples, type=list[Sample])
        assert len(decoded) == one.end - one.first
        times = [sample.at_unix_s for sample in decoded]
        assert (min(times), max(times)) == (one.at_min_unix_s, one.at_max_unix_s)
        for number, sample in enumerate(decoded, one.first):
            assert found.setdefault((one.key, number), sample) == sample
    return found


steps = st.tuples(
    st.sampled_from([A, B]),
    st.sampled_from([0, 0, 0, 1, -5]),  # a gap before it, or an earlier place
    st.sampled_from([1, 2, 15, 16, 17, 300]),
    st.sampled_from([0.0, 10.0, SPAN_S_MAX, 1e6]),
    st.sampled_from(["n", "x" * 60]),
)


@given(story=st.lists(steps, max_size=12))
def test_the_same_samples_in_fewer_chunks_of_bounded_size(story):
    ends, chunks = {A: 100, B: 100}, []
    for key, gap, count, at, text in story:
        chunks.append(chunk(key, ends[key] + gap, count, at, text))
        ends[key] = max(ends[key], chunks[-1].end)
    if len({(one.key, number) for one in chunks for number in range(one.first, one.end)}) < sum(
        one.end - one.first for one in chunks
    ):
        return  # settled chunks never overlap
    found = joined(chunks)
    assert samples(found) == samples(chunks)
    assert len(found) <= len(chunks)
    for one in found:
        if one not in chunks:
            assert one.end - one.first <= SAMPLES_MAX
            assert len(one.samples) <= BYTES_MAX + 3
            assert one.at_max_unix_s - one.at_min_unix_s <= SPAN_S_MAX


def test_what_follows_is_joined_though_others_come_between():
    mixed = [chunk(key, number * 3, 3, at=number * 3.0) for number in range(20) for key in (A, B)]
    found = joined(mixed)
    assert [(one.key, one.first, one.end) for one in found] == [(A, 0, 60), (B, 0, 60)]


def test_what_does_not_follow_stays_apart():
    apart = [chunk(A, 0, 3), chunk(A, 4, 3, at=4.0), chunk(B, 3, 3, at=3.0)]
    assert joined(apart) == tuple(apart)
