"""Roots and inclusion proofs beside pymerkle (PyPI), another implementation of RFC 6962."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from pymerkle import InmemoryTree  # type: ignore[import-untyped]

from fedhelp_secure.evidence.merkle import MerkleTree, leaf_hash

LEAVES = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


def others(leaves: list[bytes]) -> InmemoryTree:
    tree = InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        tree.append_entry(leaf)
    return tree


@settings(max_examples=60)
@given(leaves=LEAVES, data=st.data())
def test_the_other_implementation_has_our_roots_and_inclusion_proofs(
    leaves: list[bytes], data: st.DataObject
) -> None:
    other, ours = others(leaves), MerkleTree(leaves)
    size = data.draw(st.integers(1, len(leaves)))
    assert other.get_root(size) == ours.root(size)
    index = data.draw(st.integers(0, size - 1))
    # It counts leaves from 1, and begins a path with the leaf itself.
    proof = other.prove_inclusion(index + 1, size)
    assert [bytes.fromhex(node) for node in proof.serialize()["path"]] == [
        leaf_hash(leaves[index]),
        *ours.inclusion_proof(index, size),
    ]
