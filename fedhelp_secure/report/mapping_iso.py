"""ISO/IEC 27001:2022 Annex A: the controls on which a bundle bears.

Source: ISO/IEC 27001:2022, third edition, October 2022, https://www.iso.org/standard/27001. The
standard is sold; its text was not at hand and is not repeated. Numbers and names of the controls
were compared with public lists of them (a published statement of applicability for part 5, two
lists of all controls), which agree. What a control demands is paraphrased from its name alone.
"""

from __future__ import annotations

from fedhelp_secure.report.mapping import Framework, Provision

ISO_27001 = Framework(
    "iso-27001",
    "ISO/IEC 27001:2022: evidence bearing on controls of Annex A",
    "Controls that are not listed are not touched by the bundle. Whether a control is applicable "
    "is said in the organisation's own statement of applicability.",
    "ISO/IEC 27001:2022, third edition, October 2022; https://www.iso.org/standard/27001",
    "Numbers and names of the controls compared with public lists of them. The standard's "
    "text was not at hand: paraphrased; check against the text.",
    (
        Provision(
            "5.3",
            "Segregation of duties",
            "Aggregator, decryptor, unmaskers, broker and auditors are parties of their own, and "
            "no two share a key.",
            ("charter",),
            "That they are in fact independent organisations.",
        ),
        Provision(
            "5.9",
            "Inventory of information and other associated assets",
            "Parties, their public keys and key epochs.",
            ("charter", "epochs"),
            "Machines, people and other assets.",
        ),
        Provision(
            "5.14",
            "Information transfer",
            "What was transferred, by digest and length, signed and acknowledged.",
            ("manifests", "receipts"),
            "Agreements on transfer.",
        ),
        Provision(
            "5.16",
            "Identity management",
            "One identity and one signing key for each party of the charter.",
            ("charter",),
            "How identities were proofed at enrolment, and when one is withdrawn.",
        ),
        Provision(
            "5.23",
            "Information security for use of cloud services",
            "One call to the foundation model: host, batches, digests of what went out and came "
            "back.",
            ("call",),
            "The provider's own security.",
        ),
        Provision(
            "5.25",
            "Assessment and decision on information security events",
            "What the aggregator refused, and why, as the log recorded it.",
            ("incidents",),
            "Who assessed it, and what was decided.",
        ),
        Provision(
            "5.26",
            "Response to information security incidents",
            "Rounds that failed and sessions that were taken over, as the log recorded them.",
            ("incidents",),
            "What was done; the plans of control 5.24.",
        ),
        Provision(
            "5.28",
            "Collection of evidence",
            "A signed bundle with a log that cannot be altered unseen.",
            ("index", "checkpoint", "log"),
            "Custody of the bundle after it was made.",
        ),
        Provision(
            "5.33",
            "Protection of records",
            "Every file's digest under an auditor's signature; the agreed retention.",
            ("index", "charter"),
            "Where records are kept, and for how long in fact.",
        ),
        Provision(
            "5.34",
            "Privacy and protection of personal identifiable information (PII)",
            "Budgets agreed, debited and recomputed.",
            ("charter", "ledgers"),
            "The organisation's privacy policy.",
        ),
        Provision(
            "5.35",
            "Independent review of information security",
            "An offline verification that anybody can repeat, without any secret.",
            ("index",),
            "Reviews of people and processes.",
        ),
        Provision(
            "8.3",
            "Information access restriction",
            "Sums are opened over a cohort only, by all custodians' statements.",
            ("rounds", "custodians"),
            "Restrictions on the hospital's own systems.",
        ),
        Provision(
            "8.5",
            "Secure authentication",
            "Every contribution and statement is signed by its party's key.",
            ("manifests", "custodians"),
            "Which certificate was used on which connection.",
        ),
        Provision(
            "8.10",
            "Information deletion",
            "The custodians' statements of destroyed key epochs.",
            ("destroyed",),
            "That no copy was kept; deletion of other data.",
        ),
        Provision(
            "8.11",
            "Data masking",
            "Masked and noised sums: the agreed noise, and unmaskers' statements of each round.",
            ("charter", "custodians"),
            "Masking of data at the hospital.",
        ),
        Provision(
            "8.12",
            "Data leakage prevention",
            "Digests of every batch that the broker recorded, for the agreed public set.",
            ("call",),
            "Other ways out of the hospital.",
        ),
        Provision(
            "8.15",
            "Logging",
            "An append-only log under a signed checkpoint.",
            ("log", "checkpoint"),
            "Logs of other systems.",
        ),
        Provision(
            "8.16",
            "Monitoring activities",
            "Refusals, failures and takeovers are entries of the log.",
            ("incidents",),
            "That somebody watches them.",
        ),
        Provision(
            "8.17",
            "Clock synchronisation",
            "The time of every entry, by the log's clock.",
            ("log",),
            "That this clock is right.",
        ),
        Provision(
            "8.24",
            "Use of cryptography",
            "Algorithms' parameters, keys, key epochs and their ends.",
            ("charter", "epochs"),
            "How private keys are kept.",
        ),
        Provision(
            "8.34",
            "Protection of information systems during audit testing",
            "The verification reads a copy and needs no access to any party's system.",
            ("index",),
            "Audits of other kinds.",
        ),
    ),
)
