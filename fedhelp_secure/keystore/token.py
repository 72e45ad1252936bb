"""Private keys in PKCS#11 tokens (OASIS PKCS#11 3.1), through python-pkcs11.

The key never leaves the token. What is given to the rest of the program has the interface of a
``cryptography`` private key, which its certificate builders accept (as its maintainers advise,
pyca/cryptography issue 11616); whatever would export it raises.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any, Never

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.utils import Buffer
from pkcs11 import Attribute, KeyType, Mechanism, Object, ObjectClass, Session
from pkcs11.util.ec import encode_named_curve_parameters

from fedhelp_secure.keystore import passphrase
from fedhelp_secure.keystore.passphrase import Passphrase
from fedhelp_secure.keystore.permissions import check_private_file
from fedhelp_secure.keystore.signer import Algorithm, SigningPrivateKey
from fedhelp_secure.keystore.token_session import TokenUnavailable, connection_to
from fedhelp_secure.keystore.uri import TokenUri

_EDWARDS25519 = b"\x13\x0cedwards25519"
"""CKA_EC_PARAMS of Ed25519 as a curve name (PKCS#11 3.1, section 6.3.3)."""

_KEY_TYPES = {Algorithm.ED25519: KeyType.EC_EDWARDS, Algorithm.P256: KeyType.EC}
_POINT_BYTES = {Algorithm.ED25519: 32, Algorithm.P256: 65}


class TokenSigner:
    """A key in a PKCS#11 token."""

    def __init__(self, uri: TokenUri, algorithm: Algorithm) -> None:
        self._parsed = uri
        self._algorithm = algorithm
        self._connection = connection_to(
            uri.module, uri.token, uri.serial, uri.manufacturer, uri.model
        )
        self.uri = str(uri)

    def make(self) -> None:
        """See `Signer.make`. A key that is made cannot be taken out of the token."""
        uri, pin = self._parsed, self._pin
        with self._connection.session(pin) as session:
            there = _objects(session, uri, ObjectClass.PRIVATE_KEY)
        if not there:
            with self._connection.session(pin, writing=True) as session:
                self._generate(session)
        self.key()

    def key(self) -> SigningPrivateKey:
        """See `Signer.key`; raises TokenUnavailable, PassphraseMissing and as a file's does."""
        with self._connection.session(self._pin) as session:
            point = self._point(session)
        raw_signature = self._sign
        try:
            if self._algorithm is Algorithm.ED25519:
                return _Ed25519InToken(Ed25519PublicKey.from_public_bytes(point), raw_signature)
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
            return _P256InToken(public, raw_signature)
        except ValueError as error:
            raise self._wrong_kind() from error

    def _pin(self) -> Passphrase:
        source = self._parsed.pin_source
        if source is None:
            return passphrase.current().read()
        try:
            check_private_file(source)
            return Passphrase.parse(source.read_bytes())
        except OSError as error:
            raise TokenUnavailable(f"{source} cannot be read; it should hold the PIN.") from error

    def _sign(self, data: bytes, mechanism: Mechanism) -> bytes:
        with self._connection.session(self._pin) as session:
            private = self._only(session, ObjectClass.PRIVATE_KEY)
            signature: bytes = private.sign(data, mechanism=mechanism)
            return signature

    def _point(self, session: Session) -> bytes:
        """The public key: 32 bytes (Ed25519), or an uncompressed point of 65 (P-256)."""
        self._only(session, ObjectClass.PRIVATE_KEY)
        public = self._only(session, ObjectClass.PUBLIC_KEY)
        # An OCTET STRING with a header of two bytes, in some tokens without it.
        return bytes(public[Attribute.EC_POINT])[-_POINT_BYTES[self._algorithm] :]

    def _only(self, session: Session, object_class: ObjectClass) -> Any:  # noqa: ANN401 (a key's attributes are untyped)
        found = _objects(session, self._parsed, object_class)
        if len(found) != 1:
            what = "private" if object_class is ObjectClass.PRIVATE_KEY else "public"
            raise TokenUnavailable(
                f"the token holds {len(found)} {what} keys for {self.uri}, but must hold one; "
                "make the key with its public half beside it, or name it by its id."
            )
        if found[0][Attribute.KEY_TYPE] is not _KEY_TYPES[self._algorithm]:
            raise self._wrong_kind()
        return found[0]

    def _generate(self, session: Session) -> None:
        if self._algorithm is Algorithm.ED25519:
            curve, mechanism = _EDWARDS25519, Mechanism.EC_EDWARDS_KEY_PAIR_GEN
        else:
            curve = encode_named_curve_parameters("secp256r1")
            mechanism = Mechanism.EC_KEY_PAIR_GEN
        parameters = session.create_domain_parameters(
            _KEY_TYPES[self._algorithm], {Attribute.EC_PARAMS: curve}, local=True
        )
        parameters.generate_keypair(
            mechanism=mechanism,
            store=True,
            label=self._parsed.object,
            id=self._parsed.id or os.urandom(8),
            private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
        )

    def _wrong_kind(self) -> TokenUnavailable:
        return TokenUnavailable(f"{self.uri} is no {self._algorithm.value} key; name another one.")


def _objects(session: Session, uri: TokenUri, object_class: ObjectClass) -> list[Object]:
    wanted: dict[Attribute, Any] = {Attribute.CLASS: object_class}
    if uri.object is not None:
        wanted[Attribute.LABEL] = uri.object
    if uri.id is not None:
        wanted[Attribute.ID] = uri.id
    return list(session.get_objects(wanted))


class _Ed25519InToken(Ed25519PrivateKey):
    def __init__(self, public: Ed25519PublicKey, sign: Callable[[bytes, Mechanism], bytes]) -> None:
        self._public = public
        self._raw_sign = sign

    def public_key(self) -> Ed25519PublicKey:
        return self._public

    def sign(self, data: Buffer) -> bytes:
        signature = self._raw_sign(bytes(data), Mechanism.EDDSA)
        _check(lambda: self._public.verify(signature, data))
        return signature

    def private_bytes(self, *_: object, **__: object) -> Never:
        raise _stays_in_token()

    def private_bytes_raw(self) -> Never:
        raise _stays_in_token()

    def __copy__(self) -> Ed25519PrivateKey:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> Ed25519PrivateKey:
        return self


class _P256InToken(ec.EllipticCurvePrivateKey):
    def __init__(
        self, public: ec.EllipticCurvePublicKey, sign: Callable[[bytes, Mechanism], bytes]
    ) -> None:
        self._public = public
        self._raw_sign = sign

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise UnsupportedAlgorithm("keys in tokens sign SHA-256 only.")
        raw = self._raw_sign(hashlib.sha256(bytes(data)).digest(), Mechanism.ECDSA)
        half = len(raw) // 2
        signature = encode_dss_signature(
            int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
        )
        _check(lambda: self._public.verify(signature, data, signature_algorithm))
        return signature

    def exchange(self, *_: object, **__: object) -> Never:
        raise _stays_in_token()

    def private_numbers(self) -> Never:
        raise _stays_in_token()

    def private_bytes(self, *_: object, **__: object) -> Never:
        raise _stays_in_token()

    def __copy__(self) -> ec.EllipticCurvePrivateKey:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> ec.EllipticCurvePrivateKey:
        return self


def _check(verify: Callable[[], None]) -> None:
    """No signature leaves that its own public key does not open: a fault could betray the key."""
    try:
        verify()
    except InvalidSignature as error:
        raise TokenUnavailable(
            "the token's signature does not fit the public key beside it; name the key by its id."
        ) from error


def _stays_in_token() -> TokenUnavailable:
    return TokenUnavailable("this private key is in a token and does not leave it.")
