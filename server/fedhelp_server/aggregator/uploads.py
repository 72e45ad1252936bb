"""Taking one contribution: every check in the order of its cost, then one durable step.

1. The first message is a header whose parts have the contract's sizes, and it names this charter.
2. The manifest is signed by the hospital it names, which is the caller, for the header's round, and
   the sealed seeds are all and only those that it names.
3. The hospital has sent nothing else for this round, and the round is open.
4. Its turn comes (`Turns`), and the hospital is told: it sends nothing of the ciphertext before.
5. Each chunk, as it arrives, is whole frames of residues (`check_chunk`) and goes straight to the
   blob; one chunk more than the charter's parameters give ends the call.
6. What has arrived has the charter's length and the manifest's digest.
7. Store, log, receipt (`Book.accept`).

One chunk of each upload that has its turn is in memory, and nothing is parsed: a ciphertext is
numbers in a range. A refusal at any step is logged with its code and the digest of what was read,
and changes nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from fedhelp_secure.charter import MAXIMUM_UNMASKERS, Charter
from fedhelp_secure.errors import MalformedMessage, PeerError, PolicyError, UnavailablePeer
from fedhelp_secure.secure_sum.contribution import (
    SEALED_SEED_BYTES,
    Manifest,
    ManifestRefused,
    check_sealed_seeds,
    open_manifest,
)
from fedhelp_secure.secure_sum.residues import check_chunk
from fedhelp_secure.transport.chunks import CHUNK_BYTES
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.wire.v1.coordinator_pb2 import ContributeRequest, ContributionHeader
from fedhelp_server.aggregator.blobs import BlobStore, IncomingBlob
from fedhelp_server.aggregator.book import Book
from fedhelp_server.aggregator.limits import CALLS_EACH, CallLimit
from fedhelp_server.aggregator.membership import check_charter_digest, member_key
from fedhelp_server.aggregator.store import StoredContribution
from fedhelp_server.aggregator.turns import Turn, Turns

_LOG = logging.getLogger(__name__)


class NoHeader(MalformedMessage):
    """The first message of an upload is not its header."""

    code = "contribution-no-header"


class WrongSeeds(MalformedMessage):
    """A header has more sealed seeds than any charter has unmaskers, or longer ones."""

    code = "contribution-wrong-seeds"


class WrongLength(MalformedMessage):
    """A ciphertext is longer or shorter than every ciphertext under the charter."""

    code = "contribution-wrong-length"


class WrongChunk(MalformedMessage):
    """A message after the header is not 1 byte to 1 MiB of ciphertext."""

    code = "contribution-wrong-chunk"


@dataclass(slots=True)
class _Attempt:
    """What is known of an upload so far, for the log if it is refused."""

    hospital: str
    round_number: int = 0
    ciphertext_digest: str = ""


class Call(Protocol):
    """The call that brings an upload."""

    def is_active(self) -> bool:
        """Whether anybody is still there."""

    def go_on(self) -> None:
        """Tell the sender that its turn has come."""

    def give_up(self) -> None:
        """End the call without an answer, from any thread."""

    def broken_off(self) -> bool:
        """Whether it is over without the sender's will; asked if its messages end too early."""


