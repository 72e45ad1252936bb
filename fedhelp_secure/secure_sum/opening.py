"""What a recipient does with the answers: check, subtract, unpack, and authenticate the sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import PeerError
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.secure_sum.answers import (
    Answer,
    AnswerPurpose,
    UnmaskerStatement,
    decryptor_purpose,
    open_decryptor_statement,
    open_unmasker_statement,
    unmasker_purpose,
)
from fedhelp_secure.secure_sum.bodies import AnswerRefused, read_body
from fedhelp_secure.secure_sum.contribution import authenticator_of
from fedhelp_secure.secure_sum.packing import unpack_lanes
from fedhelp_secure.secure_sum.ring import subtract


class SumRefused(PeerError):
    """An opened sum is larger than honest contributions can make it."""

    code = "sum"


@dataclass(frozen=True, slots=True)
class Answers:
    """Every custodian's answer for one round."""

    decryptor: Answer
    unmaskers: tuple[Answer, ...]
    """In the charter's order."""


@dataclass(frozen=True, slots=True)
class OpenedSum:
    """The weighted sum of one round's releases."""

    values: NDArray[np.int64]
    """Grid units, [values]."""
    hospitals: tuple[str, ...]
    """Whose releases are in it, in ascending order."""


def open_sum(
    charter: Charter,
    round_number: int,
    *,
    recipient: str,
    unsealing_key: UnsealingKey,
    answers: Answers,
) -> OpenedSum:
    """The exact weighted sum: every answer checked and opened, frame by frame.

    Raises what the statements' checks raise, SealRefused if ``recipient``'s key does not open the
    answers, AnswerRefused for an altered body or if the unmaskers' sets differ, SumForged if the
    authenticator does not fit (the sum was altered, or is another set's), and SumRefused if any
    entry is larger than ``charter.bound_of_sum()``.
    """
    hospitals, parts = _checked(charter, round_number, answers)
    authenticator = authenticator_of(
        charter, round_number, hospital=recipient, unsealing_key=unsealing_key
    )
    secure_sum = charter.secure_sum
    values = np.empty(secure_sum.values, dtype=np.int64)
    tag_sums = np.empty(0, dtype=np.uint64)
    product = authenticator.product()
    end = 0
    frames = [_frames(charter, part, recipient, unsealing_key) for part in parts]
    for elements in _differences(charter, frames):
        start, end = end, min(end + elements.size * secure_sum.lanes, values.size)
        packed = -(-(end - start) // secure_sum.lanes)
        values[start:end] = unpack_lanes(
            elements[:packed],
            ring_bits=secure_sum.ring_bits,
            lanes=secure_sum.lanes,
            values=end - start,
        )
        product.update(values[start:end])
        tag_sums = np.concatenate([tag_sums, elements[packed:]])
    authenticator.check(
        product, tag_sums, [(hospital, charter.weight_of(hospital)) for hospital in hospitals]
    )
    if max(values.max(), -values.min()) > charter.bound_of_sum():
        raise SumRefused(
            "an opened sum is larger than honest releases can make it; do not use it, and ask an "
            "auditor which hospital released more than the charter's clip allows."
        )
    return OpenedSum(values, hospitals)


@dataclass(frozen=True, slots=True)
class _Part:
    """A checked answer, and what its body and keys are bound to."""

    answer: Answer
    purpose: AnswerPurpose
    body_digest: str


def _checked(
    charter: Charter, round_number: int, answers: Answers
) -> tuple[tuple[str, ...], list[_Part]]:
    """The hospitals in the sum, on which all unmaskers agree; the decryptor's part comes first."""
    decryptor = open_decryptor_statement(charter, round_number, answers.decryptor)
    unmaskers = charter.custodians.unmaskers
    if len(answers.unmaskers) != len(unmaskers):
        raise AnswerRefused("an unmasker's answer is missing; fetch them all again.")
    purpose = decryptor_purpose(charter, round_number)
    parts = [_Part(answers.decryptor, purpose, decryptor.body_digest)]
    statements = []
    for unmasker, answer in zip(unmaskers, answers.unmaskers, strict=True):
        statement = open_unmasker_statement(charter, round_number, answer, unmasker=unmasker.name)
        statements.append(statement)
        purpose = unmasker_purpose(charter, round_number, unmasker.name)
        parts.append(_Part(answer, purpose, statement.body_digest))
    check_same_set(statements)
    return tuple(member.hospital for member in statements[0].contributions), parts


def check_same_set(statements: Sequence[UnmaskerStatement]) -> None:
    """Raises AnswerRefused unless all ``statements`` list the same contributions."""
    if any(other.contributions != statements[0].contributions for other in statements[1:]):
        raise AnswerRefused(
            "the unmaskers answered for different sets; ask an auditor to compare what each of "
            "them was sent."
        )


def _frames(
    charter: Charter, part: _Part, recipient: str, unsealing_key: UnsealingKey
) -> Iterator[NDArray[np.uint64]]:
    try:
        sealed = part.answer.sealed_keys[recipient]
    except KeyError as error:
        raise AnswerRefused("an answer holds no key for this hospital; fetch it again.") from error
    return read_body(
        part.answer.body,
        secure_sum=charter.secure_sum,
        key=unsealing_key.open(sealed, part.purpose.key_info(recipient, part.body_digest)),
        associated_data=part.purpose.associated_data(),
    )


def _differences(
    charter: Charter, frames: Sequence[Iterator[NDArray[np.uint64]]]
) -> Iterator[NDArray[np.uint64]]:
    """Frames of the packed sum: those of the first less those of all others."""
    for elements, *masks in zip(*frames, strict=True):
        for mask in masks:
            elements = subtract(elements, mask, charter.secure_sum.packed_bits)
        yield elements
