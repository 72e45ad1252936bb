"""What the custodians send back, through the aggregator: sums sealed to the charter's hospitals.

An answer is a signed statement, one sealed content key for each hospital, and a body under that
key (`fedhelp_secure.secure_sum.bodies`). The content key is fresh for every answer.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedhelp_secure.canonical import canonical_json, digest, file_digest
from fedhelp_secure.charter import Charter, Digest, Label
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.secure_sum import domains
from fedhelp_secure.secure_sum.bodies import KEY_BYTES, AnswerRefused, write_body
from fedhelp_secure.secure_sum.cohort import check_cohort
from fedhelp_secure.secure_sum.contribution import Manifest, check_round
from fedhelp_secure.signing import SigningKey, VerifyingKey, open_document

DECRYPTOR_KIND = "decryptor-statement"
UNMASKER_KIND = "unmasker-statement"

_Statement = TypeVar("_Statement", "DecryptorStatement", "UnmaskerStatement")


@dataclass(frozen=True, slots=True)
class Answer:
    """One custodian's answer for one round."""

    statement: bytes
    """DSSE envelope."""
    sealed_keys: Mapping[str, bytes]
    """The content key, sealed to each hospital of the charter, by name."""
    body: Path
    """The file with the encrypted elements."""


@dataclass(frozen=True, slots=True)
class DecryptorStatement:
    """What custodian A signs."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    version: Literal[1]
    charter: Digest
    round: int
    sum_digest: Digest
    """Of the ciphertext sum that was decrypted."""
    body_digest: Digest
    sealed_keys_digest: Digest


@dataclass(frozen=True, slots=True)
class UnmaskedContribution:
    """One member of the set whose masks were summed."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    hospital: Label
    manifest_digest: Digest
    ciphertext_digest: Digest


@dataclass(frozen=True, slots=True)
class UnmaskerStatement:
    """What a custodian B signs."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    version: Literal[1]
    charter: Digest
    round: int
    unmasker: Label
    contributions: tuple[UnmaskedContribution, ...]
    """In ascending order of hospital name."""
    body_digest: Digest
    sealed_keys_digest: Digest


_DECRYPTOR_STATEMENT = TypeAdapter(DecryptorStatement)
_UNMASKER_STATEMENT = TypeAdapter(UnmaskerStatement)


@dataclass(frozen=True, slots=True)
class AnswerPurpose:
    """What binds a body and its keys to one custodian, charter and round."""

    kind: str
    custodian: str
    charter: str
    round_number: int

    def associated_data(self) -> bytes:
        """For the AEAD of the body."""
        return canonical_json(self._document(domains.ANSWER_BODY))

    def key_info(self, recipient: str, body_digest: str) -> bytes:
        """The HPKE ``info`` under which ``recipient``'s copy of the content key is sealed."""
        binding = {"recipient": recipient, "body_digest": body_digest}
        return canonical_json(self._document(domains.ANSWER_KEY) | binding)

    def _document(self, domain: str) -> dict[str, Any]:
        return {
            "domain": domain,
            "kind": self.kind,
            "custodian": self.custodian,
            "charter": self.charter,
            "round": self.round_number,
        }


def decryptor_purpose(charter: Charter, round_number: int) -> AnswerPurpose:
    """Of the decryptor's answer."""
    name = charter.custodians.decryptor.name
    return AnswerPurpose(DECRYPTOR_KIND, name, charter.digest, round_number)


def unmasker_purpose(charter: Charter, round_number: int, unmasker: str) -> AnswerPurpose:
    """Of the answer of the unmasker called ``unmasker``."""
    return AnswerPurpose(UNMASKER_KIND, unmasker, charter.digest, round_number)


def seal_decryptor_answer(
    charter: Charter,
    round_number: int,
    *,
    masked_sum: Iterable[NDArray[np.uint64]],
    sum_digest: str,
    signing_key: SigningKey,
    out: Path,
) -> Answer:
    """Custodian A's answer: the frames of ``masked_sum`` sealed to every hospital.

    The body goes to the new file ``out``; whatever iterating ``masked_sum`` raises comes through.
    """
    purpose = decryptor_purpose(charter, round_number)
    body_digest, sealed_keys = _seal(charter, masked_sum, purpose, out)
    statement = DecryptorStatement(
        version=1,
        charter=purpose.charter,
        round=round_number,
        sum_digest=sum_digest,
        body_digest=body_digest,
        sealed_keys_digest=sealed_keys_digest(sealed_keys),
    )
    return Answer(signing_key.sign_document(DECRYPTOR_KIND, asdict(statement)), sealed_keys, out)


