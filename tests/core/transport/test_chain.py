"""Whom a chain speaks for: every cause of a refusal, with real certificates."""

from __future__ import annotations

import datetime
import itertools
import logging
from collections.abc import Callable, Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certificates import key_usage
from support.pki import (
    DAY,
    FEDERATION,
    Certified,
    Wish,
    certify,
    entry,
    new_key,
    trust_list,
)

from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.transport.certificates import CertificateRefused, TlsFiles
from fedhelp_secure.transport.chain import (
    MAXIMUM_INTERMEDIATES,
    check_own_certificate,
    load_chain,
    roots_for,
    verified_identity,
)
from fedhelp_secure.transport.identity import Identity, Role

NOW = datetime.datetime(2026, 6, 1, 12, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)
HOSPITAL = Identity(FEDERATION, Role.HOSPITAL, "small-1")
OTHER = Identity(FEDERATION, Role.HOSPITAL, "small-2")
AGGREGATOR = Identity(FEDERATION, Role.AGGREGATOR, "aggregator")
SUBJECT = "CN=node1,O=Hospital"
RSA_1024 = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
RSA_2048 = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def uri(identity: Identity) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(identity.uri)


def make(issuer: Certified | None, **wish: object) -> Certified:
    return certify(Wish(**{"subject": SUBJECT, **wish}), issuer, now=NOW)  # type: ignore[arg-type]


ROOT = make(None, subject="CN=root", ca=True)
PKI = make(ROOT, subject="CN=issuing", ca=True)
LEAF = make(PKI, names=[uri(HOSPITAL)])
TRUSTED = trust_list(NOW, entry(PKI, HOSPITAL.uri))


def who(*chain: Certified, trusted: object = TRUSTED, now: datetime.datetime = NOW) -> Identity:
    assert isinstance(trusted, type(TRUSTED))
    return verified_identity([each.certificate for each in chain], trusted, now=now)


def test_a_certificate_of_the_anchor_speaks_for_its_uri() -> None:
    assert who(LEAF) == HOSPITAL


def test_the_anchor_is_the_intermediate_and_nothing_else_of_its_pki() -> None:
    sibling = make(ROOT, subject="CN=other department", ca=True)
    with pytest.raises(CertificateRefused, match="from no authority of this federation"):
        who(make(sibling, names=[uri(HOSPITAL)]), sibling, ROOT)
    with pytest.raises(CertificateRefused, match="from no authority of this federation"):
        who(make(ROOT, names=[uri(HOSPITAL)]), ROOT)
    # The same key and name under another certificate of that PKI makes no difference.
    assert who(LEAF, PKI, ROOT) == HOSPITAL


@pytest.mark.parametrize("depth", range(MAXIMUM_INTERMEDIATES + 2))
def test_intermediates_come_with_the_leaf_in_any_order(depth: int) -> None:
    path = [PKI]
    for number in range(depth):
        path.append(make(path[-1], subject=f"CN=level {number}", ca=True))
    leaf, between = make(path[-1], names=[uri(HOSPITAL)]), path[1:]
    if depth > MAXIMUM_INTERMEDIATES:
        with pytest.raises(CertificateRefused, match="at most 4 intermediates"):
            who(leaf, *between)
        return
    orders = list(itertools.permutations(between))
    for order in (orders[0], orders[-1]):
        assert who(leaf, *order) == HOSPITAL
    for missing in range(len(between)):
        with pytest.raises(CertificateRefused, match="chain is refused"):
            who(leaf, *between[:missing], *between[missing + 1 :])


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (new_key(), hashes.SHA256()),
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
        (RSA_2048, hashes.SHA256()),
        (RSA_2048, hashes.SHA512()),
    ],
    ids=["P-256", "P-384", "RSA with SHA-256", "RSA with SHA-512"],
)
def test_keys_that_hospitals_have_are_taken(key: object, algorithm: object) -> None:
    anchor = make(None, subject="CN=a", ca=True, key=key, algorithm=algorithm)
    leaf = make(anchor, names=[uri(HOSPITAL)], key=key, algorithm=algorithm)
    assert who(leaf, trusted=trust_list(NOW, entry(anchor))) == HOSPITAL


