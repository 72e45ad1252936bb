"""A hospital serves as the aggregator, with every certificate that it can get: nobody believes it.

The false server is gRPC's own, without a check of ours; the clients are real processes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from support.deployment import PATIENCE_SECONDS
from support.federation import FEDERATION, Federation, make_federation
from support.pki import Certified, Wish, certify
from support.processes import context_file
from support.services import call_get_charter, register

from fedhelp_keys.registrar.authorities import add_authority
from fedhelp_keys.registrar.trust import issue_trust_list
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import TlsFiles, own_tls_files, server_name, utc_now
from fedhelp_secure.transport.client import PeerNotAuthenticated, open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import TrustStore

AGGREGATOR = Identity(FEDERATION, Role.AGGREGATOR, "aggregator")
HOSPITAL = Identity(FEDERATION, Role.HOSPITAL, "small-1")
SENTENCE = "no valid certificate of this federation"


@pytest.fixture(scope="module")
def pki() -> Certified:
    """A hospital's own authority, which it controls."""
    return certify(Wish(subject="CN=hospital issuing", ca=True), None, now=utc_now())


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, pki: Certified) -> Federation:
    """Its trust list lets that authority certify that hospital."""
    made = make_federation(
        tmp_path_factory.mktemp("federation"), large=1, small=1, privacy={"mechanism": "rehearsal"}
    )
    registrar, now = made.state(Role.REGISTRAR), utc_now()
    add_authority(registrar, pki.pem, identities=[HOSPITAL], now=now)
    for state in made.states.values():
        TrustStore(state).install(issue_trust_list(registrar, now=now), now=now)
    return made


@contextmanager
def false_server(files: TlsFiles, federation: Federation) -> Iterator[str]:
    """An aggregator's services behind any certificate; it asks no client for one."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    register(lambda _context: federation.charter_envelope)(server)
    credentials = grpc.ssl_server_credentials([(files.key, files.certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def its_own(federation: Federation, _pki: Certified) -> TlsFiles:
    return own_tls_files(federation.state("small-1"))


def of_its_pki(_federation: Federation, pki: Certified) -> TlsFiles:
    """With the aggregator's names, which its authority may not certify."""
    names = [x509.UniformResourceIdentifier(AGGREGATOR.uri), x509.DNSName(server_name(AGGREGATOR))]
    leaf = certify(Wish(subject="CN=aggregator", names=names), pki, now=utc_now())
    return TlsFiles(leaf.key_pem, leaf.pem + pki.pem, b"")


def signed_with_its_own(federation: Federation, _pki: Certified) -> TlsFiles:
    """As if its certificate of the federation were an authority's."""
    own = own_tls_files(federation.state("small-1"))
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(own.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = Certified(x509.load_pem_x509_certificate(own.certificate), key)
    names = [x509.UniformResourceIdentifier(AGGREGATOR.uri), x509.DNSName(server_name(AGGREGATOR))]
    leaf = certify(Wish(subject="CN=aggregator", names=names), issuer, now=utc_now())
    return TlsFiles(leaf.key_pem, leaf.pem + own.certificate, b"")


def of_a_custodian(federation: Federation, _pki: Certified) -> TlsFiles:
    """Another server's certificate, of the federation's own authority."""
    return own_tls_files(federation.state(Role.DECRYPTOR))


FORGERIES = [its_own, of_its_pki, signed_with_its_own, of_a_custodian]
Forge = Callable[[Federation, Certified], TlsFiles]


@pytest.mark.parametrize("forge", FORGERIES, ids=[forge.__name__ for forge in FORGERIES])
@pytest.mark.parametrize("role", list(Role), ids=[role.value for role in Role])
def test_no_party_believes_a_hospital_that_serves(
    federation: Federation, pki: Certified, forge: Forge, role: Role
) -> None:
    state = federation.state("large-1" if role is Role.HOSPITAL else role)
    with (
        false_server(forge(federation, pki), federation) as address,
        open_channel(state, address, expected=AGGREGATOR) as channel,
        pytest.raises(PeerNotAuthenticated, match=SENTENCE),
        translated_errors("the aggregator"),
    ):
        call_get_charter(channel)


def rehearse(state: StateDirectory, federation: Federation, address: str) -> str:
    """A hospital's real process; how it ended."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fedhelp_secure", "client", "rehearse"),
            *("--state", str(state.root), "--context", str(context_file(federation))),
            *("--aggregator", f"aggregator@{address}"),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize("forge", FORGERIES[:2], ids=[forge.__name__ for forge in FORGERIES[:2]])
def test_a_hospital_s_process_ends_with_a_sentence(
    federation: Federation, pki: Certified, forge: Forge
) -> None:
    with false_server(forge(federation, pki), federation) as address:
        assert SENTENCE in rehearse(federation.state("large-1"), federation, address)


def test_the_right_certificate_is_believed_in_the_same_place(federation: Federation) -> None:
    """The control: what is refused above is the certificate, and nothing else."""
    files = own_tls_files(federation.state(Role.AGGREGATOR))
    with (
        false_server(files, federation) as address,
        open_channel(federation.state("large-1"), address, expected=AGGREGATOR) as channel,
    ):
        assert call_get_charter(channel) == federation.charter_envelope


def test_an_authority_in_whose_scope_it_is_may_certify_a_server(
    federation: Federation, pki: Certified, tmp_path: Path
) -> None:
    """And the scope alone decides: with the aggregator in it, the same certificate is believed."""
    registrar, now = federation.state(Role.REGISTRAR), utc_now()
    held = TrustStore(registrar).path.read_bytes()
    add_authority(registrar, pki.pem, identities=[AGGREGATOR], now=now)
    state = federation.state("large-1")
    TrustStore(state).install(issue_trust_list(registrar, now=now), now=now)
    try:
        with (
            false_server(of_its_pki(federation, pki), federation) as address,
            open_channel(state, address, expected=AGGREGATOR) as channel,
        ):
            assert call_get_charter(channel) == federation.charter_envelope
    finally:
        for party in (registrar, state):
            TrustStore(party).path.write_bytes(held)
