from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.federation import Federation
from support.secure_sum import contribute

from fedhelp_secure.canonical import canonical_json, digest, parse_json
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import FedHelpError, MalformedMessage, SignatureRefused
from fedhelp_secure.sealing import SealRefused
from fedhelp_secure.secure_sum import answers
from fedhelp_secure.secure_sum.answer_wire import answer_of, header_of
from fedhelp_secure.secure_sum.answers import (
    Answer,
    AnswerRefused,
    OpenedSum,
    SumRefused,
    open_sum,
    seal_decryptor_answer,
    seal_unmasker_answer,
)
from fedhelp_secure.secure_sum.cohort import CohortTooSmall
from fedhelp_secure.secure_sum.contribution import Manifest, RoundRefused, open_manifest
from fedhelp_secure.secure_sum.ring import OutsideRing, add, to_ring
from fedhelp_secure.signing import peek_document

HOSPITALS = ("large-1", "large-2", "small-1", "small-2", "small-3")
SUM_DIGEST = digest(b"a ciphertext sum")


@pytest.fixture(scope="module")
def manifests(federation: Federation) -> list[tuple[bytes, Manifest]]:
    envelopes = [contribute(federation, name).manifest for name in HOSPITALS]
    return [(envelope, open_manifest(federation.charter, envelope)) for envelope in envelopes]


def _answers(
    federation: Federation,
    manifests: list[tuple[bytes, Manifest]],
    total: NDArray[np.int64],
    *,
    charter: Charter | None = None,
    round_number: int = 1,
) -> tuple[Answer, Answer]:
    chosen = charter or federation.charter
    generator = np.random.default_rng(7)
    mask = generator.integers(0, 2**32, total.size, dtype=np.uint64)
    decryptor = seal_decryptor_answer(
        chosen,
        round_number,
        masked_sum=add(to_ring(total, 32), mask, 32),
        sum_digest=SUM_DIGEST,
        signing_key=federation.state("decryptor").signing_key(),
    )
    unmasker = seal_unmasker_answer(
        chosen,
        round_number,
        mask_sum=mask,
        manifests=manifests,
        signing_key=federation.state("unmasker").signing_key(),
    )
    return decryptor, unmasker


@pytest.fixture(scope="module")
def pair(federation: Federation, manifests: list[tuple[bytes, Manifest]]) -> tuple[Answer, Answer]:
    return _answers(federation, manifests, np.arange(8, dtype=np.int64) - 4)


def _open(
    federation: Federation,
    pair: tuple[Answer, Answer],
    recipient: str = "small-4",
    *,
    charter: Charter | None = None,
    round_number: int = 1,
    key_of: str | None = None,
) -> OpenedSum:
    return open_sum(
        charter or federation.charter,
        round_number,
        recipient=recipient,
        unsealing_key=federation.state(key_of or recipient).unsealing_key(),
        decryptor_answer=pair[0],
        unmasker_answer=pair[1],
    )


def test_every_hospital_opens_it_whether_it_took_part_or_not(
    federation: Federation, pair: tuple[Answer, Answer]
) -> None:
    for hospital in federation.charter.hospitals:
        opened = _open(federation, pair, hospital.name)
        assert opened.values.tolist() == [-4, -3, -2, -1, 0, 1, 2, 3]
        assert opened.hospitals == HOSPITALS


@pytest.mark.parametrize("values", [1, 16_384, 16_385, 40_000])
def test_bodies_of_every_number_of_segments(federation: Federation, values: int) -> None:
    secure_sum = federation.charter.secure_sum.model_copy(update={"values": values})
    charter = federation.charter.model_copy(update={"secure_sum": secure_sum})
    envelopes = [contribute(federation, name, charter=charter).manifest for name in HOSPITALS]
    manifests = [(envelope, open_manifest(charter, envelope)) for envelope in envelopes]
    total = np.arange(values, dtype=np.int64)
    pair = _answers(federation, manifests, total, charter=charter)
    assert len(pair[0].body) == answers.body_bytes(secure_sum)
    assert _open(federation, pair, charter=charter).values.tolist() == total.tolist()


