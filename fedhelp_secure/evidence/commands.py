"""``fedhelp audit``: export a bundle from an aggregator, sign it, verify it anywhere."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedhelp_secure.enrolment.join_command import add_enrol_command
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.evidence.events.options import (
    BundleArgument,
    CertificateKeyOption,
    CertificateOption,
    EnterpriseOption,
    EventFormat,
    GovernanceKeyOption,
    LogCharterOption,
    LogOption,
    StateFileOption,
    UnconfirmedOption,
)

if TYPE_CHECKING:
    from fedhelp_secure.evidence.events.source import SignedLog
    from fedhelp_secure.evidence.verify import Step
    from fedhelp_secure.signing import VerifyingKey

app = typer.Typer(help="Evidence: export, sign, verify, recompute, attack.", no_args_is_help=True)
add_enrol_command(app, "auditor")

StateOption = Annotated[Path, typer.Option("--state", help="The auditor's state directory.")]


@app.command()
def export(
    state: StateOption,
    aggregator: Annotated[str, typer.Option(help="HOST:PORT of the aggregator.")],
    charter: Annotated[Path, typer.Option(help="The charter's envelope.")],
    ledgers: Annotated[Path, typer.Option(help="Directory with <hospital>.jsonl.")],
    receipts: Annotated[Path, typer.Option(help="Directory with <hospital>-<round>.bin.")],
    out: Annotated[Path, typer.Option(help="New directory for the bundle.")],
    results: Annotated[
        Path | None,
        typer.Option(help="Directory with <hospital>.json: what nodes left as result.json."),
    ] = None,
) -> None:
    """Fetch the log and its objects over mTLS, add ledgers and receipts, report and sign.

    The report's epsilons are recomputed from the ledgers. If the evidence does not hold, the files
    stay, unsigned.
    """
    from fedhelp_secure.evidence.bundle import Sources, export_bundle
    from fedhelp_secure.report.build import read_results
    from fedhelp_secure.report.complete import complete_bundle
    from fedhelp_secure.state import StateDirectory
    from fedhelp_secure.transport.identity import Role

    auditor = StateDirectory.open(state, Role.AUDITOR)
    found = {} if results is None else read_results(results)
    export_bundle(auditor, Sources(aggregator, charter, ledgers, receipts), out)
    complete_bundle(out, auditor, found)
    _console().print(f"exported, reported and signed: {out}")


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(help="The bundle's directory.")],
    state: StateOption,
    results: Annotated[
        Path | None, typer.Option(help="As for export; without, figures are left out.")
    ] = None,
) -> None:
    """Make a bundle's report and index anew, when a ledger or a receipt came late."""
    from fedhelp_secure.report.build import read_results
    from fedhelp_secure.report.complete import complete_bundle
    from fedhelp_secure.state import StateDirectory
    from fedhelp_secure.transport.identity import Role

    found = {} if results is None else read_results(results)
    complete_bundle(bundle, StateDirectory.open(state, Role.AUDITOR), found)
    _console().print(f"reported and signed: {bundle}")


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle's directory.")],
    governance_key: Annotated[
        Path | None,
        typer.Option(help="The registrar's governance.pub, from another source than the bundle."),
    ] = None,
    audit_report: Annotated[
        Path | None, typer.Option(help="Directory with a report of this bundle, to check as well.")
    ] = None,
) -> None:
    """Verify a bundle, offline. Exit status 1 names the step that failed."""
    from fedhelp_secure.evidence.verify import StepFailed, verify_bundle
    from fedhelp_secure.report.page import page_warning

    console = _console()
    key = None if governance_key is None else read_key(governance_key)
    try:
        verdict = verify_bundle(bundle, governance_key=key)
        steps = verdict.steps
        if audit_report is not None:
            from fedhelp_secure.evidence.verify_audit_report import verify_audit_report

            steps += (verify_audit_report(bundle, audit_report, governance_key=key),)
    except StepFailed as failure:
        _print_steps(console, failure.passed)
        console.print(f"FAIL {failure.number:>2}  {failure.title}")
        raise
    _print_steps(console, steps)
    page = page_warning(bundle)
    for warning in verdict.warnings if page is None else (*verdict.warnings, page):
        console.print(f"warning: {warning}")
    console.print(f"evidence verified: charter {verdict.charter}")


@app.command()
def budget(
    *,
    directory: Annotated[
        Path, typer.Argument(help="A bundle, or its charter, governance key and ledgers.")
    ],
    file: Annotated[
        Path | None, typer.Argument(help="With --json: write here, not to the screen.")
    ] = None,
    governance_key: Annotated[
        Path | None,
        typer.Option(help="The registrar's governance.pub, from another source than DIRECTORY."),
    ] = None,
    public_set: Annotated[
        Path | None, typer.Option(help="The public set's file, to compare with the charter.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON, to FILE or to the screen.")] = False,
) -> None:
    """Recompute every loss and epsilon from ledgers and public parameters alone, offline.

    Exit status 1 names the ledger and the entry that is wrong.
    """
    from fedhelp_secure.evidence import budget as auditing

    if file is not None and not json:
        raise ConfigurationError(f"to write JSON to {file}, give --json as well.")
    key = None if governance_key is None else read_key(governance_key)
    try:
        audit = auditing.audit_budget(directory, governance_key=key, public_set=public_set)
    except auditing.BudgetRefused as refusal:
        if json:
            _write_json(file, auditing.refusal_document(refusal))
        raise
    if json:
        _write_json(file, auditing.budget_document(audit))
    if json and file is None:
        return
    console = _console()
    Console(width=140).print(auditing.budget_table(audit))
    if audit.charter.privacy.tuning is not None:
        console.print(f"declared: {audit.charter.privacy.tuning.sentence}")
    for line in audit.unchecked:
        console.print(f"not checked: {line}")
    for warning in audit.warnings:
        console.print(f"warning: {warning}")
    console.print(f"budgets recomputed: {len(audit.budgets)}, and none claims too little")


