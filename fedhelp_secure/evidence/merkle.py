"""Merkle trees, inclusion proofs and consistency proofs as in RFC 6962 and RFC 9162 section 2.1.

Hashes are 32 bytes of SHA-256; leaves and inner nodes are hashed under different first bytes, so
that no inner node can pass for a leaf. The proving half (`MerkleTree`) keeps the hash of every
complete subtree; the checking half (`check_inclusion`, `check_consistency`) needs no tree and
follows RFC 9162 sections 2.1.3.2 and 2.1.4.2 step by step.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence

from fedhelp_secure.errors import PeerError

HASH_BYTES = 32
MAXIMUM_PATH = 64
"""No tree of fewer than 2**64 leaves has a longer audit path."""

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of the tree without leaves."""


class ProofRefused(PeerError):
    """A Merkle proof does not prove what it was sent for."""

    code = "proof"


class OutsideTree(PeerError):
    """An index or size was asked for that this tree does not have."""

    code = "outside-tree"


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """An append-only tree of leaf hashes that remembers the hash of every complete subtree.

    Appending hashes O(log n) times (once on average), a root O(log n), a proof O(log(n)**2).
    Not thread-safe: its owner locks.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        # Hash i of _levels[k] is that of leaves [i * 2**k, (i + 1) * 2**k), all present. Bytes
        # in a row: a million leaves take 64 MB, and as objects three times that.
        self._levels: list[bytearray] = [bytearray()]
        for leaf in leaves:
            self.append(leaf_hash(leaf))

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Add one leaf by its 32-byte leaf hash."""
        self._levels[0] += leaf
        level = 0
        while len(self._levels[level]) % (2 * HASH_BYTES) == 0:
            if level + 1 == len(self._levels):
                self._levels.append(bytearray())
            pair = bytes(self._levels[level][-2 * HASH_BYTES :])
            self._levels[level + 1] += node_hash(pair[:HASH_BYTES], pair[HASH_BYTES:])
            level += 1

    def root(self, size: int | None = None) -> bytes:
        """The root over the first ``size`` leaves (all of them by default).

        Raises OutsideTree if the tree has fewer leaves.
        """
        wanted = self.size if size is None else size
        if not 0 <= wanted <= self.size:
            raise OutsideTree("the log has no tree of this size; ask for at most its present size.")
        return EMPTY_ROOT if wanted == 0 else self._subtree(0, wanted)

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """PATH(index, D[0:size]) of RFC 6962 section 2.1.1, lowest level first.

        Raises OutsideTree unless index < size <= the present size.
        """
        if not 0 <= index < size <= self.size:
            raise OutsideTree("an inclusion proof needs an index below a size that the log has.")
        path: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start = middle
        return path[::-1]

    def consistency_proof(self, first: int, second: int) -> list[bytes]:
        """PROOF(first, D[0:second]) of RFC 6962 section 2.1.2.

        Raises OutsideTree unless 1 <= first <= second <= the present size.
        """
        if not 1 <= first <= second <= self.size:
            raise OutsideTree("a consistency proof needs 1 <= first <= second <= the log's size.")
        path: list[bytes] = []
        start, end, known = 0, second, True
        while first != end:
            middle = start + _split(end - start)
            if first <= middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start, known = middle, False
        if not known:
            path.append(self._subtree(start, end))
        return path[::-1]

    def _subtree(self, start: int, end: int) -> bytes:
        # Callers only ask for subtrees that RFC 6962 splitting yields: `start` is a multiple of
        # the largest power of two in the range, so every left half is in the cache.
        width = end - start
        if width & (width - 1) == 0:
            place = start // width * HASH_BYTES
            return bytes(self._levels[width.bit_length() - 1][place : place + HASH_BYTES])
        middle = start + _split(width)
        return node_hash(self._subtree(start, middle), self._subtree(middle, end))


def check_inclusion(
    leaf: bytes, index: int, *, size: int, path: Sequence[bytes], root: bytes
) -> None:
    """Raises ProofRefused unless ``path`` leads from the leaf hash to ``root`` (RFC 9162 2.1.3.2).

    ``leaf`` is the 32-byte leaf hash at ``index`` of a tree of ``size`` leaves.
    """
    _check_path_form(path)
    if not 0 <= index < size:
        raise ProofRefused("an inclusion proof is for an index outside its tree; do not use it.")
    number, last = index, size - 1
    computed = leaf
    for sibling in path:
        if last == 0:
            raise ProofRefused("an inclusion proof is too long for its tree; do not use it.")
        if number & 1 or number == last:
            computed = node_hash(sibling, computed)
            while number & 1 == 0 and number != 0:
                number >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        number >>= 1
        last >>= 1
    if last != 0 or not hmac.compare_digest(computed, root):
        raise ProofRefused("an inclusion proof does not lead to the signed root; do not use it.")


def check_consistency(
    first: int, second: int, *, path: Sequence[bytes], first_root: bytes, second_root: bytes
) -> None:
    """Raises ProofRefused unless the tree of ``first`` leaves is a prefix of that of ``second``.

    RFC 9162 section 2.1.4.2; ``first`` is at least 1.
    """
    _check_path_form(path)
    if not 1 <= first <= second:
        raise ProofRefused("a consistency proof needs sizes with 1 <= first <= second.")
    if first == second:
        if path or not hmac.compare_digest(first_root, second_root):
            raise ProofRefused("two roots of one size differ: the log has two histories.")
        return
    steps = list(path)
    if first & (first - 1) == 0:
        steps.insert(0, first_root)
    if not steps:
        raise ProofRefused("a consistency proof is empty; ask for it again.")
    old, new = _climb(first - 1, second - 1, steps)
    if not (hmac.compare_digest(old, first_root) and hmac.compare_digest(new, second_root)):
        raise ProofRefused("a consistency proof fails: the log has rewritten its history.")


def _climb(number: int, last: int, steps: Sequence[bytes]) -> tuple[bytes, bytes]:
    while number & 1:
        number >>= 1
        last >>= 1
    old = new = steps[0]
    for sibling in steps[1:]:
        if last == 0:
            raise ProofRefused("a consistency proof is too long for its trees; do not use it.")
        if number & 1 or number == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while number & 1 == 0 and number != 0:
                number >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        number >>= 1
        last >>= 1
    if last != 0:
        raise ProofRefused("a consistency proof is too short for its trees; do not use it.")
    return old, new


def _check_path_form(path: Sequence[bytes]) -> None:
    if len(path) > MAXIMUM_PATH or any(len(node) != HASH_BYTES for node in path):
        raise ProofRefused("a Merkle proof must be at most 64 hashes of 32 bytes.")


def _split(width: int) -> int:
    """The largest power of two below ``width`` (which is at least 2)."""
    return 1 << ((width - 1).bit_length() - 1)
