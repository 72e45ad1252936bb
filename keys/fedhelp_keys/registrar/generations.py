"""The registrar's authorities, generation after generation: which keys there are, and since when.

``registrar/authorities.json`` lists certificates; the keys lie beside it, or where a URI says
(docs/adr/0020). A generation signs from
its time on and only while the trust list has it, so that nobody gets a certificate that others
cannot check.
"""

from __future__ import annotations

import datetime
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.errors import ConfigurationError, PeerError
from fedhelp_secure.keystore import pkcs8
from fedhelp_secure.keystore.signer import Algorithm, Signer, signer_for
from fedhelp_secure.state import StateDirectory, StateError, write_atomically
from fedhelp_secure.transport.certificates import (
    CertificateRefused,
    check_period,
    generate_tls_key,
    load_tls_key,
)
from fedhelp_secure.transport.chain import check_strength, load_chain
from fedhelp_secure.trust.store import TrustStore
from fedhelp_secure.trust.trust_list import TIME_FORMAT, Time

OWN_FILE = "file:"
"""URI of a key that is in the registrar's state."""

AuthorityKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class AuthorityUnusable(ConfigurationError):
    """A certificate or key that shall be an authority is none, or not fit to be one."""

    code = "authority"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Generation(_Document):
    """One authority."""

    number: int = Field(ge=1)
    certificate: str
    signs_from: Time
    signer: str = OWN_FILE
    """URI of its key; see `fedhelp_secure.keystore.signer`."""


