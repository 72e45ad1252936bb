"""What a hospital sends for one round: a signed manifest, sealed mask seeds and a ciphertext.

DESIGN section 5, steps 1 to 5, and every check of them that needs no homomorphic encryption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedhelp_secure.canonical import Digesting, canonical_json, check_digest_form, digest
from fedhelp_secure.charter import Charter, Digest, Group, Label
from fedhelp_secure.errors import MalformedMessage, PeerError
from fedhelp_secure.sealing import SEALED_OVERHEAD, UnsealingKey
from fedhelp_secure.secure_sum.authenticator import Authenticator, RoundPurpose, key_info
from fedhelp_secure.secure_sum.epochs import KeysRefused
from fedhelp_secure.secure_sum.masks import SEED_BYTES, MaskPurpose, MaskStream, draw_seed
from fedhelp_secure.secure_sum.packing import pack_lanes
from fedhelp_secure.secure_sum.residues import ContextRefused
from fedhelp_secure.secure_sum.ring import OutsideRing, add
from fedhelp_secure.secure_sum.round_keys import RoundKeys
from fedhelp_secure.signing import SigningKey, open_document, peek_document

if TYPE_CHECKING:
    # Only a hospital encrypts: whoever checks contributions shall not load TenSEAL.
    from fedhelp_secure.secure_sum.ckks import PublicContext

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
    """Elements of the ring in the release."""
    ciphertext_digest: Digest
    ciphertext_bytes: int
    seed_digests: tuple[Digest, ...]
    """Of each unmasker's sealed seed, in the charter's order."""
    ledger_entry_digest: Digest
    """Of the ledger entry that was debited before anything was encrypted."""
    round_keys_digest: Digest
    """Of the custodians' statements that bind the round to their keys' epochs."""

    def document(self) -> dict[str, Any]:
        """As plain JSON values: what is signed."""
        return asdict(self) | {"seed_digests": list(self.seed_digests)}


@dataclass(frozen=True, slots=True)
class Contribution:
    """The parts of an upload."""

    manifest: bytes
    """DSSE envelope."""
    sealed_seeds: tuple[bytes, ...]
    """One for each unmasker, in the charter's order."""
    ciphertext: Path
    """The file with the residues, ``ciphertext_bytes`` long."""


@dataclass(slots=True)
class ContributionKeys:
    """The keys with which a hospital contributes. Its repr shows nothing of them."""

    signing_key: SigningKey
    unsealing_key: UnsealingKey
    context: PublicContext
    """Of the decryptor's epoch; another one takes its place when a round is under another epoch."""


_MANIFEST = TypeAdapter(Manifest)


def authenticator_of(
    charter: Charter, round_number: int, *, hospital: str, unsealing_key: UnsealingKey
) -> Authenticator:
    """One round's authenticator, its key opened from the charter with ``hospital``'s key.

    Raises CharterRefused, or SealRefused if the key was sealed to another hospital or charter.
    """
    info = key_info(
        federation=charter.federation,
        charter_name=charter.name,
        created=charter.created,
        hospital=hospital,
    )
    sealed = charter.hospital(hospital).sealed_authenticator_key()
    purpose = RoundPurpose(
        charter_digest=charter.digest,
        round_number=round_number,
        values=charter.secure_sum.values,
        packed_bits=charter.secure_sum.packed_bits,
        tags=charter.secure_sum.check_elements,
    )
    return Authenticator(unsealing_key.open(sealed, info), purpose)


def mask_purpose(
    charter: Charter, round_number: int, *, hospital: str, unmasker: str
) -> MaskPurpose:
    """What the mask stream of ``hospital`` for ``unmasker`` is bound to."""
    return MaskPurpose(
        charter_digest=charter.digest,
        round_number=round_number,
        hospital=hospital,
        unmasker=unmasker,
        elements=charter.secure_sum.elements,
        packed_bits=charter.secure_sum.packed_bits,
    )


def make_contribution(
    charter: Charter,
    round_keys: RoundKeys,
    *,
    hospital: str,
    release: NDArray[np.int64],
    ledger_entry_digest: str,
    keys: ContributionKeys,
    out: Path,
) -> Contribution:
    """Authenticate, mask, encrypt, seal and sign ``release`` (already noised; int64 [values]).

    The round is the one of ``round_keys``. The ciphertext goes to the new file ``out``, frame by
    frame. Store the result: a retry must send the same bytes. Raises ContextRefused unless the
    context is that of the round's keys, KeysRefused for another charter's keys, OutsideRing if the
    release does not fit, RoundRefused for a round outside the charter, and SignatureRefused for
    another key than the hospital's.
    """
    round_number = round_keys.round_number
    _check_keys(charter, round_keys, keys.context)
    check_round(charter, round_number)
    unmaskers = charter.custodians.unmaskers
    purposes = [
        mask_purpose(charter, round_number, hospital=hospital, unmasker=unmasker.name)
        for unmasker in unmaskers
    ]
    seeds = [draw_seed() for _ in unmaskers]
    tags = _tags(charter, round_number, hospital, release, keys.unsealing_key)
    masks = [MaskStream(seed, purpose) for seed, purpose in zip(seeds, purposes, strict=True)]
    ciphertext_digest = _encrypt(charter, _frames(charter, release, tags), masks, keys.context, out)
    sealed_seeds = tuple(
        key.seal(seed, purpose.seed_info(ciphertext_digest, round_keys.digest))
        for key, seed, purpose in zip(round_keys.sealing_keys, seeds, purposes, strict=True)
    )
    manifest = Manifest(
        version=1,
        charter=charter.digest,
        round=round_number,
        hospital=hospital,
        group=charter.hospital(hospital).group,
        elements=charter.secure_sum.elements,
        ciphertext_digest=ciphertext_digest,
        ciphertext_bytes=charter.secure_sum.ciphertext_bytes,
        seed_digests=tuple(digest(sealed) for sealed in sealed_seeds),
        ledger_entry_digest=check_digest_form(ledger_entry_digest),
        round_keys_digest=round_keys.digest,
    )
    envelope = keys.signing_key.sign_document(KIND, manifest.document())
    # Our own reading of it: another hospital's key or name would only be noticed after the upload.
    open_manifest(charter, envelope)
    return Contribution(envelope, sealed_seeds, out)


