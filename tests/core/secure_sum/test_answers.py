from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.federation import Federation
from support.sums import answers_of, contribute

from fedhelp_secure.canonical import canonical_json, digest, parse_json
from fedhelp_secure.errors import FedHelpError, MalformedMessage, SignatureRefused
from fedhelp_secure.sealing import SealRefused
from fedhelp_secure.secure_sum.answer_wire import answer_of, header_of
from fedhelp_secure.secure_sum.answers import (
    DECRYPTOR_KIND,
    UNMASKER_KIND,
    Answer,
    DecryptorStatement,
    UnmaskerStatement,
    decryptor_purpose,
    open_decryptor_statement,
    open_unmasker_statement,
    seal_decryptor_answer,
    sealed_keys_digest,
    unmasker_purpose,
)
from fedhelp_secure.secure_sum.bodies import AnswerRefused
from fedhelp_secure.secure_sum.cohort import CohortTooSmall
from fedhelp_secure.secure_sum.contribution import RoundRefused
from fedhelp_secure.secure_sum.opening import Answers
from fedhelp_secure.secure_sum.ring import OutsideRing
from fedhelp_secure.signing import peek_document

HOSPITALS = ("large-1", "large-2", "small-1", "small-2", "small-3")
UNMASKERS = ("unmasker", "unmasker-2")
PARTIES = ("decryptor", *UNMASKERS)


@pytest.fixture(scope="module")
def answers(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    root = tmp_path_factory.mktemp("answers")
    parts = {name: contribute(federation, name, root / name) for name in HOSPITALS}
    return answers_of(federation, parts, root / "bodies")


def _answer(answers: Answers, party: str) -> Answer:
    return answers.decryptor if party == "decryptor" else answers.unmaskers[UNMASKERS.index(party)]


def _kind(party: str) -> str:
    return DECRYPTOR_KIND if party == "decryptor" else UNMASKER_KIND


def _check(
    federation: Federation, party: str, answer: Answer, *, number: int = 1
) -> DecryptorStatement | UnmaskerStatement:
    if party == "decryptor":
        return open_decryptor_statement(federation.charter, number, answer)
    return open_unmasker_statement(federation.charter, number, answer, unmasker=party)


def _resigned(
    federation: Federation,
    answers: Answers,
    party: str,
    changes: dict[str, Any],
    *,
    signer: str | None = None,
    kind: str | None = None,
) -> Answer:
    answer = _answer(answers, party)
    document = peek_document(_kind(party), answer.statement) | changes
    key = federation.state(signer or party).signing_key()
    return dataclasses.replace(answer, statement=key.sign_document(kind or _kind(party), document))


def test_the_decryptor_says_what_it_decrypted(federation: Federation, answers: Answers) -> None:
    statement = _check(federation, "decryptor", answers.decryptor)
    assert isinstance(statement, DecryptorStatement)
    assert (statement.charter, statement.round) == (federation.charter.digest, 1)
    assert statement.body_digest == digest(answers.decryptor.body.read_bytes())


@pytest.mark.parametrize("party", UNMASKERS)
def test_each_unmasker_says_whose_masks_it_summed(
    federation: Federation, answers: Answers, party: str
) -> None:
    statement = _check(federation, party, _answer(answers, party))
    assert isinstance(statement, UnmaskerStatement)
    assert statement.unmasker == party
    assert tuple(member.hospital for member in statement.contributions) == HOSPITALS


@pytest.mark.parametrize("party", PARTIES)
@pytest.mark.parametrize("signer", [*PARTIES, "aggregator", "large-1"])
def test_only_the_partys_own_key_signs(
    federation: Federation, answers: Answers, party: str, signer: str
) -> None:
    answer = _resigned(federation, answers, party, {}, signer=signer)
    if signer == party:
        _check(federation, party, answer)
        return
    with pytest.raises(SignatureRefused):
        _check(federation, party, answer)


@pytest.mark.parametrize("party", PARTIES)
def test_refuses_a_statement_of_another_kind(
    federation: Federation, answers: Answers, party: str
) -> None:
    for kind in ("manifest", *({DECRYPTOR_KIND, UNMASKER_KIND} - {_kind(party)})):
        with pytest.raises(MalformedMessage):
            _check(federation, party, _resigned(federation, answers, party, {}, kind=kind))


@pytest.mark.parametrize("party", PARTIES)
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"version": 2}, MalformedMessage),
        ({"round": True}, MalformedMessage),
        ({"round": "1"}, MalformedMessage),
        ({"body_digest": "none"}, MalformedMessage),
        ({"values": [1]}, MalformedMessage),
        ({"round": 2}, AnswerRefused),
        ({"charter": digest(b"another")}, AnswerRefused),
        ({"body_digest": digest(b"another")}, AnswerRefused),
        ({"sealed_keys_digest": digest(b"another")}, AnswerRefused),
    ],
)
def test_refuses_signed_statements_that_say_something_else(
    federation: Federation,
    answers: Answers,
    party: str,
    changes: dict[str, Any],
    error: type[FedHelpError],
) -> None:
    with pytest.raises(error):
        _check(federation, party, _resigned(federation, answers, party, changes))


@pytest.mark.parametrize("party", PARTIES)
def test_refuses_another_round_than_the_statements(
    federation: Federation, answers: Answers, party: str
) -> None:
    for number, error in ((2, AnswerRefused), (0, RoundRefused), (3, RoundRefused)):
        with pytest.raises(error):
            _check(federation, party, _answer(answers, party), number=number)


