"""Taking one contribution: every check in the order of its cost, then one durable step.

1. The first message is a header, its parts have the contract's sizes, and it names this charter.
2. The manifest is signed by the hospital it names, which is the caller, for the header's round, and
   covers the sealed seed.
3. The hospital has sent nothing else for this round, and the round is open.
4. The chunks have the one length that the charter's parameters give: one byte more ends the call.
5. Digest and framing (`check_contribution`).
6. Parsing, in a child process that may die alone.
7. Store, log, receipt (`Book.accept`).

A refusal at any step is logged with its code, and changes nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import MalformedMessage, PeerError, PolicyError, UnavailablePeer
from fedhelp_secure.secure_sum.contribution import (
    Contribution,
    Manifest,
    ManifestRefused,
    check_contribution,
    check_sealed_seed,
    open_manifest,
)
from fedhelp_secure.secure_sum.framing import ciphertext_bytes
from fedhelp_secure.transport.chunks import CHUNK_BYTES
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.wire.v1.coordinator_pb2 import ContributeRequest, ContributionHeader
from fedhelp_server.aggregator.blobs import BlobStore, IncomingBlob
from fedhelp_server.aggregator.book import Book
from fedhelp_server.aggregator.limits import CALLS_EACH, CallLimit
from fedhelp_server.aggregator.membership import check_charter_digest, member_key
from fedhelp_server.aggregator.store import StoredContribution
from fedhelp_server.aggregator.sum_worker import CONCURRENT_WORKERS, SumWorker, WeightedBlob

_LOG = logging.getLogger(__name__)


class NoHeader(MalformedMessage):
    """The first message of an upload is not its header."""

    code = "contribution-no-header"


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


class Uploads:
    """Takes contributions to the rounds of one charter, from many threads."""

    def __init__(
        self, charter: Charter, book: Book, *, blobs: BlobStore, worker: SumWorker, total: int
    ) -> None:
        """At most ``total`` uploads run at once."""
        self._charter = charter
        self._charter_digest = charter.digest
        self._book = book
        self._blobs = blobs
        self._worker = worker
        self._ciphertext_bytes = ciphertext_bytes(charter.secure_sum)
        self._limit = CallLimit(each=CALLS_EACH, total=total)
        # A whole ciphertext is in memory while its framing is checked.
        self._in_memory = threading.BoundedSemaphore(CONCURRENT_WORKERS)

    def receive(
        self, caller: Identity, requests: Iterator[ContributeRequest]
    ) -> StoredContribution:
        """Take the contribution in ``requests`` from ``caller``, a hospital.

        The same bytes again give the contribution that is there. Raises Busy, or the error of the
        step that refused, which is then in the log.
        """
        attempt = _Attempt(caller.name)
        with self._limit.slot(caller.name):
            try:
                return self._receive(attempt, caller, requests)
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
        self, attempt: _Attempt, caller: Identity, requests: Iterator[ContributeRequest]
    ) -> StoredContribution:
        header = _header(requests)
        attempt.round_number = header.round
        manifest = self._check_header(header, caller)
        earlier = self._book.earlier(
            manifest, envelope=header.manifest, sealed_seed=header.sealed_seed
        )
        if earlier is None:
            self._book.check_open(manifest.round)
        with self._blobs.incoming() as blob:
            self._fill(blob, attempt, requests)
            self._check_whole(header, blob, caller)
            if earlier is not None:
                return earlier
            self._worker.check(
                WeightedBlob(
                    weight=self._charter.weight_of(manifest.hospital),
                    path=blob.path,
                    digest=blob.digest,
                )
            )
            return self._book.accept(
                manifest, blob, envelope=header.manifest, sealed_seed=header.sealed_seed
            )

    def _check_header(self, header: ContributionHeader, caller: Identity) -> Manifest:
        check_charter_digest(header.charter_digest, self._charter_digest)
        member_key(self._charter, caller)
        manifest = open_manifest(self._charter, header.manifest)
        if manifest.hospital != caller.name:
            raise ManifestRefused("the manifest is another hospital's; send your own.")
        if manifest.round != header.round:
            raise ManifestRefused("the manifest is for another round than the upload says.")
        check_sealed_seed(manifest, header.sealed_seed)
        return manifest

    def _fill(
        self, blob: IncomingBlob, attempt: _Attempt, requests: Iterator[ContributeRequest]
    ) -> None:
        for request in requests:
            chunk = request.ciphertext_chunk
            if not 0 < len(chunk) <= CHUNK_BYTES:
                raise WrongChunk(
                    "after the header an upload has chunks of 1 byte to 1 MiB; send it so."
                )
            blob.write(chunk)
            attempt.ciphertext_digest = blob.digest
            if blob.size > self._ciphertext_bytes:
                break
        if blob.size != self._ciphertext_bytes:
            raise WrongLength(
                f"a ciphertext has {self._ciphertext_bytes} bytes under this charter; send those "
                "of the contribution that was made for it."
            )
        blob.finish()

    def _check_whole(
        self, header: ContributionHeader, blob: IncomingBlob, caller: Identity
    ) -> None:
        with self._in_memory:
            check_contribution(
                self._charter,
                Contribution(header.manifest, header.sealed_seed, blob.path.read_bytes()),
                expected_hospital=caller.name,
                expected_round=header.round,
            )


def _header(requests: Iterator[ContributeRequest]) -> ContributionHeader:
    first = next(requests, ContributeRequest())
    if first.WhichOneof("part") != "header":
        raise NoHeader("an upload begins with its header; send that first.")
    return first.header