def _tags(
    charter: Charter,
    round_number: int,
    hospital: str,
    release: NDArray[np.int64],
    unsealing_key: UnsealingKey,
) -> NDArray[np.uint64]:
    """The authenticator's tags of ``release``."""
    if release.shape != (charter.secure_sum.values,) or release.dtype != np.int64:
        raise OutsideRing(f"a release must have {charter.secure_sum.values} integers.")
    authenticator = authenticator_of(
        charter, round_number, hospital=hospital, unsealing_key=unsealing_key
    )
    product = authenticator.product()
    for start in range(0, release.size, _window(charter)):
        product.update(release[start : start + _window(charter)])
    return authenticator.tags(product, hospital)


def _encrypt(
    charter: Charter,
    frames: Iterator[NDArray[np.uint64]],
    masks: list[MaskStream],
    context: PublicContext,
    out: Path,
) -> str:
    """Mask and encrypt ``frames`` into the file ``out``; returns its digest."""
    hashed = Digesting()
    with out.open("xb") as file:
        for elements in frames:
            for mask in masks:
                elements = add(elements, mask.take(elements.size), charter.secure_sum.packed_bits)
            frame = context.encrypt_frame(elements)
            hashed.update(frame)
            file.write(frame)
    return hashed.digest


def _frames(
    charter: Charter, release: NDArray[np.int64], tags: NDArray[np.uint64]
) -> Iterator[NDArray[np.uint64]]:
    """The elements of a release, frame by frame: packed values, then tags."""
    ring_bits, lanes = charter.secure_sum.ring_bits, charter.secure_sum.lanes
    size = _window(charter)
    last = (release.size - 1) // size * size
    for start in range(0, last, size):
        yield pack_lanes(release[start : start + size], ring_bits=ring_bits, lanes=lanes)
    end = np.concatenate([pack_lanes(release[last:], ring_bits=ring_bits, lanes=lanes), tags])
    # A full last window leaves the tags to a frame of their own.
    for start in range(0, end.size, charter.secure_sum.polynomial_degree):
        yield end[start : start + charter.secure_sum.polynomial_degree]


def _window(charter: Charter) -> int:
    """Values in one frame."""
    return charter.secure_sum.polynomial_degree * charter.secure_sum.lanes


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
    if manifest.elements != charter.secure_sum.elements:
        raise ManifestRefused("a manifest is for another number of elements than the charter's.")
    if manifest.ciphertext_bytes != charter.secure_sum.ciphertext_bytes:
        raise ManifestRefused("a manifest is for another ciphertext length than the charter gives.")
    if len(manifest.seed_digests) != len(charter.custodians.unmaskers):
        raise ManifestRefused("a manifest has another number of seeds than the charter unmaskers.")
    return manifest


def check_sealed_seed(manifest: Manifest, index: int, sealed_seed: bytes) -> None:
    """Raises ManifestRefused unless ``sealed_seed`` is that of unmasker ``index`` (from 0)."""
    if len(sealed_seed) != SEALED_SEED_BYTES or digest(sealed_seed) != manifest.seed_digests[index]:
        raise ManifestRefused(
            "a sealed seed is not the one that its manifest names; send it again."
        )


def check_sealed_seeds(manifest: Manifest, sealed_seeds: tuple[bytes, ...]) -> None:
    """Raises ManifestRefused unless ``sealed_seeds`` are all and only those of ``manifest``."""
    if len(sealed_seeds) != len(manifest.seed_digests):
        raise ManifestRefused("an upload must have one sealed seed for each unmasker; send all.")
    for index, sealed_seed in enumerate(sealed_seeds):
        check_sealed_seed(manifest, index, sealed_seed)


def check_round_keys(manifest: Manifest, round_keys_digest: str) -> None:
    """Raises ManifestRefused unless ``manifest`` was made under the round's keys."""
    if manifest.round_keys_digest != round_keys_digest:
        raise ManifestRefused(
            "a manifest is for other keys than the custodians bound this round to: it was made for "
            "another beginning of the round, and cannot be opened."
        )


def check_round(charter: Charter, round_number: int) -> None:
    """Raises RoundRefused unless the charter has a round of this number."""
    if not 1 <= round_number <= charter.rounds.count:
        raise RoundRefused("there is no such round in the charter; fetch the present charter.")


def _check_keys(charter: Charter, round_keys: RoundKeys, context: PublicContext) -> None:
    if round_keys.charter != charter.digest:
        raise KeysRefused("a round's keys are another charter's; fetch those of this charter.")
    if context.digest != round_keys.context_digest:
        raise ContextRefused(
            "the public context is not that of the epoch to which the decryptor bound the round; "
            "fetch the round's keys again."
        )


def _parse(document: dict[str, Any]) -> Manifest:
    try:
        return _MANIFEST.validate_json(canonical_json(document))
    except ValidationError as error:
        raise MalformedMessage(
            "a manifest has other fields than the contract fixes; update the sender's software."
        ) from error