def constrained(*, permitted: str | None = None, excluded: str | None = None) -> Certified:
    def trees(name: str | None) -> list[x509.GeneralName] | None:
        return None if name is None else [x509.DNSName(name)]

    constraints = x509.NameConstraints(trees(permitted), trees(excluded))
    return make(PKI, subject="CN=sub", ca=True, extra=[(constraints, True)])


def uri_constrained() -> Certified:
    constraints = x509.NameConstraints([x509.UniformResourceIdentifier(FEDERATION)], None)
    return make(PKI, subject="CN=sub", ca=True, extra=[(constraints, True)])


def unknown_critical() -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def below(authority: Certified, *, dns: str = "a.hospital.test") -> Sequence[Certified]:
    return make(authority, names=[uri(HOSPITAL), x509.DNSName(dns)]), authority


def test_a_name_that_is_permitted_passes() -> None:
    assert who(*below(constrained(permitted="hospital.test"))) == HOSPITAL


SHORT = make(PKI, subject="CN=short", ca=True, path_length=0)
NO_SIGNING = make(PKI, subject="CN=x", ca=True, usage=key_usage(signs_certificates=False))
OLD = make(PKI, subject="CN=old", ca=True, not_after=NOW - SECOND, not_before=NOW - DAY)
IMPOSTOR = make(None, subject="CN=issuing", ca=True)
P521 = ec.generate_private_key(ec.SECP521R1())
NAMES = [uri(HOSPITAL)]
REFUSED: dict[str, tuple[Callable[[], Sequence[Certified]], str]] = {
    "expired": (lambda: [make(PKI, names=NAMES, not_after=NOW - SECOND)], "has expired"),
    "not yet valid": (lambda: [make(PKI, names=NAMES, not_before=NOW + SECOND)], "not valid yet"),
    "by an expired intermediate": (lambda: [make(OLD, names=NAMES), OLD], "has expired"),
    "foreign": (lambda: [make(make(None, subject="CN=f", ca=True), names=NAMES)], "no authority"),
    "self-signed": (lambda: [make(None, names=NAMES)], "from no authority"),
    "by one who calls itself the anchor": (
        lambda: [make(IMPOSTOR, names=NAMES)],
        "signature does not match",
    ),
    "by an impostor that comes along": (
        lambda: [make(IMPOSTOR, names=NAMES), IMPOSTOR],
        "chain is refused",
    ),
    "for another party": (lambda: [make(PKI, names=[uri(OTHER)])], "may not certify"),
    "for another role": (lambda: [make(PKI, names=[uri(AGGREGATOR)])], "may not certify"),
    "an authority": (lambda: [make(PKI, names=NAMES, ca=True)], "cannot stand for a party"),
    "the anchor itself": (lambda: [PKI], "cannot stand for a party"),
    "that may sign certificates": (
        lambda: [make(PKI, names=NAMES, usage=key_usage(signs_certificates=True))],
        "cannot stand for a party",
    ),
    "by a party": (lambda: [make(LEAF, names=NAMES), LEAF], "chain is refused"),
    "without key usage": (lambda: [make(PKI, names=NAMES, without=x509.KeyUsage)], "key usage"),
    "without extended key usage": (
        lambda: [make(PKI, names=NAMES, without=x509.ExtendedKeyUsage)],
        "lacks the extended key usage clientAuth",
    ),
    "for servers only": (
        lambda: [make(PKI, names=NAMES, extended=[ExtendedKeyUsageOID.SERVER_AUTH])],
        "lacks the extended key usage clientAuth",
    ),
    "for any use": (
        lambda: [make(PKI, names=NAMES, extended=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])],
        "lacks the extended key usage clientAuth",
    ),
    "without an authority key identifier": (
        lambda: [make(PKI, names=NAMES, without=x509.AuthorityKeyIdentifier)],
        "missing required extension",
    ),
    "with an unknown critical extension": (
        lambda: [make(PKI, names=NAMES, extra=[(unknown_critical(), True)])],
        "unaccounted-for critical extensions",
    ),
    "by an intermediate with an unknown critical extension": (
        lambda: below(make(PKI, subject="CN=u", ca=True, extra=[(unknown_critical(), True)])),
        "unaccounted-for critical extensions",
    ),
    "beyond the path length": (
        lambda: [
            make(deeper := make(SHORT, subject="CN=deeper", ca=True), names=NAMES),
            deeper,
            SHORT,
        ],
        "path length",
    ),
    "by an intermediate that may not sign": (
        lambda: [make(NO_SIGNING, names=NAMES), NO_SIGNING],
        "chain is refused",
    ),
    "with a short RSA key": (lambda: [make(PKI, names=NAMES, key=RSA_1024)], "key is weak"),
    "by an intermediate with a short RSA key": (
        lambda: below(make(PKI, subject="CN=w", ca=True, key=RSA_1024)),
        "key is weak",
    ),
    "with a P-521 key": (lambda: [make(PKI, names=NAMES, key=P521)], "key is weak"),
    "with an Ed25519 key": (
        lambda: [make(PKI, names=NAMES, key=ed25519.Ed25519PrivateKey.generate())],
        "key is weak",
    ),
    "with SHA-224": (
        lambda: [make(PKI, names=NAMES, algorithm=hashes.SHA224())],
        "signature is weak",
    ),
    "with two identities": (lambda: [make(PKI, names=[uri(HOSPITAL), uri(OTHER)])], "one URI"),
    "with one identity twice": (lambda: [make(PKI, names=NAMES * 2)], "one URI"),
    "without a name": (lambda: [make(PKI)], "one URI"),
    "with a name outside the permitted": (
        lambda: below(constrained(permitted="hospital.test"), dns="aggregator.test"),
        "no permitted name constraints",
    ),
    "with a name in the excluded": (
        lambda: below(constrained(excluded="hospital.test")),
        "excluded name constraint",
    ),
    "under constraints of URIs, which the library does not know": (
        lambda: below(uri_constrained()),
        "unsupported name constraint",
    ),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_bad_chain_is_refused_and_the_cause_is_said(case: str) -> None:
    chain, cause = REFUSED[case]
    with pytest.raises(CertificateRefused, match=cause):
        who(*chain())


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(CertificateRefused):
        who()


