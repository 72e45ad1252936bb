"""What is refused at the door, with which code, and that a refusal changes nothing but the log."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.aggregator import (
    AggregatorServer,
    Party,
    charter_of,
    contribution_of,
    upload,
)
from support.federation import Federation, join

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import PeerError
from fedhelp_secure.secure_sum.contribution import KIND, Contribution, open_manifest
from fedhelp_secure.secure_sum.framing import _form
from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_server.aggregator.custodians import CustodianAddresses

Messages = Iterator[wire.ContributeRequest]


@pytest.fixture(scope="module")
def running(
    federation: Federation,
    custodians: object,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AggregatorServer]:
    """One open round that nobody completes: its custodians are never asked."""
    charter = charter_of(federation, "uploads")
    addresses = CustodianAddresses("127.0.0.1:1", "127.0.0.1:1")
    root: Path = tmp_path_factory.mktemp("uploads")
    with AggregatorServer(federation, root, charter, addresses) as server:
        server.party("large-1").wait_for(wire.ROUND_STATE_OPEN)
        yield server


def resigned(running: AggregatorServer, good: Contribution, ciphertext: bytes) -> Contribution:
    """``good`` with another ciphertext, and a manifest that says so, signed by the hospital."""
    manifest = open_manifest(running.charter, good.manifest)
    document = manifest.document() | {"ciphertext_digest": digest(ciphertext)}
    envelope = running.federation.state("large-1").signing_key().sign_document(KIND, document)
    return Contribution(envelope, good.sealed_seed, ciphertext)


def altered(running: AggregatorServer, good: Contribution, **changes: object) -> Contribution:
    """``good`` with other manifest fields, signed by the hospital."""
    document = open_manifest(running.charter, good.manifest).document() | changes
    envelope = running.federation.state("large-1").signing_key().sign_document(KIND, document)
    return dataclasses.replace(good, manifest=envelope)


def framed_noise(charter: Charter) -> bytes:
    """A frame's constant bytes around random coefficients."""
    form = _form(charter.secure_sum)
    return form.prefix + os.urandom(form.coefficient_bytes) + form.suffix


def _too_long(running: AggregatorServer, good: Contribution) -> Messages:
    yield from upload(running.charter, good)
    yield wire.ContributeRequest(ciphertext_chunk=b"x")


def _truncated(running: AggregatorServer, good: Contribution) -> Messages:
    return upload(running.charter, dataclasses.replace(good, ciphertext=good.ciphertext[:-1]))


def _another_round(running: AggregatorServer, good: Contribution) -> Messages:
    return upload(running.charter, good, 2)


def _a_round_that_is_not_open(running: AggregatorServer, good: Contribution) -> Messages:
    other = contribution_of(running.federation, running.charter, "large-1", 2)
    return upload(running.charter, other, 2)


def _a_round_beyond_the_charter(running: AggregatorServer, good: Contribution) -> Messages:
    return upload(running.charter, altered(running, good, round=9), 9)


def _bad_signature(running: AggregatorServer, good: Contribution) -> Messages:
    document = open_manifest(running.charter, good.manifest).document()
    key = running.federation.state("small-1").signing_key()
    forged = dataclasses.replace(good, manifest=key.sign_document(KIND, document))
    return upload(running.charter, forged)


def _not_a_manifest(running: AggregatorServer, good: Contribution) -> Messages:
    return upload(running.charter, dataclasses.replace(good, manifest=os.urandom(300)))


def _a_manifest_over_its_size(running: AggregatorServer, good: Contribution) -> Messages:
    return upload(running.charter, dataclasses.replace(good, manifest=b"{" * (1 << 20)))


def _random_bytes(running: AggregatorServer, good: Contribution) -> Messages:
    return upload(running.charter, resigned(running, good, os.urandom(len(good.ciphertext))))


def _random_bytes_in_a_good_frame(running: AggregatorServer, good: Contribution) -> Messages:
    return upload(running.charter, resigned(running, good, framed_noise(running.charter)))


