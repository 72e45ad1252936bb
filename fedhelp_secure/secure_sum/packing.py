"""Several release values in one ring element.

A value x_j of ``ring_bits`` b occupies lane j, and an element is X = sum of x_j * 2**(b j) modulo
2**(b k) for k lanes, in a ring of at least so many bits. Addition of elements adds the lanes: a
carry out of one lane is part of the exact integer, and reading the lanes from the lowest up, each
as the centred remainder, takes it back. Masks are drawn over whole elements, so the headroom that a
sum of k-lane elements needs under CKKS is paid once an element (log2 of the total weight), not once
a lane.

Value i of a release is lane ``i % k`` of element ``i // k``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.errors import InternalError
from fedhelp_secure.secure_sum.ring import centre, low_bits, reduce, to_ring


class WrongLaneCount(InternalError):
    """Values do not fill whole elements, or elements do not give so many values."""

    code = "lanes"


def pack_lanes(values: NDArray[np.int64], *, ring_bits: int, lanes: int) -> NDArray[np.uint64]:
    """Elements of ``ring_bits * lanes`` bits: uint64 [ceil(len(values) / lanes)].

    The last element is filled up with zeros. Raises OutsideRing if a value does not fit its lane.
    """
    elements = -(-values.size // lanes)
    residues = to_ring(values, ring_bits)
    if lanes == 1:
        return residues
    # As signed integers: a residue differs by a multiple of 2**ring_bits, which the next lane would
    # take for a carry.
    filled = np.zeros((elements, lanes), dtype=np.uint64)
    filled.reshape(-1)[: values.size] = values.view(np.uint64)
    packed = filled[:, 0]
    for lane in range(1, lanes):
        packed = packed + (filled[:, lane] << np.uint64(ring_bits * lane))
    return packed & low_bits(ring_bits * lanes)


def unpack_lanes(
    elements: NDArray[np.uint64], *, ring_bits: int, lanes: int, values: int
) -> NDArray[np.int64]:
    """The first ``values`` values in ``elements``, each in [-2**(b-1), 2**(b-1)): int64 [values].

    Bits of an element above its lanes do not count: they are carries out of the highest lane.
    Raises WrongLaneCount unless ``values`` fill exactly these elements.
    """
    elements = reduce(elements, ring_bits * lanes)
    if -(-values // lanes) != elements.size:
        raise WrongLaneCount("so many values do not fill these elements.")
    if lanes == 1:
        return centre(elements, ring_bits)
    rest = elements.copy()
    unpacked = np.empty((elements.size, lanes), dtype=np.int64)
    for lane in range(lanes):
        value = centre(rest & low_bits(ring_bits), ring_bits)
        unpacked[:, lane] = value
        bits_left = ring_bits * (lanes - lane)
        rest = ((rest - value.astype(np.uint64)) & low_bits(bits_left)) >> np.uint64(ring_bits)
    return unpacked.reshape(-1)[:values]