def test_a_period_is_kept_to_the_second() -> None:
    begin, end = NOW - DAY, NOW + DAY
    for moment in (begin, end):
        assert who(LEAF, now=moment) == HOSPITAL
    for moment in (begin - SECOND, end + SECOND):
        with pytest.raises(CertificateRefused):
            who(LEAF, now=moment)


def test_an_expired_anchor_admits_nobody() -> None:
    anchor = make(None, subject="CN=a", ca=True, not_after=NOW)
    leaf = make(anchor, names=NAMES)
    trusted = trust_list(NOW, entry(anchor))
    assert who(leaf, trusted=trusted) == HOSPITAL
    with pytest.raises(CertificateRefused, match="authority's own certificate has expired"):
        who(leaf, trusted=trusted, now=NOW + SECOND)


def test_a_subject_that_the_list_maps_needs_no_uri() -> None:
    trusted = trust_list(NOW, entry(PKI, HOSPITAL.uri, subjects={SUBJECT: HOSPITAL.uri}))
    assert who(make(PKI), trusted=trusted) == HOSPITAL
    assert who(LEAF, trusted=trusted) == HOSPITAL
    with pytest.raises(CertificateRefused, match="one URI"):
        who(make(PKI, subject="CN=node2,O=Hospital"), trusted=trusted)
    # Order, case and a longer name are other subjects.
    for other in ("O=Hospital,CN=node1", "CN=NODE1,O=Hospital", "CN=node1,O=Hospital,C=DE"):
        with pytest.raises(CertificateRefused, match="one URI"):
            who(make(PKI, subject=other), trusted=trusted)


def test_a_subject_and_a_uri_that_disagree_speak_for_nobody() -> None:
    both = entry(PKI, HOSPITAL.uri, OTHER.uri, subjects={SUBJECT: HOSPITAL.uri})
    leaf = make(PKI, names=[uri(OTHER)])
    with pytest.raises(CertificateRefused, match="subject stands for one party and its URI"):
        who(leaf, trusted=trust_list(NOW, both))
    foreign = make(PKI, names=[x509.UniformResourceIdentifier("https://hospital.test/node1")])
    with pytest.raises(CertificateRefused, match="no identity of a federation"):
        who(foreign, trusted=trust_list(NOW, both))


