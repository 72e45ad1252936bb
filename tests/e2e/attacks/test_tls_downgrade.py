"""Whoever offers less than TLS 1.2 with forward secrecy and authenticated encryption gets nothing.

The server is a real process. Each refusal is shown to be the server's: the same client, with the
same options, is served by a permissive ``openssl s_server``.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from support.deployment import Deployment, serving
from support.pki import Wish, certify

from fedhelp_secure import TLS12_CIPHER_SUITES
from fedhelp_secure.demo.processes import free_port
from fedhelp_secure.transport.certificates import own_tls_files, server_name, utc_now
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.wire.v1 import enrolment_pb2, enrolment_pb2_grpc

SECONDS = 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EVERYTHING = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"


@dataclass(frozen=True, slots=True)
class Target:
    """A server's port, a good client's certificate and key, and what the client believes."""

    port: int
    certificate: Path
    key: Path
    roots: Path


@pytest.fixture(scope="module")
def ours(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Target:
    """The registrar's process; every server of the federation is started by the same function."""
    state = deployment.federation.state("large-1")
    roots = tmp_path_factory.mktemp("roots") / "roots.pem"
    roots.write_bytes(own_tls_files(state).authorities)
    port = int(deployment.addresses[Role.REGISTRAR].rpartition(":")[2])
    return Target(port, state.tls_certificate_path, state.tls_key_path, roots)


@contextmanager
def s_server(target: Target, directory: Path, *options: str) -> Iterator[Target]:
    """A server that takes everything, with an RSA certificate beside the usual one."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    permissive = certify(Wish(subject="CN=permissive", key=key), None, now=utc_now())
    (directory / "rsa.pem").write_bytes(permissive.pem)
    (directory / "rsa.key").write_bytes(permissive.key_pem)
    port = free_port()
    process = subprocess.Popen(
        [
            *("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-quiet"),
            *("-cert", str(directory / "rsa.pem"), "-key", str(directory / "rsa.key")),
            *("-dcert", str(target.certificate), "-dkey", str(target.key)),
            *("-cipher", EVERYTHING, "-min_protocol", "TLSv1", *options),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
        yield Target(port, target.certificate, target.key, target.roots)
    finally:
        process.kill()
        process.communicate()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("s_server does not listen")


@pytest.fixture(scope="module")
def permissive(ours: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with s_server(ours, tmp_path_factory.mktemp("s_server")) as target:
        yield target


def negotiated(target: Target, *options: str) -> str:
    """What ``openssl s_client`` agrees on with the server, ``VERSION, SUITE``; empty if nothing."""
    done = subprocess.run(
        [
            *("openssl", "s_client", "-connect", f"127.0.0.1:{target.port}", "-alpn", "h2"),
            *("-cert", str(target.certificate), "-key", str(target.key)),
            *options,
        ],
        input=b"",
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    said = done.stdout.decode(errors="replace").splitlines()
    lines = [line for line in said if line.startswith("New, ")]
    return "" if not lines or "(NONE)" in lines[0] else lines[0].removeprefix("New, ")


REFUSED = {
    "TLS 1.0": ("-tls1", "-cipher", "DEFAULT@SECLEVEL=0"),
    "TLS 1.1": ("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"),
    "CBC": ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384@SECLEVEL=0"),
    "RSA key exchange": ("-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-SHA@SECLEVEL=0"),
    "no encryption": ("-tls1_2", "-cipher", "ECDHE-ECDSA-NULL-SHA:NULL-SHA256@SECLEVEL=0"),
    "no authentication": ("-tls1_2", "-cipher", "AECDH-AES128-SHA:ADH-AES128-SHA@SECLEVEL=0"),
    "CCM": ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-CCM8@SECLEVEL=0"),
    "finite fields": ("-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256@SECLEVEL=0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_s_client_is_refused_what_is_too_little(
    ours: Target, permissive: Target, case: str
) -> None:
    assert negotiated(permissive, *REFUSED[case])
    assert not negotiated(ours, *REFUSED[case])


@pytest.mark.parametrize(
    ("options", "agreed"),
    [
        (("-tls1_2",), "TLSv1.2, Cipher is ECDHE-ECDSA-"),
        (("-tls1_3",), "TLSv1.3, Cipher is TLS_"),
        ((), "TLSv1.3, Cipher is TLS_"),
        (("-cipher", EVERYTHING), "TLSv1.3, Cipher is TLS_"),
    ],
    ids=["TLS 1.2", "TLS 1.3", "1.3 is preferred", "whatever else is offered"],
)
def test_s_client_gets_what_is_enough(ours: Target, options: tuple[str, ...], agreed: str) -> None:
    assert negotiated(ours, *options).startswith(agreed)


def offered_alone(target: Target, suite: str) -> bool:
    """Whether the server takes this suite of TLS 1.2 and goes on to speak HTTP/2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(target.roots)
    context.load_cert_chain(target.certificate, target.key)
    context.set_alpn_protocols(["h2"])
    context.set_ciphers(f"{suite}:@SECLEVEL=0")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    name = server_name(serving(Role.REGISTRAR))
    try:
        with (
            socket.create_connection(("127.0.0.1", target.port), timeout=SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=name) as wrapped,
        ):
            wrapped.sendall(PREFACE)
            return len(wrapped.recv(9)) == 9
    except (ssl.SSLError, ConnectionError):
        return False


