"""RFC 6962 vectors of the certificate-transparency reference implementation, and properties."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_secure.evidence.merkle import (
    EMPTY_ROOT,
    MerkleTree,
    OutsideTree,
    ProofRefused,
    check_consistency,
    check_inclusion,
    leaf_hash,
    node_hash,
)

# https://github.com/transparency-dev/merkle, testonly/constants.go and testonly/reference_test.go
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
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUSION = [
    (0, 1, []),
    (0, 2, [A]),
    (1, 2, [ROOTS[1]]),
    (2, 3, [ROOTS[2]]),
    (1, 5, [ROOTS[1], B, D]),
    (0, 8, [A, B, C]),
    (5, 8, [D, E, ROOTS[4]]),
]
CONSISTENCY = [(1, 1, []), (1, 8, [A, B, C]), (2, 5, [B, D]), (6, 8, [F, E, ROOTS[4]])]


@pytest.mark.parametrize("size", range(9))
def test_root_is_the_published_one(size: int) -> None:
    assert MerkleTree(LEAVES[:size]).root().hex() == ROOTS[size]
    assert MerkleTree(LEAVES).root(size).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "expected"), INCLUSION)
def test_inclusion_proof_is_the_published_one(index: int, size: int, expected: list[str]) -> None:
    path = MerkleTree(LEAVES).inclusion_proof(index, size)
    assert [node.hex() for node in path] == expected
    root = bytes.fromhex(ROOTS[size])
    check_inclusion(leaf_hash(LEAVES[index]), index, size=size, path=path, root=root)


@pytest.mark.parametrize(("first", "second", "expected"), CONSISTENCY)
def test_consistency_proof_is_the_published_one(
    first: int, second: int, expected: list[str]
) -> None:
    path = MerkleTree(LEAVES).consistency_proof(first, second)
    assert [node.hex() for node in path] == expected
    roots = [bytes.fromhex(ROOTS[size]) for size in (first, second)]
    check_consistency(first, second, path=path, first_root=roots[0], second_root=roots[1])


def definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, written as the RFC writes it."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    pair = definition(leaves[:split]) + definition(leaves[split:])
    return hashlib.sha256(b"\x01" + pair).digest()


sizes = st.integers(1, 300)


def numbered(size: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(size)]


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_root_follows_the_definition(leaves: list[bytes]) -> None:
    tree = MerkleTree(leaves)
    for size in range(len(leaves) + 1):
        assert tree.root(size) == definition(leaves[:size])


@given(st.data(), sizes)
def test_every_inclusion_proof_checks_and_no_altered_one(data: st.DataObject, size: int) -> None:
    tree = MerkleTree(numbered(data.draw(st.integers(size, 300))))
    index = data.draw(st.integers(0, size - 1))
    leaf, path = leaf_hash(b"entry %d" % index), tree.inclusion_proof(index, size)
    root = tree.root(size)
    check_inclusion(leaf, index, size=size, path=path, root=root)
    altered = data.draw(alterations(path))
    with pytest.raises(ProofRefused):
        check_inclusion(leaf, index, size=size, path=altered, root=root)
    with pytest.raises(ProofRefused):
        check_inclusion(leaf_hash(b"another"), index, size=size, path=path, root=root)
    other = data.draw(st.integers(0, 300).filter(lambda number: number != index))
    with pytest.raises(ProofRefused):
        check_inclusion(leaf, other, size=size, path=path, root=root)


@given(st.data(), sizes)
def test_every_consistency_proof_checks_and_no_altered_one(data: st.DataObject, size: int) -> None:
    leaves = numbered(size)
    tree = MerkleTree(leaves)
    first = data.draw(st.integers(1, size))
    old, new, path = tree.root(first), tree.root(), tree.consistency_proof(first, size)
    check_consistency(first, size, path=path, first_root=old, second_root=new)
    altered = data.draw(alterations(path))
    with pytest.raises(ProofRefused):
        check_consistency(first, size, path=altered, first_root=old, second_root=new)
    leaves[data.draw(st.integers(0, first - 1))] = b"rewritten"
    forged = MerkleTree(leaves)
    with pytest.raises(ProofRefused):
        check_consistency(
            first,
            size,
            path=forged.consistency_proof(first, size),
            first_root=old,
            second_root=forged.root(),
        )


@st.composite
def alterations(draw: st.DrawFn, path: list[bytes]) -> list[bytes]:
    kinds = ["longer"] + (["shorter", "flipped", "cut"] if path else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "longer":
        return [*path, draw(st.binary(min_size=32, max_size=32))]
    if kind == "shorter":
        place = draw(st.integers(0, len(path) - 1))
        return path[:place] + path[place + 1 :]
    place = draw(st.integers(0, len(path) - 1))
    if kind == "cut":
        return [*path[:place], path[place][:-1], *path[place + 1 :]]
    flipped = bytearray(path[place])
    flipped[draw(st.integers(0, 31))] ^= 1 << draw(st.integers(0, 7))
    return [*path[:place], bytes(flipped), *path[place + 1 :]]


@pytest.mark.parametrize(
    ("index", "size"), [(-1, 3), (3, 3), (0, 0), (0, 9), (8, 9), (2**63, 2**64 - 1)]
)
def test_an_inclusion_proof_outside_the_tree_is_refused(index: int, size: int) -> None:
    with pytest.raises(OutsideTree):
        MerkleTree(LEAVES).inclusion_proof(index, size)


@pytest.mark.parametrize(("first", "second"), [(0, 3), (-1, 3), (4, 3), (3, 9), (9, 9)])
def test_a_consistency_proof_outside_the_tree_is_refused(first: int, second: int) -> None:
    with pytest.raises(OutsideTree):
        MerkleTree(LEAVES).consistency_proof(first, second)


@pytest.mark.parametrize("size", [-1, 9])
def test_a_root_outside_the_tree_is_refused(size: int) -> None:
    with pytest.raises(OutsideTree):
        MerkleTree(LEAVES).root(size)


@pytest.mark.parametrize("path", [[bytes(32)] * 65, [bytes(31)], [bytes(32), bytes(33)], [b""]])
def test_a_path_that_is_no_list_of_hashes_is_refused(path: list[bytes]) -> None:
    with pytest.raises(ProofRefused, match="64 hashes"):
        check_inclusion(EMPTY_ROOT, 0, size=2, path=path, root=EMPTY_ROOT)
    with pytest.raises(ProofRefused, match="64 hashes"):
        check_consistency(1, 2, path=path, first_root=EMPTY_ROOT, second_root=EMPTY_ROOT)


def test_an_inner_node_is_no_leaf() -> None:
    tree = MerkleTree(LEAVES[:4])
    inner = bytes.fromhex(A)
    with pytest.raises(ProofRefused):
        check_inclusion(inner, 0, size=2, path=[tree.root(2)], root=tree.root())


@pytest.mark.parametrize(("first", "second"), [(0, 3), (4, 3)])
def test_consistency_of_impossible_sizes_is_refused(first: int, second: int) -> None:
    with pytest.raises(ProofRefused):
        check_consistency(first, second, path=[], first_root=EMPTY_ROOT, second_root=EMPTY_ROOT)


def test_two_roots_of_one_size_are_two_histories() -> None:
    with pytest.raises(ProofRefused, match="two histories"):
        check_consistency(1, 1, path=[], first_root=EMPTY_ROOT, second_root=leaf_hash(b""))


def test_an_empty_consistency_proof_is_refused() -> None:
    tree = MerkleTree(LEAVES)
    with pytest.raises(ProofRefused, match="empty"):
        check_consistency(3, 8, path=[], first_root=tree.root(3), second_root=tree.root())


@given(st.integers(1, 600))
def test_an_append_and_its_root_hash_logarithmically_often(size: int) -> None:
    tree = MerkleTree(numbered(size))
    with pytest.MonkeyPatch.context() as patch:
        calls: list[None] = []

        def counted(left: bytes, right: bytes) -> bytes:
            calls.append(None)
            return node_hash(left, right)

        patch.setattr("fedhelp_secure.evidence.merkle.node_hash", counted)
        tree.append(leaf_hash(b"next"))
        tree.root()
    assert len(calls) <= 2 * size.bit_length()
