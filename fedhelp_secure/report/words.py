"""The words that a reader of the audit report may not know."""

from __future__ import annotations

from fedhelp_secure.report.document import Row, Section, Table

WORDS = (
    ("Aggregator", "The party that collects contributions and keeps the log."),
    ("Broker", "The only party that asks the foundation model, at most once."),
    ("Bundle", "The directory of evidence from which this report was made, signed by an auditor."),
    ("Charter", "What the parties agreed on before the first round, signed by the registrar."),
    ("Checkpoint", "The aggregator's signature over the log's size and root at a moment."),
    ("Clipping bound", "The most that one patient's contribution counts, however large it is."),
    ("Cohort", "The hospitals whose contributions are summed before anything is opened."),
    ("Contribution", "What one hospital sends in one round: numbers with noise, encrypted."),
    (
        "Custodians",
        "Decryptor and unmaskers: the parties that open a sum, and only all of them together.",
    ),
    ("Debit", "An entry in a hospital's ledger: the privacy loss of one release, made before it."),
    ("Digest", "A fingerprint of a file (SHA-256): any other file has another one."),
    ("Entry", "One event in the log, by its number from 0."),
    ("Foundation model", "A model made by others, asked about public images only."),
    ("Grid unit", "The smallest step of the numbers in a contribution."),
    ("Incident", "A refused contribution, a failed round or a session taken over."),
    ("Key epoch", "The time for which a custodian uses one key, which it then destroys."),
    ("Ledger", "A hospital's account of the privacy loss of its patients."),
    ("Log", "The aggregator's list of events, to which entries can only be added."),
    ("Manifest", "A hospital's signed description of one contribution."),
    ("Object", "A signed document that an entry of the log names by its digest."),
    ("Receipt", "The aggregator's signed promise that a contribution is in the log."),
    ("Registrar", "Who enrols the parties and holds the governance key, which signs charters."),
    ("Round", "One release of every hospital of a cohort, and the opening of their sum."),
)


def words() -> Section:
    """Terms and what they mean, in alphabetical order."""
    table = Table(
        "Words and what they mean here",
        ("Word", "Meaning"),
        tuple(Row(pair) for pair in WORDS),
        (1.6, 6.4, 0.0),
        basis="explanation",
    )
    return Section("words", "Words used in this report", (table,))
