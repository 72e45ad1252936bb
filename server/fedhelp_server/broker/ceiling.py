"""How much of the foundation model may be used: checked before the first byte leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from fedhelp_secure.errors import PolicyError


class CeilingReached(PolicyError):
    """A call would use more than the broker's operator allows."""

    code = "foundation-model-ceiling"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Of one logical call, all batches together; None sets no limit."""

    images: int | None = None
    request_bytes: int | None = None
    cost: Decimal | None = None
    """In the provider's currency."""
    price_per_image: Decimal | None = None
    """What the operator expects an image to cost; needed to check a cost before it is made."""

    def check(self, *, images: int, request_bytes: int) -> None:
        """Raises CeilingReached if a whole call of that size is over a limit."""
        if self.images is not None and images > self.images:
            raise CeilingReached(
                f"the call has {images} images, over the ceiling of {self.images}; nothing was "
                "sent. Raise --maximum-images or make a smaller public set."
            )
        if self.request_bytes is not None and request_bytes > self.request_bytes:
            raise CeilingReached(
                f"the call has {request_bytes} bytes, over the ceiling of {self.request_bytes}; "
                "nothing was sent. Raise --maximum-bytes or make a smaller public set."
            )
        if self.cost is None:
            return
        if self.price_per_image is None:
            raise CeilingReached(
                "--maximum-cost needs --price-per-image, so that it can be kept before anything "
                "is sent."
            )
        if self.price_per_image * images > self.cost:
            raise CeilingReached(
                f"the call would cost {self.price_per_image * images}, over the ceiling of "
                f"{self.cost}; nothing was sent. Raise --maximum-cost."
            )

    def check_next(self, reported: Sequence[Decimal]) -> None:
        """Raises CeilingReached if one more batch, as dear as the dearest, goes over the cost."""
        if self.cost is None or not reported:
            return
        if sum(reported, Decimal(0)) + max(reported) > self.cost:
            raise CeilingReached(
                "the provider charges more than was expected: the next batch would go over the "
                "ceiling, so it was not sent. What came back is kept: raise --maximum-cost."
            )
