"""What a codec writes is read back within its error, on average exactly; what nobody wrote is refused."""

import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.codecs import (
    BLOCK,
    PIECE,
    SUM,
    decode,
    decode_sum,
    encode,
    encode_sum,
    pack_varints,
    quantise,
    restore,
    scales_of,
    unpack_varints,
)
from shared.errors import Unreadable
from shared.learning import Codec, CodecName

F32, INT8, TOPK = Codec(name=CodecName.F32), Codec(), Codec(name=CodecName.TOPK, ratio=0.1)
CODECS = (F32, INT8, TOPK)
LENGTHS = (1, 2, 255, 256, 257, 1000, 5000)

vectors = hnp.arrays(
    np.float32,
    st.integers(1, 700),
    elements=st.floats(-16, 16, width=32) | st.sampled_from([0.0, 1e-30, -1e-44]),
)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(n, seed=0, scale=0.01):
    return (rng_of(seed).standard_normal(n) * scale).astype(np.float32)


def framed(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(raw)


def stored(raw: bytes) -> bytes:
    return b"\0" + raw if raw[:1] in (b"\0", b"\x01", b"\x28") else raw


def bfloat16(value: float) -> bytes:
    return (np.array([value], np.float32).view("<u4") >> 16).astype("<u2").tobytes()


# What comes back ------------------------------------------------------------------------------------------


@given(vectors)
def test_f32_comes_back_bit_for_bit_and_leaves_nothing(delta):
    data, residual = encode(F32, delta, None, rng_of(0))
    assert decode("f32", data, delta.size).tobytes() == delta.tobytes()
    assert residual is None


@given(vectors, st.integers(0, 99))
def test_int8_is_off_by_less_than_one_step_of_its_block(delta, seed):
    back = decode("int8", encode(INT8, delta, None, rng_of(seed)).data, delta.size)
    step = np.repeat(scales_of(delta), BLOCK)[: delta.size]
    assert (np.abs(back - delta) <= step * 1.0001 + 1e-37).all()


@given(vectors, st.integers(0, 99), st.sampled_from([0.01, 0.1, 0.5, 1.0]))
def test_topk_keeps_the_largest_within_a_step_and_nothing_else(delta, seed, ratio):
    codec = Codec(name=CodecName.TOPK, ratio=ratio)
    back = decode("topk", encode(codec, delta, None, rng_of(seed)).data, delta.size)
    keep = max(1, round(ratio * delta.size))
    kept = np.flatnonzero(back)
    assert kept.size <= keep
    least = np.sort(np.abs(delta))[-keep]
    assert (np.abs(delta[kept]) >= least).all()
    assert np.abs(back - delta)[kept].max(initial=0) <= np.abs(delta).max() / 127 * 1.0001
    if ratio == 1.0:
        assert np.abs(back - delta).max() <= np.abs(delta).max() / 127 * 1.0001 + 1e-37


@pytest.mark.parametrize("codec", [INT8, Codec(name=CodecName.TOPK, ratio=1.0)])
def test_rounding_is_unbiased(codec):
    delta, times = normal(600), 4000
    rng = rng_of(1)
    total = np.zeros(delta.size)
    for _ in range(times):
        total += decode(codec.name, encode(codec, delta, None, rng).data, delta.size)
    # One rounding is off by at most half a step in standard deviation; 5 sigma of the mean over `times`.
    step = float(np.abs(delta).max()) / 127
    assert np.abs(total / times - delta).max() < 5 * step / 2 / np.sqrt(times)


@pytest.mark.parametrize("codec", [INT8, TOPK])
def test_pieces_that_fit_into_the_cache_leave_no_seam(codec):
    delta, before = normal(2 * PIECE + BLOCK + 3), normal(2 * PIECE + BLOCK + 3) / 100
    kept = delta.copy(), before.copy()
    data, left = encode(codec, delta, before, rng_of(4))
    back = decode(codec.name, data, delta.size)
    assert np.array_equal(left, delta + before - back)
    assert np.abs(left[np.flatnonzero(back)]).max() <= np.abs(delta + before).max() / 127 * 1.01
    assert (np.array_equal(delta, kept[0]), np.array_equal(before, kept[1])) == (True, True)
    codes = quantise(np.full(2 * PIECE, 0.5, np.float32), np.ones(512, np.float32), rng_of(5))
    assert not np.array_equal(*np.split(codes, 2))


def test_a_value_on_a_step_is_not_rounded_at_all():
    delta = np.arange(-127, 128, dtype=np.float32)
    for seed in range(20):
        assert np.array_equal(decode("int8", encode(INT8, delta, None, rng_of(seed)).data, 255), delta)


@pytest.mark.parametrize("codec", [INT8, TOPK, Codec(name=CodecName.TOPK, ratio=0.02)])
def test_with_feedback_nothing_is_lost_over_many_rounds(codec):
    rng, residual = rng_of(3), None
    sent, meant = np.zeros(3000), np.zeros(3000)
    for round_ in range(100):
        delta = normal(3000, seed=round_)
        data, residual = encode(codec, delta, residual, rng)
        sent += decode(codec.name, data, 3000)
        meant += delta
    assert np.abs(sent + residual - meant).max() < 1e-6


def test_feedback_beats_forgetting():
    """A small but steady change is never among the largest; only with feedback does it arrive."""

    def arrived(feedback):
        codec = Codec(name=CodecName.TOPK, ratio=0.01, feedback=feedback)
        rng, residual, sent = rng_of(0), None, np.zeros(1000)
        for round_ in range(300):
            delta = normal(1000, seed=round_, scale=1.0)
            delta[7] = 0.05
            data, residual = encode(codec, delta, residual, rng)
            sent += decode("topk", data, 1000)
        return sent[7]

    assert arrived(feedback=False) == 0
    assert arrived(feedback=True) > 0


@pytest.mark.parametrize("codec", CODECS)
def test_without_feedback_a_residual_is_neither_used_nor_returned(codec):
    codec = Codec(name=codec.name, feedback=False)
    delta, residual = normal(500), np.ones(500, np.float32)
    data, left = encode(codec, delta, residual, rng_of(0))
    assert left is None
    assert data == encode(codec, delta, None, rng_of(0)).data


def test_f32_sends_what_another_codec_left_out():
    data, left = encode(F32, np.ones(3, np.float32), np.full(3, 0.5, np.float32), rng_of(0))
    assert decode("f32", data, 3).tolist() == [1.5] * 3
    assert left is None


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_arrives_as_not_finite_and_leaves_no_residual(codec, bad):
    delta = normal(1000)
    delta[600] = bad
    data, left = encode(codec, delta, None, rng_of(0))
    assert not np.isfinite(decode(codec.name, data, 1000)).all()
    assert left is None


@pytest.mark.parametrize("codec", CODECS)
def test_a_residual_of_another_model_is_refused(codec):
    with pytest.raises(ValueError, match="residual"):
        encode(codec, normal(10), normal(11), rng_of(0))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("n", LENGTHS)
def test_equal_seeds_give_equal_bytes_and_inputs_stay_as_they_were(codec, n):
    delta, residual = normal(n), normal(n, seed=1)
    before = delta.tobytes(), residual.tobytes()
    assert encode(codec, delta, residual, rng_of(5)).data == encode(codec, delta, residual, rng_of(5)).data
    assert (delta.tobytes(), residual.tobytes()) == before


@pytest.mark.parametrize("codec", CODECS)
def test_zeros_come_back_as_zeros(codec):
    zeros = np.zeros(1000, np.float32)
    data, _ = encode(codec, zeros, None, rng_of(0))
    assert not decode(codec.name, data, 1000).any()
    assert len(data) < 64


@pytest.mark.parametrize(
    ("codec", "least"), [(INT8, 3.9), (TOPK, 19), (Codec(name=CodecName.TOPK, ratio=0.02), 80)]
)
def test_an_update_of_noise_shrinks_by(codec, least):
    """Normal noise is the worst that a training step can give."""
    assert 400_000 / len(encode(codec, normal(100_000), None, rng_of(0)).data) > least


def test_a_small_update_needs_no_table_of_its_own():
    """As in the pFedMe benchmark: coordinates of different widths."""
    widths = np.exp(rng_of(1).standard_normal(610) * 0.6).astype(np.float32)
    data, left = encode(INT8, normal(610) * widths, None, rng_of(0))
    assert data[0] == 1
    assert 4 * 610 / len(data) > 4.6
    assert left is not None


def test_one_scale_for_all_blocks_is_enough_for_the_codes():
    values, scale = normal(1000), np.float32(0.05 / 127)
    scales = np.full(4, scale)
    codes = quantise(values, scales, rng_of(0))
    assert np.abs(restore(codes, scales) - values).max() <= scale * 1.0001


STEP = 2.0**-7  # scale 0x3c000000
FORMATS = [  # codec, vector, content
    (F32, [1.0, -2.0], "0000803f 000000c0"),
    (INT8, [127 * STEP, -127 * STEP, 0.0, 32 * STEP], "003c 7f 81 00 20"),
    (
        Codec(name=CodecName.TOPK, ratio=0.01),
        [0.0] * 200 + [-127 * STEP, 2 * STEP, STEP] + [0.0] * 97,
        "03 c801 00 00 003c 81 02 01",
    ),
]


@pytest.mark.parametrize(("codec", "values", "content"), FORMATS, ids=["f32", "int8", "topk"])
def test_the_format_stays_as_it_is(codec, values, content):
    delta = np.array(values, np.float32)
    assert encode(codec, delta, None, rng_of(0)).data == stored(bytes.fromhex(content))
    for written in (b"\0" + bytes.fromhex(content), framed(bytes.fromhex(content))):
        assert decode(codec.name, written, delta.size).tolist() == values


def test_the_format_of_sums_stays_as_it_is():
    total = np.array([-1, 256])  # zigzag: 1 and 512; then all lowest bytes, and so on
    assert encode_sum(total) == b"\0" + bytes.fromhex("01 00 00 02") + bytes(12)
    assert decode_sum(framed(bytes.fromhex("01 00 00 02") + bytes(12)), 2).tolist() == total.tolist()


def test_what_can_be_compressed_is_a_frame_and_nothing_is_longer_than_its_content():
    assert encode(F32, np.zeros(1000, np.float32), None, rng_of(0)).data == framed(bytes(4000))
    one = normal(1)
    assert encode(F32, one, None, rng_of(0)).data == stored(one.tobytes())


# Varints --------------------------------------------------------------------------------------------------


def naive_varints(numbers) -> bytes:
    out = bytearray()
    for number in numbers:
        while number >= 0x80:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        out.append(number)
    return bytes(out)


@given(st.lists(st.integers(0, 2**35 - 1) | st.integers(0, 300)))
@example([0, 127, 128, 16383, 16384, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**35 - 1])
def test_varints_are_those_of_the_loop_that_anybody_would_write(numbers):
    packed = pack_varints(np.array(numbers, np.uint64))
    assert packed == naive_varints(numbers)
    assert unpack_varints(np.frombuffer(packed, np.uint8)).tolist() == numbers


# Sums -----------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.int64, st.integers(1, 300)))
@example(np.array([-(2**63), 2**63 - 1, 0, -1, 1]))
def test_sums_come_back_exactly(total):
    assert np.array_equal(decode_sum(encode_sum(total), total.size), total)


def test_the_sum_of_a_hundred_devices_takes_about_half():
    total = np.rint(normal(100_000, scale=0.01).astype(np.float64) * 2**24 * 100).astype(np.int64)
    assert len(encode_sum(total)) < 0.45 * total.nbytes


# What nobody wrote ----------------------------------------------------------------------------------------


def refused_or_a_vector(name, data, n):
    """Whatever is thrown at it: a vector of the right length, or the one error."""
    try:
        vector = decode_sum(data, n) if name == SUM else decode(name, data, n)
    except Unreadable:
        return
    assert vector.shape == (n,)


names = st.sampled_from([*CodecName, SUM])


@given(names, st.binary(max_size=200), st.integers(1, 600))
def test_any_bytes_are_refused_or_read(name, data, n):
    refused_or_a_vector(name, data, n)


@settings(max_examples=400)
@given(names, st.binary(max_size=400), st.integers(1, 100))
def test_any_content_in_a_good_frame_is_refused_or_read(name, raw, n):
    refused_or_a_vector(name, framed(raw), n)
    refused_or_a_vector(name, b"\0" + raw, n)


@settings(max_examples=400)
@given(st.sampled_from(CODECS), st.data())
def test_a_damaged_update_is_refused_or_read(codec, data):
    n = data.draw(st.sampled_from(LENGTHS))
    written = bytearray(encode(codec, normal(n), None, rng_of(0)).data)
    for _ in range(data.draw(st.integers(1, 4))):
        written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(written)))
    refused_or_a_vector(codec.name, bytes(written), n)
    refused_or_a_vector(codec.name, bytes(written[:cut]), n)