def test_refuses_anothers_key_and_outsiders(
    federation: Federation, pair: tuple[Answer, Answer]
) -> None:
    with pytest.raises(SealRefused):
        _open(federation, pair, "small-4", key_of="small-3")
    with pytest.raises(AnswerRefused):
        _open(federation, pair, "small-9", key_of="small-3")
    for outsider in ("aggregator", "decryptor", "unmasker"):
        with pytest.raises(SealRefused):
            _open(federation, pair, "small-4", key_of=outsider)


def test_refuses_answers_swapped_between_rounds_custodians_or_charters(
    federation: Federation,
    manifests: list[tuple[bytes, Manifest]],
    pair: tuple[Answer, Answer],
) -> None:
    second = _answers(federation, manifests, np.zeros(8, dtype=np.int64), round_number=2)
    for mixed in ((second[0], pair[1]), (pair[0], second[1]), second):
        with pytest.raises(AnswerRefused):
            _open(federation, mixed)
    with pytest.raises(MalformedMessage):
        _open(federation, (pair[1], pair[0]))
    for round_number in (0, 3):
        with pytest.raises(RoundRefused):
            _open(federation, pair, round_number=round_number)
    other = federation.charter.model_copy(update={"name": "another"})
    with pytest.raises(AnswerRefused):
        _open(federation, pair, charter=other)


def test_a_body_does_not_open_under_another_rounds_statement(
    federation: Federation,
    manifests: list[tuple[bytes, Manifest]],
    pair: tuple[Answer, Answer],
) -> None:
    # A custodian that signs a body of round 1 into round 2: the sealed keys are bound to round 1.
    document = peek_document("decryptor-statement", pair[0].statement) | {"round": 2}
    key = federation.state("decryptor").signing_key()
    statement = key.sign_document("decryptor-statement", document)
    second = _answers(federation, manifests, np.zeros(8, dtype=np.int64), round_number=2)
    forged = dataclasses.replace(pair[0], statement=statement)
    with pytest.raises(SealRefused):
        _open(federation, (forged, second[1]), round_number=2)


def _flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("which", [0, 1])
def test_refuses_altered_bodies_and_keys(
    federation: Federation, pair: tuple[Answer, Answer], which: int
) -> None:
    answer = pair[which]
    keys = dict(answer.sealed_keys)
    altered = [
        dataclasses.replace(answer, body=_flipped(answer.body, 0)),
        dataclasses.replace(answer, body=_flipped(answer.body, -1)),
        dataclasses.replace(answer, body=answer.body[:-1]),
        dataclasses.replace(answer, body=b""),
        dataclasses.replace(answer, body=pair[1 - which].body),
        dataclasses.replace(answer, sealed_keys=keys | {"small-4": _flipped(keys["small-4"], 0)}),
        dataclasses.replace(answer, sealed_keys=keys | {"small-4": keys["small-3"]}),
        dataclasses.replace(answer, sealed_keys=keys | {"small-9": keys["small-3"]}),
        dataclasses.replace(answer, sealed_keys={"small-4": keys["small-4"]}),
    ]
    for forged in altered:
        mixed = (forged, pair[1]) if which == 0 else (pair[0], forged)
        with pytest.raises(AnswerRefused):
            _open(federation, mixed)


@pytest.mark.parametrize("which", [0, 1])
def test_altered_bodies_show_without_any_private_key(
    federation: Federation, pair: tuple[Answer, Answer], which: int
) -> None:
    check = (answers.open_decryptor_statement, answers.open_unmasker_statement)[which]
    check(federation.charter, 1, pair[which])
    altered = dataclasses.replace(pair[which], body=_flipped(pair[which].body, 5))
    with pytest.raises(AnswerRefused):
        check(federation.charter, 1, altered)


def _resigned(federation: Federation, answer: Answer, changes: dict[str, Any]) -> Answer:
    document = peek_document("decryptor-statement", answer.statement) | changes
    key = federation.state("decryptor").signing_key()
    return dataclasses.replace(answer, statement=key.sign_document("decryptor-statement", document))


