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
    SEVERAL_FRAMES,
    AggregatorServer,
    Party,
    addresses_of,
    charter_of,
    contribution_of,
    custodians_of,
    new_file,
    upload,
)
from support.federation import join, make_federation

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import MAXIMUM_UNMASKERS
from fedhelp_secure.errors import PeerError
from fedhelp_secure.secure_sum.contribution import KIND, Contribution, open_manifest
from fedhelp_secure.secure_sum.residues import MODULUS
from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire

Messages = Iterator[wire.ContributeRequest]

FRAME = 65_536


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AggregatorServer]:
    """One open round that nobody completes: its custodians begin it, and that is all."""
    federation = make_federation(
        tmp_path_factory.mktemp("federation"), large=1, small=2, unmaskers=2
    )
    charter = charter_of(federation, "uploads", **SEVERAL_FRAMES)
    assert charter[0].secure_sum.frames > 2
    root: Path = tmp_path_factory.mktemp("uploads")
    with (
        custodians_of(federation) as custodians,
        AggregatorServer(federation, root, charter, addresses_of(custodians)) as server,
    ):
        server.party("large-1").wait_for(wire.ROUND_STATE_OPEN)
        yield server


def filled(running: AggregatorServer, good: Contribution, ciphertext: bytes) -> Contribution:
    """``good`` with another ciphertext than its manifest says."""
    path = new_file(running.federation)
    path.write_bytes(ciphertext)
    return dataclasses.replace(good, ciphertext=path)


def resigned(running: AggregatorServer, good: Contribution, ciphertext: bytes) -> Contribution:
    """``good`` with another ciphertext, and a manifest that says so, signed by the hospital."""
    other = altered(running, good, ciphertext_digest=digest(ciphertext))
    return filled(running, other, ciphertext)


def altered(running: AggregatorServer, good: Contribution, **changes: object) -> Contribution:
    """``good`` with other manifest fields, signed by the hospital."""
    document = open_manifest(running.charter, good.manifest).document() | changes
    envelope = running.federation.state("large-1").signing_key().sign_document(KIND, document)
    return dataclasses.replace(good, manifest=envelope)


def _too_long(running: AggregatorServer, good: Contribution) -> Messages:
    yield from upload(running.charter, good)
    yield wire.ContributeRequest(ciphertext_chunk=good.ciphertext.read_bytes()[:FRAME])


def _a_chunk_beyond_the_end(running: AggregatorServer, good: Contribution) -> Messages:
    ciphertext = good.ciphertext.read_bytes()
    return upload(running.charter, filled(running, good, ciphertext + ciphertext[:FRAME]))


def _a_frame_short(running: AggregatorServer, good: Contribution) -> Messages:
    short = good.ciphertext.read_bytes()[:-FRAME]
    return upload(running.charter, resigned(running, good, short))


def _no_ciphertext(running: AggregatorServer, good: Contribution) -> Messages:
    yield next(upload(running.charter, good))


