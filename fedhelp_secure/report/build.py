"""The federation's report, which is part of a bundle: from its evidence, and what hospitals say.

Epsilons are recomputed from the ledgers; how well a hospital's models do is that hospital's word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from pydantic import ValidationError

from fedhelp_secure.charter import Charter, Hospital
from fedhelp_secure.errors import ConfigurationError, MalformedMessage
from fedhelp_secure.evidence import verify_calls, verify_ledgers, verify_log, verify_rounds
from fedhelp_secure.evidence.layout import BundleFiles
from fedhelp_secure.evidence.verify_ledgers import Losses
from fedhelp_secure.report.model import (
    HospitalResult,
    LogHead,
    NodeResult,
    PrivacyTerms,
    Report,
    SecureSumCost,
)
from fedhelp_secure.sealing import SEALED_OVERHEAD
from fedhelp_secure.secure_sum.bodies import body_bytes
from fedhelp_secure.secure_sum.masks import SEED_BYTES
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry, RoundSummed

_SEALED_BYTES = SEALED_OVERHEAD + SEED_BYTES
"""A sealed seed, and a sealed content key: both are 32 bytes of secret."""


class ResultRefused(ConfigurationError):
    """A file that should be a hospital's result is none of this federation."""

    code = "result"


def federation_report(
    files: BundleFiles, charter: Charter, results: Mapping[str, NodeResult]
) -> Report:
    """What ``files``, all of a bundle but report and index, show; ``results`` by hospital.

    Raises BundleRefused or another FedHelpError where the evidence does not hold, ResultRefused for
    a result that is not of this charter.
    """
    head = verify_log.check_checkpoint(files, charter)
    record = verify_log.check_objects(files, charter, verify_log.check_tree(files, head))
    accepted = verify_rounds.check_manifests(record)
    rounds = verify_rounds.check_rounds(record, accepted)
    losses = verify_ledgers.check_ledgers(files, charter, accepted, rounds=rounds)
    _check_results(charter, results)
    return Report(
        federation=charter.federation,
        charter=charter.digest,
        task=charter.task,
        rounds=len(rounds.summed),
        privacy=privacy_terms(charter),
        secure_sum=secure_sum_cost(charter, record.entries, record.objects),
        foundation_model_calls=verify_calls.check_calls(record),
        log=LogHead(size=head.size, root=head.root.hex()),
        hospitals=tuple(
            _hospital(hospital, losses.get(hospital.name), results.get(hospital.name))
            for hospital in charter.hospitals
        ),
    )


def read_results(folder: Path) -> dict[str, NodeResult]:
    """The results in ``folder``, ``<hospital>.json`` each, as nodes leave them as ``result.json``.

    Raises ResultRefused for a file that is none, or no directory.
    """
    if not folder.is_dir():
        raise ResultRefused(f"{folder} is not a directory; give the one with the results.")
    results = {}
    for path in sorted(folder.glob("*.json")):
        try:
            results[path.stem] = NodeResult.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ResultRefused(
                f"{path} is no result of a node; ask the hospital for its result.json."
            ) from error
    return results


def _check_results(charter: Charter, results: Mapping[str, NodeResult]) -> None:
    groups = {hospital.name: hospital.group for hospital in charter.hospitals}
    for name, result in results.items():
        stated = (result.hospital, groups.get(name), result.task)
        if stated != (name, result.group, charter.task):
            raise ResultRefused(
                f"the result called {name} is not of that hospital under this charter; name the "
                "files <hospital>.json and leave out what is of others."
            )


def _hospital(
    hospital: Hospital, losses: Losses | None, result: NodeResult | None
) -> HospitalResult:
    spent = losses or Losses(Fraction(0), Fraction(0))
    measured = (
        {}
        if result is None
        else result.model_dump(include={"metric", "alone", "distilled", "head_alone", "head"})
    )
    return HospitalResult(
        name=hospital.name,
        group=hospital.group,
        # Rounded up to six decimals by the accountant: floats print them as they are.
        epsilon_aggregate=float(spent.epsilon_aggregate),
        epsilon_collusion=float(spent.epsilon_collusion),
        **measured,
    )


def privacy_terms(charter: Charter) -> PrivacyTerms:
    """The limits in ``charter``, as a report restates them."""
    privacy = charter.privacy
    return PrivacyTerms(
        epsilon_limit=privacy.epsilon,
        delta=privacy.delta,
        unit=privacy.unit,
        adjacency=privacy.adjacency,
        mechanism=privacy.mechanism,
        tuning=None if privacy.tuning is None else privacy.tuning.sentence,
    )


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