@pytest.mark.parametrize("length", [0, 47, 49])
def test_refuses_signed_bodies_of_another_length(
    federation: Federation, pair: tuple[Answer, Answer], length: int
) -> None:
    # Even if the custodian signs it: the key no longer fits the body's digest.
    body = pair[0].body[:length].ljust(length, b"\0")
    forged = dataclasses.replace(
        _resigned(federation, pair[0], {"body_digest": digest(body)}), body=body
    )
    with pytest.raises(SealRefused):
        _open(federation, (forged, pair[1]))


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"sum_digest": "none"}, {"values": [1]}, {"round": True}],
)
def test_refuses_statements_of_another_form(
    federation: Federation, pair: tuple[Answer, Answer], change: dict[str, Any]
) -> None:
    with pytest.raises(MalformedMessage):
        _open(federation, (_resigned(federation, pair[0], change), pair[1]))


def test_refuses_statements_of_other_signers(
    federation: Federation, pair: tuple[Answer, Answer]
) -> None:
    document = peek_document("decryptor-statement", pair[0].statement)
    for signer in ("unmasker", "aggregator", "large-1"):
        key = federation.state(signer).signing_key()
        statement = key.sign_document("decryptor-statement", document)
        with pytest.raises(SignatureRefused):
            _open(federation, (dataclasses.replace(pair[0], statement=statement), pair[1]))


def _with_set(
    federation: Federation, pair: tuple[Answer, Answer], members: list[dict[str, Any]]
) -> tuple[Answer, Answer]:
    document = peek_document("unmasker-statement", pair[1].statement)
    key = federation.state("unmasker").signing_key()
    statement = key.sign_document("unmasker-statement", document | {"contributions": members})
    return pair[0], dataclasses.replace(pair[1], statement=statement)


def test_checks_the_cohort_that_the_unmasker_states(
    federation: Federation, pair: tuple[Answer, Answer]
) -> None:
    members = peek_document("unmasker-statement", pair[1].statement)["contributions"]
    refused: list[tuple[list[dict[str, Any]], type[FedHelpError]]] = [
        ([], CohortTooSmall),
        (members[:4], CohortTooSmall),
        ([*members[:4], members[3]], CohortTooSmall),
        ([*members[:4], members[4] | {"hospital": "small-9"}], CohortTooSmall),
        (members[::-1], AnswerRefused),
        ([*members[:4], members[4] | {"weight": 9}], MalformedMessage),
    ]
    for forged, error in refused:
        with pytest.raises(error):
            _open(federation, _with_set(federation, pair, forged))


@pytest.mark.parametrize("sign", [1, -1])
def test_refuses_sums_that_honest_releases_cannot_reach(
    federation: Federation, manifests: list[tuple[bytes, Manifest]], sign: int
) -> None:
    bound = federation.charter.bound_of_sum()
    fits = np.full(8, sign * bound, dtype=np.int64)
    assert _open(federation, _answers(federation, manifests, fits)).values.tolist() == fits.tolist()
    exceeds = fits.copy()
    exceeds[7] += sign
    with pytest.raises(SumRefused):
        _open(federation, _answers(federation, manifests, exceeds))


def test_refuses_to_seal_another_number_of_integers(federation: Federation) -> None:
    key = federation.state("decryptor").signing_key()
    for elements, error in (
        (np.zeros(7, dtype=np.uint64), AnswerRefused),
        (np.full(8, 2**32, dtype=np.uint64), OutsideRing),
    ):
        with pytest.raises(error):
            seal_decryptor_answer(
                federation.charter,
                1,
                masked_sum=elements,
                sum_digest=SUM_DIGEST,
                signing_key=key,
            )


def test_nothing_of_the_sum_is_in_the_clear(
    federation: Federation, manifests: list[tuple[bytes, Manifest]]
) -> None:
    pair = _answers(federation, manifests, np.full(8, 0x00ABCDEF, dtype=np.int64))
    for answer in pair:
        assert b"\xef\xcd\xab\x00" not in answer.body + answer.statement


def test_the_wire_form_carries_everything(pair: tuple[Answer, Answer]) -> None:
    for answer in pair:
        header = header_of(answer)
        assert answer_of(header, answer.body) == answer
        header.sealed_keys.append(header.sealed_keys[0])
        with pytest.raises(MalformedMessage):
            answer_of(header, answer.body)


def test_statements_are_canonical(pair: tuple[Answer, Answer]) -> None:
    for answer in pair:
        assert canonical_json(parse_json(answer.statement, "statement")) == answer.statement