@pytest.mark.filterwarnings("error")
def test_a_scale_that_overflows_or_is_infinite_is_read_as_not_finite():
    for scale in (np.inf, 3e38):
        read = decode("int8", framed(bfloat16(scale) + bytes([0, 127])), 2)
        assert not np.isfinite(read[1])


@settings(max_examples=300)
@given(st.lists(st.integers(0, 2**35 - 1) | st.integers(0, 40), max_size=40), st.binary(max_size=60))
def test_gaps_that_lead_anywhere_are_refused_or_read(numbers, rest):
    refused_or_a_vector("topk", framed(naive_varints(numbers) + rest), 50)


@pytest.mark.parametrize("n", [0, 3, 5, 1000])
@pytest.mark.parametrize("codec", [F32, INT8])
def test_a_vector_of_another_length_is_refused(codec, n):
    data = encode(codec, normal(4), None, rng_of(0)).data
    with pytest.raises(Unreadable, match="bytes"):
        decode(codec.name, data, n)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "missing"),
        (b"\x80\x80\x80\x80\x80", "missing"),
        (naive_varints([11]), "11 coordinates of 10"),
        (naive_varints([2, 0]) + bytes(4), "1 gaps for 2"),
        (naive_varints([2, 0, 0, 0]) + bytes(4), "3 gaps for 2"),
        (naive_varints([1, 10]) + bytes(3), "larger than the vector"),
        (naive_varints([2, 5, 5]) + bytes(4), "behind the end"),
        (naive_varints([1]) + b"\x80" + bytes(3), "cut off"),
        (naive_varints([1]) + b"\x80" * 6 + b"\x01" + bytes(3), "too long"),
        (naive_varints([1, 0]) + bfloat16(-1) + b"\x01", "negative"),
    ],
)
def test_topk_says_what_is_wrong(raw, why):
    with pytest.raises(Unreadable, match=why):
        decode("topk", framed(raw), 10)


