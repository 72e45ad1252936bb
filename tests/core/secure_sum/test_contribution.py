from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.federation import Federation
from support.keys import keys_at_first
from support.sums import LEDGER_ENTRY, contribute, public_context, secret_context

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, CharterRefused
from fedhelp_secure.errors import FedHelpError, MalformedMessage, SignatureRefused
from fedhelp_secure.sealing import SealRefused
from fedhelp_secure.secure_sum.authenticator import InnerProducts
from fedhelp_secure.secure_sum.bodies import frame_sizes
from fedhelp_secure.secure_sum.ckks import PublicContext, generate_keys
from fedhelp_secure.secure_sum.contribution import (
    Contribution,
    ContributionKeys,
    Manifest,
    ManifestRefused,
    RoundRefused,
    authenticator_of,
    check_sealed_seed,
    check_sealed_seeds,
    make_contribution,
    mask_purpose,
    open_manifest,
)
from fedhelp_secure.secure_sum.masks import MaskStream
from fedhelp_secure.secure_sum.packing import pack_lanes
from fedhelp_secure.secure_sum.residues import ContextRefused
from fedhelp_secure.secure_sum.ring import OutsideRing, add
from fedhelp_secure.signing import peek_document

UNMASKERS = ("unmasker", "unmasker-2")


