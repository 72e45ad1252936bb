"""A custodian B: sums its part of the masks of one set for each (charter, round).

The unmaskers alone enforce the cohort. None of them sees a ciphertext, only signed manifests and
the seeds that are sealed to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from fedhelp_keys.custodian.database import FILE_NAME
from fedhelp_keys.custodian.decryptor import answer_parts
from fedhelp_keys.custodian.epochs import EpochStore
from fedhelp_keys.custodian.requests import CharterGate
from fedhelp_keys.custodian.store import AnswerStore
from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.secure_sum.answers import Answer, seal_unmasker_answer
from fedhelp_secure.secure_sum.bodies import frame_sizes
from fedhelp_secure.secure_sum.cohort import CohortTooSmall, check_cohort
from fedhelp_secure.secure_sum.contribution import (
    Manifest,
    ManifestRefused,
    check_round_keys,
    check_sealed_seed,
    mask_purpose,
    open_manifest,
)
from fedhelp_secure.secure_sum.epochs import KeysRefused
from fedhelp_secure.secure_sum.masks import MaskStream, weighted_mask_sum
from fedhelp_secure.secure_sum.round_keys import round_keys_digest
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import HeldTrust
from fedhelp_secure.wire.v1 import coordinator_pb2, custodian_pb2, custodian_pb2_grpc


@dataclass(frozen=True, slots=True)
class SealedContribution:
    """One member of a set as it arrived: the manifest's envelope, and this unmasker's seed."""

    manifest: bytes
    sealed_seed: bytes


@dataclass(frozen=True, slots=True)
class _Member:
    envelope: bytes
    manifest: Manifest
    sealed_seed: bytes


class UnmaskerService(custodian_pb2_grpc.UnmaskerServicer):
    """The Unmasker service over one state directory."""

    def __init__(self, state: StateDirectory) -> None:
        """Raises StateError if the state is not enrolled."""
        self._gate = CharterGate(state)
        self._trust = HeldTrust(state)
        self.epochs = EpochStore(state)
        self._store = AnswerStore(state.role_directory() / FILE_NAME)
        self.epochs.destroy_finished()

    def BeginRound(  # noqa: N802 (the generated name)
        self,
        request: custodian_pb2.BeginRoundRequest,
        context: grpc.ServicerContext,
    ) -> coordinator_pb2.CustodianKeys:
        """The statement that binds the round to an epoch; see `EpochStore.begin`."""
        charter = self._gate.open(request.charter, request.round)
        return self.epochs.begin(charter, request.round)

    def UnmaskSum(  # noqa: N802 (the generated name)
        self,
        request_iterator: Iterator[custodian_pb2.UnmaskSumRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[custodian_pb2.AnswerPart]:
        """The answer for the set in the stream; see `answer` for what it raises."""
        first = next(request_iterator, None)
        if first is None or first.WhichOneof("part") != "header":
            raise MalformedMessage("a request to unmask must begin with its header.")
        charter = self._gate.open(first.header.charter, first.header.round)
        contributions = _contributions(request_iterator, limit=len(charter.hospitals))
        yield from answer_parts(
            self.answer(
                charter,
                first.header.round,
                contributions,
                rounds_begun=first.header.rounds_begun,
            )
        )

    def answer(
        self,
        charter: Charter,
        round_number: int,
        contributions: list[SealedContribution],
        *,
        rounds_begun: Sequence[bytes],
    ) -> Answer:
        """The sealed, stored answer for a set of contributions.

        ``rounds_begun`` are the statements with which all custodians began the round. Every
        manifest's signature, charter, round, keys, group and size are checked, then the order, then
        the cohort, to which nobody counts who is revoked; only then is a seed opened. Raises
        CharterRefused if this unmasker is not in the charter, RoundNotBegun, EpochGone,
        KeysRefused, what `open_manifest` raises, ManifestRefused, CohortTooSmall,
        TrustListOutdated, SealRefused for a seed that was sealed for another contribution, or
        AlreadyAnswered if another set was unmasked for this round.
        """
        index = self._gate.own_index(charter)
        bound = self.epochs.bound(charter, round_number)
        _check_own_beginning(charter, index, rounds_begun, bound.begun)
        members = _checked(charter, round_number, contributions, index=index)
        named = round_keys_digest(rounds_begun)
        for member in members:
            check_round_keys(member.manifest, named)
        self._check_cohort(charter, [member.manifest.hospital for member in members])

        def make(out: Path) -> Answer:
            key = UnsealingKey.from_bytes(self.epochs.secret(bound.epoch))
            return seal_unmasker_answer(
                charter,
                round_number,
                unmasker=self._gate.identity.name,
                mask_sum=weighted_mask_sum(
                    self._streams(charter, members, key),
                    frame_sizes(charter.secure_sum),
                    charter.secure_sum.packed_bits,
                ),
                manifests=[(member.envelope, member.manifest) for member in members],
                signing_key=self._gate.signing_key(charter),
                out=out,
            )

        answer = self._store.answer_once(
            charter.digest, round_number, request_digest=_set_digest(members), make=make
        )
        self.epochs.destroy_finished()
        return answer

    def _check_cohort(self, charter: Charter, hospitals: list[str]) -> None:
        """Raises CohortTooSmall unless those of ``hospitals`` who are not revoked are a cohort.

        Whoever holds a revoked hospital's keys knows its share of the noise, so the others must be
        as many as the charter's privacy rests on. A contribution that was accepted before the
        revocation may stay in the set: it takes nothing from anybody, and unmaskers that hear of
        the revocation at different times still answer for the same set.
        """
        check_cohort(charter, hospitals)
        trusted = self._trust.fresh(utc_now())
        standing = [
            name
            for name in hospitals
            if trusted.revocation_of(Identity(charter.federation, Role.HOSPITAL, name)) is None
        ]
        try:
            check_cohort(charter, standing)
        except CohortTooSmall as error:
            raise CohortTooSmall(f"without those who are revoked: {error}") from error

    def _streams(
        self, charter: Charter, members: list[_Member], key: UnsealingKey
    ) -> list[tuple[int, MaskStream]]:
        """Every member's weight and mask stream; raises SealRefused."""
        streams = []
        for member in members:
            manifest = member.manifest
            purpose = mask_purpose(
                charter,
                manifest.round,
                hospital=manifest.hospital,
                unmasker=self._gate.identity.name,
            )
            info = purpose.seed_info(manifest.ciphertext_digest, manifest.round_keys_digest)
            seed = key.open(member.sealed_seed, info)
            streams.append((charter.weights.of(manifest.group), MaskStream(seed, purpose)))
        return streams


