"""Certificates that are not right, at every RPC of every service of a running federation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from cryptography import x509
from support.certificates import Issuer, forge
from support.deployment import Deployment, code_at, described_methods, wait_until
from support.federation import FEDERATION
from support.pki import DAY, Certified, Wish, certify

from fedhelp_keys.registrar.authorities import add_authority
from fedhelp_keys.registrar.ca import CertificateAuthority, found_federation
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.access import ACCESS
from fedhelp_secure.transport.certificates import TlsFiles, load_tls_key, own_tls_files, utc_now
from fedhelp_secure.transport.identity import Identity, Role

METHODS = sorted(described_methods())
HOSPITAL = Identity(FEDERATION, Role.HOSPITAL, "small-1")
HANDSHAKE = "UNAVAILABLE"
"""What gRPC says when the server ended the handshake: the call has not reached its service."""
NOT_AUTHENTICATED = "caller-not-authenticated"


@dataclass(frozen=True, slots=True)
class World:
    """A running federation, an authority that may certify one hospital, and one of strangers."""

    deployment: Deployment
    issuer: Issuer
    hospital_pki: Certified
    foreign: StateDirectory

    def files(self, certified: Certified) -> TlsFiles:
        """As presented by an attacker, who knows every authority."""
        return TlsFiles(certified.key_pem, certified.pem, self.authorities)

    @property
    def authorities(self) -> bytes:
        """Of the federation."""
        return own_tls_files(self.deployment.registrar).authorities


@pytest.fixture(scope="module")
def world(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> World:
    now = utc_now()
    foreign = found_federation(tmp_path_factory.mktemp("foreign") / "r", FEDERATION, now=now)
    pki = certify(Wish(subject="CN=hospital issuing", ca=True), None, now=now)
    add_authority(deployment.registrar, pki.pem, identities=[HOSPITAL], now=now)
    made = World(deployment, Issuer.of_registrar(deployment.registrar), pki, foreign)
    good = made.files(by_hospital_pki(made, HOSPITAL))
    # Every server has the list as soon as it takes the hospital's own certificate.
    for method in {role: name for name, role in described_methods().items()}.values():
        wait_until(functools.partial(is_answered, deployment, good, method))
    return made


def is_answered(running: Deployment, files: TlsFiles, method: str) -> bool:
    return code_at(running, files, method) != HANDSHAKE


def uri(identity: Identity) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(identity.uri)


def by_hospital_pki(world: World, identity: Identity) -> Certified:
    return certify(
        Wish(subject="CN=node", names=[uri(identity)]), world.hospital_pki, now=utc_now()
    )


def by_federation(
    world: World, *names: x509.GeneralName, after: int = -1, until: int = 1
) -> TlsFiles:
    """Signed by the federation's own key, valid in this many days from and to."""
    begin, end = utc_now() + after * DAY, utc_now() + until * DAY
    forged = forge(names, issuer=world.issuer, not_before=begin, not_after=end)
    return replace(forged, authorities=world.authorities)


def expired(world: World) -> TlsFiles:
    return by_federation(world, uri(HOSPITAL), after=-2, until=-1)


def not_yet_valid(world: World) -> TlsFiles:
    return by_federation(world, uri(HOSPITAL), after=1, until=2)


def of_a_foreign_authority(world: World) -> TlsFiles:
    files = own_tls_files(world.foreign)
    key = load_tls_key(files.key).public_key()
    issued = CertificateAuthority.open(world.foreign).issue(HOSPITAL, key, now=utc_now())
    return TlsFiles(files.key, issued, world.authorities)


def self_signed(world: World) -> TlsFiles:
    return world.files(certify(Wish(subject="CN=node", names=[uri(HOSPITAL)]), None, now=utc_now()))


def signed_by_a_party(world: World) -> TlsFiles:
    own = own_tls_files(world.deployment.federation.state("small-1"))
    issuer = Issuer(x509.load_pem_x509_certificate(own.certificate), load_tls_key(own.key))
    now = utc_now()
    forged = forge([uri(HOSPITAL)], issuer=issuer, not_before=now - DAY, not_after=now + DAY)
    return TlsFiles(forged.key, forged.certificate + own.certificate, world.authorities)


def out_of_scope(world: World) -> TlsFiles:
    """The PKI of one hospital names another."""
    other = Identity(FEDERATION, Role.HOSPITAL, "small-2")
    return world.files(by_hospital_pki(world, other))


def out_of_role(world: World) -> TlsFiles:
    """The PKI of a hospital names the aggregator, which may call custodians."""
    return world.files(by_hospital_pki(world, Identity(FEDERATION, Role.AGGREGATOR, "aggregator")))


def of_two_parties(world: World) -> TlsFiles:
    return by_federation(world, uri(HOSPITAL), uri(Identity(FEDERATION, Role.AUDITOR, "auditor")))


def of_nobody(world: World) -> TlsFiles:
    return by_federation(world)


def of_another_federation(world: World) -> TlsFiles:
    return by_federation(world, uri(Identity("otherfed", Role.HOSPITAL, "small-1")))


ATTACKS: dict[Callable[[World], TlsFiles], str] = {
    expired: HANDSHAKE,
    not_yet_valid: HANDSHAKE,
    of_a_foreign_authority: HANDSHAKE,
    self_signed: HANDSHAKE,
    signed_by_a_party: HANDSHAKE,
    out_of_scope: NOT_AUTHENTICATED,
    out_of_role: NOT_AUTHENTICATED,
    of_two_parties: NOT_AUTHENTICATED,
    of_nobody: NOT_AUTHENTICATED,
    of_another_federation: "access",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.__name__ for attack in ATTACKS])
def test_a_certificate_that_is_not_right_is_refused_by_every_rpc(
    world: World, attack: Callable[[World], TlsFiles]
) -> None:
    files = attack(world)
    answers = {method: code_at(world.deployment, files, method) for method in METHODS}
    assert answers == dict.fromkeys(METHODS, ATTACKS[attack])


@pytest.mark.parametrize("role", list(Role), ids=[role.value for role in Role])
def test_exactly_the_roles_of_the_table_get_past_the_door(world: World, role: Role) -> None:
    files = by_federation(world, uri(Identity(FEDERATION, role, "newcomer")))
    for method in METHODS:
        answer = code_at(world.deployment, files, method)
        assert (answer == "access") is (role not in ACCESS[method]), (method, answer)
        assert answer not in (HANDSHAKE, NOT_AUTHENTICATED)


def test_the_hospital_s_own_authority_opens_what_its_role_may(world: World) -> None:
    files = world.files(by_hospital_pki(world, HOSPITAL))
    for method in METHODS:
        answer = code_at(world.deployment, files, method)
        assert (answer == "access") is (Role.HOSPITAL not in ACCESS[method]), (method, answer)
        assert answer not in (HANDSHAKE, NOT_AUTHENTICATED)
