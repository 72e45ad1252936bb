"""Answers as messages of the wire contract, in both directions."""

from __future__ import annotations

from pathlib import Path

from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.secure_sum.answers import Answer
from fedhelp_secure.wire.v1 import coordinator_pb2


def header_of(answer: Answer) -> coordinator_pb2.AnswerHeader:
    """Everything of ``answer`` but its body, the sealed keys in ascending order of recipient."""
    return coordinator_pb2.AnswerHeader(
        statement=answer.statement,
        sealed_keys=[
            coordinator_pb2.SealedKey(recipient=name, sealed=sealed)
            for name, sealed in sorted(answer.sealed_keys.items())
        ],
    )


def answer_of(header: coordinator_pb2.AnswerHeader, body: Path) -> Answer:
    """The answer in ``header`` and the file ``body``; only that recipients differ is checked."""
    sealed_keys = {key.recipient: key.sealed for key in header.sealed_keys}
    if len(sealed_keys) != len(header.sealed_keys):
        raise MalformedMessage("an answer names a recipient twice; fetch it again.")
    return Answer(header.statement, sealed_keys, body)
