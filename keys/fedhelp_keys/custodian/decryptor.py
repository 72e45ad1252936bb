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

from fedhelp_keys.custodian.database import FILE_NAME
from fedhelp_keys.custodian.decryption import DecryptionWorker
from fedhelp_keys.custodian.epochs import EpochStore
from fedhelp_keys.custodian.requests import CharterGate
from fedhelp_keys.custodian.store import AnswerStore
from fedhelp_secure.canonical import Digesting, check_digest_form
from fedhelp_secure.charter import Charter, SecureSum
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.secure_sum.answer_wire import header_of
from fedhelp_secure.secure_sum.answers import Answer, seal_decryptor_answer
from fedhelp_secure.secure_sum.bodies import frame_sizes
from fedhelp_secure.secure_sum.ckks import NotAnInteger
from fedhelp_secure.secure_sum.residues import CiphertextRefused, check_chunk
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.chunks import CHUNK_BYTES, read_chunks, split
from fedhelp_secure.wire.v1 import coordinator_pb2, custodian_pb2, custodian_pb2_grpc

_LOG = logging.getLogger(__name__)


class DecryptorService(custodian_pb2_grpc.DecryptorServicer):
    """The Decryptor service over one state directory. `close` it to end its worker."""

    def __init__(self, state: StateDirectory) -> None:
        """Raises StateError if the state is not enrolled or not prepared."""
        self._gate = CharterGate(state)
        self.epochs = EpochStore(state)
        self._worker = DecryptionWorker()
        self._directory = state.role_directory()
        self._store = AnswerStore(self._directory / FILE_NAME)
        self.epochs.destroy_finished()

    def close(self) -> None:
        """End the decryption worker."""
        self._worker.close()

    def GetPublicContext(  # noqa: N802 (the generated name)
        self,
        request: custodian_pb2.GetPublicContextRequest,
        context: grpc.ServicerContext,
    ) -> Iterator[custodian_pb2.GetPublicContextResponse]:
        """The serialised public context in chunks; raises EpochRefused for an unknown epoch."""
        for chunk in split(self.epochs.public_context(request.epoch)):
            yield custodian_pb2.GetPublicContextResponse(chunk=chunk)

    def BeginRound(  # noqa: N802 (the generated name)
        self,
        request: custodian_pb2.BeginRoundRequest,
        context: grpc.ServicerContext,
    ) -> coordinator_pb2.CustodianKeys:
        """The statement that binds the round to an epoch; see `EpochStore.begin`."""
        charter = self._gate.open(request.charter, request.round)
        return self.epochs.begin(charter, request.round)

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

        Raises MalformedMessage for a digest of another form, RoundNotBegun, EpochGone if the
        round's keys are destroyed, CiphertextRefused, NotAnInteger, TooManyRefusals, or
        AlreadyAnswered if another sum was decrypted for this round.
        """
        check_digest_form(sum_digest)
        bound = self.epochs.bound(charter, round_number)
        charter_digest = charter.digest

        def make(out: Path) -> Answer:
            self._store.check_refusals(charter_digest, round_number)
            secret = self.epochs.secret(bound.epoch)
            with self._received(chunks, charter.secure_sum, sum_digest) as ciphertext:
                masked_sum = _masked_sum(
                    self._worker, _read(ciphertext), charter.secure_sum, secret
                )
                return self._sealed(charter, round_number, masked_sum, sum_digest, out)

        answer = self._store.answer_once(
            charter_digest, round_number, request_digest=sum_digest, make=make
        )
        if self.epochs.destroy_finished():
            # What the child still had of the key in its memory goes with it.
            self._worker.close()
        return answer

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
        masked_sum: Generator[NDArray[np.uint64], None, None],
        sum_digest: str,
        out: Path,
    ) -> Answer:
        try:
            # Closed here, so that a failure to write does not leave the worker taken.
            with closing(masked_sum):
                return seal_decryptor_answer(
                    charter,
                    round_number,
                    masked_sum=masked_sum,
                    sum_digest=sum_digest,
                    signing_key=self._gate.signing_key(charter),
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
    worker: DecryptionWorker, chunks: Iterable[bytes], secure_sum: SecureSum, secret: bytes
) -> Generator[NDArray[np.uint64], None, None]:
    """The frames of the masked sum, without the padding of the last one."""
    with closing(worker.decrypt(chunks, secure_sum, secret=secret)) as frames:
        for size, elements in zip(frame_sizes(secure_sum), frames, strict=True):
            yield elements[:size]


def _read(ciphertext: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: ciphertext.read(CHUNK_BYTES), b"")


def _chunks(requests: Iterator[custodian_pb2.DecryptSumRequest]) -> Iterator[bytes]:
    for request in requests:
        if request.WhichOneof("part") != "ciphertext_chunk":
            raise MalformedMessage("after its header, a request to decrypt holds chunks only.")
        if len(request.ciphertext_chunk) > CHUNK_BYTES:
            raise MalformedMessage("a chunk must have at most 1 MiB; send the sum in smaller ones.")
        yield request.ciphertext_chunk


def _wrong_length() -> CiphertextRefused:
    return CiphertextRefused("a ciphertext sum has another length than the charter's; send it all.")
