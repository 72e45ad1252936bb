"""What was computed, by whom, for which purpose, and over which cohorts."""

from __future__ import annotations

from fedhelp_secure.charter import Charter, Hospital, SignedParty
from fedhelp_secure.evidence.verify_log import fingerprint
from fedhelp_secure.report.document import Evidence, Row, Section, Statement, Table
from fedhelp_secure.report.facts import Facts, entry, object_

_PURPOSE_NOT_SHOWN = (
    "The legal basis, the consent or notice given to patients, ethical approval and the contracts "
    "between the parties."
)


def summary(facts: Facts) -> Section:
    """The findings in a few sentences, each cited."""
    charter = facts.charter
    rounds, incidents = facts.rounds, facts.cite("incidents")
    worst = max(
        (
            budget.epsilon_aggregate
            for budgets in facts.budgets.values()
            for budget in budgets
            if budget.charter == charter.digest
        ),
        default=None,
    )
    statements = [
        Statement(
            f"{len(charter.hospitals)} hospitals of the federation {charter.federation} agreed on "
            f"the charter {charter.name} of {charter.created} for a {charter.task} task.",
            facts.cite("charter"),
        ),
        Statement(
            f"{_times(len(rounds.summed), 'round')} opened over a cohort, {len(rounds.failed)} "
            f"failed; {_times(len(facts.accepted), 'contribution')} accepted.",
            facts.cite("rounds"),
        ),
        _loss_sentence(facts, None if worst is None else f"{float(worst):.6f}"),
        _call_sentence(facts),
        Statement(
            f"The log records {_times(len(incidents), 'incident')} (refused contributions, failed "
            "rounds, sessions taken over)."
            if incidents
            else "The log records no refused contribution, failed round or session taken over.",
            incidents or facts.cite("log"),
        ),
        Statement(
            f"All {len(facts.verdict.steps)} steps of the offline verification passed on this "
            "bundle; anybody can repeat them.",
            facts.cite("index"),
        ),
        Statement(
            "This report is evidence, not a certificate. It does not say that a law, regulation or "
            "standard is met: that is for people to judge, with what is listed here and what is "
            "marked as not shown.",
            basis="explanation",
        ),
    ]
    return Section("summary", "Findings in short", tuple(statements))


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _loss_sentence(facts: Facts, worst: str | None) -> Statement:
    if worst is None:
        return Statement("Privacy losses under this charter.", basis="not-shown")
    return Statement(
        f"The largest recomputed privacy loss is epsilon {worst} at delta "
        f"{facts.charter.privacy.delta} for one patient (aggregate view), against the agreed "
        f"limit of {facts.charter.privacy.epsilon}.",
        facts.cite("ledgers") + facts.cite("charter"),
    )


def _call_sentence(facts: Facts) -> Statement:
    if facts.call is None:
        return Statement("Any call to the foundation model.", basis="not-shown")
    images = sum(batch.images for batch in facts.call.batches)
    return Statement(
        f"The foundation model was asked once, about {images} public images; the outcome was: "
        f"{facts.call.outcome}.",
        facts.cite("call"),
    )


def federation(facts: Facts) -> Section:
    """Terms and parties of the charter."""
    charter = facts.charter
    return Section(
        "federation",
        "What was computed, by whom and for which purpose",
        (
            Statement(
                "The governance key signed the charter, and the log's first entry adopts it; every "
                "entry that names a charter names this one.",
                facts.cite("governance") + facts.cite("adoption") + facts.cite("log"),
            ),
            _terms(facts),
            _parties(charter, facts.cite("charter")),
            Statement(_PURPOSE_NOT_SHOWN, basis="not-shown"),
        ),
    )


