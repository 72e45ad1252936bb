"""Authorities of other PKIs, and generations of the federation's own, at the registrar."""

from __future__ import annotations

import datetime
import logging
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from support.certificates import key_usage
from support.pki import DAY, FEDERATION, Certified, Wish, certify
from typer.testing import CliRunner

from fedhelp_keys.registrar.authorities import (
    add_authority,
    fingerprint_of,
    parse_identity,
    remove_authority,
    rotate_authority,
)
from fedhelp_keys.registrar.ca import CertificateAuthority, found_federation
from fedhelp_keys.registrar.commands import app
from fedhelp_keys.registrar.generations import AuthorityUnusable, Founding, generations_of
from fedhelp_keys.registrar.registry import EnrolmentRefused, Registry, enrol
from fedhelp_secure.enrolment.bundle import install_bundle
from fedhelp_secure.enrolment.lifetimes import BACKDATING
from fedhelp_secure.enrolment.own_certificate import (
    OwnAuthority,
    has_own_certificate,
    install_own_certificate,
    make_csr,
)
from fedhelp_secure.enrolment.renewal import renew
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.state import StateDirectory, StateError
from fedhelp_secure.transport.certificates import own_tls_files, server_name, utc_now
from fedhelp_secure.transport.chain import check_own_certificate, load_chain, verified_identity
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import TrustStore

NOW = utc_now()
HOSPITAL = Identity(FEDERATION, Role.HOSPITAL, "small-1")
SECOND_HOSPITAL = Identity(FEDERATION, Role.HOSPITAL, "small-2")


def make(issuer: Certified | None, **wish: object) -> Certified:
    return certify(Wish(**{"subject": "CN=pki", **wish}), issuer, now=NOW)  # type: ignore[arg-type]


ROOT = make(None, subject="CN=hospital root", ca=True, not_after=NOW + 3000 * DAY)
ISSUING = make(ROOT, subject="CN=hospital issuing", ca=True, not_after=NOW + 2000 * DAY)


@pytest.fixture
def registrar(tmp_path: Path) -> StateDirectory:
    return found_federation(tmp_path / "registrar", FEDERATION, now=NOW)


def sequence_of(registrar: StateDirectory) -> int:
    return TrustStore(registrar).current().sequence


def files_of(state: StateDirectory) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in state.root.rglob("*") if path.is_file()}


def test_an_authority_is_added_widened_and_removed(registrar: StateDirectory) -> None:
    pem = ISSUING.pem
    fingerprint = add_authority(registrar, pem, identities=[HOSPITAL], now=NOW)
    assert sequence_of(registrar) == 2
    # However a comma is escaped, the list holds one form.
    subject = "CN=node\\2c 2,O=Hospital"
    add_authority(registrar, pem, identities=[SECOND_HOSPITAL], subjects=[subject], now=NOW)
    _own, added = TrustStore(registrar).current().authorities
    assert fingerprint_of(added) == fingerprint
    assert added.identities == (HOSPITAL.uri, SECOND_HOSPITAL.uri)
    leaf = make(ISSUING, subject="CN=node\\, 2,O=Hospital")
    trusted = TrustStore(registrar).current()
    assert verified_identity([leaf.certificate], trusted, now=NOW) == SECOND_HOSPITAL
    remove_authority(registrar, fingerprint[:15], now=NOW)
    assert sequence_of(registrar) == 4
    assert len(TrustStore(registrar).current().authorities) == 1


def bad_authorities() -> dict[str, bytes]:
    no_signing = key_usage(signs_certificates=False)
    rsa_1024 = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
    return {
        "nothing": b"",
        "a chain": ISSUING.pem + ROOT.pem,
        "a key": ISSUING.key_pem,
        "a party's": make(ROOT).pem,
        "not to sign with": make(ROOT, ca=True, usage=no_signing).pem,
        "without key usage": make(ROOT, ca=True, without=x509.KeyUsage).pem,
        "expired": make(ROOT, ca=True, not_after=NOW - DAY, not_before=NOW - 2 * DAY).pem,
        "not valid yet": make(ROOT, ca=True, not_before=NOW + DAY, not_after=NOW + 2 * DAY).pem,
        "weak": make(None, ca=True, key=rsa_1024).pem,
        "P-521": make(None, ca=True, key=ec.generate_private_key(ec.SECP521R1())).pem,
    }


BAD_AUTHORITIES = bad_authorities()


@pytest.mark.parametrize("case", sorted(BAD_AUTHORITIES))
def test_what_is_no_authority_is_not_added(registrar: StateDirectory, case: str) -> None:
    before = files_of(registrar)
    with pytest.raises(AuthorityUnusable):
        add_authority(registrar, BAD_AUTHORITIES[case], identities=[HOSPITAL], now=NOW)
    assert files_of(registrar) == before


