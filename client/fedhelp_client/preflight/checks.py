"""The table of checks, and running them all: each fails by itself, none stops the others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from fedhelp_client.preflight import agreement, machine, peers
from fedhelp_client.preflight.outcome import Outcome, failed
from fedhelp_client.preflight.report import Finding, Report
from fedhelp_client.preflight.site import Site
from fedhelp_secure.errors import FedHelpError

Check = Callable[[Site], Outcome]
"""Looks at one thing and changes nothing; a FedHelpError that it raises is its failure."""

CHECKS: tuple[tuple[str, Check], ...] = (
    ("software", machine.software),
    ("state directory", machine.state_directory),
    ("certificate", machine.certificate),
    ("charter", agreement.charter),
    ("site policy", agreement.site_policy),
    ("budget", agreement.budget),
    ("public files", agreement.public_files),
    ("disk", machine.disk),
    ("data folder", machine.data_folder),
    ("aggregator", peers.aggregator),
    ("broker", peers.broker),
    ("clock", peers.clock),
)


def run_checks(site: Site) -> Report:
    """Every check of `CHECKS` in order. What failed once for one reason is not said twice."""
    findings: list[Finding] = []
    said: dict[str, str] = {}
    for name, check in CHECKS:
        outcome = _outcome(check, site)
        if outcome.verdict == "fail":
            first = said.setdefault(outcome.says, name)
            if first != name:
                outcome = failed(f"not checked: see {first}.")
        findings.append(Finding(check=name, verdict=outcome.verdict, says=outcome.says))
    return Report(
        hospital=_known(lambda: site.state.identity.uri),
        charter=_known(lambda: site.charter.digest),
        policy=_known(lambda: site.policy_digest),
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        findings=tuple(findings),
    )


def _outcome(check: Check, site: Site) -> Outcome:
    try:
        return check(site)
    except FedHelpError as error:
        return failed(str(error))
    except OSError as error:
        # Of our own files: which one, its name and the system's reason.
        return failed(f"{error.filename}: {error.strerror}; check its rights and the disk.")


def _known(value: Callable[[], str]) -> str:
    try:
        return value()
    except FedHelpError:
        return "unknown"
