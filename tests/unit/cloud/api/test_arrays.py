"""Arrays to JSON and back: no number changes on the way, and what would have to change is refused."""

import base64
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.api.arrays import JsonArray, to_array, to_json
from cloud.api.problems import BadRequest
from shared.tensors import DTYPES, AnyArray

shapes = st.lists(st.integers(0, 3), max_size=4).map(tuple)


@st.composite
def arrays(draw: st.DrawFn) -> AnyArray:
    dtype = np.dtype(draw(st.sampled_from(sorted(DTYPES))))
    shape = draw(shapes)
    size = int(np.prod(shape))
    data = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    if dtype.kind == "b":
        data = bytes(byte & 1 for byte in data)
    return np.frombuffer(data, dtype).reshape(shape)


@given(arrays())
def test_lists_come_back_as_the_same_array(array: AnyArray) -> None:
    wire = msgspec.json.encode(to_json(array))
    again = to_array(msgspec.json.decode(wire, type=JsonArray))
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    finite = np.isfinite(array)
    assert np.array_equal(again[finite], array[finite])
    assert np.isnan(again[~finite].astype(np.float64)).all()  # JSON has no infinities: null, NaN


@given(arrays())
def test_base64_comes_back_bit_by_bit(array: AnyArray) -> None:
    text = base64.b64encode(array.tobytes()).decode()
    again = to_array(JsonArray(data=text, dtype=array.dtype.name, shape=array.shape))
    assert again.tobytes() == array.tobytes()
    assert again.shape == array.shape


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        ([1.5], "int32", None),
        ([True], "int32", None),
        ([1], "bool", None),
        ([300], "uint8", None),
        ([-1], "uint8", None),
        ([2**70], "int64", None),
        ([1e300], "float32", None),
        (["1"], "float32", None),
        ([None], "int32", None),
        ([None, "1"], "float32", None),
        ([{}], "float32", None),
        ([[1, 2], [3]], "float32", None),
        ([1, 2, 3], "float32", (2, 2)),
        ([1, 2, 3], "float32", (-1,)),
        ([1], "complex64", None),
        ([1], "object", None),
        ("AAAA", "float32", None),
        ("AAAA", "float32", (1,)),
        ("AAAAAA==", "float32", (2**62, 4)),
        ("AAAAAA==", "float32", (-1,)),
        ("*", "uint8", (1,)),
        ("é", "uint8", (1,)),
    ],
)
def test_what_is_no_such_array_is_refused(data: Any, dtype: str, shape: tuple[int, ...] | None) -> None:
    with pytest.raises(BadRequest):
        to_array(JsonArray(data=data, dtype=dtype, shape=shape))


def test_nesting_beyond_what_travels_is_refused() -> None:
    deep: Any = 1.0
    for _ in range(9):
        deep = [deep]
    with pytest.raises(BadRequest, match="9 dimensions"):
        to_array(JsonArray(data=deep))


def test_null_is_not_a_number_and_stays_so() -> None:
    array = to_array(JsonArray(data=[1, None, 2.5]))
    assert np.isnan(array[1])
    assert to_json(array).data == [1.0, None, 2.5]
