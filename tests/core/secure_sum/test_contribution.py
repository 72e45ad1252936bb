from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import pytest
from support.federation import Federation
from support.secure_sum import LEDGER_ENTRY, contribute, public_context, secret_context

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import CharterRefused
from fedhelp_secure.errors import FedHelpError, MalformedMessage, SignatureRefused
from fedhelp_secure.secure_sum.ckks import ContextRefused, PublicContext, generate_keys
from fedhelp_secure.secure_sum.contribution import (
    Contribution,
    ManifestRefused,
    RoundRefused,
    check_contribution,
    make_contribution,
    open_manifest,
)
from fedhelp_secure.secure_sum.framing import CiphertextRefused
from fedhelp_secure.secure_sum.masks import expand_mask, seed_info
from fedhelp_secure.secure_sum.ring import OutsideRing, add, to_ring
from fedhelp_secure.signing import peek_document


@pytest.fixture(scope="module")
def contribution(federation: Federation) -> Contribution:
    return contribute(federation, "large-1")


def _check(
    federation: Federation,
    contribution: Contribution,
    *,
    expected_hospital: str = "large-1",
    expected_round: int = 1,
) -> None:
    check_contribution(
        federation.charter,
        contribution,
        expected_hospital=expected_hospital,
        expected_round=expected_round,
    )


def _signed(
    federation: Federation, contribution: Contribution, changes: dict[str, Any]
) -> Contribution:
    """``contribution`` with a changed manifest, properly signed by its own hospital."""
    document = peek_document("manifest", contribution.manifest) | changes
    key = federation.state("large-1").signing_key()
    return dataclasses.replace(contribution, manifest=key.sign_document("manifest", document))


def test_the_manifest_says_what_was_sent(
    federation: Federation, contribution: Contribution
) -> None:
    manifest = check_contribution(
        federation.charter, contribution, expected_hospital="large-1", expected_round=1
    )
    assert manifest.document() == {
        "version": 1,
        "charter": federation.charter.digest,
        "round": 1,
        "hospital": "large-1",
        "group": "large",
        "elements": 8,
        "ciphertext_digest": digest(contribution.ciphertext),
        "ciphertext_bytes": 65676,
        "seed_digest": digest(contribution.sealed_seed),
        "ledger_entry_digest": LEDGER_ENTRY,
    }
    assert len(contribution.sealed_seed) == 1168


def test_what_is_encrypted_is_the_release_plus_the_mask(federation: Federation) -> None:
    release = np.array([0, 1, -1, 2**31 - 1, -(2**31), 5, 6, 7], dtype=np.int64)
    sent = contribute(federation, "large-1", release=release)
    info = seed_info(
        charter_digest=federation.charter.digest,
        round_number=1,
        hospital="large-1",
        ciphertext_digest=digest(sent.ciphertext),
    )
    seed = federation.state("unmasker").unsealing_key().open(sent.sealed_seed, info)
    mask = expand_mask(
        seed,
        charter_digest=federation.charter.digest,
        round_number=1,
        hospital="large-1",
        values=8,
        ring_bits=32,
    )
    masked = secret_context(federation).decrypt(sent.ciphertext)
    assert masked.tolist() == add(to_ring(release, 32), mask, 32).tolist()


def test_every_contribution_has_a_seed_of_its_own(federation: Federation) -> None:
    release = np.zeros(8, dtype=np.int64)
    opened = [
        tuple(secret_context(federation).decrypt(contribute(federation, "large-1").ciphertext))
        for _ in range(3)
    ]
    assert len(set(opened)) == 3
    assert tuple(release) not in opened


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"charter": digest(b"another")}, ManifestRefused),
        ({"round": 0}, RoundRefused),
        ({"round": 3}, RoundRefused),
        ({"round": True}, MalformedMessage),
        ({"round": "1"}, MalformedMessage),
        ({"hospital": "large-2"}, SignatureRefused),
        ({"hospital": "large-9"}, CharterRefused),
        ({"hospital": 7}, MalformedMessage),
        ({"group": "small"}, ManifestRefused),
        ({"group": "medium"}, MalformedMessage),
        ({"elements": 9}, ManifestRefused),
        ({"ciphertext_bytes": 65675}, ManifestRefused),
        ({"ciphertext_digest": digest(b"another")}, ManifestRefused),
        ({"ciphertext_digest": "sha256:00"}, MalformedMessage),
        ({"seed_digest": digest(b"another")}, ManifestRefused),
        ({"ledger_entry_digest": "none"}, MalformedMessage),
        ({"version": 2}, MalformedMessage),
        ({"patients": 12}, MalformedMessage),
    ],
)
def test_refuses_a_signed_manifest_that_says_something_else(
    federation: Federation,
    contribution: Contribution,
    changes: dict[str, Any],
    error: type[FedHelpError],
) -> None:
    with pytest.raises(error):
        _check(federation, _signed(federation, contribution, changes))


