"""Which authorities the trust list names: added, removed and rotated by the registrar.

Every change makes a list with the next sequence number. What it takes away is out for every party
as soon as that party has the list, exactly as with a revocation.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedhelp_keys.registrar.ca import new_root, renew_own_certificate
from fedhelp_keys.registrar.generations import (
    OWN_FILE,
    AuthorityUnusable,
    Founding,
    add_generation,
    check_authority,
    drop_generation,
    generation_at,
    generations_of,
)
from fedhelp_keys.registrar.trust import change_authorities
from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import CertificateRefused
from fedhelp_secure.transport.chain import load_chain
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import TrustStore
from fedhelp_secure.trust.trust_list import Authority


@dataclass(frozen=True, slots=True)
class Rotation:
    """A new authority beside the old."""

    fingerprint: str
    signs_from: datetime.datetime


def parse_identity(federation: str, text: str) -> Identity:
    """The identity of ``role/name``; raises AuthorityUnusable."""
    try:
        return Identity.from_uri(f"spiffe://{federation}/{text}")
    except FedHelpError as error:
        raise AuthorityUnusable(
            "an identity must have the form ROLE/NAME, for example hospital/small-1."
        ) from error


def add_authority(
    state: StateDirectory,
    pem: bytes,
    *,
    identities: Sequence[Identity],
    subjects: Sequence[str] = (),
    now: datetime.datetime,
) -> str:
    """Let the authority with the one certificate in ``pem`` certify ``identities``.

    Each of ``subjects`` (RFC 4514) stands for the only identity given. An authority that is there
    already may certify these parties as well. Returns its fingerprint; raises AuthorityUnusable.
    """
    certificate = _one(pem)
    check_authority(certificate, now)
    if not identities or any(identity.role is Role.REGISTRAR for identity in identities):
        raise AuthorityUnusable(
            "say with --identity whom the authority may certify; the registrar it may not."
        )
    if subjects and len(identities) != 1:
        raise AuthorityUnusable("a --subject stands for one party; give one --identity with it.")
    added = Authority(
        certificate=certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
        identities=tuple(identity.uri for identity in identities),
        subjects={_normal(subject): identities[0].uri for subject in subjects},
    )

    def with_added(held: tuple[Authority, ...]) -> tuple[Authority, ...]:
        if all(entry.certificate != added.certificate for entry in held):
            return (*held, added)
        same = added.certificate
        return tuple(
            _merged(entry, added) if entry.certificate == same else entry for entry in held
        )

    change_authorities(state, with_added, now=now)
    return fingerprint_of(added)


def remove_authority(state: StateDirectory, fingerprint: str, *, now: datetime.datetime) -> str:
    """Take the authority whose fingerprint begins with ``fingerprint`` off the trust list.

    If its key is the registrar's, that is destroyed. Returns the whole fingerprint. Raises
    AuthorityUnusable if none or several are meant, or the one that signs at ``now``.
    """
    held = TrustStore(state).current().authorities
    meant = [entry for entry in held if fingerprint_of(entry).startswith(fingerprint)]
    if len(meant) != 1 or len(fingerprint) < len("sha256:") + 8:
        raise AuthorityUnusable(
            "name one authority by its fingerprint, sha256: and at least 8 digits; "
            "'fedhelp keys authority list' shows them."
        )
    if meant[0].certificate == generation_at(state, now).certificate:
        raise AuthorityUnusable(
            "this authority signs the federation's certificates; run 'fedhelp keys authority "
            "rotate' first, and remove it when the new one signs and all parties have renewed."
        )
    # The registrar's own certificate may be from it.
    renew_own_certificate(state, now=now)
    change_authorities(
        state,
        # By its certificate: what it may certify can have changed meanwhile.
        lambda held: tuple(entry for entry in held if entry.certificate != meant[0].certificate),
        now=now,
    )
    drop_generation(state, meant[0].certificate)
    return fingerprint_of(meant[0])


def rotate_authority(
    state: StateDirectory,
    *,
    now: datetime.datetime,
    founding: Founding | None = None,
    signer: str = OWN_FILE,
    at_once: bool = False,
) -> Rotation:
    """Put a new authority beside the present one: ``founding``, or a new root, key at ``signer``.

    It signs as soon as no party can hold a list without it and still admit anybody, which is when
    the present list has reached its maximum age; ``at_once`` does not wait, for a key that is lost.
    Raises AuthorityUnusable while an earlier one waits for its time.
    """
    held = TrustStore(state).current()
    known = {entry.certificate for entry in held.authorities}
    present = generation_at(state, now)
    newest = [entry for entry in generations_of(state) if entry.certificate in known][-1]
    if newest != present:
        raise AuthorityUnusable(
            f"a new authority is there already and signs from {newest.signs_from}; wait for that."
        )
    # The list is issued anew at any time, so the wait counts from now and not from its issue.
    wait = datetime.timedelta(seconds=0 if at_once else held.maximum_age_seconds)
    chosen = founding or new_root(state.identity, now, signer=signer)
    certificate = add_generation(state, chosen, now=now, signs_from=now + wait).decode("ascii")
    added = Authority(certificate=certificate)
    # The registrar's own certificate stays as it is: who has the old list must get the new one.
    change_authorities(state, lambda held: (*held, added), now=now)
    return Rotation(fingerprint_of(added), now + wait)


def fingerprint_of(authority: Authority) -> str:
    """SHA-256 of the certificate (DER), as ``openssl x509 -fingerprint -sha256`` computes it."""
    certificate = x509.load_pem_x509_certificate(authority.certificate.encode("ascii"))
    return digest(certificate.public_bytes(serialization.Encoding.DER))


def _merged(known: Authority, added: Authority) -> Authority:
    if known.identities is None:
        raise AuthorityUnusable("this authority may certify everybody already.")
    contradicted = [
        subject
        for subject, uri in added.subjects.items()
        if known.subjects.get(subject, uri) != uri
    ]
    if contradicted:
        raise AuthorityUnusable("a subject stands for another party already; remove that first.")
    identities = dict.fromkeys((*known.identities, *(added.identities or ())))
    return known.model_copy(
        update={
            "identities": tuple(identities),
            "subjects": {**known.subjects, **added.subjects},
        }
    )


def _one(pem: bytes) -> x509.Certificate:
    try:
        chain = load_chain(pem)
    except CertificateRefused as error:
        raise AuthorityUnusable("an authority's file is no certificate in PEM.") from error
    if len(chain) != 1:
        raise AuthorityUnusable(
            "an authority's file must hold one certificate: the one that signs the parties', "
            "so that nothing else of its PKI is admitted."
        )
    return chain[0]


def _normal(subject: str) -> str:
    """``subject`` as a certificate's subject is written when it is looked up."""
    try:
        name = x509.Name.from_rfc4514_string(subject)
    except ValueError as error:
        raise AuthorityUnusable(
            "a subject must be a distinguished name (RFC 4514), for example CN=node1,O=Hospital, "
            "as 'openssl x509 -noout -subject -nameopt RFC2253' prints it."
        ) from error
    if not list(name):
        raise AuthorityUnusable("an empty subject stands for nobody.")
    return name.rfc4514_string()
