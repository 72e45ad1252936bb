"""What the custodians send back, through the aggregator: sums sealed to the charter's hospitals.

An answer is a signed statement, one sealed content key for each hospital, and a body under that
key. The body is encrypted in segments with AES-256-GCM, the nonce being the segment's number and a
flag on the last one (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizar 2015), so
that segments can be neither dropped, repeated nor reordered. The content key is fresh for every
answer.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import Charter, Digest, Label, SecureSum
from fedhelp_secure.errors import MalformedMessage, PeerError
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.secure_sum.cohort import check_cohort
from fedhelp_secure.secure_sum.contribution import Manifest, check_round
from fedhelp_secure.secure_sum.ring import centre, pack, subtract, unpack, word_bytes
from fedhelp_secure.signing import SigningKey, VerifyingKey, open_document

DECRYPTOR_KIND = "decryptor-statement"
UNMASKER_KIND = "unmasker-statement"

SEGMENT_BYTES = 64 * 1024
"""Plaintext bytes of a body segment; the last one may be shorter."""

_TAG_BYTES = 16
_BODY_DOMAIN = "fedhelp-secure/v1/answer-body"
_KEY_DOMAIN = "fedhelp-secure/v1/answer-key"

_Statement = TypeVar("_Statement", "DecryptorStatement", "UnmaskerStatement")


class AnswerRefused(PeerError):
    """A custodian's answer is for something else, incomplete or altered."""

    code = "answer"


class SumRefused(PeerError):
    """An opened sum is larger than honest contributions can make it."""

    code = "sum"


@dataclass(frozen=True, slots=True)
class Answer:
    """One custodian's answer for one round."""

    statement: bytes
    """DSSE envelope."""
    sealed_keys: Mapping[str, bytes]
    """The content key, sealed to each hospital of the charter, by name."""
    body: bytes


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
    """What custodian B signs."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    version: Literal[1]
    charter: Digest
    round: int
    contributions: tuple[UnmaskedContribution, ...]
    """In ascending order of hospital name."""
    body_digest: Digest
    sealed_keys_digest: Digest


@dataclass(frozen=True, slots=True)
class OpenedSum:
    """The weighted sum of one round's releases."""

    values: NDArray[np.int64]
    """Grid units, [values]."""
    hospitals: tuple[str, ...]
    """Whose releases are in it, in ascending order."""


_DECRYPTOR_STATEMENT = TypeAdapter(DecryptorStatement)
_UNMASKER_STATEMENT = TypeAdapter(UnmaskerStatement)


@dataclass(frozen=True, slots=True)
class _Purpose:
    """What binds a body and its keys to one custodian, charter and round."""

    kind: str
    charter: str
    round_number: int

    def body_data(self) -> bytes:
        return canonical_json(self._document(_BODY_DOMAIN))

    def key_info(self, recipient: str, body_digest: str) -> bytes:
        binding = {"recipient": recipient, "body_digest": body_digest}
        return canonical_json(self._document(_KEY_DOMAIN) | binding)

    def _document(self, domain: str) -> dict[str, Any]:
        return {
            "domain": domain,
            "kind": self.kind,
            "charter": self.charter,
            "round": self.round_number,
        }


def seal_decryptor_answer(
    charter: Charter,
    round_number: int,
    *,
    masked_sum: NDArray[np.uint64],
    sum_digest: str,
    signing_key: SigningKey,
) -> Answer:
    """Custodian A's answer: ``masked_sum`` (uint64 [values]) sealed to every hospital."""
    purpose = _Purpose(DECRYPTOR_KIND, charter.digest, round_number)
    body, sealed_keys = _seal(charter, masked_sum, purpose)
    statement = DecryptorStatement(
        version=1,
        charter=purpose.charter,
        round=round_number,
        sum_digest=sum_digest,
        body_digest=digest(body),
        sealed_keys_digest=sealed_keys_digest(sealed_keys),
    )
    envelope = signing_key.sign_document(DECRYPTOR_KIND, asdict(statement))
    return Answer(envelope, sealed_keys, body)


def seal_unmasker_answer(
    charter: Charter,
    round_number: int,
    *,
    mask_sum: NDArray[np.uint64],
    manifests: Sequence[tuple[bytes, Manifest]],
    signing_key: SigningKey,
) -> Answer:
    """Custodian B's answer: ``mask_sum`` (uint64 [values]) sealed to every hospital.

    ``manifests`` are the envelopes and contents of the set, in ascending order of hospital.
    """
    purpose = _Purpose(UNMASKER_KIND, charter.digest, round_number)
    body, sealed_keys = _seal(charter, mask_sum, purpose)
    statement = UnmaskerStatement(
        version=1,
        charter=purpose.charter,
        round=round_number,
        contributions=tuple(
            UnmaskedContribution(manifest.hospital, digest(envelope), manifest.ciphertext_digest)
            for envelope, manifest in manifests
        ),
        body_digest=digest(body),
        sealed_keys_digest=sealed_keys_digest(sealed_keys),
    )
    document = asdict(statement)
    document["contributions"] = list(document["contributions"])
    return Answer(signing_key.sign_document(UNMASKER_KIND, document), sealed_keys, body)


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
    charter: Charter, round_number: int, answer: Answer
) -> UnmaskerStatement:
    """Custodian B's statement, likewise; its cohort is checked too (CohortTooSmall)."""
    key = charter.custodians.unmasker.verifying_key()
    statement = _parse(_UNMASKER_STATEMENT, UNMASKER_KIND, answer.statement, key)
    _check_statement(charter, round_number, answer, statement)
    hospitals = [member.hospital for member in statement.contributions]
    if hospitals != sorted(hospitals):
        raise AnswerRefused("an answer's hospitals are out of order; report it to the custodian.")
    check_cohort(charter, hospitals)
    return statement


