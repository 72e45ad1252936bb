"""What every reader yields, and the limits that all of them keep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.images import MAXIMUM_SIDE, MINIMUM_SIDE
from fedhelp_client.data.types import ImageRefused

MAXIMUM_SLICES = 2_000
"""Of one file or series; a longer one is not a picture that somebody labelled as a whole."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One file or series: its grey slices, and what its reader noticed."""

    slices: tuple[NDArray[np.uint8], ...]
    """uint8 [H, W] each, bright is bright."""
    owner: str | None = None
    """Digest of the file's own patient identifier, if it has one; never shown or stored."""
    notes: tuple[str, ...] = ()
    """Sentences for the hospital's operator about this file; no metadata in them."""


def check_shape(slices: int, height: int, width: int, name: str) -> None:
    """Raises ImageRefused unless so many slices of that size may be decoded."""
    if min(height, width) < MINIMUM_SIDE:
        raise ImageRefused(
            f"{name} is smaller than {MINIMUM_SIDE} pixels; export it in its full size."
        )
    if max(height, width) > MAXIMUM_SIDE:
        raise ImageRefused(
            f"{name} is larger than {MAXIMUM_SIDE} pixels; export it at its native resolution."
        )
    if not 1 <= slices <= MAXIMUM_SLICES:
        raise ImageRefused(
            f"{name} must have 1 to {MAXIMUM_SLICES} slices; split it, or name its frames one by "
            "one."
        )


def to_eight_bits(
    values: NDArray[np.floating], low: float, high: float, *, inverted: bool = False
) -> NDArray[np.uint8]:
    """``values`` of any shape, ``low`` to ``high`` stretched to 0 to 255 and clipped."""
    span = max(high - low, np.finfo(np.float64).tiny)
    scaled = np.clip((values - low) / span, 0.0, 1.0)
    grey: NDArray[np.uint8] = np.rint((1.0 - scaled if inverted else scaled) * 255).astype(np.uint8)
    return grey