@pytest.fixture(scope="module")
def contribution(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Contribution:
    return contribute(federation, "large-1", tmp_path_factory.mktemp("sent") / "ciphertext")


def _signed(federation: Federation, contribution: Contribution, changes: dict[str, Any]) -> bytes:
    """A changed manifest, properly signed by its own hospital."""
    document = peek_document("manifest", contribution.manifest) | changes
    return federation.state("large-1").signing_key().sign_document("manifest", document)


def _opened(federation: Federation, contribution: Contribution) -> Manifest:
    return open_manifest(federation.charter, contribution.manifest)


def test_the_manifest_says_what_was_sent(
    federation: Federation, contribution: Contribution
) -> None:
    secure_sum = federation.charter.secure_sum
    assert _opened(federation, contribution).document() == {
        "version": 1,
        "charter": federation.charter.digest,
        "round": 1,
        "hospital": "large-1",
        "group": "large",
        "elements": secure_sum.elements,
        "ciphertext_digest": digest(contribution.ciphertext.read_bytes()),
        "ciphertext_bytes": 65_536,
        "seed_digests": [digest(sealed) for sealed in contribution.sealed_seeds],
        "ledger_entry_digest": LEDGER_ENTRY,
        "round_keys_digest": keys_at_first(federation, federation.charter).digest,
    }
    assert contribution.ciphertext.stat().st_size == secure_sum.ciphertext_bytes == 65_536
    assert [len(sealed) for sealed in contribution.sealed_seeds] == [1168, 1168]


def _tags(
    charter: Charter, federation: Federation, release: NDArray[np.int64]
) -> NDArray[np.uint64]:
    authenticator = authenticator_of(
        charter,
        1,
        hospital="large-1",
        unsealing_key=federation.state("large-1").unsealing_key(),
    )
    product: InnerProducts = authenticator.product()
    product.update(release)
    return authenticator.tags(product, "large-1")


@pytest.mark.parametrize("shape", [{}, {"ring_bits": 10, "lanes": 3, "check_elements": 3}])
@pytest.mark.parametrize(
    ("frames_filled", "more"), [(0, 1), (0, 12), (1, -1), (1, 0), (1, 1), (2, -5), (2, 0)]
)
def test_what_is_encrypted_is_the_tagged_release_plus_every_unmaskers_mask(
    federation: Federation,
    tmp_path: Path,
    frames_filled: int,
    more: int,
    shape: dict[str, int],
) -> None:
    """One value, less than a frame, tags that two frames share, and tags in one of their own."""
    secure_sum = federation.charter.secure_sum
    values = 4096 * shape.get("lanes", secure_sum.lanes) * frames_filled + more
    wider = secure_sum.model_copy(update=shape | {"values": values})
    charter = federation.charter.model_copy(update={"secure_sum": wider})
    half = 2 ** (wider.ring_bits - 1)
    release = np.random.default_rng(1).integers(-half, half, values)
    release[:3] = [half - 1, -half, -1][:values]
    sent = contribute(federation, "large-1", tmp_path / "sent", release=release, charter=charter)
    packed = pack_lanes(release, ring_bits=wider.ring_bits, lanes=wider.lanes)
    expected = np.concatenate([packed, _tags(charter, federation, release)])
    manifest = open_manifest(charter, sent.manifest)
    for index, unmasker in enumerate(UNMASKERS):
        purpose = mask_purpose(charter, 1, hospital="large-1", unmasker=unmasker)
        key = federation.state(unmasker).unsealing_key()
        info = purpose.seed_info(manifest.ciphertext_digest, manifest.round_keys_digest)
        seed = key.open(sent.sealed_seeds[index], info)
        mask = MaskStream(seed, purpose).take(wider.elements)
        expected = add(expected, mask, wider.packed_bits)
        with pytest.raises(SealRefused):
            key.open(sent.sealed_seeds[1 - index], info)
    context, data = secret_context(federation, charter), sent.ciphertext.read_bytes()
    assert len(data) == 65_536 * len(frame_sizes(wider))
    opened = [
        element
        for at, size in enumerate(frame_sizes(wider))
        for element in context.decrypt_frame(data[65_536 * at : 65_536 * (at + 1)])[:size].tolist()
    ]
    assert opened == expected.tolist()


def test_every_contribution_has_seeds_of_its_own(federation: Federation, tmp_path: Path) -> None:
    sent = [contribute(federation, "large-1", tmp_path / str(at)) for at in range(3)]
    context = secret_context(federation)
    masked = {tuple(context.decrypt_frame(one.ciphertext.read_bytes()).tolist()) for one in sent}
    assert len(masked) == 3
    assert len({sealed for one in sent for sealed in one.sealed_seeds}) == 6


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
        ({"elements": 999}, ManifestRefused),
        ({"ciphertext_bytes": 65_535}, ManifestRefused),
        ({"ciphertext_bytes": 131_072}, ManifestRefused),
        ({"ciphertext_digest": "sha256:00"}, MalformedMessage),
        ({"seed_digests": []}, ManifestRefused),
        ({"seed_digests": [digest(b"a")]}, ManifestRefused),
        ({"seed_digests": [digest(b"a")] * 3}, ManifestRefused),
        ({"seed_digests": ["sha256:00"] * 2}, MalformedMessage),
        ({"seed_digests": digest(b"a")}, MalformedMessage),
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
        open_manifest(federation.charter, _signed(federation, contribution, changes))


@pytest.mark.parametrize("field", ["version", "round", "hospital", "seed_digests", "elements"])
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


@pytest.mark.parametrize(
    "envelope",
    [b"", b"{}", b"[]", pytest.param(os.urandom(300), id="random"), b" " * 20_000],
)
def test_refuses_what_is_no_manifest(federation: Federation, envelope: bytes) -> None:
    with pytest.raises(MalformedMessage):
        open_manifest(federation.charter, envelope)


def test_refuses_seeds_of_another_upload_or_unmasker(
    federation: Federation, contribution: Contribution, tmp_path: Path
) -> None:
    manifest = _opened(federation, contribution)
    first, second = contribution.sealed_seeds
    check_sealed_seeds(manifest, (first, second))
    other = contribute(federation, "large-1", tmp_path / "other").sealed_seeds
    refused: list[tuple[bytes, ...]] = [
        (),
        (first,),
        (second,),
        (first, second, second),
        (second, first),
        (first, first),
        (other[0], second),
        (first, other[1]),
        (first[:-1], second),
        (first, b""),
    ]
    for sealed_seeds in refused:
        with pytest.raises(ManifestRefused):
            check_sealed_seeds(manifest, sealed_seeds)
    check_sealed_seed(manifest, 1, second)
    for index, sealed in ((0, second), (1, first), (1, second + b"\0")):
        with pytest.raises(ManifestRefused):
            check_sealed_seed(manifest, index, sealed)


def test_a_signed_digest_of_another_length_of_seed_is_refused(
    federation: Federation, contribution: Contribution
) -> None:
    short = contribution.sealed_seeds[0][:-1]
    named = [digest(short), digest(contribution.sealed_seeds[1])]
    envelope = _signed(federation, contribution, {"seed_digests": named})
    manifest = open_manifest(federation.charter, envelope)
    with pytest.raises(ManifestRefused):
        check_sealed_seed(manifest, 0, short)


def test_makes_nothing_that_would_be_refused(federation: Federation, tmp_path: Path) -> None:
    values = federation.charter.secure_sum.values
    top = 2 ** (federation.charter.secure_sum.ring_bits - 1)
    state = federation.state("large-1")
    keys = ContributionKeys(state.signing_key(), state.unsealing_key(), public_context(federation))
    arguments: dict[str, Any] = {
        "hospital": "large-1",
        "release": np.ones(values, dtype=np.int64),
        "ledger_entry_digest": LEDGER_ENTRY,
        "keys": keys,
    }
    other = PublicContext(generate_keys()[1], federation.charter.secure_sum)
    stranger = federation.state("large-2")
    refused: list[tuple[int, dict[str, Any], type[FedHelpError]]] = [
        (0, {}, RoundRefused),
        (3, {}, RoundRefused),
        (1, {"hospital": "large-2"}, SealRefused),
        (1, {"hospital": "nobody"}, CharterRefused),
        (1, {"keys": dataclasses.replace(keys, context=other)}, ContextRefused),
        (
            1,
            {"keys": dataclasses.replace(keys, signing_key=stranger.signing_key())},
            SignatureRefused,
        ),
        (
            1,
            {"keys": dataclasses.replace(keys, unsealing_key=stranger.unsealing_key())},
            SealRefused,
        ),
        (1, {"ledger_entry_digest": "none"}, MalformedMessage),
        (1, {"release": np.ones(values - 1, dtype=np.int64)}, OutsideRing),
        (1, {"release": np.full(values, top, dtype=np.int64)}, OutsideRing),
        (1, {"release": np.full(values, -top - 1, dtype=np.int64)}, OutsideRing),
        (1, {"release": np.full(values, -(2**63), dtype=np.int64)}, OutsideRing),
        (1, {"release": np.ones(values)}, OutsideRing),
    ]
    for number, (round_number, changes, error) in enumerate(refused):
        with pytest.raises(error):
            make_contribution(
                federation.charter,
                keys_at_first(federation, federation.charter, round_number),
                **(arguments | changes),
                out=tmp_path / str(number),
            )


def test_never_writes_over_a_ciphertext(federation: Federation, contribution: Contribution) -> None:
    with pytest.raises(FileExistsError):
        contribute(federation, "large-1", contribution.ciphertext)


def test_shows_nothing_of_its_keys(federation: Federation) -> None:
    state = federation.state("large-1")
    keys = ContributionKeys(state.signing_key(), state.unsealing_key(), public_context(federation))
    assert state.unsealing_key().to_bytes().hex()[:16] not in repr(keys)
    assert "UnsealingKey(...)" in repr(keys)
