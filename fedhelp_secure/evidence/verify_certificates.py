"""Step 14 of the verifier: who acted had a valid certificate then, and had not been revoked.

A certificate is bound to its party by an authority of a trust list, and a trust list by the
governance key: nothing here rests on the aggregator's word, which can only leave some out. That a
party's connection was made with one certificate and not with another of the same party is not
shown. Custodians serve the aggregator, and their certificates are not in bundles; what they say is
signed with the keys that the charter pins.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.layout import BundleFiles, BundleRefused
from fedhelp_secure.evidence.verify_log import Record, governance_key_of
from fedhelp_secure.transport.chain import load_chain, verified_identity
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import CLOCK_SKEW
from fedhelp_secure.trust.trust_list import TrustList, open_trust_list

LONGEST_CALL = datetime.timedelta(hours=1)
"""A certificate may end during a call that began with it."""

_SECOND = datetime.timedelta(seconds=1)
_ROLES = (Role.HOSPITAL, Role.BROKER, Role.AUDITOR)
"""Whose certificates the aggregator sees when they bring something."""


@dataclass(frozen=True, slots=True)
class HeldCertificate:
    """One certificate of a party of the charter."""

    identity: Identity
    digest: str
    """Of the chain, as its file is named."""
    fingerprint: str
    """SHA-256 of the certificate itself (DER), as ``openssl x509 -fingerprint -sha256`` has it."""
    issuer: str
    """RFC 4514."""
    begins: datetime.datetime
    ends: datetime.datetime


@dataclass(frozen=True, slots=True)
class Certificates:
    """What step 14 proves."""

    held: tuple[HeldCertificate, ...]
    trusted: TrustList
    """The newest list in the bundle."""
    trusted_digest: str


def check_certificates(files: BundleFiles, record: Record) -> Certificates:
    """Step 14: every acting party was certified, under a signed trust list, when it acted."""
    lists = _trust_lists(files, record.charter)
    newest = max(lists, key=lambda name: (lists[name].sequence, lists[name].issued))
    held = tuple(
        _held(name, data, lists, record.charter)
        for name, data in layout.certificates(files).items()
    )
    of_party: dict[Identity, list[HeldCertificate]] = defaultdict(list)
    for certificate in held:
        of_party[certificate.identity].append(certificate)
    for index, identity, moment in _acts(record):
        if not any(_covers(certificate, moment) for certificate in of_party[identity]):
            raise BundleRefused(
                f"entry {index}: the bundle has no certificate of {identity} that was valid then; "
                "ask the aggregator's operator for it."
            )
        _check_not_revoked(lists[newest], index, identity, moment)
    return Certificates(held, lists[newest], newest)


def _trust_lists(files: BundleFiles, charter: Charter) -> dict[str, TrustList]:
    key = governance_key_of(files)
    lists = {}
    for name, envelope in layout.trust_lists(files).items():
        if digest(envelope) != name:
            raise BundleRefused(f"{layout.trust_list_path(name)} does not hash to its name.")
        lists[name] = open_trust_list(envelope, key)
        if lists[name].federation != charter.federation:
            raise BundleRefused(f"{layout.trust_list_path(name)} is another federation's.")
    if not lists:
        raise BundleRefused("the bundle has no trust list; ask for a whole one.")
    successions = {one for trusted in lists.values() for one in trusted.successions()}
    for name, trusted in lists.items():
        signer = trusted.governance_key(key)
        if any(one.old_key == signer and trusted.sequence >= one.sequence for one in successions):
            raise BundleRefused(
                f"{layout.trust_list_path(name)} is signed by a governance key that had been "
                "succeeded."
            )
    return lists


def _held(
    name: str, data: bytes, lists: Mapping[str, TrustList], charter: Charter
) -> HeldCertificate:
    path = layout.certificate_path(name)
    if digest(data) != name:
        raise BundleRefused(f"{path} does not hash to its name.")
    try:
        chain = load_chain(data)
        identity = _identity(chain, lists)
    except FedHelpError as error:
        raise BundleRefused(f"{path}: {error}") from error
    if identity not in _parties(charter):
        raise BundleRefused(f"{path} is of {identity}, whom the charter does not name.")
    leaf = chain[0]
    return HeldCertificate(
        identity=identity,
        digest=name,
        fingerprint=digest(leaf.public_bytes(serialization.Encoding.DER)),
        issuer=leaf.issuer.rfc4514_string(),
        begins=leaf.not_valid_before_utc,
        ends=leaf.not_valid_after_utc,
    )


def _identity(chain: list[x509.Certificate], lists: Mapping[str, TrustList]) -> Identity:
    """As one of the lists has it; raises what the last of them refuses it with."""
    # At its end all of its chain is valid, unless an authority ends before what it signed: then at
    # its beginning.
    moments = (chain[0].not_valid_after_utc - _SECOND, chain[0].not_valid_before_utc + _SECOND)
    refused: FedHelpError | None = None
    for trusted in lists.values():
        for moment in moments:
            try:
                return verified_identity(chain, trusted, now=moment)
            except FedHelpError as error:
                refused = refused or error
    raise refused or BundleRefused("there is no trust list.")


def _parties(charter: Charter) -> frozenset[Identity]:
    named = [
        (Role.AGGREGATOR, charter.aggregator.name),
        (Role.BROKER, charter.broker.name),
        *((Role.HOSPITAL, hospital.name) for hospital in charter.hospitals),
        *((Role.AUDITOR, auditor.name) for auditor in charter.auditors),
    ]
    return frozenset(Identity(charter.federation, role, name) for role, name in named)


def _acts(record: Record) -> Iterator[tuple[int, Identity, datetime.datetime]]:
    """(index, who, when, by the log's clock) of all that a party with a certificate has done."""
    federation = record.charter.federation
    aggregator = Identity(federation, Role.AGGREGATOR, record.charter.aggregator.name)
    for index, entry in enumerate(record.entries):
        moment = datetime.datetime.fromtimestamp(entry.unix_milliseconds / 1000, datetime.UTC)
        if entry.HasField("contribution_accepted"):
            hospital = entry.contribution_accepted.hospital
            yield index, Identity(federation, Role.HOSPITAL, hospital), moment
            yield index, aggregator, moment
        elif entry.HasField("statement_submitted"):
            submitter = Identity.from_uri(entry.statement_submitted.submitter)
            if submitter.role in _ROLES:
                yield index, submitter, moment


def _covers(certificate: HeldCertificate, moment: datetime.datetime) -> bool:
    return certificate.begins - CLOCK_SKEW <= moment <= certificate.ends + LONGEST_CALL


def _check_not_revoked(
    trusted: TrustList, index: int, identity: Identity, moment: datetime.datetime
) -> None:
    revoked = trusted.revocation_of(identity)
    if revoked is None:
        return
    # Until then a party could hold a list without it, and be right to.
    known = revoked.revoked_at + datetime.timedelta(seconds=trusted.maximum_age_seconds)
    if moment > known:
        raise BundleRefused(
            f"entry {index}: {identity} was revoked at {revoked.revoked} and acted all the same; "
            "ask the aggregator's operator why it was admitted."
        )
