"""Custodian A: decrypts one masked sum for each (charter, round)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import grpc

from fedhelp_keys.custodian.decryption import DecryptionWorker
from fedhelp_keys.custodian.requests import CharterGate
from fedhelp_keys.custodian.store import AnswerStore
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, CharterRefused
from fedhelp_secure.errors import MalformedMessage, PeerError
from fedhelp_secure.secure_sum.answer_wire import header_of
from fedhelp_secure.secure_sum.answers import Answer, seal_decryptor_answer
from fedhelp_secure.secure_sum.ckks import NotAnInteger, generate_keys
from fedhelp_secure.secure_sum.framing import check_framing, ciphertext_bytes
from fedhelp_secure.state import StateDirectory, StateError, write_atomically
from fedhelp_secure.transport.chunks import collect, split
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
    write_atomically(secret_context_path(state), secret)
    write_atomically(public_path, public)
    return digest(public)


class DecryptorService(custodian_pb2_grpc.DecryptorServicer):
    """The Decryptor service over one state directory. `close` it to end its worker."""

    def __init__(self, state: StateDirectory) -> None:
        """Raises StateError if the state is not enrolled or not prepared."""
        self._gate = CharterGate(state)
        self._public = state.read(public_context_path(state))
        self._public_digest = digest(self._public)
        self._worker = DecryptionWorker(secret_context_path(state))
        self._store = AnswerStore(state.role_directory() / "answers.sqlite3")

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
        ciphertext = collect(_chunks(request_iterator), limit=ciphertext_bytes(charter.secure_sum))
        yield from answer_parts(self.answer(charter, first.header.round, ciphertext))

    def answer(self, charter: Charter, round_number: int, ciphertext: bytes) -> Answer:
        """The sealed, stored answer for ``ciphertext``, the sum of one round.

        Raises CharterRefused if the charter pins another key, CiphertextRefused, NotAnInteger,
        TooManyRefusals, or AlreadyAnswered if another sum was decrypted for this round.
        """
        if charter.custodians.decryptor.context_digest != self._public_digest:
            raise CharterRefused(
                "the charter pins another CKKS key than this decryptor's; ask the registrar for a "
                "new charter."
            )
        check_framing(ciphertext, charter.secure_sum)
        sum_digest = digest(ciphertext)
        charter_digest = charter.digest

        def make() -> Answer:
            self._store.check_refusals(charter_digest, round_number)
            try:
                masked_sum = self._worker.decrypt(ciphertext, charter.secure_sum)
            except NotAnInteger:
                _LOG.warning("round %d of %s: no integers", round_number, charter_digest)
                self._store.record_refusal(charter_digest, round_number)
                raise
            return seal_decryptor_answer(
                charter,
                round_number,
                masked_sum=masked_sum,
                sum_digest=sum_digest,
                signing_key=self._gate.signing_key,
            )

        return self._store.answer_once(
            charter_digest, round_number, request_digest=sum_digest, make=make
        )


def answer_parts(answer: Answer) -> Iterator[custodian_pb2.AnswerPart]:
    """``answer`` as the messages that both custodians stream."""
    yield custodian_pb2.AnswerPart(header=header_of(answer))
    for chunk in split(answer.body):
        yield custodian_pb2.AnswerPart(body_chunk=chunk)


def _chunks(requests: Iterator[custodian_pb2.DecryptSumRequest]) -> Iterator[bytes]:
    for request in requests:
        if request.WhichOneof("part") != "ciphertext_chunk":
            raise MalformedMessage("after its header, a request to decrypt holds chunks only.")
        yield request.ciphertext_chunk