def _contributions(
    requests: Iterator[custodian_pb2.UnmaskSumRequest], *, limit: int
) -> list[SealedContribution]:
    received: list[SealedContribution] = []
    for request in requests:
        if request.WhichOneof("part") != "contribution":
            raise MalformedMessage(
                "after its header, a request to unmask holds contributions only."
            )
        if len(received) == limit:
            raise MalformedMessage("a set holds more contributions than the charter has hospitals.")
        part = request.contribution
        received.append(SealedContribution(part.manifest, part.sealed_seed))
    return received


def _check_own_beginning(
    charter: Charter, index: int, rounds_begun: Sequence[bytes], own: bytes
) -> None:
    """The decryptor's statement comes first, so that of unmasker ``index`` is the one after it."""
    if len(rounds_begun) != 1 + len(charter.custodians.unmaskers) or rounds_begun[1 + index] != own:
        raise KeysRefused(
            "a round was begun otherwise here; send the statements that all custodians made."
        )


def _checked(
    charter: Charter, round_number: int, contributions: list[SealedContribution], *, index: int
) -> list[_Member]:
    members: list[_Member] = []
    for part in contributions:
        manifest = open_manifest(charter, part.manifest)
        if manifest.round != round_number:
            raise ManifestRefused("a manifest is for another round; send each in its own round.")
        if members and manifest.hospital <= members[-1].manifest.hospital:
            raise MalformedMessage(
                "contributions must be in ascending order of hospital, each hospital once."
            )
        check_sealed_seed(manifest, index, part.sealed_seed)
        members.append(_Member(part.manifest, manifest, part.sealed_seed))
    return members


def _set_digest(members: list[_Member]) -> str:
    """Names a set: a manifest's digest covers the ciphertext's and the sealed seeds'."""
    return digest(canonical_json({"manifests": [digest(member.envelope) for member in members]}))
