"""``fedhelp audit budget``: ledgers and public parameters alone, recomputed.

A whole bundle is checked as far as budgets go: its log, manifests, cohorts and report too. A
smaller directory needs the charter, the governance key and ledgers; whatever else of a bundle it
has is used, and what it lacks is said, as it was not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import FedHelpError, PeerError
from fedhelp_secure.evidence import (
    layout,
    verify_calls,
    verify_ledgers,
    verify_log,
    verify_report,
    verify_rounds,
)
from fedhelp_secure.evidence.layout import BundleFiles, BundleRefused
from fedhelp_secure.evidence.loose_objects import loose_contributions
from fedhelp_secure.evidence.recompute import text_of
from fedhelp_secure.evidence.verify_ledgers import Budget
from fedhelp_secure.evidence.verify_report import HospitalClaims
from fedhelp_secure.evidence.verify_rounds import Accepted, Rounds
from fedhelp_secure.privacy.events import PrivacyEvent, SampledGaussianEvent
from fedhelp_secure.public_set import PublicSet
from fedhelp_secure.signing import VerifyingKey

_UNDECLARED = (
    "the charter does not declare how dimension, rounds, ridge and clip were chosen: if on "
    "patients, more was spent than is said here"
)


class BudgetRefused(PeerError):
    """Ledgers, charter and the rest do not prove what they claim; the sentence names the entry."""

    code = "audit-budget"


@dataclass(frozen=True, slots=True)
class BudgetAudit:
    """Everything was as it must be."""

    charter: Charter
    budgets: tuple[Budget, ...]
    """Of every hospital with a ledger, under every charter in it."""
    claims: Mapping[str, HospitalClaims]
    """The report's, by hospital; empty without a report."""
    unchecked: tuple[str, ...]
    """What was not there, and what therefore was not checked."""
    warnings: tuple[str, ...]


def audit_budget(
    directory: Path, *, governance_key: VerifyingKey | None = None, public_set: Path | None = None
) -> BudgetAudit:
    """Recompute every budget in ``directory``; raises BudgetRefused at the first that is wrong.

    Without ``governance_key`` the directory's own is taken, and a warning says so. The charter's
    proxy images and features are compared with the file ``public_set`` if it is given.
    """
    try:
        return _Audit(directory, governance_key, public_set).run()
    except FedHelpError as error:
        # What is wrong with hostile bytes may quote them: not to the auditor's terminal.
        text = "".join(character if character.isprintable() else "?" for character in str(error))
        raise BudgetRefused(text) from error
    except (ValueError, ArithmeticError, RecursionError) as error:
        # From a library's depths: only a value that no honest party signs gets there.
        raise BudgetRefused("a file holds a value without a meaning; see which entry.") from error


@dataclass(slots=True)
class _Audit:
    directory: Path
    governance_key: VerifyingKey | None
    public_set: Path | None

    def run(self) -> BudgetAudit:
        unchecked: list[str] = []
        files = self._files(unchecked)
        opened = verify_log.check_charter(files, self.governance_key)
        charter = opened.charter
        if self.public_set is None:
            unchecked.append("no --public-set: the proxy images behind the charter's digests")
        else:
            PublicSet.load(self.public_set).check(charter)
        releases = _releases(files, charter, unchecked)
        spent = verify_ledgers.recompute_ledgers(
            files, charter, releases.accepted, rounds=releases.rounds
        )
        budgets = tuple(budget for each in spent.values() for budget in each)
        _check_something_is_proved(charter, budgets)
        missing = sorted({one.name for one in charter.hospitals} - spent.keys())
        if missing:
            unchecked.append(f"no ledger: what {', '.join(missing)} spent")
        claims = _claims(files, charter, spent, releases.rounds, unchecked)
        warnings = [] if opened.warning is None else [opened.warning]
        if charter.privacy.tuning is None:
            warnings.append(_UNDECLARED)
        return BudgetAudit(charter, budgets, claims, tuple(unchecked), tuple(warnings))

    def _files(self, unchecked: list[str]) -> BundleFiles:
        if (self.directory / layout.INDEX).exists():
            return verify_log.check_index(self.directory)
        unchecked.append("no index.json: that an auditor collected these files")
        return layout.read_files(self.directory)


@dataclass(frozen=True, slots=True)
class _Releases:
    """What else than ledgers shows releases."""

    accepted: tuple[Accepted, ...]
    rounds: Rounds | None
    """None without a log."""


def _releases(files: BundleFiles, charter: Charter, unchecked: list[str]) -> _Releases:
    if not {layout.ENTRIES, layout.CHECKPOINT} & files.keys():
        unchecked.append("no log: that no release was left out, and how rounds ended")
        if not layout.objects(files):
            unchecked.append("no objects: manifests and the custodians' statements")
        return _Releases(loose_contributions(files, charter), None)
    head = verify_log.check_checkpoint(files, charter)
    record = verify_log.check_objects(files, charter, verify_log.check_tree(files, head))
    accepted = verify_rounds.check_manifests(record)
    if layout.receipts(files):
        verify_rounds.check_receipts(files, record, accepted)
    else:
        unchecked.append("no receipts: that this is the log that the hospitals were shown")
    rounds = verify_rounds.check_rounds(record, accepted)
    verify_calls.check_calls(record)
    return _Releases(accepted, rounds)


def _check_something_is_proved(charter: Charter, budgets: tuple[Budget, ...]) -> None:
    if not any(budget.agreed for budget in budgets):
        raise BundleRefused(
            "no ledger here has an entry under this charter: give the ledgers that hospitals "
            f"exported, and the charter of which they speak; this one is {charter.digest}."
        )


