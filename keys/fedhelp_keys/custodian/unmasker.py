"""Custodian B: sums the masks of one set for each (charter, round), and alone enforces the cohort.

It never sees a ciphertext, only signed manifests and sealed seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import NDArray

from fedhelp_keys.custodian.decryptor import answer_parts
from fedhelp_keys.custodian.requests import CharterGate
from fedhelp_keys.custodian.store import AnswerStore
from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.secure_sum.answers import Answer, seal_unmasker_answer
from fedhelp_secure.secure_sum.cohort import check_cohort
from fedhelp_secure.secure_sum.contribution import (
    Manifest,
    ManifestRefused,
    check_sealed_seed,
    open_manifest,
)
from fedhelp_secure.secure_sum.masks import expand_mask, seed_info
from fedhelp_secure.secure_sum.ring import add, scale
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.wire.v1 import custodian_pb2, custodian_pb2_grpc


@dataclass(frozen=True, slots=True)
class SealedContribution:
    """One member of a set as it arrived: the manifest's envelope and the sealed seed."""

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
        self._unsealing_key = state.unsealing_key()
        self._store = AnswerStore(state.role_directory() / "answers.sqlite3")

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
        yield from answer_parts(self.answer(charter, first.header.round, contributions))

    def answer(
        self, charter: Charter, round_number: int, contributions: list[SealedContribution]
    ) -> Answer:
        """The sealed, stored answer for a set of contributions.

        Every manifest's signature, charter, round, group and size are checked, then the order, then
        the cohort; only then is a seed opened. Raises what `open_manifest` raises, ManifestRefused,
        CohortTooSmall, SealRefused for a seed that was sealed for another contribution, or
        AlreadyAnswered if another set was unmasked for this round.
        """
        members = _checked(charter, round_number, contributions)
        check_cohort(charter, [member.manifest.hospital for member in members])
        charter_digest = charter.digest

        def make() -> Answer:
            return seal_unmasker_answer(
                charter,
                round_number,
                mask_sum=self._mask_sum(charter, members),
                manifests=[(member.envelope, member.manifest) for member in members],
                signing_key=self._gate.signing_key,
            )

        return self._store.answer_once(
            charter_digest, round_number, request_digest=_set_digest(members), make=make
        )

    def _mask_sum(self, charter: Charter, members: list[_Member]) -> NDArray[np.uint64]:
        ring_bits = charter.secure_sum.ring_bits
        total = np.zeros(charter.secure_sum.values, dtype=np.uint64)
        for member in members:
            manifest = member.manifest
            info = seed_info(
                charter_digest=manifest.charter,
                round_number=manifest.round,
                hospital=manifest.hospital,
                ciphertext_digest=manifest.ciphertext_digest,
            )
            mask = expand_mask(
                self._unsealing_key.open(member.sealed_seed, info),
                charter_digest=manifest.charter,
                round_number=manifest.round,
                hospital=manifest.hospital,
                values=charter.secure_sum.values,
                ring_bits=ring_bits,
            )
            weight = charter.weights.of(manifest.group)
            total = add(total, scale(mask, weight, ring_bits), ring_bits)
        return total


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


def _checked(
    charter: Charter, round_number: int, contributions: list[SealedContribution]
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
        check_sealed_seed(manifest, part.sealed_seed)
        members.append(_Member(part.manifest, manifest, part.sealed_seed))
    return members


def _set_digest(members: list[_Member]) -> str:
    """Names a set: a manifest's digest covers the ciphertext's and the sealed seed's."""
    return digest(canonical_json({"manifests": [digest(member.envelope) for member in members]}))
