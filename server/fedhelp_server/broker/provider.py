"""What the broker asks of a foundation model, whichever protocol it speaks."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.errors import PeerError, PolicyError, UnavailablePeer
from fedhelp_secure.foundation_model import EMBEDDING_WIDTH


class EgressRefused(PolicyError):
    """A connection was about to go, or went, where the charter or the operator does not allow."""

    code = "egress"


class CallNotSent(UnavailablePeer):
    """Certainly nothing was sent; the same call may succeed later."""


class Stopping(CallNotSent):
    """The broker is being stopped: it sends nothing any more."""

    def __init__(self) -> None:
        super().__init__("the broker is stopping; ask again when it is back.")


class CallLost(UnavailablePeer):
    """Something may have arrived, and no whole answer came; ``reason`` is short and stable."""

    def __init__(self, reason: str) -> None:
        super().__init__("the connection to the foundation model was lost during the call.")
        self.reason = reason


class AnswerRefused(PeerError):
    """The foundation model's answer may not be used; ``reason`` is short and stable."""

    code = "foundation-model-answer"

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Contact:
    """Who is at the other end of a connection, as far as TLS proves it."""

    address: str
    """IP address and port."""
    tls_key: str
    """Digest of the server's SubjectPublicKeyInfo."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A valid answer to one batch."""

    embeddings: NDArray[np.float32]
    """[N, 768], finite."""
    digest: str
    """Of the message as it came."""
    cost: Decimal | None
    """As reported."""


class Connection(Protocol):
    """A way to the model that stands, on which nothing has been sent yet. For one request."""

    @property
    def contact(self) -> Contact | None:
        """The other end; None if the model is on this machine, in a file."""

    def ask(self, body: bytes, *, count: int, key: str) -> Reply:
        """Send ``body`` once, with the idempotency key ``key``; embeddings of ``count`` images.

        Raises CallLost or AnswerRefused.
        """

    def close(self) -> None:
        """Let go of it."""


class Provider(Protocol):
    """One charter's foundation model. `close` may be called by another thread, all else not."""

    @property
    def repeatable(self) -> bool:
        """Whether asking the same twice is, by the provider's guarantee, like asking once."""

    def request(self, images: NDArray[np.uint8]) -> bytes:
        """The body of the request for grey ``images`` [N, H, W]: made here from pixels alone."""

    def connect(self) -> Connection:
        """Raises CallNotSent or EgressRefused; nothing of a request is sent."""

    def close(self) -> None:
        """End what is running (CallLost) and allow no other connection (CallNotSent)."""


def checked_embeddings(
    values: NDArray[np.floating], shape: tuple[int, ...], *, count: int
) -> NDArray[np.float32]:
    """``values`` as float32 [count, 768]; raises AnswerRefused for anything else.

    ``shape`` is what the answer says of itself; ``values`` may be flat.
    """
    if tuple(shape) != (count, EMBEDDING_WIDTH) or values.size != count * EMBEDDING_WIDTH:
        raise AnswerRefused(
            "answer-shape", f"the foundation model's answer is not {count} x {EMBEDDING_WIDTH}."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        embeddings = values.astype(np.float32).reshape(count, EMBEDDING_WIDTH)
    if not np.isfinite(embeddings).all() or not embeddings.any(axis=1).all():
        raise AnswerRefused(
            "answer-values", "the foundation model's answer has values that are not usable."
        )
    return embeddings
