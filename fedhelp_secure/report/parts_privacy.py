"""Privacy budgets: recomputed losses, the limit, and what they mean."""

from __future__ import annotations

import math
from decimal import Decimal

from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.recompute import text_of
from fedhelp_secure.evidence.verify_ledgers import Budget
from fedhelp_secure.report.document import Bar, Chart, Evidence, Row, Section, Statement, Table
from fedhelp_secure.report.facts import Facts, file

SERIES = ("aggregate", "collusion")
MOST_IN_CHART = 16
"""Hospitals; a chart must fit a page."""


def privacy(facts: Facts) -> Section:
    """Both epsilons of every hospital, with the terms in plain words."""
    current = [
        budget
        for budgets in facts.budgets.values()
        for budget in budgets
        if budget.charter == facts.charter.digest
    ]
    return Section(
        "privacy",
        "Privacy budgets",
        (*_charts(facts, current), _losses(facts), _parameters(facts), *_words(current)),
    )


def _charts(facts: Facts, budgets: list[Budget]) -> tuple[Chart, ...]:
    starts = range(0, len(budgets), MOST_IN_CHART)
    return tuple(_chart(facts, budgets[start : start + MOST_IN_CHART]) for start in starts)


def _chart(facts: Facts, budgets: list[Budget]) -> Chart:
    limit = facts.charter.privacy.epsilon
    bars = tuple(
        Bar(budget.hospital, series, float(value))
        for budget in budgets
        for series, value in enumerate((budget.epsilon_aggregate, budget.epsilon_collusion))
    )
    told = "; ".join(
        f"{one.hospital}: aggregate {text_of(one.epsilon_aggregate)}, collusion "
        f"{text_of(one.epsilon_collusion)}"
        for one in budgets
    )
    return Chart(
        "Recomputed privacy loss of one patient, by hospital",
        f"Bars of epsilon at delta {facts.charter.privacy.delta}. {told}. The agreed limit on "
        f"the aggregate view is {limit}.",
        SERIES,
        bars,
        float(limit),
        f"limit {limit} (aggregate)",
        tuple(file(layout.ledger_path(one.hospital)) for one in budgets),
    )


def _losses(facts: Facts) -> Table:
    rows = []
    for name, budgets in facts.budgets.items():
        evidence = (file(layout.ledger_path(name)),)
        rows += [_loss(facts, budget, evidence) for budget in budgets]
        if not budgets:
            rows.append(Row((name, "no debit", "", "", "", ""), evidence))
    return Table(
        "Losses recomputed from the hospitals' ledgers, and as the ledgers claim them",
        ("Hospital", "Charter", "Rounds", "Aggregate", "Collusion", "Claimed (both)"),
        tuple(rows),
        (1.3, 1.1, 0.8, 1.1, 1.1, 2.0, 2.1),
        numbers=(3, 4, 5),
    )


def _loss(facts: Facts, budget: Budget, evidence: tuple[Evidence, ...]) -> Row:
    charter = budget.charter.removeprefix("sha256:")[:8]
    current = budget.charter == facts.charter.digest
    return Row(
        (
            budget.hospital,
            "this one" if current else f"earlier, {charter}",
            ", ".join(str(number) for number in budget.rounds),
            text_of(budget.epsilon_aggregate),
            text_of(budget.epsilon_collusion),
            f"{text_of(budget.claimed_aggregate)} {text_of(budget.claimed_collusion)}",
        ),
        evidence,
    )


def _parameters(facts: Facts) -> Table:
    terms = facts.charter.privacy
    chance = format(1 / Decimal(terms.delta), ",.0f")
    rows = (
        ("Limit on epsilon", terms.epsilon, "Agreed for the aggregate view, over all rounds."),
        ("Delta", terms.delta, f"The bound may fail with a probability of about 1 in {chance}."),
        ("Unit", terms.unit, f"All images of one patient, at most {terms.maximum_images}."),
        ("Adjacency", terms.adjacency, "Compared: the data with and without one patient."),
        ("Mechanism", terms.mechanism, "The agreed query that a hospital releases, with noise."),
        (
            "Clipping bound",
            f"{terms.clip_units:,} grid units",
            f"The most that one contribution counts; a grid unit is "
            f"2^-{facts.charter.secure_sum.fraction_bits}.",
        ),
        ("Noise", f"{terms.sigma_units:,} grid units", "Standard deviation that was agreed."),
    )
    cite = facts.cite("charter")
    return Table(
        "Terms of the guarantee",
        ("Term", "Value", "In words"),
        tuple(Row(row, cite) for row in rows),
        (1.6, 1.9, 4.4, 1.6),
    )


def _words(budgets: list[Budget]) -> tuple[Statement, ...]:
    worst = max((float(one.epsilon_aggregate) for one in budgets), default=None)
    statements = [
        Statement(
            "Epsilon bounds how much anybody can learn about one patient from everything that was "
            "released. Whatever somebody held the odds to be that a given patient took part, the "
            "release can change these odds by no more than the factor e to the power of epsilon; "
            "delta is about the probability that this bound fails. Smaller is better for both.",
            basis="explanation",
        ),
        Statement(
            "Aggregate is the view of everybody, as long as aggregator, decryptor and unmaskers do "
            "not all work together. Collusion is what they would learn if all of them did: then "
            "only the hospital's own noise protects its patients.",
            basis="explanation",
        ),
        Statement(
            "The figures say nothing about what can be learnt about patients in general, which is "
            "the purpose, nor about releases outside this federation. A patient of two hospitals "
            "is affected by the sum of both losses.",
            basis="explanation",
        ),
        Statement(
            "That hospitals drew their noise as agreed, from a good source of randomness.",
            basis="not-shown",
        ),
    ]
    if worst is not None:
        cited = tuple(file(layout.ledger_path(one.hospital)) for one in budgets)
        # Rounded up, as it is a bound.
        factor = math.ceil(10 * math.exp(worst)) / 10
        sentence = (
            f"Here the largest aggregate epsilon, {worst:.6f}, bounds that factor by {factor:,.1f}."
        )
        statements.insert(1, Statement(sentence, cited))
    return tuple(statements)