@app.command()
def privacy(
    *,
    epsilon: Annotated[
        list[float] | None,
        typer.Option(min=0.01, max=999, help="Audit a charter with this epsilon; may be repeated."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds of each charter.")] = 2,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each world.")] = 4000,
    canaries: Annotated[int, typer.Option(min=1, max=100_000, help="In the one run.")] = 1000,
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="Mask, encrypt and open every sum.")
    ] = False,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999999, help="Of a bound.")] = 0.99,
    json: Annotated[Path | None, typer.Option(help="Write the findings here as JSON.")] = None,
) -> None:
    """Attack the mechanism with canaries; exit status 1 if one does better than is claimed.

    Runs the installed software on invented patients: contributions, debits, noise shares, sums. A
    bound above its claim refutes the claim; a bound below it proves nothing. Without --epsilon: 1,
    3 and 8.
    """
    from fedhelp_secure.privacy_audit.audit import Options, audit_epsilon, check_findings
    from fedhelp_secure.privacy_audit.screen import audit_document, findings_table

    options = Options(rounds, runs, canaries, encrypt, confidence)
    findings = [
        finding
        for value in epsilon or (1.0, 3.0, 8.0)
        for finding in audit_epsilon(f"{value:.6f}".rstrip("0").rstrip("."), options)
    ]
    Console(width=110).print(findings_table(findings, options))
    if json is not None:
        _write_json(json, audit_document(findings, options))
    check_findings(findings)


@app.command()
def events(
    bundle: BundleArgument = None,
    log: LogOption = None,
    charter: LogCharterOption = None,
    governance_key: GovernanceKeyOption = None,
    format: Annotated[EventFormat, typer.Option(help="Of the output.")] = EventFormat.JSON_LINES,
    start: Annotated[int, typer.Option("--from", min=0, help="First index of the log.")] = 0,
    enterprise_number: EnterpriseOption = 32473,
    out: Annotated[Path | None, typer.Option(help="Write here, not to the screen.")] = None,
) -> None:
    """Print the log's entries as the audit events that hospitals' tools read."""
    from fedhelp_secure.evidence.events.formats import written
    from fedhelp_secure.state import write_atomically

    source = _signed_log(bundle, log, charter, governance_key)
    text = written(source.events(start), format, enterprise=enterprise_number)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomically(out, text.encode(), mode=0o644)


@app.command()
def ship(
    to: Annotated[str, typer.Option(help="HOST:PORT of a syslog server with TLS.")],
    ca: Annotated[Path, typer.Option(help="PEM of the authority of its certificate.")],
    bundle: BundleArgument = None,
    log: LogOption = None,
    charter: LogCharterOption = None,
    governance_key: GovernanceKeyOption = None,
    certificate: CertificateOption = None,
    key: CertificateKeyOption = None,
    start: Annotated[int | None, typer.Option("--from", min=0, help="First index.")] = None,
    state_file: StateFileOption = None,
    unconfirmed: UnconfirmedOption = False,
    enterprise_number: EnterpriseOption = 32473,
) -> None:
    """Send the log's entries to a syslog server over TLS, as RFC 5424 with structured data.

    Each at least once, under an id that is always the same.
    """
    from fedhelp_secure.evidence.events.ship import Receiver
    from fedhelp_secure.evidence.events.ship import ship as shipped
    from fedhelp_secure.transport.address import parse_address

    host, port = parse_address(to, "--to")
    receiver = Receiver(host, port, ca, certificate, key, unconfirmed)
    source = _signed_log(bundle, log, charter, governance_key)
    indices = shipped(
        source, receiver, start=start, state_file=state_file, enterprise=enterprise_number
    )
    _console().print(f"shipped {len(indices)} events; the next is {indices.stop}")


def _signed_log(
    bundle: Path | None, log: Path | None, charter: Path | None, governance_key: Path | None
) -> SignedLog:
    """From what `events` and `ship` were given; a warning goes to the error output."""
    from fedhelp_secure.evidence.events.source import open_source

    key = None if governance_key is None else read_key(governance_key)
    source = open_source(bundle, log, charter, key)
    if source.warning is not None:
        typer.echo(f"warning: {source.warning}", err=True)
    return source


def _print_steps(console: Console, steps: tuple[Step, ...]) -> None:
    for step in steps:
        console.print(f"pass {step.number:>2}  {step.title}: {step.finding}")


def _write_json(path: Path | None, document: dict[str, Any]) -> None:
    """To the file at ``path``, or to the screen."""
    from fedhelp_secure.state import write_atomically

    if path is None:
        typer.echo(dumps(document, indent=2))
        return
    write_atomically(path, (dumps(document, indent=2) + "\n").encode(), mode=0o644)


def read_key(path: Path) -> VerifyingKey:
    """A public key's file; raises ConfigurationError if it cannot be read."""
    from fedhelp_secure.signing import VerifyingKey

    try:
        return VerifyingKey.from_base64(path.read_text("ascii").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read; give the registrar's governance.pub."
        ) from (error)


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)