class _File(_Document):
    version: Literal[1]
    generations: tuple[Generation, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Founding:
    """An authority that is brought along: its certificate and its key, PEM."""

    chain: bytes
    """The authority's certificate; what follows, up to a root, only has to fit."""
    key: bytes | None
    """PEM; None if it is where ``signer`` says."""
    signer: str = OWN_FILE

    def __repr__(self) -> str:
        return "Founding(...)"


def generation_at(state: StateDirectory, now: datetime.datetime) -> Generation:
    """The newest one that signs at ``now`` and is in the trust list (if there is a list yet).

    Raises StateError if there is none.
    """
    generations = _read(state).generations
    if TrustStore(state).path.exists():
        held = {entry.certificate for entry in TrustStore(state).current().authorities}
        generations = tuple(entry for entry in generations if entry.certificate in held)
    if not generations:
        raise StateError("the trust list has none of this registrar's authorities; restore it.")
    due = [entry for entry in generations if _time(entry.signs_from) <= now]
    # A clock that was put back must not leave a federation without an authority.
    return due[-1] if due else generations[0]


def generations_of(state: StateDirectory) -> tuple[Generation, ...]:
    """Every one whose key is here, oldest first."""
    return _read(state).generations


def add_generation(
    state: StateDirectory,
    founding: Founding,
    *,
    now: datetime.datetime,
    signs_from: datetime.datetime,
) -> bytes:
    """Keep one more authority in ``state``; returns its certificate.

    It signs from ``signs_from`` on, and only if the trust list has it. Raises AuthorityUnusable.
    """
    known = _read(state).generations if _index_path(state).exists() else ()
    number = max((entry.number for entry in known), default=0) + 1
    certificate = check_founding(founding, now)
    added = Generation(
        number=number,
        certificate=certificate.decode("ascii"),
        signs_from=signs_from.strftime(TIME_FORMAT),
        signer=founding.signer,
    )
    if founding.key is not None:
        state.write_secret(key_path(state, added), founding.key)
    _write(state, (*known, added))
    return certificate


def drop_generation(state: StateDirectory, certificate: str) -> None:
    """Destroy the key of the authority with ``certificate``, if it is in our state.

    One in a token, or in a file elsewhere, is its owner's to destroy.
    """
    known = _read(state).generations
    _write(state, tuple(entry for entry in known if entry.certificate != certificate))
    for entry in known:
        if entry.certificate == certificate:
            state.destroy_secret(key_path(state, entry))


def authority_key(state: StateDirectory, generation: Generation) -> AuthorityKey:
    """The private key of ``generation``; raises AuthorityUnusable, and what its signer raises."""
    if generation.signer == OWN_FILE:
        return load_authority_key(state.read_secret(key_path(state, generation)))
    return _key_elsewhere(generation.signer)


def new_key(signer: str) -> tuple[ec.EllipticCurvePrivateKey, bytes | None]:
    """A key for a new root: with its PEM for the state, or where the URI ``signer`` says.

    What is there already is used. Raises what a signer raises that cannot be had.
    """
    if signer == OWN_FILE:
        pem = generate_tls_key()
        return load_tls_key(pem), pem
    elsewhere(signer).make()
    return _key_elsewhere(signer), None


def elsewhere(signer: str) -> Signer:
    """What signs at the URI ``signer``, which is not in the state; raises SignerUriRefused."""
    # Neither store nor path is used for what is not in the state.
    return signer_for(signer, None, None, Algorithm.P256)


def _key_elsewhere(signer: str) -> ec.EllipticCurvePrivateKey:
    key = elsewhere(signer).key()
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AuthorityUnusable("the key of an authority elsewhere must be ECDSA P-256.")
    return key


def load_authority_key(pem: bytes) -> AuthorityKey:
    """The private key in ``pem``; raises AuthorityUnusable unless it is ECDSA or RSA."""
    try:
        key = serialization.load_pem_private_key(pkcs8.decrypted(pem), password=None)
    except (ValueError, TypeError) as error:
        raise AuthorityUnusable("the authority's key is no private key in PEM.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise AuthorityUnusable("the authority's key must be ECDSA P-256 or P-384, or RSA.")
    return key


def check_authority(certificate: x509.Certificate, now: datetime.datetime) -> None:
    """Raises AuthorityUnusable unless ``certificate`` can sign parties' certificates at ``now``."""
    try:
        check_period(certificate, now)
        check_strength(certificate)
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        fit = constraints.critical and constraints.value.ca and usage.key_cert_sign
    except PeerError as error:
        raise AuthorityUnusable(f"an authority cannot be used: {error}") from error
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        fit = False
    if not fit:
        raise AuthorityUnusable(
            "a certificate is no authority's: it needs critical basic constraints with CA:TRUE, "
            "and the key usage keyCertSign."
        )


def check_founding(founding: Founding, now: datetime.datetime) -> bytes:
    """The authority's certificate of ``founding``, PEM; raises AuthorityUnusable."""
    try:
        chain = load_chain(founding.chain)
        for issued, issuer in itertools.pairwise(chain):
            issued.verify_directly_issued_by(issuer)
    except (CertificateRefused, ValueError, TypeError, InvalidSignature) as error:
        raise AuthorityUnusable(
            "the authority's certificates are no chain in PEM, the authority's own first."
        ) from error
    check_authority(chain[0], now)
    key = (
        _key_elsewhere(founding.signer)
        if founding.key is None
        else load_authority_key(founding.key)
    )
    if key.public_key() != chain[0].public_key():
        raise AuthorityUnusable("the authority's key is not that of its certificate.")
    return chain[0].public_bytes(serialization.Encoding.PEM)


def _index_path(state: StateDirectory) -> Path:
    return state.role_directory() / "authorities.json"


def key_path(state: StateDirectory, generation: Generation) -> Path:
    """Where the private key of ``generation`` lies."""
    number = "" if generation.number == 1 else f"-{generation.number}"
    return state.role_directory() / f"ca{number}-key.pem"


def _read(state: StateDirectory) -> _File:
    try:
        return _File.model_validate_json(state.read(_index_path(state)))
    except ValidationError as error:
        raise StateError(f"{_index_path(state)} is damaged; restore it from a backup.") from error


def _write(state: StateDirectory, generations: tuple[Generation, ...]) -> None:
    document = _File(version=1, generations=generations).model_dump(mode="json")
    write_atomically(_index_path(state), canonical_json(document))


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.strptime(text, TIME_FORMAT).replace(tzinfo=datetime.UTC)