def seal_unmasker_answer(
    charter: Charter,
    round_number: int,
    *,
    unmasker: str,
    mask_sum: Iterable[NDArray[np.uint64]],
    manifests: Sequence[tuple[bytes, Manifest]],
    signing_key: SigningKey,
    out: Path,
) -> Answer:
    """A custodian B's answer: the frames of ``mask_sum`` sealed to every hospital.

    ``manifests`` are the envelopes and contents of the set, in ascending order of hospital. The
    body goes to the new file ``out``.
    """
    purpose = unmasker_purpose(charter, round_number, unmasker)
    body_digest, sealed_keys = _seal(charter, mask_sum, purpose, out)
    statement = UnmaskerStatement(
        version=1,
        charter=purpose.charter,
        round=round_number,
        unmasker=unmasker,
        contributions=tuple(
            UnmaskedContribution(manifest.hospital, digest(envelope), manifest.ciphertext_digest)
            for envelope, manifest in manifests
        ),
        body_digest=body_digest,
        sealed_keys_digest=sealed_keys_digest(sealed_keys),
    )
    document = asdict(statement)
    document["contributions"] = list(document["contributions"])
    return Answer(signing_key.sign_document(UNMASKER_KIND, document), sealed_keys, out)


def open_decryptor_statement(
    charter: Charter, round_number: int, answer: Answer
) -> DecryptorStatement:
    """Custodian A's statement, checked against the charter, the round and the answer's bytes.

    Needs no private key, so that the aggregator and an auditor can check it too. Raises
    MalformedMessage, SignatureRefused, or AnswerRefused.
    """
    key = charter.custodians.decryptor.verifying_key()
    statement = _parse(_DECRYPTOR_STATEMENT, DECRYPTOR_KIND, answer.statement, key)
    _check_statement(charter, round_number, answer, statement)
    return statement


def open_unmasker_statement(
    charter: Charter, round_number: int, answer: Answer, *, unmasker: str
) -> UnmaskerStatement:
    """The statement of the unmasker called ``unmasker``, likewise; its cohort is checked too.

    Raises CohortTooSmall besides.
    """
    key = charter.custodians.unmasker(unmasker).verifying_key()
    statement = _parse(_UNMASKER_STATEMENT, UNMASKER_KIND, answer.statement, key)
    if statement.unmasker != unmasker:
        raise AnswerRefused("an answer names another unmasker than signed it; report it.")
    _check_statement(charter, round_number, answer, statement)
    hospitals = [member.hospital for member in statement.contributions]
    if hospitals != sorted(hospitals):
        raise AnswerRefused("an answer's hospitals are out of order; report it to the custodian.")
    check_cohort(charter, hospitals)
    return statement


def sealed_keys_digest(sealed_keys: Mapping[str, bytes]) -> str:
    """The digest by which a statement names its sealed keys."""
    document = {
        name: base64.b64encode(sealed).decode("ascii") for name, sealed in sealed_keys.items()
    }
    return digest(canonical_json(document))


def _seal(
    charter: Charter, frames: Iterable[NDArray[np.uint64]], purpose: AnswerPurpose, out: Path
) -> tuple[str, dict[str, bytes]]:
    key = secrets.token_bytes(KEY_BYTES)
    body_digest = write_body(
        frames,
        out,
        secure_sum=charter.secure_sum,
        key=key,
        associated_data=purpose.associated_data(),
    )
    sealed = {
        hospital.name: hospital.recipient_key().seal(
            key, purpose.key_info(hospital.name, body_digest)
        )
        for hospital in charter.hospitals
    }
    return body_digest, sealed


def _check_statement(
    charter: Charter,
    round_number: int,
    answer: Answer,
    statement: DecryptorStatement | UnmaskerStatement,
) -> None:
    check_round(charter, round_number)
    if statement.charter != charter.digest or statement.round != round_number:
        raise AnswerRefused("an answer is for another charter or round; fetch this round's.")
    if answer.sealed_keys.keys() != {hospital.name for hospital in charter.hospitals}:
        raise AnswerRefused("an answer is not sealed to the charter's hospitals; fetch it again.")
    if sealed_keys_digest(answer.sealed_keys) != statement.sealed_keys_digest:
        raise AnswerRefused("an answer's sealed keys were altered; fetch it again.")
    if file_digest(answer.body) != statement.body_digest:
        raise AnswerRefused("an answer's body was altered; fetch it again.")


def _parse(
    adapter: TypeAdapter[_Statement], kind: str, envelope: bytes, key: VerifyingKey
) -> _Statement:
    document = open_document(kind, envelope, key)
    try:
        return adapter.validate_json(canonical_json(document))
    except ValidationError as error:
        raise MalformedMessage(
            f"a {kind} has other fields than the contract fixes; update the custodian's software."
        ) from error