def _claims(
    files: BundleFiles,
    charter: Charter,
    spent: Mapping[str, tuple[Budget, ...]],
    rounds: Rounds | None,
    unchecked: list[str],
) -> Mapping[str, HospitalClaims]:
    if layout.REPORT_JSON not in files:
        unchecked.append("no report: its claims")
        return {}
    claims = verify_report.read_claims(files[layout.REPORT_JSON])
    pairs = [("charter", claims.charter, charter.digest)]
    if rounds is not None:
        pairs.append(("rounds", str(claims.rounds), str(len(rounds.summed))))
    for field, claimed, proved in pairs:
        if claimed != proved:
            raise BundleRefused(f"the report's {field} is not what the evidence proves: {proved}.")
    losses = verify_ledgers.losses_under(charter.digest, spent)
    verify_report.check_epsilons(claims.hospitals, charter, losses)
    return {claim.name: claim for claim in claims.hospitals}


def budget_document(audit: BudgetAudit) -> dict[str, Any]:
    """The JSON that docs/auditor.md describes: losses as "p/q", epsilons as decimal text."""
    privacy, cohort = audit.charter.privacy, audit.charter.cohort
    return {
        "version": 1,
        "verdict": "consistent",
        "charter": audit.charter.digest,
        "public": {
            "federation": audit.charter.federation,
            "name": audit.charter.name,
            "mechanism": privacy.mechanism,
            "unit": privacy.unit,
            "adjacency": privacy.adjacency,
            "epsilon": privacy.epsilon,
            "delta": privacy.delta,
            "clip_units": privacy.clip_units,
            "sigma_units": privacy.sigma_units,
            "cohort_minimum": cohort.minimum,
            "colluders": cohort.colluders,
            "honest_shares": cohort.honest,
            "rounds": audit.charter.rounds.count,
            "proxy": audit.charter.proxy.digest,
            "public_set": audit.charter.proxy.public_set_digest,
            "tuning": None if privacy.tuning is None else privacy.tuning.model_dump(),
        },
        "budgets": [_budget(budget, audit.claims) for budget in audit.budgets],
        "unchecked": list(audit.unchecked),
        "warnings": list(audit.warnings),
    }


def refusal_document(refusal: BudgetRefused) -> dict[str, Any]:
    """The JSON of an audit that failed."""
    return {"version": 1, "verdict": "refused", "why": str(refusal)}


def _budget(budget: Budget, claims: Mapping[str, HospitalClaims]) -> dict[str, Any]:
    claim, event = claims.get(budget.hospital) if budget.agreed else None, budget.event
    return {
        "hospital": budget.hospital,
        "group": budget.group,
        "charter": budget.charter,
        "parameters": "charter" if budget.agreed else "ledger",
        "rounds": list(budget.rounds),
        "mechanism": event.mechanism,
        "rule": event.rule,
        "sensitivity": budget.sensitivity,
        "sigma_units": event.sigma_units,
        **_noise(event),
        "delta": budget.delta,
        "rho_aggregate": budget.aggregate.text,
        "rho_collusion": budget.collusion.text,
        "epsilon_aggregate": {
            "recomputed": text_of(budget.epsilon_aggregate),
            "ledger": text_of(budget.claimed_aggregate),
            "report": None if claim is None else str(claim.epsilon_aggregate),
        },
        "epsilon_collusion": {
            "recomputed": text_of(budget.epsilon_collusion),
            "ledger": text_of(budget.claimed_collusion),
            "report": None if claim is None else str(claim.epsilon_collusion),
        },
        "fewer_honest": [
            {"honest": honest, "epsilon_aggregate": text_of(epsilon)}
            for honest, epsilon in budget.fewer_honest
        ],
    }


def _noise(event: PrivacyEvent) -> dict[str, Any]:
    """What else the noise depends on; None where a mechanism has no such thing."""
    if isinstance(event, SampledGaussianEvent):
        return {
            "share_units": None,
            "sampling_rate": event.sampling_rate,
            "steps": event.steps,
        }
    return {"share_units": event.share_units, "sampling_rate": None, "steps": None}


def budget_table(audit: BudgetAudit) -> Table:
    """One row a hospital and charter: recomputed beside claimed."""
    table = Table(title=f"charter {audit.charter.digest}", title_justify="left")
    for heading in ("hospital", "rounds", "rho", "view", "recomputed", "ledger", "report"):
        table.add_column(heading, justify="left" if heading in ("hospital", "view") else "right")
    numbers = {fewer for budget in audit.budgets for fewer, _ in budget.fewer_honest}
    columns = sorted(numbers, reverse=True)
    for fewer in columns:
        table.add_column(f"{fewer} honest", justify="right")
    for budget in audit.budgets:
        row = _budget(budget, audit.claims)
        name = budget.hospital if budget.agreed else f"{budget.hospital} ({budget.charter[7:15]})"
        cells = {one["honest"]: one["epsilon_aggregate"] for one in row["fewer_honest"]}
        less = [cells.get(fewer, "") for fewer in columns]
        for view, spent in (("aggregate", budget.aggregate), ("collusion", budget.collusion)):
            stated = row[f"epsilon_{view}"]
            table.add_row(
                name if view == "aggregate" else "",
                str(len(budget.rounds)) if view == "aggregate" else "",
                "Renyi" if spent.curve else f"{float(spent.rho):.6f}",
                view,
                stated["recomputed"],
                stated["ledger"],
                stated["report"] or "",
                *(less if view == "aggregate" else []),
            )
    return table
