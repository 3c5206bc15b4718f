"""RFC 6962: the published vectors, and proofs against a deliberately naive tree."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.transparency import (
    EMPTY,
    Frontier,
    Head,
    consistency_path,
    consistent,
    included,
    inclusion_path,
    leaf_hash,
    node_hash,
    root_of,
    signed_head_bytes,
    subtrees,
)

# The leaves and roots of the Certificate Transparency reference implementation's test data.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]


def naive(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962, section 2.1 writes it down."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(naive(leaves[:k]), naive(leaves[k:]))


def test_the_roots_of_the_first_leaves_are_the_published_ones() -> None:
    assert EMPTY.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    frontier = Frontier()
    assert frontier.root() == EMPTY
    for leaf, root in zip(HASHES, ROOTS, strict=True):
        frontier.add(leaf)
        assert frontier.root().hex() == root


def test_the_published_proofs() -> None:
    subtree = subtrees(HASHES)
    assert [one.hex() for one in inclusion_path(0, 8, subtree)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert [one.hex() for one in consistency_path(1, 8, subtree)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert [one.hex() for one in consistency_path(6, 8, subtree)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 31, 64, 65, 100])
def test_every_record_and_every_beginning_can_be_shown(size: int) -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(size)]
    subtree, root = subtrees(leaves), naive(leaves)
    assert root_of(leaves) == root
    for index in range(size):
        path = inclusion_path(index, size, subtree)
        assert included(leaves[index], index, size, root, path)
        assert not included(leaves[index], index + 1, size, root, path) or size == 1
        assert not included(leaf_hash(b"other"), index, size, root, path)
        path = consistency_path(index + 1, size, subtree)
        assert consistent(index + 1, naive(leaves[: index + 1]), size, root, path)
        assert not consistent(index + 1, leaf_hash(b"other"), size, root, path)


@settings(deadline=None)
@given(st.integers(1, 200), st.data())
def test_no_other_history_has_a_proof(size: int, data: st.DataObject) -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(size)]
    old = data.draw(st.integers(1, size))
    changed = data.draw(st.integers(0, old - 1))
    other = [*leaves[:changed], leaf_hash(b"changed"), *leaves[changed + 1 :]]
    path = consistency_path(old, size, subtrees(other))
    assert not consistent(old, naive(leaves[:old]), size, naive(other), path)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.lists(st.binary(min_size=32, max_size=32), max_size=70))
def test_nonsense_from_the_network_is_no_proof_and_no_error(old: int, size: int, path: list[bytes]) -> None:
    assert not included(b"a" * 32, old, size, b"b" * 32, path)
    assert not consistent(old, b"a" * 32, size, b"b" * 32, path)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_there_is_no_proof_of_what_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no record"):
        inclusion_path(index, size, subtrees(HASHES))


def test_two_heads_never_sign_the_same_bytes() -> None:
    head = Head(log="l", number=1, size=2, root=b"r" * 32, at_unix_s=1.0)
    others = [
        Head(log="k", number=1, size=2, root=b"r" * 32, at_unix_s=1.0),
        Head(log="l", number=2, size=2, root=b"r" * 32, at_unix_s=1.0),
        Head(log="l", number=1, size=3, root=b"r" * 32, at_unix_s=1.0),
        Head(log="l", number=1, size=2, root=b"s" * 32, at_unix_s=1.0),
        Head(log="l", number=1, size=2, root=b"r" * 32, at_unix_s=2.0),
    ]
    assert len({signed_head_bytes(one) for one in [head, *others]}) == 6
