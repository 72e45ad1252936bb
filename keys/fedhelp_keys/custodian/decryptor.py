"""Custodian A: decrypts one masked sum for each (charter, round)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import grpc
import numpy as np
from numpy.typing import NDArray

from fedhelp_keys.custodian.decryption import DecryptionWorker
from fedhelp_keys.custodian.requests import CharterGate
from fedhelp_keys.custodian.store import AnswerStore
from fedhelp_secure.canonical import Digesting, check_digest_form, digest
from fedhelp_secure.charter import Charter, CharterRefused, SecureSum
from fedhelp_secure.errors import MalformedMessage, PeerError
from fedhelp_secure.secure_sum.answer_wire import header_of
from fedhelp_secure.secure_sum.answers import Answer, seal_decryptor_answer
from fedhelp_secure.secure_sum.bodies import frame_sizes
from fedhelp_secure.secure_sum.ckks import NotAnInteger, generate_keys
from fedhelp_secure.secure_sum.residues import CiphertextRefused, check_chunk
from fedhelp_secure.state import StateDirectory, StateError, write_atomically
from fedhelp_secure.transport.chunks import CHUNK_BYTES, read_chunks, split
from fedhelp_secure.wire.v1 import custodian_pb2, custodian_pb2_grpc

EPOCH = 1
"""A state directory holds the keys of one epoch; new keys are a new party with a new state."""

_LOG = logging.getLogger(__name__)


class EpochUnknown(PeerError):
    """The decryptor holds no keys of this epoch."""

    code = "epoch"


def secret_context_path(state: StateDirectory) -> Path:
    """The CKKS secret key, owner-only."""
    return state.role_directory() / "context.secret"


def public_context_path(state: StateDirectory) -> Path:
    """The CKKS public key that every charter with this decryptor pins by digest."""
    return state.role_directory() / "context.public"


def prepare(state: StateDirectory) -> str:
    """Make this decryptor's CKKS keys; returns the digest of the public context.

    Raises StateError if it has keys: replacing them would orphan every charter that pins them.
    """
    public_path = public_context_path(state)
    if public_path.exists():
        raise StateError(
            f"{public_path} exists: this decryptor has its keys; enrol a new one for new keys."
        )
    secret, public = generate_keys()
    # The public file last: where it is, the pair is complete.
    state.write_secret(secret_context_path(state), secret)
    write_atomically(public_path, public)
    return digest(public)


class DecryptorService(custodian_pb2_grpc.DecryptorServicer):
    """The Decryptor service over one state directory. `close` it to end its worker."""

    def __init__(self, state: StateDirectory) -> None:
        """Raises StateError if the state is not enrolled or not prepared."""
        self._gate = CharterGate(state)
        self._public = state.read(public_context_path(state))
        self._public_digest = digest(self._public)
        self._worker = DecryptionWorker(lambda: state.read_secret(secret_context_path(state)))
        self._directory = state.role_directory()
        self._store = AnswerStore(self._directory / "answers.sqlite3")

    def close(self) -> None:
        """End the decryption worker."""
        self._worker.close()

    def GetPublicContext(  # noqa: N802 (the generated name)
        self,
        request: custodian_pb2.GetPublicContextRequest,
        context: grpc.ServicerContext,
    ) -> Iterator[custodian_pb2.GetPublicContextResponse]:
        """The serialised public context in chunks; raises EpochUnknown for another epoch."""
        if request.epoch != EPOCH:
            raise EpochUnknown("the decryptor has no keys of this epoch; use the charter's epoch.")
        for chunk in split(self._public):
            yield custodian_pb2.GetPublicContextResponse(chunk=chunk)

    def DecryptSum(  # noqa: N802 (the generated name)
        self,
        request_iterator: Iterator[custodian_pb2.DecryptSumRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[custodian_pb2.AnswerPart]:
        """The answer for the sum in the stream; see `answer` for what it raises."""
        first = next(request_iterator, None)
        if first is None or first.WhichOneof("part") != "header":
            raise MalformedMessage("a request to decrypt must begin with its header.")
        charter = self._gate.open(first.header.charter, first.header.round)
        yield from answer_parts(
            self.answer(
                charter,
                first.header.round,
                sum_digest=first.header.sum_digest,
                chunks=_chunks(request_iterator),
            )
        )

    def answer(
        self, charter: Charter, round_number: int, *, sum_digest: str, chunks: Iterable[bytes]
    ) -> Answer:
        """The sealed, stored answer for the ciphertext in ``chunks``, the sum of one round.

        Nothing is decrypted before all of the sum is here and its digest is ``sum_digest``: every
        attempt tells its sender whether the numbers were integers, which depends on the secret key,
        and so must be either this round's one answer or a counted refusal. ``chunks`` are not read
        if this sum was answered before.

        Raises MalformedMessage for a digest of another form, CharterRefused if the charter pins
        another key, CiphertextRefused, NotAnInteger, TooManyRefusals, or AlreadyAnswered if another
        sum was decrypted for this round.
        """
        check_digest_form(sum_digest)
        if charter.custodians.decryptor.context_digest != self._public_digest:
            raise CharterRefused(
                "the charter pins another CKKS key than this decryptor's; ask the registrar for a "
                "new charter."
            )
        charter_digest = charter.digest

        def make(out: Path) -> Answer:
            self._store.check_refusals(charter_digest, round_number)
            with self._received(chunks, charter.secure_sum, sum_digest) as ciphertext:
                return self._sealed(charter, round_number, ciphertext, sum_digest, out)

        return self._store.answer_once(
            charter_digest, round_number, request_digest=sum_digest, make=make
        )

    @contextmanager
    def _received(
        self, chunks: Iterable[bytes], secure_sum: SecureSum, sum_digest: str
    ) -> Iterator[IO[bytes]]:
        """``chunks`` as one file without a name, at its beginning.

        Raises CiphertextRefused unless they are whole frames of residues, as many as ``secure_sum``
        gives, of the digest ``sum_digest``.
        """
        hashed = Digesting()
        length = 0
        with tempfile.TemporaryFile(dir=self._directory) as file:
            for chunk in chunks:
                check_chunk(chunk, secure_sum)
                length += len(chunk)
                if length > secure_sum.ciphertext_bytes:
                    raise _wrong_length()
                hashed.update(chunk)
                file.write(chunk)
            if length != secure_sum.ciphertext_bytes:
                raise _wrong_length()
            if hashed.digest != sum_digest:
                raise CiphertextRefused(
                    "a ciphertext sum is not the one that its header names; send it again."
                )
            file.seek(0)
            yield file

    def _sealed(
        self,
        charter: Charter,
        round_number: int,
        ciphertext: IO[bytes],
        sum_digest: str,
        out: Path,
    ) -> Answer:
        chunks = iter(lambda: ciphertext.read(CHUNK_BYTES), b"")
        try:
            # Closed here, so that a failure to write does not leave the worker taken.
            with closing(_masked_sum(self._worker, chunks, charter.secure_sum)) as masked_sum:
                return seal_decryptor_answer(
                    charter,
                    round_number,
                    masked_sum=masked_sum,
                    sum_digest=sum_digest,
                    signing_key=self._gate.signing_key,
                    out=out,
                )
        except NotAnInteger:
            _LOG.warning("round %d of %s: no integers", round_number, charter.digest)
            self._store.record_refusal(charter.digest, round_number)
            raise


def answer_parts(answer: Answer) -> Iterator[custodian_pb2.AnswerPart]:
    """``answer`` as the messages that all custodians stream."""
    yield custodian_pb2.AnswerPart(header=header_of(answer))
    for chunk in read_chunks(answer.body):
        yield custodian_pb2.AnswerPart(body_chunk=chunk)


def _masked_sum(
    worker: DecryptionWorker, chunks: Iterable[bytes], secure_sum: SecureSum
) -> Generator[NDArray[np.uint64], None, None]:
    """The frames of the masked sum, without the padding of the last one."""
    with closing(worker.decrypt(chunks, secure_sum)) as frames:
        for size, elements in zip(frame_sizes(secure_sum), frames, strict=True):
            yield elements[:size]


def _chunks(requests: Iterator[custodian_pb2.DecryptSumRequest]) -> Iterator[bytes]:
    for request in requests:
        if request.WhichOneof("part") != "ciphertext_chunk":
            raise MalformedMessage("after its header, a request to decrypt holds chunks only.")
        if len(request.ciphertext_chunk) > CHUNK_BYTES:
            raise MalformedMessage("a chunk must have at most 1 MiB; send the sum in smaller ones.")
        yield request.ciphertext_chunk


def _wrong_length() -> CiphertextRefused:
    return CiphertextRefused("a ciphertext sum has another length than the charter's; send it all.")