def _other_bytes_than_the_manifest_says(running: AggregatorServer, good: Contribution) -> Messages:
    flipped = bytearray(good.ciphertext)
    flipped[-100] ^= 1
    return upload(running.charter, dataclasses.replace(good, ciphertext=bytes(flipped)))


def _another_seed(running: AggregatorServer, good: Contribution) -> Messages:
    return upload(running.charter, dataclasses.replace(good, sealed_seed=os.urandom(1168)))


def _an_unknown_charter(running: AggregatorServer, good: Contribution) -> Messages:
    other, _ = charter_of(running.federation, "another")
    return upload(other, good)


def _a_manifest_for_another_charter(running: AggregatorServer, good: Contribution) -> Messages:
    other, _ = charter_of(running.federation, "another")
    return upload(running.charter, altered(running, good, charter=other.digest))


def _chunk_before_header(running: AggregatorServer, good: Contribution) -> Messages:
    header, *chunks = upload(running.charter, good)
    yield chunks[0]
    yield header
    yield from chunks[1:]


def _nothing(running: AggregatorServer, good: Contribution) -> Messages:
    return iter(())


def _header_twice(running: AggregatorServer, good: Contribution) -> Messages:
    header, *chunks = upload(running.charter, good)
    yield header
    yield header
    yield from chunks


def _empty_chunk(running: AggregatorServer, good: Contribution) -> Messages:
    header, *chunks = upload(running.charter, good)
    yield header
    yield wire.ContributeRequest(ciphertext_chunk=b"")
    yield from chunks


def _anothers_manifest(running: AggregatorServer, good: Contribution) -> Messages:
    return upload(running.charter, contribution_of(running.federation, running.charter, "small-1"))


BAD_INPUTS: list[tuple[Callable[[AggregatorServer, Contribution], Messages], str, int]] = [
    (_too_long, "contribution-wrong-length", 1),
    (_truncated, "contribution-wrong-length", 1),
    (_another_round, "manifest", 2),
    (_a_round_that_is_not_open, "round-not-open", 2),
    (_a_round_beyond_the_charter, "round", 0),
    (_bad_signature, "signature", 1),
    (_not_a_manifest, "malformed", 1),
    (_a_manifest_over_its_size, "malformed", 1),
    (_random_bytes, "ciphertext", 1),
    (_random_bytes_in_a_good_frame, "ciphertext", 1),
    (_other_bytes_than_the_manifest_says, "manifest", 1),
    (_another_seed, "manifest", 1),
    (_an_unknown_charter, "other-charter", 1),
    (_a_manifest_for_another_charter, "manifest", 1),
    (_chunk_before_header, "contribution-no-header", 0),
    (_nothing, "contribution-no-header", 0),
    (_header_twice, "contribution-wrong-chunk", 1),
    (_empty_chunk, "contribution-wrong-chunk", 1),
    (_anothers_manifest, "manifest", 1),
]

AFTER_THE_HEADER = {
    _too_long,
    _truncated,
    _random_bytes,
    _random_bytes_in_a_good_frame,
    _other_bytes_than_the_manifest_says,
}
"""Everything else is refused before any ciphertext is taken."""


@pytest.mark.parametrize(
    ("messages", "code", "logged_round"), BAD_INPUTS, ids=[case[0].__name__ for case in BAD_INPUTS]
)
def test_bad_input_is_refused_logged_and_changes_nothing(
    running: AggregatorServer,
    messages: Callable[[AggregatorServer, Contribution], Messages],
    code: str,
    logged_round: int,
) -> None:
    good = contribution_of(running.federation, running.charter, "large-1")
    before = running.entries()
    with pytest.raises(PeerRefused) as refused:
        running.party("large-1").send(messages(running, good))
    assert refused.value.code == code
    (new,) = running.entries()[len(before) :]
    rejected = new.contribution_rejected
    assert (rejected.hospital, rejected.round, rejected.code) == ("large-1", logged_round, code)
    assert bool(rejected.ciphertext_digest) == (messages in AFTER_THE_HEADER)
    assert next(running.party("large-1").watch()).contributions == 0
    blobs = running.root / "aggregator" / "blobs"
    assert [file for file in blobs.rglob("*") if file.is_file()] == []


