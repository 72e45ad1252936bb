"""What the providers that speak JSON over HTTPS have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.foundation_model import EMBEDDING_WIDTH
from fedhelp_server.broker.credentials import Credential
from fedhelp_server.broker.egress import Egress, EgressRules, Line
from fedhelp_server.broker.http import post
from fedhelp_server.broker.provider import Contact, Reply

_BYTES_PER_NUMBER = 64
"""A float64 has 24 characters at most; the rest is for servers that indent."""
_BYTES_BESIDES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a message says."""

    embeddings: NDArray[np.float32]
    cost: Decimal | None


class HttpsProvider(ABC):
    """One POST on a connection of its own for each batch."""

    def __init__(
        self, charter: Charter, rules: EgressRules, credential: Credential | None = None
    ) -> None:
        """Raises EgressMisconfigured or CharterRefused."""
        self.model = charter.foundation_model
        self._credential = credential
        self._egress = Egress(charter, rules)

    @property
    def repeatable(self) -> bool:
        """As the charter says."""
        return self.model.idempotent

    @property
    @abstractmethod
    def target(self) -> str:
        """Path of the request."""

    @abstractmethod
    def request(self, images: NDArray[np.uint8]) -> bytes:
        """The body for grey ``images`` [N, H, W]."""

    @abstractmethod
    def parse(self, data: bytes, *, count: int) -> Parsed:
        """What an answer to ``count`` images says; raises AnswerRefused."""

    def connect(self) -> HttpsConnection:
        """Raises CallNotSent or EgressRefused."""
        return HttpsConnection(self, self._egress.connect())

    def close(self) -> None:
        """End what is running and allow no other connection."""
        self._egress.close()

    def headers(self, key: str) -> dict[str, str]:
        """Of a request with the idempotency key ``key``."""
        headers = {
            "Host": self._egress.authority,
            "Content-Type": "application/json",
            "Accept": "application/json",
            # A structured string: draft-ietf-httpapi-idempotency-key-header.
            "Idempotency-Key": f'"{key}"',
        }
        if self._credential is not None:
            headers["Authorization"] = self._credential.authorization()
        return headers

    def answer_bytes(self, count: int) -> int:
        """The longest answer to ``count`` images that is read: numbers in JSON grow in memory."""
        room = count * EMBEDDING_WIDTH * _BYTES_PER_NUMBER + _BYTES_BESIDES
        return min(room, self._egress.rules.answer_bytes)


class HttpsConnection:
    """A line on which one request may be sent."""

    def __init__(self, provider: HttpsProvider, line: Line) -> None:
        self._provider = provider
        self._line = line

    @property
    def contact(self) -> Contact | None:
        """The other end."""
        return self._line.contact

    def ask(self, body: bytes, *, count: int, key: str) -> Reply:
        """See `fedhelp_server.broker.provider.Connection`."""
        provider = self._provider
        message = post(
            self._line,
            target=provider.target,
            headers=provider.headers(key),
            body=body,
            answer_bytes=provider.answer_bytes(count),
        )
        parsed = provider.parse(message, count=count)
        return Reply(parsed.embeddings, digest(message), parsed.cost)

    def close(self) -> None:
        """Let go of it."""
        self._line.close()
