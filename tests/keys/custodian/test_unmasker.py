from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
from support.federation import Federation
from support.secure_sum import contribute, contribute_all

from fedhelp_keys.custodian.store import AlreadyAnswered
from fedhelp_keys.custodian.unmasker import SealedContribution, UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import CharterRefused
from fedhelp_secure.errors import FedHelpError, MalformedMessage, SignatureRefused
from fedhelp_secure.sealing import SealRefused
from fedhelp_secure.secure_sum.answers import open_unmasker_statement
from fedhelp_secure.secure_sum.cohort import CohortTooSmall
from fedhelp_secure.secure_sum.contribution import Contribution, ManifestRefused
from fedhelp_secure.secure_sum.masks import seed_info
from fedhelp_secure.signing import peek_document


@pytest.fixture
def sent(federation: Federation) -> dict[str, Contribution]:
    return contribute_all(federation)


def _set(sent: Mapping[str, Contribution]) -> list[SealedContribution]:
    return [SealedContribution(part.manifest, part.sealed_seed) for part in sent.values()]


def test_answers_one_set_a_round_and_repeats_its_bytes_after_a_restart(
    federation: Federation, unmasker: UnmaskerService, sent: dict[str, Contribution]
) -> None:
    charter = federation.charter
    first = unmasker.answer(charter, 1, _set(sent))
    statement = open_unmasker_statement(charter, 1, first)
    assert [
        (member.hospital, member.manifest_digest, member.ciphertext_digest)
        for member in statement.contributions
    ] == [(name, digest(part.manifest), digest(part.ciphertext)) for name, part in sent.items()]
    restarted = UnmaskerService(federation.state("unmasker"))
    smaller = _set(sent)[1:]
    other = _set(sent | {"large-1": contribute(federation, "large-1")})
    for service in (unmasker, restarted):
        assert service.answer(charter, 1, _set(sent)) == first
        for another in (smaller, other):
            with pytest.raises(AlreadyAnswered):
                service.answer(charter, 1, another)


def test_refuses_cohorts_below_the_minima(
    federation: Federation, unmasker: UnmaskerService, sent: dict[str, Contribution]
) -> None:
    for names in ([], ["large-1"], ["large-1", "small-1", "small-2", "small-3"]):
        with pytest.raises(CohortTooSmall):
            unmasker.answer(federation.charter, 1, _set({name: sent[name] for name in names}))
    unmasker.answer(federation.charter, 1, _set(sent)[1:])


def test_refuses_cohorts_below_a_groups_minimum(
    federation: Federation, unmasker: UnmaskerService
) -> None:
    cohort = federation.charter.cohort.model_copy(update={"minimum_large": 2})
    charter = federation.charter.model_copy(update={"cohort": cohort})
    names = [hospital.name for hospital in charter.hospitals]
    sent = {name: contribute(federation, name, charter=charter) for name in names}
    with pytest.raises(CohortTooSmall):
        unmasker.answer(charter, 1, _set(sent)[1:])
    unmasker.answer(charter, 1, _set(sent))


def test_refuses_sets_out_of_order_or_with_repetitions(
    federation: Federation, unmasker: UnmaskerService, sent: dict[str, Contribution]
) -> None:
    parts = _set(sent)
    for wrong in (parts[::-1], [parts[0], *parts], [*parts, parts[-1]]):
        with pytest.raises(MalformedMessage):
            unmasker.answer(federation.charter, 1, wrong)


def _resigned(
    federation: Federation, part: SealedContribution, signer: str, changes: dict[str, object]
) -> SealedContribution:
    document = peek_document("manifest", part.manifest) | changes
    key = federation.state(signer).signing_key()
    return dataclasses.replace(part, manifest=key.sign_document("manifest", document))


def _resealed(federation: Federation, part: SealedContribution, seed: bytes) -> SealedContribution:
    """``part`` with ``seed`` sealed for it, signed by its own hospital."""
    document = peek_document("manifest", part.manifest)
    info = seed_info(
        charter_digest=document["charter"],
        round_number=document["round"],
        hospital=document["hospital"],
        ciphertext_digest=document["ciphertext_digest"],
    )
    sealed = federation.charter.custodians.unmasker.recipient_key().seal(seed, info)
    changed = dataclasses.replace(part, sealed_seed=sealed)
    return _resigned(federation, changed, "large-1", {"seed_digest": digest(sealed)})


def test_refuses_bad_members_and_stays_unanswered(
    federation: Federation, unmasker: UnmaskerService, sent: dict[str, Contribution]
) -> None:
    parts = _set(sent)
    good = parts[0]
    other = contribute(federation, "large-1")
    second_round = contribute(federation, "large-1", round_number=2)
    signed: list[tuple[str, dict[str, object], type[FedHelpError]]] = [
        ("large-2", {}, SignatureRefused),
        ("aggregator", {}, SignatureRefused),
        ("large-1", {"hospital": "nobody"}, CharterRefused),
        ("large-1", {"charter": digest(b"another")}, ManifestRefused),
        ("large-1", {"group": "small"}, ManifestRefused),
        ("large-1", {"round": 2}, ManifestRefused),
        # The seed was sealed for the other ciphertext.
        ("large-1", {"ciphertext_digest": digest(other.ciphertext)}, SealRefused),
    ]
    bad = [
        (_resigned(federation, good, signer, changes), error) for signer, changes, error in signed
    ]
    bad += [
        (SealedContribution(second_round.manifest, second_round.sealed_seed), ManifestRefused),
        (dataclasses.replace(good, sealed_seed=other.sealed_seed), ManifestRefused),
        (dataclasses.replace(good, sealed_seed=b""), ManifestRefused),
        (dataclasses.replace(good, manifest=b"{}"), MalformedMessage),
        (_resealed(federation, good, bytes(31)), ManifestRefused),
    ]
    for member, error in bad:
        with pytest.raises(error):
            unmasker.answer(federation.charter, 1, [member, *parts[1:]])
    unmasker.answer(federation.charter, 1, parts)


def test_refuses_another_hospitals_seed_under_an_own_manifest(
    federation: Federation, unmasker: UnmaskerService, sent: dict[str, Contribution]
) -> None:
    """A hospital cannot have another's mask added once more by copying its sealed seed."""
    parts = _set(sent)
    stolen = dataclasses.replace(parts[0], sealed_seed=parts[1].sealed_seed)
    forged = _resigned(federation, stolen, "large-1", {"seed_digest": digest(stolen.sealed_seed)})
    with pytest.raises(SealRefused):
        unmasker.answer(federation.charter, 1, [forged, *parts[1:]])
