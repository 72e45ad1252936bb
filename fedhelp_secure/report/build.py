"""A report from what the evidence and the charter say, and what the hospitals measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.report.model import SecureSumCost
from fedhelp_secure.sealing import SEALED_OVERHEAD
from fedhelp_secure.secure_sum.bodies import body_bytes
from fedhelp_secure.secure_sum.masks import SEED_BYTES
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry, RoundSummed

_SEALED_BYTES = SEALED_OVERHEAD + SEED_BYTES
"""A sealed seed, and a sealed content key: both are 32 bytes of secret."""


def secure_sum_cost(
    charter: Charter, entries: Sequence[LogEntry], objects: Mapping[str, bytes]
) -> SecureSumCost:
    """What the rounds in the log took, from the log's entries and the signed objects it names.

    Bytes are those of the messages' contents, without gRPC's and TLS's own framing. Raises
    MalformedMessage if an object that an entry names is missing.
    """
    accepted = [
        entry.contribution_accepted for entry in entries if entry.HasField("contribution_accepted")
    ]
    summed = [entry.round_summed for entry in entries if entry.HasField("round_summed")]
    opened_rounds = {event.round for event in summed}
    manifests = {
        (event.round, event.hospital): _size(objects, event.manifest_digest) for event in accepted
    }
    unmaskers = len(charter.custodians.unmaskers)
    upload_bytes = sum(event.ciphertext_bytes + unmaskers * _SEALED_BYTES for event in accepted)
    # Every unmasker gets every manifest, and the seeds that are sealed to it.
    seeds_and_manifests = unmaskers * sum(
        size + _SEALED_BYTES
        for (round_number, _), size in manifests.items()
        if round_number in opened_rounds
    )
    custodian_bytes = len(summed) * charter.secure_sum.ciphertext_bytes + seeds_and_manifests
    answer_bytes = sum(_answer_bytes(charter, event, objects) for event in summed)
    # Once from the custodians to the aggregator, then once to every recipient.
    answer_bytes *= 1 + len(charter.hospitals)
    upload_bytes += sum(manifests.values())
    return SecureSumCost(
        values=charter.secure_sum.values,
        bytes=upload_bytes + custodian_bytes + answer_bytes,
        seconds=_seconds(entries),
        upload_bytes=upload_bytes,
        custodian_bytes=custodian_bytes,
        answer_bytes=answer_bytes,
    )


def _answer_bytes(charter: Charter, event: RoundSummed, objects: Mapping[str, bytes]) -> int:
    statements = [event.decryptor_statement_digest, *event.unmasker_statement_digests]
    sealed_keys = len(charter.hospitals) * _SEALED_BYTES
    each = sealed_keys + body_bytes(charter.secure_sum)
    return sum(_size(objects, name) + each for name in statements)


def _seconds(entries: Sequence[LogEntry]) -> float:
    closed = {
        entry.round_closed.round: entry.unix_milliseconds
        for entry in entries
        if entry.HasField("round_closed")
    }
    milliseconds = sum(
        entry.unix_milliseconds - closed[entry.round_summed.round]
        for entry in entries
        if entry.HasField("round_summed") and entry.round_summed.round in closed
    )
    return max(0, milliseconds) / 1000


def _size(objects: Mapping[str, bytes], name: str) -> int:
    try:
        return len(objects[name])
    except KeyError as error:
        raise MalformedMessage(
            f"the log names {name}, which the bundle does not hold; export the evidence again."
        ) from error
