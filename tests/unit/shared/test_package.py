"""One file per model, the same bytes every time, and hostile bytes are refused with a reason."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.abi import Abi, Function, Parameters, Tensor, encode_section, read_abi
from shared.errors import Unreadable
from shared.package import MAGIC, ModuleKind, Package, PackageInfo, pack, unpack

EMPTY_MODULE = b"\0asm\x01\0\0\0"


def abi(**changes) -> Abi:
    fields = {
        "version": 1,
        "memory_bytes": 65536,
        "functions": (
            Function("run", (Tensor("x", "f32", (1, 4), 128),), (Tensor("y", "f32", (1, 2), 256),)),
        ),
        "parameters": Parameters(64, 32, "hash", (Tensor("w", "f32", (2, 4), 64),)),
    }
    return Abi(**{**fields, **changes})


def test_equal_packages_are_equal_bytes_whatever_the_order():
    info = PackageInfo(name="m", operators={"relu": 1, "linear": 2})
    swapped = PackageInfo(name="m", operators={"linear": 2, "relu": 1})
    one = pack(Package(info=info, modules={1: b"a", 32: b"b"}))
    two = pack(Package(info=swapped, modules={32: b"b", 1: b"a"}))
    assert one == two
    assert unpack(one).modules == {1: b"a", 32: b"b"}
    assert unpack(one).info.kind is ModuleKind.TENSOR


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_unreadable(data):
    for candidate in (data, MAGIC + data):
        try:
            unpack(candidate)
        except Unreadable:
            continue


def test_a_package_without_a_module_is_refused():
    with pytest.raises(Unreadable, match="no module"):
        unpack(pack(Package(info=PackageInfo(name="m"), modules={})))


def test_the_abi_is_read_back_from_a_module():
    assert read_abi(EMPTY_MODULE + encode_section(abi())) == abi()
    assert read_abi(EMPTY_MODULE) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "version 2"),
        ({"memory_bytes": 70}, "outside the memory"),
        ({"functions": (Function("run", (Tensor("x", "f32", (1 << 30,), 0),), ()),)}, "outside the memory"),
        ({"functions": (Function("run", (Tensor("x", "f32", (-1,), 0),), ()),)}, "known type"),
        ({"functions": (Function("run", (Tensor("x", "q8", (1,), 0),), ()),)}, "known type"),
        ({"functions": (Function("run", (Tensor("x", "f32", (1,), 2),), ()),)}, "aligned"),
        ({"functions": (Function("run", (Tensor("x", "f32", (1,), -4),), ()),)}, "outside the memory"),
    ],
)
def test_an_abi_that_does_not_add_up_is_refused(changes, reason):
    with pytest.raises(Unreadable, match=reason):
        read_abi(EMPTY_MODULE + encode_section(abi(**changes)))


def test_cut_and_broken_modules_are_refused():
    whole = EMPTY_MODULE + encode_section(abi())
    for length in range(len(whole)):
        if length == len(EMPTY_MODULE):
            continue
        with pytest.raises(Unreadable):
            read_abi(whole[:length])
    with pytest.raises(Unreadable):
        read_abi(EMPTY_MODULE + b"\0\xff\xff\xff\xff\xff\xff")


@given(st.binary(max_size=120))
def test_no_bytes_after_the_magic_raise_anything_but_unreadable(data):
    try:
        read_abi(EMPTY_MODULE + data)
    except Unreadable:
        return


def test_json_in_the_section_is_limited():
    body = msgspec.json.encode({"pad": "x" * (1 << 20)})
    content = b"\x09shoal.abi" + body
    length = len(content)
    leb = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
    with pytest.raises(Unreadable, match="the limit"):
        read_abi(EMPTY_MODULE + b"\0" + leb + content)
