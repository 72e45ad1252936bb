"""The steps of a call as the journal writes them down, each a JSON file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.charter import Digest
from fedhelp_secure.foundation_model import Amount, Moment


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def encoded(self) -> bytes:
        """The bytes of its file."""
        return canonical_json(self.model_dump(mode="json"))


class Intent(_Step):
    """Who asked for the call, and when."""

    version: Literal[2] = 2
    requested_by: str
    called_at: Moment


class Sent(_Step):
    """A batch that is about to be sent."""

    batch: int = Field(ge=1)
    images: int = Field(ge=1)
    request_digest: Digest
    request_bytes: int = Field(ge=1)
    sent_at: Moment
    address: str | None
    tls_key: Digest | None


class Received(_Step):
    """The answer to the batch that was sent last; its embeddings are stored already."""

    answer_digest: Digest
    seconds: float = Field(ge=0)
    cost: Amount | None