def _terms(facts: Facts) -> Table:
    charter = facts.charter
    cite = facts.cite("charter")
    model = charter.foundation_model
    terms = (
        ("Task", f"{charter.task}: {', '.join(charter.classes)}"),
        ("Purpose of the call to the foundation model", model.purpose),
        ("Rounds agreed", str(charter.rounds.count)),
        (
            "Each release",
            f"{charter.secure_sum.values:,} numbers, by the mechanism {charter.privacy.mechanism}",
        ),
        (
            "Public images",
            f"{charter.proxy.count:,} of {charter.proxy.height} x {charter.proxy.width} pixels",
        ),
        ("Digest of the public images", charter.proxy.digest),
        ("Encryption", _encryption(charter)),
        ("Retention agreed", f"{charter.retention_days:,} days"),
        ("Parameters chosen", _tuning(charter)),
    )
    return Table(
        "Terms of the charter",
        ("Term", "Agreed"),
        tuple(Row(term, cite) for term in terms),
        (2.4, 5.2, 1.6),
    )


def _encryption(charter: Charter) -> str:
    secure = charter.secure_sum
    return (
        f"CKKS, polynomial degree {secure.polynomial_degree:,}, one prime of "
        f"{secure.coefficient_modulus_bits[0]} bits, scale 2^{secure.scale_bits}; masks held by "
        f"{_times(len(charter.custodians.unmaskers), 'unmasker')}"
    )


def _tuning(charter: Charter) -> str:
    tuning = charter.privacy.tuning
    return "The charter declares nothing." if tuning is None else tuning.sentence


def _parties(charter: Charter, cite: tuple[Evidence, ...]) -> Table:
    parties: list[tuple[str, Hospital | SignedParty]] = [
        *((f"hospital ({one.group})", one) for one in charter.hospitals),
        ("aggregator", charter.aggregator),
        ("decryptor", charter.custodians.decryptor),
        *(("unmasker", one) for one in charter.custodians.unmaskers),
        ("broker", charter.broker),
        *(("auditor", one) for one in charter.auditors),
    ]
    rows = tuple(
        Row((role, party.name, fingerprint(party.verifying_key())), cite) for role, party in parties
    )
    return Table(
        "Parties, and the fingerprints of their signing keys (128 bits of SHA-256)",
        ("Role", "Name", "Fingerprint"),
        rows,
        (1.8, 1.8, 4.2, 1.6),
        code=(2,),
    )


def cohorts(facts: Facts) -> Section:
    """Rule and members of every round."""
    rule = facts.charter.cohort
    return Section(
        "cohorts",
        "Cohorts",
        (
            Statement(
                f"A round is opened over at least {rule.minimum} contributions, of them at least "
                f"{rule.minimum_large} of large and {rule.minimum_small} of small hospitals. The "
                f"noise is complete even if {rule.colluders} of the contributors collude.",
                facts.cite("charter"),
            ),
            Table(
                "Rounds",
                ("Round", "Ended (log's clock)", "Outcome", "Members"),
                tuple(_round(facts, number) for number in _numbers(facts)),
                (0.8, 2.3, 1.4, 3.2, 2.2),
                numbers=(0,),
            ),
            Statement(
                "How many patients each hospital contributed: counts of patients never leave a "
                "hospital.",
                basis="not-shown",
            ),
        ),
    )


def _numbers(facts: Facts) -> tuple[int, ...]:
    return (*facts.rounds.summed, *facts.rounds.failed)


def _round(facts: Facts, number: int) -> Row:
    members: list[str] = []
    ended, outcome = "", ""
    evidence: list[Evidence] = []
    for index, name in facts.events("round_closed", "round_summed", "round_failed"):
        event = getattr(facts.record.entries[index], name)
        if event.round != number:
            continue
        evidence.append(entry(index))
        if name == "round_closed":
            members = list(event.hospitals)
            continue
        ended = facts.moment(index)
        outcome = "opened" if name == "round_summed" else f"failed: {event.code}"
        if name == "round_summed":
            evidence.append(object_(event.decryptor_statement_digest))
            evidence += [object_(one) for one in event.unmasker_statement_digests]
    return Row((str(number), ended, outcome, ", ".join(members)), tuple(evidence))