def _half_a_frame_at_the_end(running: AggregatorServer, good: Contribution) -> Messages:
    cut = good.ciphertext.read_bytes()[: -FRAME // 2]
    return upload(running.charter, resigned(running, good, cut))


def _chunks_that_are_not_whole_frames(running: AggregatorServer, good: Contribution) -> Messages:
    header, *_ = upload(running.charter, good)
    yield header
    ciphertext = good.ciphertext.read_bytes()
    for start in range(0, len(ciphertext), 40_000):
        yield wire.ContributeRequest(ciphertext_chunk=ciphertext[start : start + 40_000])


def _a_chunk_over_its_size(running: AggregatorServer, good: Contribution) -> Messages:
    yield next(upload(running.charter, good))
    yield wire.ContributeRequest(ciphertext_chunk=bytes(17 * FRAME))


def _another_round(running: AggregatorServer, good: Contribution) -> Messages:
    return upload(running.charter, good, 2)


def _a_round_that_is_not_open(running: AggregatorServer, good: Contribution) -> Messages:
    return upload(running.charter, altered(running, good, round=2), 2)


def _another_beginning_of_the_round(running: AggregatorServer, good: Contribution) -> Messages:
    other = altered(running, good, round_keys_digest=digest(b"other statements"))
    return upload(running.charter, other)


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
    noise = os.urandom(good.ciphertext.stat().st_size)
    return upload(running.charter, resigned(running, good, noise))


def _no_residue(place: int) -> Callable[[AggregatorServer, Contribution], Messages]:
    def messages(running: AggregatorServer, good: Contribution) -> Messages:
        ciphertext = bytearray(good.ciphertext.read_bytes())
        start = place % len(ciphertext)
        ciphertext[start : start + 8] = MODULUS.to_bytes(8, "little")
        return upload(running.charter, resigned(running, good, bytes(ciphertext)))

    return messages


_no_residue_at_first, _no_residue_at_last = _no_residue(0), _no_residue(-8)


def _other_bytes_than_the_manifest_says(running: AggregatorServer, good: Contribution) -> Messages:
    flipped = bytearray(good.ciphertext.read_bytes())
    flipped[-8] ^= 1
    return upload(running.charter, filled(running, good, bytes(flipped)))


def _swapped_frames(running: AggregatorServer, good: Contribution) -> Messages:
    whole = good.ciphertext.read_bytes()
    swapped = whole[FRAME : 2 * FRAME] + whole[:FRAME] + whole[2 * FRAME :]
    return upload(running.charter, filled(running, good, swapped))


def _seeds(
    change: Callable[[tuple[bytes, ...]], tuple[bytes, ...]],
) -> Callable[[AggregatorServer, Contribution], Messages]:
    def messages(running: AggregatorServer, good: Contribution) -> Messages:
        seeds = change(good.sealed_seeds)
        return upload(running.charter, dataclasses.replace(good, sealed_seeds=seeds))

    return messages


_another_seed = _seeds(lambda seeds: (os.urandom(1168), seeds[1]))
_a_seed_too_few = _seeds(lambda seeds: seeds[:1])
_a_seed_too_many = _seeds(lambda seeds: (*seeds, seeds[0]))
_no_seeds = _seeds(lambda _: ())
_swapped_seeds = _seeds(lambda seeds: seeds[::-1])
_one_seed_twice = _seeds(lambda seeds: (seeds[0], seeds[0]))
_a_short_seed = _seeds(lambda seeds: (seeds[0], seeds[1][:-1]))
_a_long_seed = _seeds(lambda seeds: (seeds[0], seeds[1] + b"x"))
_more_seeds_than_any_charter = _seeds(lambda _: (b"",) * (MAXIMUM_UNMASKERS + 1))


def _seeds_of_another_contribution(running: AggregatorServer, good: Contribution) -> Messages:
    other = contribution_of(running.federation, running.charter, "large-1")
    return upload(running.charter, dataclasses.replace(good, sealed_seeds=other.sealed_seeds))


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
    (_a_chunk_beyond_the_end, "contribution-wrong-length", 1),
    (_a_frame_short, "contribution-wrong-length", 1),
    (_no_ciphertext, "contribution-wrong-length", 1),
    (_half_a_frame_at_the_end, "ciphertext", 1),
    (_chunks_that_are_not_whole_frames, "ciphertext", 1),
    (_a_chunk_over_its_size, "contribution-wrong-chunk", 1),
    (_another_round, "manifest", 2),
    (_a_round_that_is_not_open, "round-not-open", 2),
    (_another_beginning_of_the_round, "manifest", 1),
    (_a_round_beyond_the_charter, "round", 0),
    (_bad_signature, "signature", 1),
    (_not_a_manifest, "malformed", 1),
    (_a_manifest_over_its_size, "malformed", 1),
    (_random_bytes, "ciphertext", 1),
    (_no_residue_at_first, "ciphertext", 1),
    (_no_residue_at_last, "ciphertext", 1),
    (_other_bytes_than_the_manifest_says, "manifest", 1),
    (_swapped_frames, "manifest", 1),
    (_another_seed, "manifest", 1),
    (_a_seed_too_few, "manifest", 1),
    (_a_seed_too_many, "manifest", 1),
    (_no_seeds, "manifest", 1),
    (_swapped_seeds, "manifest", 1),
    (_one_seed_twice, "manifest", 1),
    (_a_short_seed, "manifest", 1),
    (_seeds_of_another_contribution, "manifest", 1),
    (_a_long_seed, "contribution-wrong-seeds", 1),
    (_more_seeds_than_any_charter, "contribution-wrong-seeds", 1),
    (_an_unknown_charter, "other-charter", 1),
    (_a_manifest_for_another_charter, "manifest", 1),
    (_chunk_before_header, "contribution-no-header", 0),
    (_nothing, "contribution-no-header", 0),
    (_header_twice, "contribution-wrong-chunk", 1),
    (_empty_chunk, "contribution-wrong-chunk", 1),
    (_anothers_manifest, "manifest", 1),
]

_NAMES = [
    next(name for name, value in globals().items() if value is case[0]) for case in BAD_INPUTS
]

AFTER_THE_HEADER = {
    _too_long,
    _a_chunk_beyond_the_end,
    _a_frame_short,
    _half_a_frame_at_the_end,
    _chunks_that_are_not_whole_frames,
    _random_bytes,
    _no_residue_at_first,
    _no_residue_at_last,
    _other_bytes_than_the_manifest_says,
    _swapped_frames,
}
"""Everything else is refused before any ciphertext is taken."""


@pytest.mark.parametrize(("messages", "code", "logged_round"), BAD_INPUTS, ids=_NAMES)
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
    spoiled = bytearray(good.ciphertext.read_bytes())
    spoiled[2 * FRAME : 2 * FRAME + 8] = MODULUS.to_bytes(8, "little")
    bad = resigned(running, good, bytes(spoiled))
    with pytest.raises(PeerRefused):
        running.party("large-1").send(upload(running.charter, bad, frames=1))
    # Up to the frame that was refused: what would come after it was not read.
    read = digest(bytes(spoiled[: 3 * FRAME]))
    assert running.entries()[-1].contribution_rejected.ciphertext_digest == read
    # Every frame is good, the whole is not what the manifest says.
    other = contribution_of(running.federation, running.charter, "large-1")
    with pytest.raises(PeerRefused):
        running.party("large-1").contribute(dataclasses.replace(good, ciphertext=other.ciphertext))
    read = digest(other.ciphertext.read_bytes())
    assert running.entries()[-1].contribution_rejected.ciphertext_digest == read


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
        messages = upload(running.charter, good, frames=1)
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