class Uploads:
    """Takes contributions to the rounds of one charter, from many threads."""

    def __init__(
        self, charter: Charter, book: Book, *, blobs: BlobStore, total: int, turns: Turns
    ) -> None:
        """At most ``total`` uploads are there at once, of which ``turns`` says who may send."""
        self._charter = charter
        self._charter_digest = charter.digest
        self._book = book
        self._blobs = blobs
        self._limit = CallLimit(each=CALLS_EACH, total=total)
        self.turns = turns

    def receive(
        self, caller: Identity, requests: Iterator[ContributeRequest], *, call: Call
    ) -> StoredContribution:
        """Take the contribution in ``requests`` of ``call`` from ``caller``, a hospital.

        The same bytes again give the contribution that is there. Raises Busy, UnavailablePeer if
        the call breaks off or loses its turn, or the error of the step that refused, which is then
        in the log.
        """
        attempt = _Attempt(caller.name)
        with self._limit.slot(caller.name):
            try:
                return self._receive(attempt, caller, requests, call)
            except UnavailablePeer:
                raise
            except (PeerError, PolicyError) as refusal:
                _LOG.warning(
                    "a contribution of %s was refused with code %s", caller.name, refusal.code
                )
                self._book.reject(
                    attempt.round_number,
                    attempt.hospital,
                    ciphertext_digest=attempt.ciphertext_digest,
                    code=refusal.code,
                )
                raise

    def _receive(
        self,
        attempt: _Attempt,
        caller: Identity,
        requests: Iterator[ContributeRequest],
        call: Call,
    ) -> StoredContribution:
        header = _header(requests)
        attempt.round_number = header.round
        sealed_seeds = _sealed_seeds(header)
        manifest = self._check_header(header, caller)
        check_sealed_seeds(manifest, sealed_seeds)
        envelope = header.manifest
        earlier = self._book.earlier(manifest, envelope=envelope, sealed_seeds=sealed_seeds)
        if earlier is None:
            self._book.check_open(manifest.round)
            self._book.check_keys(manifest)
        with (
            self._blobs.incoming() as blob,
            # Until the answer: the call's buffers are as large as what went through it until then.
            self.turns.turn(call.give_up, active=call.is_active) as turn,
        ):
            call.go_on()
            self._fill(blob, attempt, requests, turn)
            if blob.size < self._charter.secure_sum.ciphertext_bytes and call.broken_off():
                raise UnavailablePeer("the upload was broken off; send it again.")
            self._check_length(blob)
            if blob.digest != manifest.ciphertext_digest:
                raise ManifestRefused(
                    "the ciphertext is not the one that the manifest names; send that one."
                )
            if earlier is not None:
                return earlier
            blob.finish()
            return self._book.accept(manifest, blob, envelope=envelope, sealed_seeds=sealed_seeds)

    def _check_header(self, header: ContributionHeader, caller: Identity) -> Manifest:
        check_charter_digest(header.charter_digest, self._charter_digest)
        member_key(self._charter, caller)
        manifest = open_manifest(self._charter, header.manifest)
        if manifest.hospital != caller.name:
            raise ManifestRefused("the manifest is another hospital's; send your own.")
        if manifest.round != header.round:
            raise ManifestRefused("the manifest is for another round than the upload says.")
        return manifest

    def _fill(
        self,
        blob: IncomingBlob,
        attempt: _Attempt,
        requests: Iterator[ContributeRequest],
        turn: Turn,
    ) -> None:
        secure_sum = self._charter.secure_sum
        for request in requests:
            chunk = request.ciphertext_chunk
            if not 0 < len(chunk) <= CHUNK_BYTES:
                raise WrongChunk(
                    "after the header an upload has chunks of 1 byte to 1 MiB; send it so."
                )
            # Before the checks: the log names the refused bytes too.
            blob.write(chunk)
            turn.moved(len(chunk))
            attempt.ciphertext_digest = blob.digest
            if blob.size > secure_sum.ciphertext_bytes:
                break
            check_chunk(chunk, secure_sum)

    def _check_length(self, blob: IncomingBlob) -> None:
        expected = self._charter.secure_sum.ciphertext_bytes
        if blob.size != expected:
            raise WrongLength(
                f"a ciphertext has {expected} bytes under this charter; send those of the "
                "contribution that was made for it."
            )


def _header(requests: Iterator[ContributeRequest]) -> ContributionHeader:
    first = next(requests, ContributeRequest())
    if first.WhichOneof("part") != "header":
        raise NoHeader("an upload begins with its header; send that first.")
    return first.header


def _sealed_seeds(header: ContributionHeader) -> tuple[bytes, ...]:
    if len(header.sealed_seeds) > MAXIMUM_UNMASKERS or any(
        len(sealed_seed) > SEALED_SEED_BYTES for sealed_seed in header.sealed_seeds
    ):
        raise WrongSeeds(
            f"a header has at most {MAXIMUM_UNMASKERS} sealed seeds of {SEALED_SEED_BYTES} bytes; "
            "send one for each unmasker of the charter."
        )
    return tuple(header.sealed_seeds)