def test_of_all_suites_that_openssl_has_exactly_ours_are_taken(ours: Target) -> None:
    listed = subprocess.run(
        ["openssl", "ciphers", "-tls1_2", "-s", EVERYTHING],
        capture_output=True,
        text=True,
        check=True,
    )
    suites = [name for name in listed.stdout.strip().split(":") if not name.startswith("TLS_")]
    assert len(suites) > 50
    taken = {suite for suite in suites if offered_alone(ours, suite)}
    # The party's key is ECDSA: suites for RSA cannot be agreed on.
    assert taken == {suite for suite in TLS12_CIPHER_SUITES if "-ECDSA-" in suite}


def client_hello(version: int, suites: list[int]) -> bytes:
    """A ClientHello (RFC 5246, section 7.4.1.2) as no present library would write it."""
    groups = bytes.fromhex("000a00040002 0017 000b00020100 000d0006 0004 0403 0401")
    hello = (
        version.to_bytes(2, "big")
        + bytes(32)
        + b"\x00"
        + (2 * len(suites)).to_bytes(2, "big")
        + b"".join(suite.to_bytes(2, "big") for suite in suites)
        + b"\x01\x00"
        + len(groups).to_bytes(2, "big")
        + groups
    )
    message = b"\x01" + len(hello).to_bytes(3, "big") + hello
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def answer_to(port: int, data: bytes) -> bytes:
    """The first bytes that come back; empty if the server just ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as plain:
        plain.sendall(data)
        try:
            return plain.recv(64)
        except ConnectionResetError:
            return b""


ECDHE_ECDSA_AES128_GCM = 0xC02B
RAW = {
    "export": (0x0303, [0x0003, 0x0006, 0x0008, 0x000B, 0x0014, 0x0017]),
    "RC4, DES and 3DES": (0x0303, [0x0004, 0x0005, 0x0009, 0x000A, 0xC007, 0xC008]),
    "SSL 3.0": (0x0300, [0x000A, ECDHE_ECDSA_AES128_GCM]),
    "TLS 1.0": (0x0301, [0xC009, ECDHE_ECDSA_AES128_GCM]),
    "TLS 1.1": (0x0302, [0xC009, ECDHE_ECDSA_AES128_GCM]),
    "null and null": (0x0303, [0x0000]),
}


@pytest.mark.parametrize("case", RAW)
def test_what_no_library_offers_any_more_gets_no_server_hello(ours: Target, case: str) -> None:
    # Record type 22 is a handshake message: the control shows that a good offer is answered.
    assert answer_to(ours.port, client_hello(0x0303, [ECDHE_ECDSA_AES128_GCM]))[:1] == b"\x16"
    assert answer_to(ours.port, client_hello(*RAW[case]))[:1] in (b"", b"\x15")


@pytest.mark.parametrize(
    "plain", [PREFACE, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x00" * 64], ids=["h2", "http", "0"]
)
def test_plaintext_gets_an_alert_or_nothing(ours: Target, plain: bytes) -> None:
    assert answer_to(ours.port, plain)[:1] in (b"", b"\x15")


def test_plaintext_grpc_reaches_no_service(ours: Target) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{ours.port}") as channel:
        stub = enrolment_pb2_grpc.EnrolmentStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetTrustBundle(enrolment_pb2.GetTrustBundleRequest(), timeout=SECONDS)
    assert isinstance(refused.value, grpc.Call)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_downgrade_in_the_middle_of_a_good_client_is_refused(ours: Target) -> None:
    """Whoever cuts the offer of TLS 1.3 out finds that both ends refuse 1.1, not only one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", ours.port), timeout=SECONDS) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname=server_name(serving(Role.REGISTRAR)))
