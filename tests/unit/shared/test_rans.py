"""Codes come back, nothing else is read, and they take about what their entropy says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared import rans
from shared.codecs import quantise, scales_of
from shared.errors import Unreadable

codes_of_any_kind = hnp.arrays(np.int8, st.integers(0, 300), elements=st.integers(-127, 127))


def spread(count: int, freedom: float, seed: int = 0) -> rans.Codes:
    """Of blocks scaled by their largest values. ``freedom``: of Student's t; little gives long tails."""
    rng = np.random.default_rng(seed)
    values = rng.standard_t(freedom, count).astype(np.float32)
    return quantise(values, scales_of(values), rng)


@given(codes_of_any_kind)
def test_any_codes_come_back(codes):
    data = rans.encode(codes)
    assert rans.decode(data, codes.size).tolist() == codes.tolist()
    assert len(data) <= rans.bytes_max(codes.size)


@pytest.mark.parametrize("freedom", [2, 3, 8, 1000])
def test_codes_take_little_more_than_their_entropy(freedom):
    codes = spread(rans.COUNT_MAX, freedom)
    counts = np.bincount(codes.astype(int) + 127, minlength=255)
    shares = counts[counts > 0] / codes.size
    entropy_bytes = -(shares * np.log2(shares)).sum() * codes.size / 8
    data = rans.encode(codes)
    assert rans.decode(data, codes.size).tolist() == codes.tolist()
    assert len(data) < 1.05 * entropy_bytes + 5  # so few codes look better ordered than they are


def test_the_tables_stay_as_they_are():
    """Both sides have them: another sum, or another order, is another format."""
    for index in range(len(rans.SHAPES)):
        table = rans._table(index)
        assert sum(table.widths) == len(table.owners) == 4096
        assert min(table.widths) >= 1
        assert table.widths == table.widths[::-1]
    assert rans.encode(np.arange(-3, 4, dtype=np.int8)).hex() == GOLDEN


@settings(max_examples=300)
@given(st.binary(max_size=80), st.integers(0, 60))
def test_any_bytes_are_refused_or_read(data, count):
    try:
        codes = rans.decode(data, count)
    except Unreadable:
        return
    assert codes.shape == (count,)
    assert not (codes == -128).any()


@settings(max_examples=200)
@given(st.data())
def test_codes_that_lost_or_gained_bytes_are_refused(data):
    written = rans.encode(spread(100, 3, data.draw(st.integers(0, 50))))
    cut = data.draw(st.integers(0, len(written) - 1))
    for wrong in (written[:cut], written + b"\0"):
        with pytest.raises(Unreadable):
            rans.decode(wrong, 100)
    for count in (99, 101):
        with pytest.raises(Unreadable):
            rans.decode(written, count)


def test_more_than_the_most_are_refused():
    with pytest.raises(Unreadable, match="2048 is the most"):
        rans.decode(bytes(5), rans.COUNT_MAX + 1)


GOLDEN = "00277c052bd91757"
