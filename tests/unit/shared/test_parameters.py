"""The parameter blob: the same bytes for the same arrays, and a clear refusal of anything else."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import Unreadable
from shared.parameters import decode_parameters, encode_parameters

SHAPES = st.lists(st.integers(1, 5), max_size=3).map(tuple)


@given(shapes=st.dictionaries(st.text(min_size=1, max_size=8), SHAPES, max_size=5), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_arrays_come_back_under_their_names(shapes, seed):
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    arrays.pop("__metadata__", None)
    back = decode_parameters(encode_parameters(arrays))
    assert back.keys() == arrays.keys()
    assert all(
        np.array_equal(back[name], array) and back[name].shape == array.shape
        for name, array in arrays.items()
    )


def test_the_order_in_which_arrays_are_given_does_not_matter():
    a, b = np.ones((2, 3), np.float32), np.zeros(5, np.float32)
    assert encode_parameters({"a": a, "b": b}) == encode_parameters({"b": b, "a": a})


def test_an_array_in_another_memory_order_gives_the_same_bytes():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert encode_parameters({"a": np.asfortranarray(a)}) == encode_parameters({"a": a})


def test_the_layout_is_the_published_safetensors_format():
    blob = encode_parameters({"b": np.array([1.5], np.float32), "a": np.array([[2.0, -1.0]], np.float32)})
    (length,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + length])
    assert length % 8 == 0
    assert header == {
        "a": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
    }
    assert blob[8 + length :] == struct.pack("<3f", 2.0, -1.0, 1.5)


def blob_of(header: object, body: bytes = b"\0" * 8) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_metadata_of_other_writers_is_passed_over():
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    assert list(decode_parameters(blob_of({"__metadata__": {"format": "pt"}, "a": entry}))) == ["a"]


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\x08\0\0",
        struct.pack("<Q", 1 << 40),
        struct.pack("<Q", 2) + b"{",
        blob_of([]),
        blob_of({"a": {"dtype": "F32", "shape": [2]}}),
        blob_of({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}),
        blob_of({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
        blob_of({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}),
        blob_of({"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}),
        blob_of({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}),
        blob_of({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}),
    ],
)
def test_a_broken_blob_is_unreadable(blob):
    with pytest.raises(Unreadable):
        decode_parameters(blob)


@given(data=st.binary(max_size=64))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_unreadable_or_arrays_and_nothing_else(data):
    try:
        arrays = decode_parameters(data)
    except Unreadable:
        return
    assert all(array.dtype == np.float32 for array in arrays.values())
