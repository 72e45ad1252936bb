from __future__ import annotations

import dataclasses
import datetime
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from support.federation import Federation
from support.keys import keys_of_stores, rounds_begun
from support.secure_sum import ask_unmaskers, contribute_all, members_for
from support.sums import contribute, mask_sum
from support.trust_lists import issued, revocation, signed

from fedhelp_keys.custodian.store import AlreadyAnswered
from fedhelp_keys.custodian.unmasker import SealedContribution, UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, CharterRefused
from fedhelp_secure.errors import FedHelpError, MalformedMessage, SignatureRefused
from fedhelp_secure.sealing import SealRefused, UnsealingKey
from fedhelp_secure.secure_sum.answers import (
    Answer,
    open_unmasker_statement,
    unmasker_purpose,
)
from fedhelp_secure.secure_sum.bodies import body_bytes, read_body
from fedhelp_secure.secure_sum.cohort import CohortTooSmall
from fedhelp_secure.secure_sum.contribution import Contribution, ManifestRefused, mask_purpose
from fedhelp_secure.signing import SigningKey, peek_document
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.trust.store import TrustListOutdated, TrustStore

Unmaskers = Mapping[str, UnmaskerService]


@pytest.fixture
def unmasker(unmaskers: Unmaskers) -> UnmaskerService:
    return unmaskers["unmasker"]


def _set(charter: Charter, sent: Mapping[str, Contribution]) -> list[SealedContribution]:
    return members_for(charter, "unmasker", sent)


def _answer(
    federation: Federation,
    service: UnmaskerService,
    charter: Charter,
    members: list[SealedContribution],
) -> Answer:
    begun = rounds_begun(federation, charter)
    return service.answer(charter, 1, members, rounds_begun=begun)


def _elements(charter: Charter, name: str, answer: Answer, key: UnsealingKey) -> list[int]:
    """What is in an unmasker's answer, as the hospital large-1 reads it."""
    purpose = unmasker_purpose(charter, 1, name)
    statement = open_unmasker_statement(charter, 1, answer, unmasker=name)
    info = purpose.key_info("large-1", statement.body_digest)
    frames = read_body(
        answer.body,
        secure_sum=charter.secure_sum,
        key=key.open(answer.sealed_keys["large-1"], info),
        associated_data=purpose.associated_data(),
    )
    return [element for frame in frames for element in frame.tolist()]


def test_answers_one_set_a_round_and_repeats_its_bytes_after_a_restart(
    federation: Federation,
    unmasker: UnmaskerService,
    sent: dict[str, Contribution],
    tmp_path: Path,
) -> None:
    charter = federation.charter
    first = _answer(federation, unmasker, charter, _set(charter, sent))
    statement = open_unmasker_statement(charter, 1, first, unmasker="unmasker")
    assert first.body.stat().st_size == body_bytes(charter.secure_sum)
    assert [
        (member.hospital, member.manifest_digest, member.ciphertext_digest)
        for member in statement.contributions
    ] == [
        (name, digest(part.manifest), digest(part.ciphertext.read_bytes()))
        for name, part in sent.items()
    ]
    restarted = UnmaskerService(federation.state("unmasker"))
    smaller = _set(charter, sent)[1:]
    keys = keys_of_stores(federation, charter)
    another = contribute(federation, "large-1", tmp_path / "another", round_keys=keys)
    other = _set(charter, sent | {"large-1": another})
    for service in (unmasker, restarted):
        assert _answer(federation, service, charter, _set(charter, sent)) == first
        for changed in (smaller, other):
            with pytest.raises(AlreadyAnswered):
                _answer(federation, service, charter, changed)


def test_each_unmasker_sums_its_own_masks(
    federation: Federation, unmaskers: Unmaskers, sent: dict[str, Contribution]
) -> None:
    charter = federation.charter
    answers = ask_unmaskers(federation, unmaskers, charter, sent)
    key = federation.state("large-1").unsealing_key()
    for one, answer in zip(charter.custodians.unmaskers, answers, strict=True):
        expected = np.concatenate(list(mask_sum(federation, charter, one.name, sent)))
        assert expected.any()
        assert _elements(charter, one.name, answer, key) == expected.tolist()


