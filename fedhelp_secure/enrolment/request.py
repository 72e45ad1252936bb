"""The file with which a party asks to be enrolled; a person carries it to the registrar.

It is a DSSE envelope (JSON) signed by the party's own signing key, and holds a PKCS#10 request
signed by its own TLS key: possession of both is proven. Whether the party is who it says is for two
people to settle: both sides see the same digest of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.errors import ConfigurationError, MalformedMessage
from fedhelp_secure.sealing import SealingKey
from fedhelp_secure.signing import VerifyingKey, open_document, peek_document
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport import certificates
from fedhelp_secure.transport.identity import Identity, Role

KIND = "enrolment-request"
LIMIT_BYTES = 64 * 1024


class ContextMissing(ConfigurationError):
    """A decryptor asks to be enrolled before it has made its CKKS keys."""

    code = "context-missing"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1]
    federation: str
    role: str
    name: str
    signing_key: str
    sealing_key: str
    certificate_request: str
    context_digest: str | None = Field(pattern=r"^sha256:[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class EnrolmentRequest:
    """A verified request."""

    identity: Identity
    signing_key: VerifyingKey
    sealing_key: SealingKey
    certificate_request: bytes
    """PKCS#10, PEM."""
    context_digest: str | None
    """Of the public CKKS context; set for a decryptor, and for nobody else."""
    digest: str
    """Of the whole file: what both sides compare."""


def request_path(state: StateDirectory) -> Path:
    """Where ``state`` keeps its newest request, so that a bundle can be matched to it."""
    return state.root / "enrolment" / "request.json"


def make_request(state: StateDirectory) -> bytes:
    """The request file of ``state``'s party; the state keeps a copy.

    Raises ContextMissing for a decryptor without CKKS keys.
    """
    identity = state.identity
    key_pem = certificates.tls_key_of(state)
    document = {
        "version": 1,
        "federation": identity.federation,
        "role": identity.role.value,
        "name": identity.name,
        "signing_key": state.signing_key().public.to_base64(),
        "sealing_key": _sealing_key(state),
        "certificate_request": certificates.make_request(identity, key_pem).decode("ascii"),
        "context_digest": _context_digest(state),
    }
    envelope = state.signing_key().sign_document(KIND, document)
    write_atomically(request_path(state), envelope)
    return envelope


def open_request(envelope: bytes) -> EnrolmentRequest:
    """The request in ``envelope``, both keys' possession checked.

    Raises MalformedMessage, SignatureRefused or CertificateRequestRefused.
    """
    if len(envelope) > LIMIT_BYTES:
        raise MalformedMessage("an enrolment request is too long; ask its sender for another.")
    try:
        # The key is the one it claims: the signature proves that the sender holds it.
        claimed = VerifyingKey.from_base64(str(peek_document(KIND, envelope).get("signing_key")))
        opened = open_document(KIND, envelope, claimed)
        document = _Document.model_validate_json(canonical_json(opened))
        identity = Identity(document.federation, Role(document.role), document.name)
    except (ValidationError, ValueError) as error:
        raise MalformedMessage(
            "an enrolment request does not have the form of this version; make it again."
        ) from error
    if (document.context_digest is None) is (identity.role is Role.DECRYPTOR):
        raise MalformedMessage(
            "a decryptor's request, and no other, must give the digest of its CKKS context."
        )
    pem = document.certificate_request.encode("utf-8")
    certificates.open_request(pem, identity)
    return EnrolmentRequest(
        identity=identity,
        signing_key=claimed,
        sealing_key=SealingKey.from_base64(document.sealing_key),
        certificate_request=pem,
        context_digest=document.context_digest,
        digest=digest(envelope),
    )


def _sealing_key(state: StateDirectory) -> str:
    # An unmasker that has destroyed its first key keeps the public half: charters begin with it.
    kept = state.root / state.identity.role.value / "sealing.pub"
    if kept.exists():
        return state.read(kept).decode("ascii")
    return state.unsealing_key().public.to_base64()


def _context_digest(state: StateDirectory) -> str | None:
    if state.identity.role is not Role.DECRYPTOR:
        return None
    path = state.role_directory() / "context.public"
    if not path.exists():
        raise ContextMissing(
            "this decryptor has no CKKS keys yet; run 'fedhelp custodian prepare' first."
        )
    return digest(state.read(path))