def test_refuses_an_unmaskers_statement_that_names_another(
    federation: Federation, answers: Answers
) -> None:
    for name in ("unmasker-2", "someone"):
        answer = _resigned(federation, answers, "unmasker", {"unmasker": name})
        with pytest.raises(AnswerRefused, match="another unmasker"):
            _check(federation, "unmasker", answer)
    with pytest.raises(FedHelpError, match="not in the charter"):
        _check(federation, "unmasker-3", answers.unmaskers[0])


def test_checks_the_cohort_that_an_unmasker_states(
    federation: Federation, answers: Answers
) -> None:
    statement = answers.unmaskers[1].statement
    members = peek_document(UNMASKER_KIND, statement)["contributions"]
    refused: list[tuple[list[dict[str, Any]], type[FedHelpError]]] = [
        ([], CohortTooSmall),
        (members[:4], CohortTooSmall),
        ([*members[:4], members[3]], CohortTooSmall),
        ([*members[:4], members[4] | {"hospital": "small-9"}], CohortTooSmall),
        (members[::-1], AnswerRefused),
        ([*members[:4], members[4] | {"weight": 9}], MalformedMessage),
        ([*members[:4], members[4] | {"manifest_digest": "none"}], MalformedMessage),
    ]
    for forged, error in refused:
        with pytest.raises(error):
            _check(
                federation,
                "unmasker-2",
                _resigned(federation, answers, "unmasker-2", {"contributions": forged}),
            )


def _flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("party", PARTIES)
@pytest.mark.parametrize(
    "alter",
    [
        lambda data: _flipped(data, 0),
        lambda data: _flipped(data, -1),
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"",
    ],
)
def test_altered_bodies_show_without_any_private_key(
    federation: Federation,
    answers: Answers,
    party: str,
    alter: Callable[[bytes], bytes],
    tmp_path: Path,
) -> None:
    answer = _answer(answers, party)
    (tmp_path / "body").write_bytes(alter(answer.body.read_bytes()))
    with pytest.raises(AnswerRefused):
        _check(federation, party, dataclasses.replace(answer, body=tmp_path / "body"))


@pytest.mark.parametrize("party", PARTIES)
def test_altered_keys_show_without_any_private_key(
    federation: Federation, answers: Answers, party: str
) -> None:
    answer = _answer(answers, party)
    keys = dict(answer.sealed_keys)
    altered = [
        keys | {"small-4": _flipped(keys["small-4"], 0)},
        keys | {"small-4": keys["small-3"]},
        keys | {"small-9": keys["small-3"]},
        {"small-4": keys["small-4"]},
        {},
    ]
    for sealed_keys in altered:
        with pytest.raises(AnswerRefused):
            _check(federation, party, dataclasses.replace(answer, sealed_keys=sealed_keys))
    # Not even with a statement about them: every hospital of the charter, and nobody else.
    fewer = altered[3]
    resigned = _resigned(
        federation, answers, party, {"sealed_keys_digest": sealed_keys_digest(fewer)}
    )
    with pytest.raises(AnswerRefused):
        _check(federation, party, dataclasses.replace(resigned, sealed_keys=fewer))


def test_a_content_key_opens_for_its_recipient_custodian_round_and_body_alone(
    federation: Federation, answers: Answers
) -> None:
    charter, key = federation.charter, federation.state("small-4").unsealing_key()
    body = digest(answers.decryptor.body.read_bytes())
    sealed = answers.decryptor.sealed_keys["small-4"]
    purpose = decryptor_purpose(charter, 1)
    assert len(key.open(sealed, purpose.key_info("small-4", body))) == 32
    others = [
        purpose.key_info("small-3", body),
        purpose.key_info("small-4", digest(b"another body")),
        decryptor_purpose(charter, 2).key_info("small-4", body),
        unmasker_purpose(charter, 1, "unmasker").key_info("small-4", body),
        purpose.associated_data(),
    ]
    for info in others:
        with pytest.raises(SealRefused):
            key.open(sealed, info)
    bound = {
        decryptor_purpose(charter, 1).associated_data(),
        decryptor_purpose(charter, 2).associated_data(),
        *(unmasker_purpose(charter, 1, name).associated_data() for name in UNMASKERS),
    }
    assert len(bound) == 4


def test_refuses_to_seal_anything_but_the_charters_elements(
    federation: Federation, tmp_path: Path
) -> None:
    secure_sum = federation.charter.secure_sum
    refused = [
        (np.zeros(secure_sum.elements - 1, dtype=np.uint64), AnswerRefused),
        (np.full(secure_sum.elements, 2**secure_sum.packed_bits, dtype=np.uint64), OutsideRing),
    ]
    for number, (elements, error) in enumerate(refused):
        with pytest.raises(error):
            seal_decryptor_answer(
                federation.charter,
                1,
                masked_sum=[elements],
                sum_digest=digest(b"a sum"),
                signing_key=federation.state("decryptor").signing_key(),
                out=tmp_path / str(number),
            )


@pytest.mark.parametrize("party", PARTIES)
def test_the_wire_form_carries_everything(answers: Answers, party: str) -> None:
    answer = _answer(answers, party)
    header = header_of(answer)
    assert answer_of(header, answer.body) == answer
    header.sealed_keys.append(header.sealed_keys[0])
    with pytest.raises(MalformedMessage):
        answer_of(header, answer.body)


@pytest.mark.parametrize("party", PARTIES)
def test_statements_are_canonical(answers: Answers, party: str) -> None:
    statement = _answer(answers, party).statement
    assert canonical_json(parse_json(statement, "statement")) == statement
