"""One contract for every signer: a file in the state, a file elsewhere, a token."""

from __future__ import annotations

import datetime
import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from support.passphrases import FIRST, SECOND, chosen, give
from support.softhsm import PIN, SoftToken

from fedhelp_secure.errors import FedHelpError, MalformedMessage
from fedhelp_secure.keystore import pkcs8
from fedhelp_secure.keystore.lock import PassphraseWrong
from fedhelp_secure.keystore.passphrase import PassphraseMissing
from fedhelp_secure.keystore.signer import Algorithm, Signer, TokenSupportMissing, signer_for
from fedhelp_secure.keystore.store import SecretStore
from fedhelp_secure.keystore.token_session import TokenUnavailable, connection_to
from fedhelp_secure.signing import SigningKey, open_document
from fedhelp_secure.state import StateError

ED25519, P256 = Algorithm.ED25519, Algorithm.P256
Make = Callable[[Algorithm], Signer]


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    (tmp_path / "state").mkdir(mode=0o700)
    return SecretStore(tmp_path / "state", {"name": "one"})


def foreign_key(path: Path, algorithm: Algorithm) -> str:
    """The URI of a new PKCS#8 file that another tool made."""
    path.write_bytes(pkcs8.encoded(algorithm.generate()))
    path.chmod(0o600)
    return path.as_uri()


@pytest.fixture(params=["state", "file", "token"])
def make(request: pytest.FixtureRequest, store: SecretStore, tmp_path: Path) -> Make:
    """Makes the signer of each kind."""

    def made(algorithm: Algorithm) -> Signer:
        if request.param == "state":
            uri = "file:"
        elif request.param == "file":
            uri = foreign_key(tmp_path / "media.pem", algorithm)
        else:
            token: SoftToken = request.getfixturevalue("soft_token")
            uri = token.uri(f"{request.node.name}-{algorithm.name}".replace("[", "-").strip("]"))
        return signer_for(uri, store, tmp_path / "state" / "keys" / "key.pem", algorithm)

    return made


def ed25519_of(signer: Signer) -> Ed25519PrivateKey:
    key = signer.key()
    assert isinstance(key, Ed25519PrivateKey)
    return key


def p256_of(signer: Signer) -> ec.EllipticCurvePrivateKey:
    key = signer.key()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def test_it_signs_envelopes_that_its_public_key_opens(make: Make) -> None:
    signer = make(ED25519)
    signer.make()
    key = SigningKey(ed25519_of(signer))
    envelope = key.sign_document("manifest", {"round": 1})
    assert open_document("manifest", envelope, key.public) == {"round": 1}
    key.public.check(key.sign(b"message"), b"message")
    assert SigningKey(ed25519_of(signer)).public == key.public


def test_it_signs_certificates_that_other_programs_verify(make: Make, tmp_path: Path) -> None:
    signer = make(P256)
    signer.make()
    key = p256_of(signer)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])
    now = datetime.datetime.now(datetime.UTC)
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    root = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(constraints, critical=True)
        .sign(key, hashes.SHA256())
    )
    root.verify_directly_issued_by(root)
    path = tmp_path / "root.pem"
    path.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    command = ["openssl", "verify", "-check_ss_sig", "-CAfile", str(path), str(path)]
    assert subprocess.run(command, capture_output=True, check=True).stdout.endswith(b": OK\n")


def test_what_is_made_is_kept(make: Make) -> None:
    signer = make(P256)
    signer.make()
    first = p256_of(signer).public_key()
    signer.make()
    assert p256_of(signer).public_key() == first


def test_its_uri_names_it_without_a_secret(make: Make) -> None:
    signer = make(ED25519)
    signer.make()
    assert PIN not in signer.uri
    assert signer.uri.startswith(("file:", "pkcs11:token=tests;"))


def test_threads_may_share_it(make: Make) -> None:
    signer = make(ED25519)
    signer.make()
    problems: list[Exception] = []

    def sign() -> None:
        try:
            key = SigningKey(ed25519_of(signer))
            for number in range(50):
                message = b"%d" % number
                key.public.check(key.sign(message), message)
        except FedHelpError as error:
            problems.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=sign) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert problems == []


# --- tokens ---


def in_token(token: SoftToken, key: str, algorithm: Algorithm, store: SecretStore) -> Signer:
    return signer_for(token.uri(key), store, Path("/nowhere"), algorithm)


