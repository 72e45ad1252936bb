"""Manifests and custodians' statements without the log that names them.

Whoever has no log still has signatures: a hospital's manifest proves a release, an unmasker's
statement proves which set was opened. What only a log shows (that nothing was left out, and when)
is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import Charter, SignedParty
from fedhelp_secure.errors import FedHelpError, SignatureRefused
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.layout import BundleFiles, BundleRefused
from fedhelp_secure.evidence.verify_rounds import Accepted
from fedhelp_secure.secure_sum.answers import (
    DECRYPTOR_KIND,
    UNMASKER_KIND,
    DecryptorStatement,
    UnmaskerStatement,
)
from fedhelp_secure.secure_sum.cohort import check_cohort
from fedhelp_secure.secure_sum.contribution import KIND as MANIFEST_KIND
from fedhelp_secure.secure_sum.contribution import open_manifest
from fedhelp_secure.signing import open_document, peek_kind
from fedhelp_secure.wire.v1.evidence_pb2 import ContributionAccepted

_Statement = TypeVar("_Statement", DecryptorStatement, UnmaskerStatement)

_DECRYPTOR = TypeAdapter(DecryptorStatement)
_UNMASKER = TypeAdapter(UnmaskerStatement)

NO_INDEX = -1
"""Of a contribution that no log has."""


def loose_contributions(files: BundleFiles, charter: Charter) -> tuple[Accepted, ...]:
    """The contributions whose manifests are in ``objects/``, each signed by its hospital.

    Raises BundleRefused if an object is not what its name says, a hospital released twice in one
    round, or a custodian's statement is about another set than a cohort of these.
    """
    held = layout.objects(files)
    for name, envelope in held.items():
        if digest(envelope) != name:
            raise BundleRefused(f"{layout.object_path(name)} does not hash to its name.")
    accepted: dict[tuple[str, int], Accepted] = {}
    for name, envelope in _of_kind(held, MANIFEST_KIND):
        item = _contribution(charter, name, envelope)
        place = (item.event.hospital, item.event.round)
        if place in accepted:
            raise BundleRefused(
                f"{layout.object_path(name)} is a second release of {place[0]} in round {place[1]}."
            )
        accepted[place] = item
    _check_statements(charter, held, accepted)
    return tuple(accepted.values())


def _of_kind(held: dict[str, bytes], kind: str) -> Iterator[tuple[str, bytes]]:
    return ((name, envelope) for name, envelope in held.items() if peek_kind(envelope) == kind)


def _contribution(charter: Charter, name: str, envelope: bytes) -> Accepted:
    try:
        manifest = open_manifest(charter, envelope)
    except FedHelpError as error:
        raise BundleRefused(f"{layout.object_path(name)} is refused: {error}") from error
    event = ContributionAccepted(
        charter_digest=charter.digest,
        round=manifest.round,
        hospital=manifest.hospital,
        manifest_digest=name,
        ciphertext_digest=manifest.ciphertext_digest,
        ciphertext_bytes=manifest.ciphertext_bytes,
    )
    return Accepted(NO_INDEX, event, manifest)


def _check_statements(
    charter: Charter, held: dict[str, bytes], accepted: dict[tuple[str, int], Accepted]
) -> None:
    sums: dict[int, str] = {}
    for name, envelope in _of_kind(held, DECRYPTOR_KIND):
        summed = _opened(_DECRYPTOR, DECRYPTOR_KIND, envelope, (charter.custodians.decryptor,))
        _check_charter(charter, name, summed.charter)
        if sums.setdefault(summed.round, summed.sum_digest) != summed.sum_digest:
            raise BundleRefused(f"round {summed.round}: the decryptor opened two different sums.")
    sets: dict[int, list[tuple[str, str]]] = {}
    for name, envelope in _of_kind(held, UNMASKER_KIND):
        opened = _opened(_UNMASKER, UNMASKER_KIND, envelope, charter.custodians.unmaskers)
        _check_charter(charter, name, opened.charter)
        members = [(item.hospital, item.manifest_digest) for item in opened.contributions]
        if sets.setdefault(opened.round, members) != members:
            raise BundleRefused(f"round {opened.round}: two different sets were opened.")
        try:
            check_cohort(charter, [hospital for hospital, _ in members])
        except FedHelpError as error:
            raise BundleRefused(
                f"round {opened.round} was opened without a cohort: {error}"
            ) from error
        for hospital, manifest in members:
            item = accepted.get((hospital, opened.round))
            if item is not None and item.event.manifest_digest != manifest:
                raise BundleRefused(
                    f"round {opened.round}: an unmasker opened another manifest of {hospital} than "
                    "is here."
                )


def _check_charter(charter: Charter, name: str, stated: str) -> None:
    if stated != charter.digest:
        raise BundleRefused(f"{layout.object_path(name)} is of another charter.")


def _opened(
    adapter: TypeAdapter[_Statement],
    kind: str,
    envelope: bytes,
    parties: tuple[SignedParty, ...],
) -> _Statement:
    for party in parties:
        try:
            document = open_document(kind, envelope, party.verifying_key())
        except SignatureRefused:
            continue
        try:
            return adapter.validate_json(canonical_json(document))
        except ValidationError as error:
            raise BundleRefused(f"a {kind} has other fields than it must.") from error
    raise SignatureRefused(f"a {kind} is not signed by a custodian of the charter.")
