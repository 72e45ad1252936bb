"""A new root under a running federation: no round is lost; at the end the old one is nothing."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from cryptography import x509
from support.deployment import (
    PATIENCE_SECONDS,
    Deployment,
    code_at,
    deployed,
    raw_channel,
    serving,
    succeed,
    wait_until,
)
from support.processes import context_file

from fedhelp_secure.demo.processes import Running
from fedhelp_secure.enrolment.renewal import renew
from fedhelp_secure.transport.certificates import TlsFiles, load_certificate, own_tls_files
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.trust.refresh import refresh_trust_list
from fedhelp_secure.trust.store import TrustStore
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorStub

GET_CHARTER = "/fedhelp_secure.wire.v1.Coordinator/GetCharter"
SERVERS = (Role.DECRYPTOR, Role.UNMASKER, Role.AGGREGATOR)
HOSPITALS = ("large-1", "small-1", "small-2")


def start_node(deployment: Deployment, hospital: str) -> Running:
    return deployment.group.start(
        f"node-{hospital}",
        *("client", "rehearse", "--state", str(deployment.federation.state(hospital).root)),
        *("--context", str(context_file(deployment.federation))),
        *("--aggregator", f"aggregator@{deployment.addresses[Role.AGGREGATOR]}"),
        *("--registrar", deployment.addresses[Role.REGISTRAR]),
    )


def knows(deployment: Deployment, party: str | Role, authorities: int) -> bool:
    held = TrustStore(deployment.federation.state(party)).current().authorities
    return len(held) == authorities


def wait_until_contributed(deployment: Deployment, count: int) -> None:
    """Returns when the first round has so many contributions, and waits for more."""
    files = own_tls_files(deployment.federation.state("small-2"))
    request = wire.WatchRoundsRequest(
        charter_digest=deployment.federation.charter.digest, session=os.urandom(16)
    )
    address = deployment.addresses[Role.AGGREGATOR]
    with raw_channel(files, address, serving(Role.AGGREGATOR)) as channel:
        stream = CoordinatorStub(channel).WatchRounds(request, timeout=PATIENCE_SECONDS)
        assert any(event.round == 1 and event.contributions == count for event in stream)
        stream.cancel()


def issuer_of(files: TlsFiles) -> bytes | None:
    """The key identifier of whoever signed the certificate."""
    extensions = load_certificate(files.certificate).extensions
    return extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier


def test_a_round_under_way_survives_a_new_root(tmp_path: Path) -> None:
    with deployed(
        tmp_path,
        servers=SERVERS,
        privacy={"mechanism": "rehearsal"},
        rounds={"count": 2, "deadline_seconds": 600},
    ) as running:
        federation, registrar = running.federation, str(running.registrar.root)
        old = {state.identity: own_tls_files(state) for state in federation.states.values()}
        nodes = [start_node(running, hospital) for hospital in HOSPITALS[:2]]
        wait_until_contributed(running, len(nodes))
        said = succeed("keys", "authority", "rotate", "--at-once", "--state", registrar)
        assert "signs new certificates from" in said
        for party in (*SERVERS, *HOSPITALS[:2]):
            # By itself: each process polls the registrar.
            wait_until(functools.partial(knows, running, party, 2))
        for party in (*SERVERS, *HOSPITALS):
            state = federation.state(party)
            refresh_trust_list(state, running.addresses[Role.REGISTRAR])
            renew(state, running.addresses[Role.REGISTRAR])
            assert issuer_of(own_tls_files(state)) != issuer_of(old[state.identity])
        # The first round waited for this hospital, which has never had another certificate.
        nodes.append(start_node(running, HOSPITALS[2]))
        for node in nodes:
            assert node.process.wait(timeout=4 * PATIENCE_SECONDS) == 0, node.log.read_text()
            assert "round 2" in node.log.read_text()
        (first, _) = TrustStore(running.registrar).current().authorities
        shown = succeed("keys", "authority", "list", "--state", registrar)
        fingerprint = next(word for word in shown.split() if word.startswith("sha256:"))
        removed = succeed("keys", "authority", "remove", fingerprint, "--state", registrar)
        assert "certifies nobody any more" in removed
        assert first not in TrustStore(running.registrar).current().authorities
        wait_until(lambda: knows(running, Role.AGGREGATOR, 1))
        # Whoever held on to a certificate of the old root is nobody now; all others go on.
        stolen = old[federation.state("large-1").identity]
        wait_until(lambda: code_at(running, stolen, GET_CHARTER) == "UNAVAILABLE")
        for hospital in HOSPITALS:
            state = federation.state(hospital)
            refresh_trust_list(state, running.addresses[Role.REGISTRAR])
            assert knows(running, hospital, 1)
            assert code_at(running, state, GET_CHARTER) == ""
