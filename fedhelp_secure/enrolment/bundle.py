"""The file that the registrar gives back: a certificate, the trust list and the governance key.

It is a DSSE envelope signed by that key and bound to one request by digest. A party that brings a
certificate of its own gets none.
"""

from __future__ import annotations

import datetime
from typing import Literal

from cryptography import x509
from pydantic import BaseModel, ConfigDict, ValidationError

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.enrolment.own_certificate import forget_own_authority
from fedhelp_secure.enrolment.request import EnrolmentRequest, request_path
from fedhelp_secure.errors import MalformedMessage, PeerError, SignatureRefused
from fedhelp_secure.signing import SigningKey, VerifyingKey, open_document, peek_document
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.certificates import TlsFiles, tls_key_of
from fedhelp_secure.transport.chain import check_own_certificate
from fedhelp_secure.trust.store import TrustStore, check_not_from_future
from fedhelp_secure.trust.trust_list import TrustList, open_trust_list

KIND = "enrolment-bundle"
LIMIT_BYTES = 2 << 20


class BundleRefused(PeerError):
    """A bundle is for another request, or from another registrar than the one trusted here."""

    code = "enrolment-bundle"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1]
    request_digest: str
    certificate: str | None
    """PEM; None if another authority than the registrar's certifies the party."""
    governance_key: str
    trust_list: str
    """DSSE envelope (JSON) of the present trust list."""


def sign_bundle(
    request: EnrolmentRequest,
    certificate: bytes | None,
    trust_list: bytes,
    governance_key: SigningKey,
) -> bytes:
    """The bundle file that answers ``request``; ``trust_list`` is the present one's envelope."""
    document = {
        "version": 1,
        "request_digest": request.digest,
        "certificate": None if certificate is None else certificate.decode("ascii"),
        "governance_key": governance_key.public.to_base64(),
        "trust_list": trust_list.decode("utf-8"),
    }
    return governance_key.sign_document(KIND, document)


def install_bundle(
    state: StateDirectory,
    envelope: bytes,
    *,
    now: datetime.datetime,
    governance_key: VerifyingKey | None = None,
    root: x509.Certificate | None = None,
) -> VerifyingKey:
    """Take certificate, trust list and governance key into ``state``; returns the governance key.

    A first bundle is trusted for its governance key unless ``governance_key`` pins it; the person
    who installs it compares the key's digest with the registrar. Later bundles must be signed by
    the same key. ``root``, if given, must be among the bundle's authorities. Raises BundleRefused,
    MalformedMessage, SignatureRefused, TrustListRolledBack, TrustListFromFuture or
    OwnCertificateUnusable, and then changes nothing.
    """
    if len(envelope) > LIMIT_BYTES:
        raise MalformedMessage("an enrolment bundle is too long; ask the registrar for another.")
    try:
        claimed = VerifyingKey.from_base64(str(peek_document(KIND, envelope).get("governance_key")))
        opened = open_document(KIND, envelope, claimed)
        document = _Document.model_validate_json(canonical_json(opened))
    except ValidationError as error:
        raise MalformedMessage("an enrolment bundle does not have this version's form.") from error
    trust_list = document.trust_list.encode("utf-8")
    _check_trusted(state, claimed, governance_key, trust_list)
    if document.request_digest != digest(state.read(request_path(state))):
        raise BundleRefused(
            "this bundle answers another request; give the registrar the newest request file."
        )
    trusted = open_trust_list(trust_list, claimed)
    _check_root(trusted, root)
    # Also the list's installation would refuse it, but the governance key is kept before that.
    check_not_from_future(trusted, now)
    certificate = None
    if document.certificate is not None:
        certificate = document.certificate.encode("utf-8")
        files = TlsFiles(tls_key_of(state), certificate, authorities=b"")
        check_own_certificate(state.identity, files, trusted, now=now)
    if not state.governance_key_path.exists():
        write_atomically(state.governance_key_path, claimed.to_base64().encode("ascii") + b"\n")
    # Before the rest: a bundle with an older list is an old bundle.
    TrustStore(state).install(trust_list, now=now)
    # Last: a state with a certificate is an enrolled one.
    if certificate is not None:
        write_atomically(state.tls_certificate_path, certificate)
        forget_own_authority(state)
    return claimed


def _check_root(trusted: TrustList, root: x509.Certificate | None) -> None:
    held = [
        x509.load_pem_x509_certificate(entry.certificate.encode("ascii"))
        for entry in trusted.authorities
    ]
    if root is not None and root not in held:
        raise BundleRefused("this bundle is not for the federation whose root was pinned.")


def _check_trusted(
    state: StateDirectory, claimed: VerifyingKey, pinned: VerifyingKey | None, trust_list: bytes
) -> None:
    if pinned is not None and claimed != pinned:
        raise BundleRefused("this bundle is not signed by the governance key that was given.")
    if state.governance_key_path.exists() and claimed != _successor(state, trust_list):
        raise BundleRefused(
            "this bundle is from another registrar than the one trusted here; "
            "do not install it before you have asked your registrar."
        )


def _successor(state: StateDirectory, trust_list: bytes) -> VerifyingKey:
    """Who governs by ``trust_list`` for this state: the key that it knows, or who succeeded it."""
    known = state.governance_key()
    try:
        return open_trust_list(trust_list, known).governance_key(known)
    except SignatureRefused:
        return known