def test_an_unmasker_refuses_the_seeds_of_another(
    federation: Federation, unmaskers: Unmaskers, sent: dict[str, Contribution]
) -> None:
    charter = federation.charter
    with pytest.raises(ManifestRefused):
        _answer(federation, unmaskers["unmasker-2"], charter, _set(charter, sent))


def test_an_unmasker_is_found_by_name_and_key_together(
    federation: Federation, unmaskers: Unmaskers, sent: dict[str, Contribution]
) -> None:
    custodians = federation.charter.custodians
    stranger = SigningKey.generate().public.to_base64()
    changes = [
        custodians.unmaskers[1:],
        (
            custodians.unmaskers[0].model_copy(update={"signing_key": stranger}),
            *custodians.unmaskers[1:],
        ),
    ]
    members = _set(federation.charter, sent)
    for others in changes:
        named = custodians.model_copy(update={"unmaskers": others})
        charter = federation.charter.model_copy(update={"custodians": named})
        with pytest.raises(CharterRefused):
            _answer(federation, unmaskers["unmasker"], charter, members)


def test_refuses_cohorts_below_the_minima(
    federation: Federation, unmasker: UnmaskerService, sent: dict[str, Contribution]
) -> None:
    for names in ([], ["large-1"], ["large-1", "small-1", "small-2", "small-3"]):
        with pytest.raises(CohortTooSmall):
            _answer(
                federation,
                unmasker,
                federation.charter,
                _set(federation.charter, {name: sent[name] for name in names}),
            )
    _answer(federation, unmasker, federation.charter, _set(federation.charter, sent)[1:])


def test_refuses_cohorts_below_a_groups_minimum(
    federation: Federation, unmasker: UnmaskerService, tmp_path: Path
) -> None:
    cohort = federation.charter.cohort.model_copy(update={"minimum_large": 2})
    charter = federation.charter.model_copy(update={"cohort": cohort})
    sent = contribute_all(federation, tmp_path / "sent", charter=charter)
    with pytest.raises(CohortTooSmall):
        _answer(federation, unmasker, charter, _set(charter, sent)[1:])
    _answer(federation, unmasker, charter, _set(charter, sent))


def test_refuses_sets_out_of_order_or_with_repetitions(
    federation: Federation, unmasker: UnmaskerService, sent: dict[str, Contribution]
) -> None:
    parts = _set(federation.charter, sent)
    for wrong in (parts[::-1], [parts[0], *parts], [*parts, parts[-1]]):
        with pytest.raises(MalformedMessage):
            _answer(federation, unmasker, federation.charter, wrong)


def _resigned(
    federation: Federation, part: SealedContribution, signer: str, changes: dict[str, object]
) -> SealedContribution:
    document = peek_document("manifest", part.manifest) | changes
    key = federation.state(signer).signing_key()
    return dataclasses.replace(part, manifest=key.sign_document("manifest", document))


def _seeds(part: SealedContribution, changed: bytes) -> dict[str, object]:
    """The manifest's entry once the first unmasker's sealed seed is ``changed``."""
    others = peek_document("manifest", part.manifest)["seed_digests"][1:]
    return {"seed_digests": [digest(changed), *others]}


def _resealed(federation: Federation, part: SealedContribution, seed: bytes) -> SealedContribution:
    """``part`` with ``seed`` sealed for it, signed by its own hospital."""
    document = peek_document("manifest", part.manifest)
    purpose = mask_purpose(
        federation.charter,
        document["round"],
        hospital=document["hospital"],
        unmasker="unmasker",
    )
    sealed = (
        federation.charter.custodians.unmasker("unmasker")
        .recipient_key()
        .seal(seed, purpose.seed_info(document["ciphertext_digest"], document["round_keys_digest"]))
    )
    changed = dataclasses.replace(part, sealed_seed=sealed)
    return _resigned(federation, changed, "large-1", _seeds(part, sealed))


