import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.runtime.errors import BadModule
from edge.runtime.parameters import match, read_safetensors
from tests.unit.edge.runtime.modules import BIAS, SCALE, affine_abi, safetensors


def blob(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str = "F32", shape: tuple[int, ...] = (1,), offsets: tuple[int, int] = (0, 4)) -> object:
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def test_every_type_of_the_abi_comes_back_as_it_went_in() -> None:
    arrays = {
        "f": np.array([[1.5, -2.0]], np.float32),
        "i": np.array([7], np.int32),
        "l": np.array([1 << 40], np.int64),
        "u": np.array([0, 255], np.uint8),
        "b": np.array([True, False]),
        "scalar": np.array(3.0, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }
    read = read_safetensors(safetensors(**arrays))
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_no_blob_means_no_parameters() -> None:
    assert read_safetensors(b"") == {}


@pytest.mark.parametrize(
    "bad",
    [
        b"\x01",
        struct.pack("<Q", 1 << 60),
        struct.pack("<Q", 9) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"\xff\xff",
        blob({"x": 1}),
        blob(entry(dtype="F64", offsets=(0, 8)), bytes(8)),
        blob(entry(offsets=(0, 8)), bytes(4)),
        blob(entry(offsets=(-4, 0)), bytes(4)),
        blob(entry(offsets=(4, 0)), bytes(4)),
        blob(entry(shape=(-1,)), bytes(4)),
        blob(entry(shape=(1 << 62, 1 << 62)), bytes(4)),
        blob(entry(shape=(2,)), bytes(4)),
    ],
)
def test_a_malformed_blob_is_refused_and_never_read_out_of_bounds(bad: bytes) -> None:
    with pytest.raises(BadModule):
        read_safetensors(bad)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_with_the_one_typed_error(data: bytes) -> None:
    with contextlib.suppress(BadModule):
        read_safetensors(data)


@given(st.integers(0, 300), st.integers(0, 255))
def test_one_flipped_byte_is_refused_or_changes_only_values(at: int, value: int) -> None:
    data = bytearray(safetensors(scale=SCALE, bias=BIAS))
    data[at % len(data)] = value
    try:
        read = read_safetensors(bytes(data))
    except BadModule:
        return
    assert sum(array.nbytes for array in read.values()) <= len(data)


def test_the_tensors_are_put_in_the_order_of_the_region() -> None:
    found = match(affine_abi(1).parameters, {"bias": BIAS, "scale": SCALE})
    assert found[0] is SCALE
    assert found[1] is BIAS


def test_all_that_does_not_fit_is_named_at_once() -> None:
    tensors = {"bias": BIAS.astype(np.float64), "extra": SCALE}
    with pytest.raises(BadModule, match=r"bias is float64.*extra is not a parameter.*scale is missing"):
        match(affine_abi(1).parameters, tensors)