def test_a_subject_is_mapped_for_its_own_authority_only() -> None:
    other = make(None, subject="CN=other", ca=True)
    trusted = trust_list(
        NOW, entry(PKI, HOSPITAL.uri, subjects={SUBJECT: HOSPITAL.uri}), entry(other, OTHER.uri)
    )
    assert who(make(PKI), trusted=trusted) == HOSPITAL
    with pytest.raises(CertificateRefused, match="one URI"):
        who(make(other), trusted=trusted)


def test_a_mapping_does_not_widen_a_scope() -> None:
    trusted = trust_list(NOW, entry(PKI, HOSPITAL.uri, subjects={SUBJECT: AGGREGATOR.uri}))
    with pytest.raises(CertificateRefused, match="may not certify"):
        who(make(PKI), trusted=trusted)


def test_one_authority_that_admits_is_enough_and_two_parties_are_too_many() -> None:
    wide = trust_list(NOW, entry(PKI, OTHER.uri), entry(ROOT, HOSPITAL.uri))
    assert who(LEAF, PKI, trusted=wide) == HOSPITAL
    two = trust_list(
        NOW,
        entry(PKI, subjects={SUBJECT: HOSPITAL.uri}),
        entry(ROOT, subjects={SUBJECT: OTHER.uri}),
    )
    with pytest.raises(CertificateRefused, match="two parties"):
        who(make(PKI), PKI, trusted=two)


@given(st.lists(st.sampled_from([HOSPITAL, OTHER, AGGREGATOR]), unique=True), st.data())
@settings(max_examples=30, deadline=None)
def test_exactly_the_scope_is_admitted(scope: list[Identity], data: st.DataObject) -> None:
    identity = data.draw(st.sampled_from([HOSPITAL, OTHER, AGGREGATOR]))
    listed = [each.uri for each in scope]
    trusted = trust_list(NOW, entry(ROOT, "spiffe://testfed/auditor/a"), entry(PKI, *listed))
    leaf = make(PKI, names=[uri(identity)])
    if identity in scope or not scope:
        assert who(leaf, trusted=trusted) == identity
        return
    with pytest.raises(CertificateRefused, match="may not certify"):
        who(leaf, trusted=trusted)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_certificate_speaks_for_nobody(data: st.DataObject) -> None:
    der = bytearray(LEAF.certificate.public_bytes(serialization.Encoding.DER))
    position = data.draw(st.integers(0, len(der) - 1))
    der[position] ^= data.draw(st.integers(1, 255))
    try:
        changed = x509.load_der_x509_certificate(bytes(der))
    except (ValueError, x509.InvalidVersion):
        return
    with pytest.raises(CertificateRefused):
        verified_identity([changed], TRUSTED, now=NOW)


def test_callers_believe_only_authorities_that_may_certify_the_server() -> None:
    federation = make(None, subject="CN=federation", ca=True)
    trusted = trust_list(NOW, entry(federation), entry(PKI, HOSPITAL.uri))
    of_hospital = load_chain(roots_for(trusted, HOSPITAL))
    assert of_hospital == [federation.certificate, PKI.certificate]
    assert load_chain(roots_for(trusted, AGGREGATOR)) == [federation.certificate]
    with pytest.raises(CertificateRefused, match="no authority of the trust list may certify"):
        roots_for(TRUSTED, AGGREGATOR)


def test_our_own_chain_is_checked_as_others_would_and_its_end_is_announced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    between = make(PKI, subject="CN=between", ca=True)
    leaf = make(between, names=NAMES)
    files = TlsFiles(leaf.key_pem, leaf.pem + between.pem, b"")
    with caplog.at_level(logging.WARNING):
        check_own_certificate(HOSPITAL, files, TRUSTED, now=NOW)
        assert not caplog.records
        check_own_certificate(HOSPITAL, files, TRUSTED, now=NOW + DAY * 0.9)
    assert "ends at 2026-06-02" in caplog.text
    alone = TlsFiles(leaf.key_pem, leaf.pem, b"")
    with pytest.raises(FedHelpError, match="chain is refused"):
        check_own_certificate(HOSPITAL, alone, TRUSTED, now=NOW)
    with pytest.raises(FedHelpError, match="cannot be read"):
        check_own_certificate(HOSPITAL, TlsFiles(leaf.key_pem, b"", b""), TRUSTED, now=NOW)
