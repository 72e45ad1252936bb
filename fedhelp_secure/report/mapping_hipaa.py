"""HIPAA Security Rule (45 CFR 164.308 and 164.312), and what of a bundle bears on it.

Subjects are short names, not the text of the provision.
"""

from __future__ import annotations

from fedhelp_secure.report.mapping import Framework, Provision

HIPAA = Framework(
    "hipaa",
    "HIPAA Security Rule: 45 CFR 164.308 and 164.312",
    "45 CFR part 164, subpart C. Whether it applies, and to whom, is the organisation's to decide.",
    (
        Provision(
            "164.308(a)(1)(ii)(A)",
            "Risk analysis",
            "The residual privacy loss of every hospital's patients, recomputed from its ledger; "
            "the residual risks of the software are listed in this report.",
            ("ledgers",),
            "The organisation's own risk analysis.",
        ),
        Provision(
            "164.308(a)(1)(ii)(D)",
            "Information system activity review",
            "A log of every accepted and refused contribution, round and statement, with times.",
            ("log", "checkpoint"),
            "That somebody reviews it regularly; audit logs of the hospital's other systems.",
        ),
        Provision(
            "164.308(a)(2)",
            "Assigned security responsibility",
            "",
            (),
            "Who is responsible. Parties are named by organisation, not by person.",
        ),
        Provision(
            "164.308(a)(3)",
            "Workforce security",
            "",
            (),
            "Who of the workforce may operate a party's process.",
        ),
        Provision(
            "164.308(a)(4)",
            "Information access management",
            "The charter names every party that has a part, with its key; the log accepts "
            "statements signed by those keys only.",
            ("charter", "log"),
            "How access to the hospital's images is granted and withdrawn.",
        ),
        Provision(
            "164.308(a)(5)", "Security awareness and training", "", (), "Training of any kind."
        ),
        Provision(
            "164.308(a)(6)(ii)",
            "Security incidents: response and reporting",
            "Refused contributions, failed rounds and sessions taken over, as the log recorded "
            "them.",
            ("incidents",),
            "What was done about them, and incidents outside the federation.",
        ),
        Provision(
            "164.308(a)(7)",
            "Contingency plan",
            "",
            (),
            "Backups, restoration and emergency operation.",
        ),
        Provision(
            "164.308(a)(8)",
            "Evaluation",
            "Every step of an offline technical verification, repeatable by anybody.",
            ("index", "checkpoint"),
            "Periodic evaluation of policies and premises.",
        ),
        Provision(
            "164.308(b)(1)",
            "Business associate contracts",
            "",
            (),
            "Contracts with aggregator, custodians, broker and the foundation model's provider.",
        ),
        Provision(
            "164.312(a)(2)(i)",
            "Unique user identification",
            "Each party signs with a key of its own; no two parties of the charter share one.",
            ("charter", "manifests"),
            "Which person acted for a party.",
        ),
        Provision(
            "164.312(a)(2)(ii)-(iii)",
            "Emergency access; automatic logoff",
            "",
            (),
            "Both, on the hospital's own systems.",
        ),
        Provision(
            "164.312(a)(2)(iv)",
            "Encryption and decryption",
            "The agreed parameters of encryption, the digest and length of every ciphertext, and "
            "the custodians' statements of what they opened.",
            ("charter", "manifests", "custodians"),
            "The ciphertexts themselves; encryption of data at rest at the hospital.",
        ),
        Provision(
            "164.312(b)",
            "Audit controls",
            "An append-only Merkle log (RFC 6962 hashing) under a signed checkpoint.",
            ("log", "checkpoint"),
            "Audit controls of the hospital's other systems.",
        ),
        Provision(
            "164.312(c)",
            "Integrity",
            "Signed manifests, and a receipt for every accepted contribution that the log "
            "continues.",
            ("manifests", "receipts"),
            "Integrity of the records at the hospital.",
        ),
        Provision(
            "164.312(d)",
            "Person or entity authentication",
            "Signatures of hospitals, custodians, broker and aggregator by the charter's keys.",
            ("charter", "manifests", "custodians"),
            "The TLS certificates in use: bundles hold none.",
        ),
        Provision(
            "164.312(e)",
            "Transmission security",
            "Digests of what was sent, signed by the sender and acknowledged in the log.",
            ("manifests", "receipts"),
            "The TLS sessions; they leave no record in a bundle.",
        ),
    ),
)
