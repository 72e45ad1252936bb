"""Certificates of seconds: servers and clients take the new ones, and no stream is dropped."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
from cryptography import x509
from support.registrar import ServedRegistrar, serving_registrar
from support.services import Coordinator, call_get_charter

from fedhelp_keys.registrar.ca import CertificateAuthority, found_federation
from fedhelp_keys.registrar.policy import RegistrarPolicy, save_policy
from fedhelp_keys.registrar.registry import enrol
from fedhelp_secure.charter import Group
from fedhelp_secure.enrolment.bundle import install_bundle
from fedhelp_secure.enrolment.lifetimes import DEFAULT_LIFETIME
from fedhelp_secure.enrolment.renewal import upkeep_of
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import (
    load_certificate,
    load_tls_key,
    own_tls_files,
    server_name,
    utc_now,
)
from fedhelp_secure.transport.client import open_channel
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import start_server
from fedhelp_secure.wire.v1 import coordinator_pb2, coordinator_pb2_grpc

LIFE_SECONDS = 12
PATIENCE_SECONDS = 120
CERTIFICATES = 3
"""Of each party: the one before the policy, the one that the stream began with, and one more."""

AGGREGATOR, HOSPITAL, UNMASKER = (
    Identity("testfed", role, role.value)
    for role in (Role.AGGREGATOR, Role.HOSPITAL, Role.UNMASKER)
)


class Ticking(Coordinator):
    """WatchRounds counts until its caller goes."""

    def WatchRounds(  # noqa: N802
        self, request: coordinator_pb2.WatchRoundsRequest, context: grpc.ServicerContext
    ) -> Iterator[coordinator_pb2.RoundEvent]:
        number = 0
        while context.is_active():
            number += 1
            yield coordinator_pb2.RoundEvent(round=number)
            time.sleep(0.05)


def callers_serial(context: grpc.ServicerContext) -> bytes:
    """Of the certificate with which the caller's connection was made."""
    presented = dict(context.auth_context())["x509_pem_cert"]
    (pem,) = list(presented)
    return str(load_certificate(pem).serial_number).encode()  # type: ignore[arg-type]


def enrolled(registrar: StateDirectory, root: Path, identity: Identity) -> StateDirectory:
    """A party whose certificate is due for renewal, but still valid for days."""
    state = StateDirectory.create(root / identity.role.value, identity)
    group: Group | None = "small" if identity.role is Role.HOSPITAL else None
    bundle = enrol(registrar, make_request(state), group=group, now=utc_now())
    install_bundle(state, bundle, now=utc_now())
    key = load_tls_key(own_tls_files(state).key).public_key()
    past = utc_now() - DEFAULT_LIFETIME * 0.7
    elder = CertificateAuthority.open(registrar).issue(identity, key, now=past)
    state.tls_certificate_path.write_bytes(elder)
    return state


def presented_serial(caller: StateDirectory, identity: Identity, address: str) -> int:
    """Of the certificate that the server at ``address`` shows in a new handshake."""
    files = own_tls_files(caller)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=files.authorities.decode())
    pair = caller.root / "pair.pem"
    pair.write_bytes(files.key + files.certificate)
    context.load_cert_chain(pair)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.partition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=server_name(identity)) as wrapped,
    ):
        der = wrapped.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


class Observer:
    """Makes a new connection to each server whenever it looks, as the hospital."""

    def __init__(self, hospital: StateDirectory, aggregator: str, unmasker: str) -> None:
        self._hospital = hospital
        self._where = {AGGREGATOR: aggregator, UNMASKER: unmasker}
        self.seen: dict[Identity, set[int]] = {AGGREGATOR: set(), UNMASKER: set(), HOSPITAL: set()}
        self._deadline = time.monotonic() + PATIENCE_SECONDS

    def fewest_certificates(self) -> int:
        """So many of every party have been seen by now."""
        for identity, address in self._where.items():
            self.seen[identity].add(presented_serial(self._hospital, identity, address))
        with self.channel() as channel:
            self.seen[HOSPITAL].add(int(call_get_charter(channel)))
        assert time.monotonic() < self._deadline, self.seen
        return min(len(serials) for serials in self.seen.values())

    def channel(self) -> grpc.Channel:
        """The hospital's, to the aggregator."""
        return open_channel(self._hospital, self._where[AGGREGATOR], expected=AGGREGATOR)


@contextlib.contextmanager
def observed(
    registrar: ServedRegistrar, aggregator: StateDirectory, hospital: StateDirectory, unmasker: Path
) -> Iterator[Observer]:
    """All parties at work: the unmasker as a process, the others here, each with its upkeep."""
    _, unmasker_address = registrar.group.serve(
        "unmasker",
        *("custodian", "serve", "--state", str(unmasker), "--listen", "127.0.0.1:0"),
        *("--registrar", registrar.address),
    )
    service = Ticking(callers_serial)
    server = start_server(
        aggregator,
        "127.0.0.1:0",
        register=lambda target: coordinator_pb2_grpc.add_CoordinatorServicer_to_server(
            service, target
        ),
    )
    try:
        observer = Observer(hospital, server.address, unmasker_address)
        observer.fewest_certificates()
        with upkeep_of(aggregator, registrar.address), upkeep_of(hospital, registrar.address):
            yield observer
    finally:
        server.stop()


def test_a_stream_outlives_the_certificates_of_both_ends(tmp_path: Path) -> None:
    founded = found_federation(tmp_path / "registrar", "testfed", now=utc_now())
    aggregator, hospital, unmasker = (
        enrolled(founded, tmp_path, identity) for identity in (AGGREGATOR, HOSPITAL, UNMASKER)
    )
    save_policy(founded, RegistrarPolicy(certificate_seconds=LIFE_SECONDS))
    # The registrar's own certificate lives seconds too: it must renew itself all the while.
    with (
        serving_registrar(founded, tmp_path) as registrar,
        observed(registrar, aggregator, hospital, unmasker.root) as observer,
    ):
        while observer.fewest_certificates() < 2:
            time.sleep(0.1)
        end = load_certificate(own_tls_files(hospital).certificate).not_valid_after_utc
        assert (end - utc_now()).total_seconds() <= LIFE_SECONDS
        with observer.channel() as channel:
            stub = coordinator_pb2_grpc.CoordinatorStub(channel)
            stream = stub.WatchRounds(coordinator_pb2.WatchRoundsRequest())
            next_look = time.monotonic()
            for expected, event in enumerate(stream, start=1):
                assert event.round == expected
                if time.monotonic() > next_look:
                    if observer.fewest_certificates() >= CERTIFICATES and utc_now() > end:
                        break
                    next_look = time.monotonic() + 1
            after = expected
            assert next(stream).round == after + 1
            stream.cancel()