def open_sum(
    charter: Charter,
    round_number: int,
    *,
    recipient: str,
    unsealing_key: UnsealingKey,
    decryptor_answer: Answer,
    unmasker_answer: Answer,
) -> OpenedSum:
    """The exact weighted sum: both answers checked, opened, subtracted and centred.

    Raises what the two statements' checks raise, SealRefused if ``recipient``'s key does not open
    them, AnswerRefused for an altered body, and SumRefused if any entry is larger than
    ``charter.bound_of_sum()``: the two custodians were then shown different sets.
    """
    charter_digest = charter.digest
    decryptor = open_decryptor_statement(charter, round_number, decryptor_answer)
    unmasker = open_unmasker_statement(charter, round_number, unmasker_answer)
    opened = []
    for kind, answer, body_digest in (
        (DECRYPTOR_KIND, decryptor_answer, decryptor.body_digest),
        (UNMASKER_KIND, unmasker_answer, unmasker.body_digest),
    ):
        purpose = _Purpose(kind, charter_digest, round_number)
        info = purpose.key_info(recipient, body_digest)
        key = unsealing_key.open(_sealed_key_of(answer, recipient), info)
        opened.append(_decrypt_body(charter.secure_sum, answer.body, key, purpose))
    masked_sum, mask_sum = opened
    ring_bits = charter.secure_sum.ring_bits
    values = centre(subtract(masked_sum, mask_sum, ring_bits), ring_bits)
    if (np.abs(values) > charter.bound_of_sum()).any():
        raise SumRefused(
            "an opened sum is larger than honest releases can make it; do not use it, and ask an "
            "auditor to compare what the two custodians were sent."
        )
    return OpenedSum(values, tuple(member.hospital for member in unmasker.contributions))


def sealed_keys_digest(sealed_keys: Mapping[str, bytes]) -> str:
    """The digest by which a statement names its sealed keys."""
    document = {
        name: base64.b64encode(sealed).decode("ascii") for name, sealed in sealed_keys.items()
    }
    return digest(canonical_json(document))


def body_bytes(secure_sum: SecureSum) -> int:
    """Length of every body under these parameters."""
    plain = secure_sum.values * word_bytes(secure_sum.ring_bits)
    return plain + _TAG_BYTES * -(-plain // SEGMENT_BYTES)


def _seal(
    charter: Charter, elements: NDArray[np.uint64], purpose: _Purpose
) -> tuple[bytes, dict[str, bytes]]:
    if elements.shape != (charter.secure_sum.values,):
        raise AnswerRefused("an answer must have as many integers as the charter's releases.")
    key = secrets.token_bytes(32)
    plain = pack(elements, charter.secure_sum.ring_bits)
    body = _encrypt_body(plain, key, purpose)
    body_digest = digest(body)
    sealed = {
        hospital.name: hospital.recipient_key().seal(
            key, purpose.key_info(hospital.name, body_digest)
        )
        for hospital in charter.hospitals
    }
    return body, sealed


def _encrypt_body(plain: bytes, key: bytes, purpose: _Purpose) -> bytes:
    cipher = AESGCM(key)
    data = purpose.body_data()
    starts = range(0, len(plain), SEGMENT_BYTES)
    return b"".join(
        cipher.encrypt(
            _nonce(number, last=number == len(starts) - 1),
            plain[start : start + SEGMENT_BYTES],
            data,
        )
        for number, start in enumerate(starts)
    )


def _decrypt_body(
    secure_sum: SecureSum, body: bytes, key: bytes, purpose: _Purpose
) -> NDArray[np.uint64]:
    if len(body) != body_bytes(secure_sum) or len(key) != 32:
        raise AnswerRefused("an answer is not complete; fetch it again.")
    cipher = AESGCM(key)
    data = purpose.body_data()
    starts = range(0, len(body), SEGMENT_BYTES + _TAG_BYTES)
    try:
        plain = b"".join(
            cipher.decrypt(
                _nonce(number, last=number == len(starts) - 1),
                body[start : start + SEGMENT_BYTES + _TAG_BYTES],
                data,
            )
            for number, start in enumerate(starts)
        )
    except InvalidTag as error:
        raise AnswerRefused("an answer's body was altered; fetch it again.") from error
    return unpack(plain, secure_sum.ring_bits, values=secure_sum.values)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _sealed_key_of(answer: Answer, recipient: str) -> bytes:
    try:
        return answer.sealed_keys[recipient]
    except KeyError as error:
        raise AnswerRefused("an answer holds no key for this hospital; fetch it again.") from error


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
    if digest(answer.body) != statement.body_digest:
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
