"""A hospital's own PKI for tests: roots, intermediates and parties' certificates, good and bad."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.certificates import key_usage

from fedhelp_secure.trust.trust_list import TIME_FORMAT, Authority, TrustList

DAY = datetime.timedelta(days=1)
FEDERATION = "testfed"
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
BOTH_ENDS = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


def new_key() -> ec.EllipticCurvePrivateKey:
    """ECDSA P-256."""
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate, and the key that it is for."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key, unencrypted PKCS#8."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a certificate shall say; the defaults make a good one."""

    subject: str
    names: Sequence[x509.GeneralName] = ()
    ca: bool = False
    path_length: int | None = None
    usage: x509.KeyUsage | None = field(default=None)
    """None: as fits ``ca``."""
    extended: Sequence[x509.ObjectIdentifier] | None = None
    """None: both ends of TLS for a party, none for an authority."""
    without: type[x509.ExtensionType] | None = None
    extra: Sequence[tuple[x509.ExtensionType, bool]] = ()
    not_before: datetime.datetime | None = None
    not_after: datetime.datetime | None = None
    key: Key | None = None
    algorithm: hashes.HashAlgorithm | None = field(default_factory=hashes.SHA256)
    public: ec.EllipticCurvePublicKey | None = None
    """Certify this key instead, whose private half is elsewhere."""


def certify(wish: Wish, issuer: Certified | None, *, now: datetime.datetime) -> Certified:
    """The certificate that ``wish`` describes, by ``issuer`` (None: signed by itself)."""
    key = wish.key or new_key()
    public = wish.public or key.public_key()
    signer = key if issuer is None else issuer.key
    name = x509.Name.from_rfc4514_string(wish.subject)
    extended = wish.extended if wish.extended is not None else () if wish.ca else BOTH_ENDS
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectKeyIdentifier.from_public_key(public), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
        (x509.BasicConstraints(wish.ca, wish.path_length), True),
        (wish.usage or key_usage(signs_certificates=wish.ca), True),
        *wish.extra,
    ]
    if extended:
        extensions.append((x509.ExtendedKeyUsage(list(extended)), False))
    if wish.names:
        extensions.append((x509.SubjectAlternativeName(list(wish.names)), False))
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.certificate.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(wish.not_before or now - DAY)
        .not_valid_after(wish.not_after or now + DAY)
    )
    for extension, critical in extensions:
        if wish.without is None or not isinstance(extension, wish.without):
            builder = builder.add_extension(extension, critical)
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else wish.algorithm
    # Ed25519 takes no hash; the overloads of sign cannot say that of one variable.
    return Certified(builder.sign(signer, algorithm), key)  # type: ignore[arg-type]


def trust_list(now: datetime.datetime, *authorities: Authority) -> TrustList:
    """A list of ``authorities``, nobody revoked."""
    return TrustList(
        federation=FEDERATION,
        sequence=1,
        issued=now.strftime(TIME_FORMAT),
        maximum_age_seconds=3600,
        authorities=authorities,
        revocations=(),
    )


def entry(anchor: Certified, *identities: str, subjects: dict[str, str] | None = None) -> Authority:
    """``anchor`` for ``identities`` (none: everybody)."""
    return Authority(
        certificate=anchor.pem.decode(),
        identities=identities or None,
        subjects=subjects or {},
    )
