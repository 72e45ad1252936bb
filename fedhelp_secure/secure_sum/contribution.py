"""What a hospital sends for one round: a signed manifest, a sealed mask seed and a ciphertext.

DESIGN section 5, steps 1 to 5, and every check of them that needs no CKKS parser.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedhelp_secure.canonical import canonical_json, check_digest_form, digest
from fedhelp_secure.charter import Charter, Digest, Group, Label
from fedhelp_secure.errors import MalformedMessage, PeerError
from fedhelp_secure.sealing import SEALED_OVERHEAD
from fedhelp_secure.secure_sum.ckks import ContextRefused, PublicContext
from fedhelp_secure.secure_sum.framing import check_framing, ciphertext_bytes
from fedhelp_secure.secure_sum.masks import SEED_BYTES, draw_seed, expand_mask, seed_info
from fedhelp_secure.secure_sum.ring import add, to_ring
from fedhelp_secure.signing import SigningKey, open_document, peek_document

KIND = "manifest"
MAXIMUM_MANIFEST_BYTES = 16 * 1024
SEALED_SEED_BYTES = SEED_BYTES + SEALED_OVERHEAD


class ManifestRefused(PeerError):
    """A manifest does not say what this charter, round, hospital or upload requires."""

    code = "manifest"


class RoundRefused(PeerError):
    """The charter has no round of this number."""

    code = "round"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a hospital signs about one contribution."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    version: Literal[1]
    charter: Digest
    round: int
    hospital: Label
    group: Group
    elements: int
    """Integers in the release."""
    ciphertext_digest: Digest
    ciphertext_bytes: int
    seed_digest: Digest
    """Of the sealed seed's bytes."""
    ledger_entry_digest: Digest
    """Of the ledger entry that was debited before anything was encrypted."""

    def document(self) -> dict[str, Any]:
        """As plain JSON values: what is signed."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Contribution:
    """The three parts of an upload."""

    manifest: bytes
    """DSSE envelope."""
    sealed_seed: bytes
    ciphertext: bytes


_MANIFEST = TypeAdapter(Manifest)


def make_contribution(
    charter: Charter,
    round_number: int,
    *,
    hospital: str,
    release: NDArray[np.int64],
    ledger_entry_digest: str,
    signing_key: SigningKey,
    context: PublicContext,
) -> Contribution:
    """Mask, encrypt, seal and sign ``release`` (already noised; int64 [values]).

    Store the result: a retry must send the same bytes. Raises ContextRefused unless ``context`` is
    the one that the charter pins, OutsideRing if the release does not fit, RoundRefused for a round
    outside the charter, and SignatureRefused for another key than the hospital's.
    """
    _check_context(charter, context)
    check_round(charter, round_number)
    ring_bits = charter.secure_sum.ring_bits
    charter_digest = charter.digest
    seed = draw_seed()
    mask = expand_mask(
        seed,
        charter_digest=charter_digest,
        round_number=round_number,
        hospital=hospital,
        values=charter.secure_sum.values,
        ring_bits=ring_bits,
    )
    ciphertext = context.encrypt(add(to_ring(release, ring_bits), mask, ring_bits))
    ciphertext_digest = digest(ciphertext)
    info = seed_info(
        charter_digest=charter_digest,
        round_number=round_number,
        hospital=hospital,
        ciphertext_digest=ciphertext_digest,
    )
    sealed_seed = charter.custodians.unmasker.recipient_key().seal(seed, info)
    manifest = Manifest(
        version=1,
        charter=charter_digest,
        round=round_number,
        hospital=hospital,
        group=charter.hospital(hospital).group,
        elements=charter.secure_sum.values,
        ciphertext_digest=ciphertext_digest,
        ciphertext_bytes=len(ciphertext),
        seed_digest=digest(sealed_seed),
        ledger_entry_digest=check_digest_form(ledger_entry_digest),
    )
    envelope = signing_key.sign_document(KIND, manifest.document())
    # Our own reading of it: another hospital's key or name would only be noticed after the upload.
    open_manifest(charter, envelope)
    return Contribution(envelope, sealed_seed, ciphertext)


def open_manifest(charter: Charter, envelope: bytes) -> Manifest:
    """The manifest in ``envelope``, its signature checked with the key of the hospital it names.

    Raises MalformedMessage for a wrong form, CharterRefused for a hospital outside the charter,
    SignatureRefused for another key, RoundRefused for a round outside the charter, and
    ManifestRefused if charter, group or sizes are not those of ``charter``.
    """
    if len(envelope) > MAXIMUM_MANIFEST_BYTES:
        raise MalformedMessage(
            "a manifest is longer than 16 KiB; ask the hospital to make it anew."
        )
    claimed = peek_document(KIND, envelope).get("hospital")
    if not isinstance(claimed, str):
        raise MalformedMessage("a manifest names no hospital; ask its sender to make it anew.")
    hospital = charter.hospital(claimed)
    manifest = _parse(open_document(KIND, envelope, hospital.verifying_key()))
    if manifest.charter != charter.digest:
        raise ManifestRefused("a manifest is for another charter; fetch the present charter.")
    check_round(charter, manifest.round)
    if manifest.group != hospital.group:
        raise ManifestRefused("a manifest claims another group than the charter gives.")
    if manifest.elements != charter.secure_sum.values:
        raise ManifestRefused("a manifest is for another number of integers than the charter's.")
    if manifest.ciphertext_bytes != ciphertext_bytes(charter.secure_sum):
        raise ManifestRefused("a manifest is for another ciphertext length than the charter gives.")
    return manifest


def check_contribution(
    charter: Charter,
    contribution: Contribution,
    *,
    expected_hospital: str,
    expected_round: int,
) -> Manifest:
    """Everything an aggregator can check about an upload without parsing its ciphertext.

    ``expected_hospital`` is the caller's authenticated name. Raises what `open_manifest` raises,
    ManifestRefused if another hospital or round is meant or a digest differs, and CiphertextRefused
    for a wrong framing.
    """
    manifest = open_manifest(charter, contribution.manifest)
    if manifest.hospital != expected_hospital:
        raise ManifestRefused("a manifest is another hospital's; send your own.")
    if manifest.round != expected_round:
        raise ManifestRefused("a manifest is for another round; send it in its own round.")
    check_sealed_seed(manifest, contribution.sealed_seed)
    check_framing(contribution.ciphertext, charter.secure_sum)
    if digest(contribution.ciphertext) != manifest.ciphertext_digest:
        raise ManifestRefused("a ciphertext is not the one that its manifest names; send it again.")
    return manifest


def check_sealed_seed(manifest: Manifest, sealed_seed: bytes) -> None:
    """Raises ManifestRefused unless ``sealed_seed`` is the one that ``manifest`` names."""
    if len(sealed_seed) != SEALED_SEED_BYTES or digest(sealed_seed) != manifest.seed_digest:
        raise ManifestRefused(
            "a sealed seed is not the one that its manifest names; send it again."
        )


def check_round(charter: Charter, round_number: int) -> None:
    """Raises RoundRefused unless the charter has a round of this number."""
    if not 1 <= round_number <= charter.rounds.count:
        raise RoundRefused("there is no such round in the charter; fetch the present charter.")


def _check_context(charter: Charter, context: PublicContext) -> None:
    if context.digest != charter.custodians.decryptor.context_digest:
        raise ContextRefused(
            "the public context is not the one that the charter pins; fetch it again from the "
            "decryptor that the charter names."
        )


def _parse(document: dict[str, Any]) -> Manifest:
    try:
        return _MANIFEST.validate_json(canonical_json(document))
    except ValidationError as error:
        raise MalformedMessage(
            "a manifest has other fields than the contract fixes; update the sender's software."
        ) from error