def test_a_key_in_a_token_does_not_leave_it(
    soft_token: SoftToken, store: SecretStore, tmp_path: Path
) -> None:
    signer = in_token(soft_token, "stays", ED25519, store)
    signer.make()
    key = SigningKey(ed25519_of(signer))
    with pytest.raises(TokenUnavailable, match="does not leave"):
        key.to_pem()
    with pytest.raises(TokenUnavailable, match="does not leave"):
        ed25519_of(signer).private_bytes_raw()
    other = in_token(soft_token, "stays-too", P256, store)
    other.make()
    with pytest.raises(TokenUnavailable, match="does not leave"):
        p256_of(other).private_numbers()
    with pytest.raises(TokenUnavailable, match="does not leave"):
        pkcs8.encoded(p256_of(other))
    # Nor does the token itself give it.
    import pkcs11

    session = pkcs11.lib(str(soft_token.module)).get_token(token_label="tests").open()  # noqa: S106
    private = [*session.get_objects({pkcs11.Attribute.LABEL: "stays"})]
    shown = {found.object_class: found for found in private}[pkcs11.ObjectClass.PRIVATE_KEY]
    assert shown[pkcs11.Attribute.EXTRACTABLE] is False
    with pytest.raises(pkcs11.AttributeSensitive):
        shown[pkcs11.Attribute.VALUE]
    session.close()
    assert [*(tmp_path / "state").iterdir()] == []


def test_a_pin_comes_from_the_passphrase_or_from_a_private_file(
    soft_token: SoftToken, store: SecretStore, tmp_path: Path
) -> None:
    in_token(soft_token, "pin", ED25519, store).make()

    def opened(uri: str) -> None:
        # One login is one for the whole process: each of these is like a new one.
        connection_to(soft_token.module, "tests", *[None] * 3)._give_up()
        signer_for(uri, store, Path("/nowhere"), ED25519).key()

    bare = soft_token.uri("pin", pin_source=False)
    give(None)
    with pytest.raises(PassphraseMissing):
        opened(bare)
    give("another PIN")
    with pytest.raises(TokenUnavailable, match="refuses the PIN") as refused:
        opened(bare)
    assert "another PIN" not in str(refused.value)
    give(PIN)
    opened(bare)
    give(None)
    opened(soft_token.uri("pin"))
    elsewhere = tmp_path / "pin"
    elsewhere.write_text("another PIN")
    with pytest.raises(StateError, match="can be read by other users"):
        opened(f"{bare}&pin-source=file:{elsewhere}")
    elsewhere.unlink()
    with pytest.raises(TokenUnavailable, match="should hold the PIN"):
        opened(f"{bare}&pin-source=file:{elsewhere}")


def test_what_the_token_does_not_hold_is_said(
    soft_token: SoftToken, store: SecretStore, tmp_path: Path
) -> None:
    with pytest.raises(TokenUnavailable, match="0 private keys"):
        in_token(soft_token, "absent", ED25519, store).key()
    in_token(soft_token, "kind", ED25519, store).make()
    other_kind = in_token(soft_token, "kind", P256, store)
    for use in (other_kind.key, other_kind.make):
        with pytest.raises(TokenUnavailable, match="no ECDSA P-256 key"):
            use()
    for module, token, sentence in (
        (str(soft_token.module), "absent", "shows 0 tokens"),
        (str(tmp_path / "absent.so"), "tests", "cannot be loaded"),
    ):
        uri = f"pkcs11:token={token};object=kind?module-path={module}"
        give(PIN)
        signer = signer_for(uri, store, Path("/nowhere"), ED25519)
        with pytest.raises(TokenUnavailable, match=sentence):
            signer.key()