def test_an_unknown_codec_is_refused_and_the_known_ones_are_named():
    with pytest.raises(Unreadable, match="f32, int8, topk"):
        decode("gzip", b"", 1)


def bombs(n):
    """Frames that want more memory than any update of ``n`` parameters can need."""
    yield framed(bytes(64 << 20))  # expands, and says so
    yield zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20))  # and doesn't say
    yield b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + bytes(16)  # only says so
    yield b"\x28\xb5\x2f\xfd\x00\xf8" + bytes(16)  # a window of 2 TiB
    exact = 4 * n
    yield (
        b"\x28\xb5\x2f\xfd\xa0" + exact.to_bytes(4, "little") + bytes(16)
    )  # says the right size, and is short
    yield framed(bytes(exact)) * 1000  # frame after frame
    yield bytes(1 << 20)  # no frame, and long
    yield b"\x01" + bytes(1 << 20)  # codes without end
    wide = zstandard.ZstdCompressionParameters(window_log=27)
    yield zstandard.ZstdCompressor(compression_params=wide).compress(bytes(exact)) + b"more"


@pytest.mark.parametrize("name", [*CodecName, SUM])
@pytest.mark.parametrize("n", [10, 1000])
def test_a_bomb_is_refused_without_its_memory(name, n):
    for bomb in bombs(n):
        tracemalloc.start()
        try:
            refused_or_a_vector(name, bomb, n)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 64 * n + 16_384


@pytest.mark.parametrize("name", [*CodecName, SUM])
def test_reading_allocates_a_few_vectors_at_most(name):
    n = 1_000_000
    worst = (
        Codec(name=CodecName.TOPK, ratio=1.0) if name == "topk" else Codec(name=name) if name != SUM else None
    )
    data = encode(worst, normal(n), None, rng_of(0)).data if worst else encode_sum(np.arange(n))
    tracemalloc.start()
    try:
        refused_or_a_vector(name, data, n)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * n