def test_an_endless_upload_is_ended_early(running: AggregatorServer) -> None:
    good = contribution_of(running.federation, running.charter, "large-1")
    sent = 0

    def endless() -> Messages:
        nonlocal sent
        yield from upload(running.charter, good)
        while sent < 200:
            sent += 1
            yield wire.ContributeRequest(ciphertext_chunk=bytes(1 << 20))

    with pytest.raises(PeerRefused) as refused:
        running.party("large-1").send(endless())
    assert refused.value.code == "contribution-wrong-length"
    # What flow control had let through when the answer came, and no more.
    assert sent < 50


def test_the_log_names_the_refused_bytes(running: AggregatorServer) -> None:
    good = contribution_of(running.federation, running.charter, "large-1")
    noise = os.urandom(len(good.ciphertext))
    with pytest.raises(PeerRefused):
        running.party("large-1").contribute(resigned(running, good, noise))
    assert running.entries()[-1].contribution_rejected.ciphertext_digest == digest(noise)


def test_an_enrolled_hospital_outside_the_charter_is_refused(running: AggregatorServer) -> None:
    registrar = running.federation.state("registrar")
    identity = Identity(running.charter.federation, Role.HOSPITAL, "stranger")
    stranger = join(registrar, running.federation.root, identity)
    party = Party(stranger, running.charter, running.address)
    good = contribution_of(running.federation, running.charter, "large-1")
    with pytest.raises(PeerRefused) as refused:
        party.contribute(good)
    assert refused.value.code == "not-in-charter"
    assert running.entries()[-1].contribution_rejected.hospital == "stranger"
    with pytest.raises(PeerRefused) as refused:
        next(party.watch())
    assert refused.value.code == "not-in-charter"
    # The charter itself is for every enrolled party.
    reply = party.coordinator.GetCharter(wire.GetCharterRequest())
    assert reply.envelope == running.charter_file.read_bytes()
    party.channel.close()


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.BROKER, Role.DECRYPTOR])
def test_only_hospitals_contribute(running: AggregatorServer, role: Role) -> None:
    good = contribution_of(running.federation, running.charter, "large-1")
    with pytest.raises(PeerRefused) as refused:
        running.party(role).contribute(good)
    assert refused.value.code == "access"


def test_a_client_that_vanishes_in_the_middle_leaves_nothing(running: AggregatorServer) -> None:
    good = contribution_of(running.federation, running.charter, "large-1")
    before = len(running.entries())
    sent = threading.Event()

    def half() -> Messages:
        messages = upload(running.charter, good)
        yield next(messages)
        yield next(messages)
        sent.set()
        time.sleep(0.5)
        yield next(messages)

    call = running.party("large-1").coordinator.Contribute.future(half())
    assert sent.wait(10)
    time.sleep(0.1)
    call.cancel()
    incoming = running.root / "aggregator" / "blobs" / "incoming"
    deadline = time.monotonic() + 5
    while list(incoming.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(incoming.iterdir()) == []
    assert len(running.entries()) == before


def test_a_third_upload_at_once_is_told_to_try_again(running: AggregatorServer) -> None:
    good = contribution_of(running.federation, running.charter, "large-1")
    done = threading.Event()
    started = threading.Semaphore(0)

    def slow() -> Messages:
        yield next(upload(running.charter, good))
        started.release()
        done.wait(10)

    calls = [running.party("large-1").coordinator.Contribute.future(slow()) for _ in range(2)]
    for _ in calls:
        started.acquire(timeout=10)
    time.sleep(0.2)
    try:
        with pytest.raises(PeerError, match="try again later") as busy:
            running.party("large-1").contribute(good)
        assert busy.value.code == "unavailable"
    finally:
        for call in calls:
            call.cancel()
        done.set()