def test_refuses_bad_members_and_stays_unanswered(
    federation: Federation,
    unmasker: UnmaskerService,
    sent: dict[str, Contribution],
    tmp_path: Path,
) -> None:
    parts = _set(federation.charter, sent)
    good = parts[0]
    keys = keys_of_stores(federation, federation.charter)
    other = contribute(federation, "large-1", tmp_path / "other", round_keys=keys)
    earlier = contribute(federation, "large-1", tmp_path / "earlier")
    later = contribute(federation, "large-1", tmp_path / "later", round_number=2)
    signed: list[tuple[str, dict[str, object], type[FedHelpError]]] = [
        ("large-2", {}, SignatureRefused),
        ("aggregator", {}, SignatureRefused),
        ("large-1", {"hospital": "nobody"}, CharterRefused),
        ("large-1", {"charter": digest(b"another")}, ManifestRefused),
        ("large-1", {"group": "small"}, ManifestRefused),
        ("large-1", {"round": 2}, ManifestRefused),
        # The seed was sealed for the other ciphertext.
        ("large-1", {"ciphertext_digest": digest(other.ciphertext.read_bytes())}, SealRefused),
    ]
    bad = [
        (_resigned(federation, good, signer, changes), error) for signer, changes, error in signed
    ]
    bad += [
        # Made for another beginning of this very round.
        (SealedContribution(earlier.manifest, earlier.sealed_seeds[0]), ManifestRefused),
        (SealedContribution(later.manifest, later.sealed_seeds[0]), ManifestRefused),
        (dataclasses.replace(good, sealed_seed=other.sealed_seeds[0]), ManifestRefused),
        (dataclasses.replace(good, sealed_seed=b""), ManifestRefused),
        (dataclasses.replace(good, manifest=b"{}"), MalformedMessage),
        (_resealed(federation, good, bytes(31)), ManifestRefused),
    ]
    for member, error in bad:
        with pytest.raises(error):
            _answer(federation, unmasker, federation.charter, [member, *parts[1:]])
    _answer(federation, unmasker, federation.charter, parts)


def test_refuses_another_hospitals_seed_under_an_own_manifest(
    federation: Federation, unmasker: UnmaskerService, sent: dict[str, Contribution]
) -> None:
    """A hospital cannot have another's mask added once more by copying its sealed seed."""
    parts = _set(federation.charter, sent)
    stolen = dataclasses.replace(parts[0], sealed_seed=parts[1].sealed_seed)
    forged = _resigned(federation, stolen, "large-1", _seeds(stolen, stolen.sealed_seed))
    with pytest.raises(SealRefused):
        _answer(federation, unmasker, federation.charter, [forged, *parts[1:]])


def test_who_is_revoked_does_not_count_to_the_cohort(
    federation: Federation, sent: dict[str, Contribution], tmp_path: Path
) -> None:
    charter = federation.charter
    assert (len(sent), charter.cohort.minimum) == (6, 5)
    rounds_begun(federation, federation.charter)
    root = tmp_path / "unmasker"
    shutil.copytree(federation.state("unmasker").root, root)
    state = StateDirectory.open(root)
    service = UnmaskerService(state)
    registrar = federation.state("registrar")

    def revoke(*names: str) -> None:
        entries = tuple(revocation(federation.state(name).identity) for name in names)
        envelope = signed(registrar, sequence=1 + len(names), revocations=entries)
        TrustStore(state).install(envelope, now=utc_now())

    revoke("small-1")
    five = {name: part for name, part in sent.items() if name != "small-2"}
    with pytest.raises(CohortTooSmall, match="without those who are revoked"):
        _answer(federation, service, charter, _set(charter, five))
    # Accepted before: it may stay, as the five others are enough.
    answer = _answer(federation, service, charter, _set(charter, sent))
    statement = open_unmasker_statement(charter, 1, answer, unmasker="unmasker")
    assert [member.hospital for member in statement.contributions] == list(sent)
    revoke("small-1", "small-2")
    with pytest.raises(CohortTooSmall, match="without those who are revoked"):
        _answer(federation, service, charter, _set(charter, sent))


def test_an_unmasker_with_an_old_trust_list_answers_nothing(
    federation: Federation, sent: dict[str, Contribution], tmp_path: Path
) -> None:
    rounds_begun(federation, federation.charter)
    root = tmp_path / "unmasker"
    shutil.copytree(federation.state("unmasker").root, root)
    state = StateDirectory.open(root)
    old = issued(utc_now() - datetime.timedelta(hours=25))
    TrustStore(state).path.write_bytes(signed(federation.state("registrar"), **old))
    with pytest.raises(TrustListOutdated):
        _answer(
            federation, UnmaskerService(state), federation.charter, _set(federation.charter, sent)
        )
