"""Choosing ring, lanes and scale: as many values in a ciphertext as the bounds allow."""

from __future__ import annotations

from collections.abc import Sequence

from fedhelp_secure.charter import CharterRefused, SecureSum, noise_fits
from fedhelp_secure.secure_sum.authenticator import LARGEST_RING_BITS, check_values

_MODULUS_BITS = 60
_SCALES = range(14, 41)
_MOST_LANES = 7


def plan_secure_sum(
    *, values: int, fraction_bits: int, bound_of_sum: int, weights: Sequence[int]
) -> SecureSum:
    """The parameters for releases of ``values`` integers whose weighted sum is bounded.

    ``weights`` has one entry for each hospital. The ring is the smallest that holds the sum and a
    digit of a tag, the scale the smallest that keeps CKKS noise within a quarter, and the lanes are
    all that then fit. Raises CharterRefused if not even one lane fits.
    """
    total = sum(weights)
    # One bit for the sign; the authenticator's digits need one bit beside the weights and the sign.
    ring_bits = max(8, bound_of_sum.bit_length() + 1, total.bit_length() + 2)
    scale_bits = next(
        (bits for bits in _SCALES if noise_fits(sum(weight**2 for weight in weights), bits)), None
    )
    if ring_bits > LARGEST_RING_BITS or scale_bits is None:
        raise CharterRefused(
            f"a weighted sum of up to {bound_of_sum} grid units with a total weight of {total} is "
            "beyond the secure sum; lower fraction_bits, maximum_patients or the weights."
        )
    room = (1 << (_MODULUS_BITS - 1 - scale_bits)) // total
    lanes = min(_MOST_LANES, (room.bit_length() - 1) // ring_bits)
    if lanes < 1:
        raise CharterRefused(
            f"one value of {ring_bits} bits with a total weight of {total} does not fit a "
            "ciphertext; lower fraction_bits, maximum_patients or the weights."
        )
    return SecureSum(
        values=values,
        check_values=check_values(ring_bits, total),
        ring_bits=ring_bits,
        lanes=lanes,
        fraction_bits=fraction_bits,
        scale_bits=scale_bits,
    )