@pytest.mark.parametrize("field", ["version", "round", "hospital", "seed_digest"])
def test_refuses_a_manifest_without_a_field(
    federation: Federation, contribution: Contribution, field: str
) -> None:
    document = peek_document("manifest", contribution.manifest)
    del document[field]
    key = federation.state("large-1").signing_key()
    with pytest.raises(MalformedMessage):
        open_manifest(federation.charter, key.sign_document("manifest", document))


def test_refuses_another_signer_and_another_kind(
    federation: Federation, contribution: Contribution
) -> None:
    document = peek_document("manifest", contribution.manifest)
    other = federation.state("large-2").signing_key()
    with pytest.raises(SignatureRefused):
        open_manifest(federation.charter, other.sign_document("manifest", document))
    own = federation.state("large-1").signing_key()
    with pytest.raises(MalformedMessage):
        open_manifest(federation.charter, own.sign_document("ledger-entry", document))


@pytest.mark.parametrize("envelope", [b"", b"{}", b"[]", os.urandom(300), b" " * 20_000])
def test_refuses_what_is_no_manifest(federation: Federation, envelope: bytes) -> None:
    with pytest.raises(MalformedMessage):
        open_manifest(federation.charter, envelope)


def test_refuses_another_hospitals_or_rounds_upload(
    federation: Federation, contribution: Contribution
) -> None:
    _check(federation, contribution)
    with pytest.raises(ManifestRefused):
        _check(federation, contribution, expected_hospital="large-2")
    with pytest.raises(ManifestRefused):
        _check(federation, contribution, expected_round=2)


def test_refuses_parts_of_another_upload(
    federation: Federation, contribution: Contribution
) -> None:
    other = contribute(federation, "large-1")
    refused = [
        ({"sealed_seed": other.sealed_seed}, ManifestRefused),
        ({"sealed_seed": contribution.sealed_seed[:-1]}, ManifestRefused),
        ({"sealed_seed": b""}, ManifestRefused),
        ({"ciphertext": other.ciphertext}, ManifestRefused),
        ({"ciphertext": contribution.ciphertext[:-1]}, CiphertextRefused),
        ({"ciphertext": os.urandom(65676)}, CiphertextRefused),
        ({"ciphertext": b""}, CiphertextRefused),
    ]
    for changes, error in refused:
        with pytest.raises(error):
            _check(federation, dataclasses.replace(contribution, **changes))


def test_makes_nothing_that_would_be_refused(federation: Federation) -> None:
    arguments: dict[str, Any] = {
        "hospital": "large-1",
        "release": np.ones(8, dtype=np.int64),
        "ledger_entry_digest": LEDGER_ENTRY,
        "signing_key": federation.state("large-1").signing_key(),
        "context": public_context(federation),
    }
    other = PublicContext(generate_keys()[1], federation.charter.secure_sum)
    refused: list[tuple[int, dict[str, Any], type[FedHelpError]]] = [
        (0, {}, RoundRefused),
        (3, {}, RoundRefused),
        (1, {"hospital": "large-2"}, SignatureRefused),
        (1, {"hospital": "nobody"}, CharterRefused),
        (1, {"context": other}, ContextRefused),
        (1, {"ledger_entry_digest": "none"}, MalformedMessage),
        (1, {"release": np.ones(7, dtype=np.int64)}, OutsideRing),
        (1, {"release": np.full(8, 2**31, dtype=np.int64)}, OutsideRing),
        (1, {"release": np.ones(8)}, OutsideRing),
    ]
    for round_number, changes, error in refused:
        with pytest.raises(error):
            make_contribution(federation.charter, round_number, **(arguments | changes))