def test_without_the_extra_a_token_is_refused_and_files_work(
    monkeypatch: pytest.MonkeyPatch, store: SecretStore, tmp_path: Path
) -> None:
    for name in ("token", "token_session"):
        monkeypatch.delitem(sys.modules, f"fedhelp_secure.keystore.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    uri = "pkcs11:token=any;object=key?module-path=/usr/lib/any.so"
    with pytest.raises(TokenSupportMissing, match=r"pip install 'fedhelp-secure\[pkcs11\]'"):
        signer_for(uri, store, Path("/nowhere"), ED25519)
    signer_for("file:", store, tmp_path / "state" / "keys" / "key.pem", ED25519).make()


def test_two_keys_of_one_name_are_not_guessed_between(
    soft_token: SoftToken, store: SecretStore
) -> None:
    base = soft_token.uri("twice")
    for number in ("%01", "%02"):
        uri = base.replace("object=twice", f"object=twice;id={number}")
        signer_for(uri, store, Path("/nowhere"), ED25519).make()
        signer_for(uri, store, Path("/nowhere"), ED25519).key()
    with pytest.raises(TokenUnavailable, match="2 private keys"):
        in_token(soft_token, "twice", ED25519, store).key()


def test_a_signature_that_its_public_key_does_not_open_never_leaves(
    soft_token: SoftToken, store: SecretStore
) -> None:
    """Two pairs whose halves were exchanged by their names; a faulty token looks the same."""
    import pkcs11

    label = pkcs11.Attribute.LABEL
    in_token(soft_token, "pair-1", P256, store).make()
    in_token(soft_token, "pair-2", P256, store).make()
    with connection_to(soft_token.module, "tests", *[None] * 3).session(
        lambda: chosen(PIN), writing=True
    ) as session:
        for found in list(session.get_objects({label: "pair-1"})):
            if found.object_class is pkcs11.ObjectClass.PRIVATE_KEY:
                found[label] = "mixed"
        for found in list(session.get_objects({label: "pair-2"})):
            if found.object_class is pkcs11.ObjectClass.PUBLIC_KEY:
                found[label] = "mixed"
    key = p256_of(in_token(soft_token, "mixed", P256, store))
    with pytest.raises(TokenUnavailable, match="does not fit the public key"):
        key.sign(b"message", ec.ECDSA(hashes.SHA256()))


def test_a_token_signs_with_one_hash_only(soft_token: SoftToken, store: SecretStore) -> None:
    signer = in_token(soft_token, "hash", P256, store)
    signer.make()
    for algorithm in (hashes.SHA1(), hashes.SHA384(), Prehashed(hashes.SHA256())):  # noqa: S303
        with pytest.raises(UnsupportedAlgorithm):
            p256_of(signer).sign(hashlib.sha256(b"x").digest(), ec.ECDSA(algorithm))


# --- files elsewhere ---


def openssl_key(path: Path, *options: str, passphrase: str = FIRST) -> Path:
    """An Ed25519 key that OpenSSL made, and encrypted with ``options``."""
    plain = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519"], capture_output=True, check=True
    )
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", *options, "-passout", f"pass:{passphrase}", "-out", path],
        input=plain.stdout,
        capture_output=True,
        check=True,
    )
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("options", [["-scrypt"], ["-v2", "aes-256-cbc"]])
def test_pkcs8_that_openssl_encrypted_opens(
    store: SecretStore, tmp_path: Path, options: list[str]
) -> None:
    path = openssl_key(tmp_path / "key.pem", *options)
    assert b"ENCRYPTED PRIVATE KEY" in path.read_bytes()
    signer = signer_for(path.as_uri(), store, Path("/nowhere"), ED25519)
    give(FIRST)
    key = SigningKey(ed25519_of(signer))
    shown = subprocess.run(
        ["openssl", "pkey", "-in", path, "-passin", f"pass:{FIRST}", "-pubout", "-outform", "DER"],
        capture_output=True,
        check=True,
    )
    assert shown.stdout.endswith(key.public.raw)
    give(SECOND)
    with pytest.raises(PassphraseWrong, match="encrypted PKCS#8"):
        signer.key()
    give(None)
    with pytest.raises(PassphraseMissing):
        signer.key()


def test_openssls_key_in_a_state_is_taken_in_when_the_state_is_encrypted(
    store: SecretStore, tmp_path: Path
) -> None:
    path = openssl_key(tmp_path / "key.pem", "-scrypt")
    own = tmp_path / "state" / "keys" / "signing.pem"
    store.write(own, path.read_bytes())
    signer = signer_for("file:", store, own, ED25519)
    give(FIRST)
    public = SigningKey(ed25519_of(signer)).public
    store.encrypt(chosen(SECOND))
    give(SECOND)
    assert SigningKey(ed25519_of(signer)).public == public


def test_a_file_elsewhere_must_be_there_and_private_and_of_the_kind(
    store: SecretStore, tmp_path: Path
) -> None:
    path = tmp_path / "key.pem"
    signer = signer_for(path.as_uri(), store, Path("/nowhere"), P256)
    for use in (signer.make, signer.key):
        with pytest.raises(StateError, match="put it back"):
            use()
    foreign_key(path, P256)
    path.chmod(0o644)
    with pytest.raises(StateError, match="can be read by other users"):
        signer.key()
    foreign_key(path, ED25519)
    with pytest.raises(MalformedMessage, match="ECDSA P-256"):
        signer.key()
    path.write_bytes(b"no key")
    with pytest.raises(MalformedMessage, match="not PKCS#8"):
        signer.key()
