"""Choosing ring, lanes and scale: as many values in a ciphertext as the bounds allow."""

from __future__ import annotations

from collections.abc import Sequence

from fedhelp_secure.charter import (
    MOST_LANES,
    SCALE_BITS,
    SMALLEST_RING_BITS,
    CharterRefused,
    SecureSum,
    capacity_bits,
    noise_fits,
)
from fedhelp_secure.secure_sum.authenticator import check_elements

FEW_TAGS = 4
"""Of at least 15 bits each: more would cost more than the bytes that they save."""


def plan_secure_sum(
    *, values: int, fraction_bits: int, bound_of_sum: int, weights: Sequence[int]
) -> SecureSum:
    """The parameters for releases of ``values`` integers whose weighted sum is bounded.

    ``weights`` has one entry for each hospital. A lane is the smallest that holds the sum, the
    scale the smallest that keeps CKKS noise within a quarter, and the lanes are all that then fit.
    An element has no more bits than they and strong tags need: see `_packed_bits`. Raises
    CharterRefused if not even one lane fits.
    """
    total = sum(weights)
    # One bit for the sign.
    ring_bits = max(SMALLEST_RING_BITS, bound_of_sum.bit_length() + 1)
    weights_squared = sum(weight**2 for weight in weights)
    scale_bits = next((bits for bits in SCALE_BITS if noise_fits(weights_squared, bits)), None)
    room = 0 if scale_bits is None else (1 << capacity_bits(scale_bits)) // total
    widest = room.bit_length() - 1
    lanes = min(MOST_LANES, widest // ring_bits)
    if lanes < 1 or scale_bits is None:
        raise CharterRefused(
            f"a weighted sum of up to {bound_of_sum} grid units with a total weight of {total} "
            "does not fit a ciphertext; lower fraction_bits, maximum_patients or the weights."
        )
    packed_bits = _packed_bits(ring_bits=ring_bits, least=ring_bits * lanes, most=widest)
    return SecureSum(
        values=values,
        check_elements=check_elements(ring_bits=ring_bits, packed_bits=packed_bits),
        ring_bits=ring_bits,
        lanes=lanes,
        packed_bits=packed_bits,
        fraction_bits=fraction_bits,
        scale_bits=scale_bits,
    )


def _packed_bits(*, ring_bits: int, least: int, most: int) -> int:
    """Bits of an element: as few whole bytes as make do with FEW_TAGS, else as many as there are.

    Every tag costs a coefficient for every value, and every byte travels in every answer.
    """
    whole_bytes = range(-(-least // 8) * 8, most + 1, 8)
    for bits in whole_bytes:
        if check_elements(ring_bits=ring_bits, packed_bits=bits) <= FEW_TAGS:
            return bits
    return whole_bytes[-1] if whole_bytes else most