def test_whom_an_authority_may_certify_is_always_said(registrar: StateDirectory) -> None:
    before = files_of(registrar)
    for identities, subjects in (
        ([], []),
        ([registrar.identity], []),
        ([HOSPITAL, registrar.identity], []),
        ([HOSPITAL, SECOND_HOSPITAL], ["CN=a"]),
        ([HOSPITAL], ["no name"]),
        ([HOSPITAL], [""]),
    ):
        with pytest.raises(AuthorityUnusable):
            add_authority(registrar, ISSUING.pem, identities=identities, subjects=subjects, now=NOW)
    for text in ("small-1", "hospital/../x", "emperor/x", "hospital/A", "/", "hospital/a/b"):
        with pytest.raises(AuthorityUnusable):
            parse_identity(FEDERATION, text)
    assert files_of(registrar) == before
    add_authority(registrar, ISSUING.pem, identities=[HOSPITAL], subjects=["CN=a"], now=NOW)
    with pytest.raises(AuthorityUnusable, match="another party already"):
        add_authority(
            registrar, ISSUING.pem, identities=[SECOND_HOSPITAL], subjects=["CN=a"], now=NOW
        )
    own = CertificateAuthority.open(registrar).root_pem
    with pytest.raises(AuthorityUnusable, match="everybody already"):
        add_authority(registrar, own, identities=[HOSPITAL], now=NOW)


def test_the_authority_that_signs_is_not_removed_nor_a_guess(registrar: StateDirectory) -> None:
    own = fingerprint_of(TrustStore(registrar).current().authorities[0])
    before = files_of(registrar)
    for text, cause in ((own, "signs the federation's"), (own[:10], "8 digits"), ("", "8 digits")):
        with pytest.raises(AuthorityUnusable, match=cause):
            remove_authority(registrar, text, now=NOW)
    assert files_of(registrar) == before


def test_an_intermediate_of_a_hospital_s_pki_founds_a_federation(tmp_path: Path) -> None:
    founding = Founding(ISSUING.pem + ROOT.pem, ISSUING.key_pem)
    state = found_federation(tmp_path / "r", FEDERATION, now=NOW, authority=founding)
    (anchor,) = TrustStore(state).current().authorities
    assert anchor.certificate.encode() == ISSUING.pem
    trusted = TrustStore(state).current()
    check_own_certificate(state.identity, own_tls_files(state), trusted, now=NOW)
    outside = make(ROOT, subject="CN=x", names=[x509.UniformResourceIdentifier(HOSPITAL.uri)])
    with pytest.raises(FedHelpError, match="from no authority"):
        verified_identity([outside.certificate, ROOT.certificate], trusted, now=NOW)
    assert "PRIVATE" not in repr(founding)
    key = state.role_directory() / "ca-key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "founding",
    [
        Founding(ROOT.pem + ISSUING.pem, ROOT.key_pem),
        Founding(ISSUING.pem, ROOT.key_pem),
        Founding(ISSUING.pem, b"x"),
        Founding(b"x", ISSUING.key_pem),
        Founding(make(ROOT).pem, make(ROOT).key_pem),
    ],
    ids=["wrong order", "another key", "no key", "no certificate", "a party's"],
)
def test_a_founding_that_cannot_work_founds_nothing(tmp_path: Path, founding: Founding) -> None:
    with pytest.raises(AuthorityUnusable):
        found_federation(tmp_path / "r", FEDERATION, now=NOW, authority=founding)
    assert not (tmp_path / "r").exists()


def test_a_new_generation_signs_when_everybody_must_know_it(registrar: StateDirectory) -> None:
    old = CertificateAuthority.open(registrar, now=NOW).certificate
    done = rotate_authority(registrar, now=NOW)
    age = datetime.timedelta(seconds=TrustStore(registrar).current().maximum_age_seconds)
    assert done.signs_from == NOW + age
    assert len(TrustStore(registrar).current().authorities) == 2
    assert CertificateAuthority.open(registrar, now=NOW + age - BACKDATING).certificate == old
    with pytest.raises(AuthorityUnusable, match="is there already"):
        rotate_authority(registrar, now=NOW)
    later = NOW + age
    new = CertificateAuthority.open(registrar, now=later).certificate
    assert new != old
    # The old one goes with its key, and the registrar has a certificate of the new one.
    first_key = registrar.role_directory() / "ca-key.pem"
    assert first_key.exists()
    remove_authority(registrar, fingerprint_of_certificate(old), now=later)
    assert not first_key.exists()
    assert [entry.number for entry in generations_of(registrar)] == [2]
    trusted = TrustStore(registrar).current()
    assert [load_chain(entry.certificate.encode()) for entry in trusted.authorities] == [[new]]
    check_own_certificate(registrar.identity, own_tls_files(registrar), trusted, now=later)
    rotate_authority(registrar, now=later, at_once=True)
    assert CertificateAuthority.open(registrar, now=later).certificate not in (old, new)


