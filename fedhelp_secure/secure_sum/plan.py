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


def plan_secure_sum(
    *, values: int, fraction_bits: int, bound_of_sum: int, weights: Sequence[int]
) -> SecureSum:
    """The parameters for releases of ``values`` integers whose weighted sum is bounded.

    ``weights`` has one entry for each hospital. A lane is the smallest that holds the sum, the
    scale the smallest that keeps CKKS noise within a quarter, and the lanes are all that then fit.
    What is left of an element makes tags stronger, down to whole bytes. Raises CharterRefused if
    not even one lane fits.
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
    whole_bytes = widest // 8 * 8
    packed_bits = whole_bytes if whole_bytes >= ring_bits * lanes else widest
    return SecureSum(
        values=values,
        check_elements=check_elements(ring_bits=ring_bits, packed_bits=packed_bits),
        ring_bits=ring_bits,
        lanes=lanes,
        packed_bits=packed_bits,
        fraction_bits=fraction_bits,
        scale_bits=scale_bits,
    )
