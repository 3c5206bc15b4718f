"""Arrays cross the wire bit for bit; what does not add up is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.errors import Unreadable
from shared.messages import Array
from shared.tensors import DTYPES, from_wire, pack_inputs, to_wire, unpack_inputs


@given(
    st.sampled_from(sorted(DTYPES)).flatmap(
        lambda name: hnp.arrays(name, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    )
)
def test_arrays_come_back_bit_for_bit(array):
    (back,) = unpack_inputs(pack_inputs([array]))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_big_endian_and_strided_arrays_are_made_plain():
    array = np.arange(12, dtype=">f4").reshape(3, 4)[:, ::2]
    assert np.array_equal(from_wire(to_wire(array)), array)


def test_json_for_a_wasi_module_stays_bytes():
    assert unpack_inputs(pack_inputs(b'{"x": 1}')) == b'{"x": 1}'


@pytest.mark.parametrize(
    "array",
    [
        Array("object", (1,), b"12345678"),
        Array("float32", (2,), b"1234"),
        Array("float32", (-1,), b""),
        Array("uint8", (1,) * 9, b"1"),
        Array("float32", (1 << 40, 1 << 40), b"1234"),
    ],
)
def test_what_does_not_add_up_is_refused(array):
    with pytest.raises(Unreadable):
        from_wire(array)


def test_objects_do_not_travel():
    with pytest.raises(ValueError, match="do not travel"):
        to_wire(np.array([object()]))