def fingerprint_of_certificate(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives import hashes

    return "sha256:" + certificate.fingerprint(hashes.SHA256()).hex()


def test_a_generation_that_is_not_published_never_signs(registrar: StateDirectory) -> None:
    before = TrustStore(registrar).path.read_bytes()
    old = CertificateAuthority.open(registrar).certificate
    rotate_authority(registrar, now=NOW, at_once=True)
    # As if the process had died between the key and the list.
    TrustStore(registrar).path.write_bytes(before)
    assert CertificateAuthority.open(registrar).certificate == old


def joined(registrar: StateDirectory, root: Path) -> StateDirectory:
    state = StateDirectory.create(root / "small-1", HOSPITAL)
    bundle = enrol(registrar, make_request(state), group="small", now=NOW, own_certificate=True)
    install_bundle(state, bundle, now=NOW)
    return state


def certified(state: StateDirectory, issuer: Certified) -> Certified:
    """What a hospital's PKI makes of the request of ``state``."""
    request = x509.load_pem_x509_csr(make_csr(state))
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    public = request.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return make(issuer, subject="CN=node1", names=list(names), public=public)


def test_a_party_brings_its_own_certificate(registrar: StateDirectory, tmp_path: Path) -> None:
    between = make(ISSUING, subject="CN=between", ca=True)
    add_authority(registrar, ISSUING.pem, identities=[HOSPITAL], now=NOW)
    state = joined(registrar, tmp_path)
    assert not state.tls_certificate_path.exists()
    before = state.tls_key_path.read_bytes()
    leaf = certified(state, between)
    for wrong in (leaf.pem, make(between).pem, between.pem, b"", leaf.pem * 1000):
        with pytest.raises(FedHelpError):
            install_own_certificate(state, wrong, now=NOW)
        assert not state.tls_certificate_path.exists()
    install_own_certificate(state, leaf.pem + between.pem, now=NOW)
    assert has_own_certificate(state)
    assert state.tls_key_path.read_bytes() == before
    with pytest.raises(OwnAuthority, match="fedhelp enrol own-certificate"):
        renew(state, "127.0.0.1:1")
    # The registrar does not certify it behind its own authority's back.
    with pytest.raises(EnrolmentRefused):
        enrol(registrar, make_request(state), group="small", now=NOW)
    member = Registry(registrar).find(HOSPITAL)
    assert member is not None
    assert member.own_certificate


def test_the_request_for_another_authority_names_uri_and_server(tmp_path: Path) -> None:
    state = StateDirectory.create(tmp_path / "small-1", HOSPITAL)
    request = x509.load_pem_x509_csr(make_csr(state))
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert request.is_signature_valid
    assert list(names) == [
        x509.UniformResourceIdentifier(HOSPITAL.uri),
        x509.DNSName(server_name(HOSPITAL)),
    ]


def test_an_own_certificate_needs_the_trust_list_first(tmp_path: Path) -> None:
    state = StateDirectory.create(tmp_path / "small-1", HOSPITAL)
    with pytest.raises(StateError):
        install_own_certificate(state, certified(state, ISSUING).pem, now=NOW)


def test_commands(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    runner, state = CliRunner(), tmp_path / "r"
    for name, data in (("ca.pem", ISSUING.pem), ("ca.key", ISSUING.key_pem), ("o.pem", ROOT.pem)):
        (tmp_path / name).write_bytes(data)

    def run(*arguments: str) -> str:
        done = runner.invoke(app, [*arguments, "--state", str(state)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    files = [f"--ca-certificate={tmp_path / 'ca.pem'}", f"--ca-key={tmp_path / 'ca.key'}"]
    run("init", "--federation", FEDERATION, *files)
    added = run(
        *("authority", "add", str(tmp_path / "o.pem"), "--identity", "hospital/small-1"),
        *("--subject", "CN=node1,O=Hospital"),
    )
    assert added.startswith("sha256:")
    shown = run("authority", "list")
    assert "CN=hospital root" in shown
    assert "everybody" in shown
    assert f"{HOSPITAL.uri}: CN=node1,O=Hospital" in shown
    assert "signs new certificates from" in run("authority", "rotate", "--at-once")
    assert "certifies nobody" in run("authority", "remove", added[:20])
    with pytest.raises(FedHelpError, match="--ca-key too"):
        runner.invoke(
            app, ["authority", "rotate", "--state", str(state), files[0]], catch_exceptions=False
        )
