"""The offline verifier of a bundle: numbered steps, each of which raises on failure.

It uses no network and does not trust the aggregator: whatever the aggregator says is believed only
as far as hospitals, custodians, broker and charter have signed it, or it can be recomputed. The
steps are those of the table that `verify_bundle` is; what each of them checks is in
`verify_log` (1 to 5), `verify_rounds` (6 to 8), `verify_epochs` (9), `verify_ledgers` (10),
`verify_calls` (11), `verify_report` (12), `verify_witnesses` (13)
and `verify_certificates` (14).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fedhelp_secure.errors import FedHelpError, PeerError
from fedhelp_secure.evidence import (
    verify_calls,
    verify_certificates,
    verify_epochs,
    verify_ledgers,
    verify_log,
    verify_report,
    verify_rounds,
    verify_witnesses,
)
from fedhelp_secure.signing import VerifyingKey

_Proved = TypeVar("_Proved")


@dataclass(frozen=True, slots=True)
class Step:
    """One step that passed."""

    number: int
    title: str
    finding: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Every step passed; ``warnings`` are what only a person can check."""

    charter: str
    """The charter's digest."""
    steps: tuple[Step, ...]
    warnings: tuple[str, ...]


class StepFailed(PeerError):
    """A step of the verification failed; the steps after it were not run."""

    code = "bundle-step"

    def __init__(self, number: int, title: str, *, passed: tuple[Step, ...], why: str) -> None:
        # What is wrong with hostile bytes may quote them: not to the auditor's terminal.
        shown = "".join(character if character.isprintable() else "?" for character in why)
        super().__init__(f"step {number} ({title}) failed: {shown}")
        self.number = number
        self.title = title
        self.passed = passed


class _Run:
    """Numbers the steps and keeps what they found."""

    def __init__(self) -> None:
        self.passed: list[Step] = []

    def step(
        self, title: str, check: Callable[[], _Proved], finding: Callable[[_Proved], str]
    ) -> _Proved:
        try:
            proved = check()
        except FedHelpError as error:
            raise self._failed(title, str(error)) from error
        except (ValueError, ArithmeticError, RecursionError) as error:
            # From a library's depths: only a value that no honest party signs gets there.
            raise self._failed(title, "the bundle holds a value without a meaning.") from error
        self.passed.append(Step(len(self.passed) + 1, title, finding(proved)))
        return proved

    def _failed(self, title: str, why: str) -> StepFailed:
        return StepFailed(len(self.passed) + 1, title, passed=tuple(self.passed), why=why)


def verify_bundle(directory: Path, *, governance_key: VerifyingKey | None = None) -> Verdict:
    """Verify the bundle in ``directory``; raises StepFailed, naming the first step that fails.

    Without ``governance_key`` the bundle's own is taken, and the verdict warns so.
    """
    run = _Run()
    files = run.step(
        "index",
        lambda: verify_log.check_index(directory),
        lambda files: f"an auditor of the charter signed these {len(files)} files",
    )
    opened = run.step(
        "charter",
        lambda: verify_log.check_charter(files, governance_key),
        lambda opened: f"{opened.charter.name}, signed by the governance key, within its bounds",
    )
    charter = opened.charter
    head = run.step(
        "checkpoint",
        lambda: verify_log.check_checkpoint(files, charter),
        lambda head: f"the aggregator signed {head.size} entries of {head.origin}",
    )
    tree = run.step(
        "tree",
        lambda: verify_log.check_tree(files, head),
        lambda tree: f"{len(tree.leaves)} entries hash to the signed root",
    )
    record = run.step(
        "entries",
        lambda: verify_log.check_objects(files, charter, tree),
        lambda record: f"the log names {len(record.objects)} signed objects, and all are here",
    )
    accepted = run.step(
        "manifests",
        lambda: verify_rounds.check_manifests(record),
        lambda accepted: f"{len(accepted)} contributions, each signed by its hospital",
    )
    run.step(
        "receipts",
        lambda: verify_rounds.check_receipts(files, record, accepted),
        lambda count: f"{count} receipts are under this log",
    )
    rounds = run.step(
        "rounds",
        lambda: verify_rounds.check_rounds(record, accepted),
        lambda rounds: f"{len(rounds.summed)} opened over a cohort, {len(rounds.failed)} failed",
    )
    run.step(
        "key epochs",
        lambda: verify_epochs.check_epochs(record, accepted),
        lambda epochs: (
            f"{epochs.rounds} rounds under the {epochs.epochs} key epochs of the custodians, "
            f"{epochs.destroyed} of them destroyed"
        ),
    )
    losses = run.step(
        "ledgers",
        lambda: verify_ledgers.check_ledgers(files, charter, accepted, rounds=rounds),
        lambda losses: f"{len(losses)} hospitals debited every release before it left",
    )
    calls = run.step(
        "foundation model",
        lambda: verify_calls.check_calls(record),
        lambda calls: f"{calls} of at most 1 call, about the public proxy set",
    )
    run.step(
        "report",
        lambda: verify_report.check_report(
            files, record, rounds=rounds, losses=losses, calls=calls
        ),
        lambda claims: f"{len(claims.hospitals)} hospitals' epsilons are not below the recomputed",
    )
    witnesses = run.step(
        "witnesses",
        lambda: verify_witnesses.check_witnesses(files, record),
        lambda found: (
            f"{len(found.hospitals)} of {len(charter.hospitals)} hospitals and "
            f"{len(found.auditors)} auditors cosigned this log, up to {found.size} entries"
        ),
    )
    run.step(
        "certificates",
        lambda: verify_certificates.check_certificates(files, record),
        lambda found: (
            f"{len(found.held)} certificates, valid when their parties acted; trust list "
            f"{found.trusted.sequence}, {len(found.trusted.revocations)} revoked"
        ),
    )
    warnings = [warning for warning in (opened.warning, witnesses.warning) if warning is not None]
    warnings += verify_log.takeovers(record)
    return Verdict(charter.digest, tuple(run.passed), tuple(warnings))
