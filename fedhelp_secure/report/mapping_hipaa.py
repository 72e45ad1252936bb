"""HIPAA Security Rule (45 CFR 164.308 and 164.312), and what of a bundle bears on it.

Source: 45 CFR part 164, subpart C (68 FR 8334 of 20 February 2003, as amended by 78 FR 5566 of 25
January 2013), https://www.ecfr.gov/current/title-45/part-164. Compared with the text of 164.308 at
https://www.law.cornell.edu/cfr/text/45/164.308 and of 164.312 in the CFR of 1 October 2019
(https://www.govinfo.gov, CFR-2019-title45-vol2-sec164-312), as far as stored copies of them reach;
the remaining numbers, names and "required" or "addressable" with public tables that agree. The
proposed rule of 6 January 2025 (90 FR 898) would end that distinction; no final rule was found.
"""

from __future__ import annotations

from fedhelp_secure.report.mapping import Framework, Provision

HIPAA = Framework(
    "hipaa",
    "HIPAA Security Rule: evidence bearing on 45 CFR 164.308 and 164.312",
    "Whether it applies, to whom, and whether sums with noise are electronic protected health "
    "information, is the organisation's to decide. Required: the specification must be "
    "implemented. Addressable: it, an equivalent, or a documented reason why neither is reasonable "
    "(164.306(d)); it does not mean optional. Standard: it has no specification of its own.",
    "45 CFR part 164, subpart C, as amended on 25 January 2013 (78 FR 5566); "
    "https://www.ecfr.gov/current/title-45/part-164",
    "Compared with stored copies of 164.308 (law.cornell.edu) and 164.312 (govinfo.gov, CFR of "
    "1 October 2019), which do not reach to the end; the remaining names and required or "
    "addressable with public tables. The proposed rule of 6 January 2025 (90 FR 898) would make "
    "every specification required: check whether it is final.",
    (
        Provision(
            "164.308(a)(1)(ii)(A)",
            "Risk analysis (required)",
            "The residual privacy loss of every hospital's patients, recomputed from its ledger.",
            ("ledgers",),
            "The organisation's own risk analysis. The software's residual risks are listed in "
            "this report.",
        ),
        Provision(
            "164.308(a)(1)(ii)(B)",
            "Risk management (required)",
            "The measures that the charter agreed: noise, cohort rule, encryption, custodians.",
            ("charter",),
            "That they are sufficient for the risks that were found.",
        ),
        Provision(
            "164.308(a)(1)(ii)(C)",
            "Sanction policy (required)",
            "",
            (),
            "Sanctions against members of the workforce.",
        ),
        Provision(
            "164.308(a)(1)(ii)(D)",
            "Information system activity review (required)",
            "A log of every accepted and refused contribution, round and statement, with times.",
            ("log", "checkpoint"),
            "That somebody reviews it regularly; audit logs of the hospital's other systems.",
        ),
        Provision(
            "164.308(a)(2)",
            "Assigned security responsibility (standard)",
            "",
            (),
            "Who is responsible. Parties are named by organisation, not by person.",
        ),
        Provision(
            "164.308(a)(3)(ii)(A)-(C)",
            "Workforce: authorization or supervision, clearance, termination (addressable)",
            "",
            (),
            "Who of the workforce may operate a party's process.",
        ),
        Provision(
            "164.308(a)(4)(ii)(A)",
            "Isolating health care clearinghouse functions (required)",
            "",
            (),
            "Outside this system: no clearinghouse has a part in it.",
        ),
        Provision(
            "164.308(a)(4)(ii)(B), (C)",
            "Access authorization; its establishment and modification (addressable)",
            "The charter names every party that has a part, with its key; the log accepts "
            "statements signed by those keys only.",
            ("charter", "log"),
            "How access to the hospital's images is granted, reviewed and withdrawn.",
        ),
        Provision(
            "164.308(a)(5)(ii)(A)-(D)",
            "Security reminders, malicious software, log-in monitoring, passwords (addressable)",
            "",
            (),
            "Training of any kind, and what it covers.",
        ),
        Provision(
            "164.308(a)(6)(ii)",
            "Security incidents: response and reporting (required)",
            "Refused contributions, failed rounds and sessions taken over, as the log recorded "
            "them.",
            ("incidents",),
            "What was done about them, and incidents outside the federation.",
        ),
        Provision(
            "164.308(a)(7)(ii)(A)-(C)",
            "Data backup, disaster recovery, emergency mode operation plans (required)",
            "",
            (),
            "The plans.",
        ),
        Provision(
            "164.308(a)(7)(ii)(D), (E)",
            "Testing and revision of the plans; criticality of applications and data (addressable)",
            "",
            (),
            "Both.",
        ),
        Provision(
            "164.308(a)(8)",
            "Evaluation (standard)",
            "Every step of an offline technical verification, repeatable by anybody.",
            ("index", "checkpoint"),
            "That it is repeated periodically; evaluation of policies and premises.",
        ),
        Provision(
            "164.308(b)(1), (3)",
            "Business associates; written contract or other arrangement (required)",
            "",
            (),
            "Contracts with aggregator, custodians, broker and the foundation model's provider.",
        ),
        Provision(
            "164.312(a)(2)(i)",
            "Unique user identification (required)",
            "Each party signs with a key of its own; no two parties of the charter share one.",
            ("charter", "manifests"),
            "Which person acted for a party.",
        ),
        Provision(
            "164.312(a)(2)(ii)",
            "Emergency access procedure (required)",
            "",
            (),
            "The procedure, on the hospital's own systems.",
        ),
        Provision(
            "164.312(a)(2)(iii)",
            "Automatic logoff (addressable)",
            "",
            (),
            "Logoff on the hospital's own systems.",
        ),
        Provision(
            "164.312(a)(2)(iv)",
            "Encryption and decryption (addressable)",
            "The agreed parameters of encryption, the digest and length of every ciphertext, and "
            "the custodians' statements of what they opened.",
            ("charter", "manifests", "custodians"),
            "The ciphertexts themselves; encryption of data at rest at the hospital.",
        ),
        Provision(
            "164.312(b)",
            "Audit controls (standard)",
            "An append-only Merkle log (RFC 6962 hashing) under a signed checkpoint.",
            ("log", "checkpoint"),
            "Audit controls of the hospital's other systems.",
        ),
        Provision(
            "164.312(c)(1), (2)",
            "Integrity; mechanism to authenticate the information (addressable)",
            "Signed manifests, and a receipt for every accepted contribution that the log "
            "continues.",
            ("manifests", "receipts"),
            "Integrity of the records at the hospital.",
        ),
        Provision(
            "164.312(d)",
            "Person or entity authentication (standard)",
            "Signatures of hospitals, custodians, broker and aggregator by the charter's keys.",
            ("charter", "manifests", "custodians"),
            "Which certificate was used on which connection; which person acted.",
        ),
        Provision(
            "164.312(e)(2)(i)",
            "Transmission: integrity controls (addressable)",
            "Digests of what was sent, signed by the sender and acknowledged in the log.",
            ("manifests", "receipts"),
            "Transmissions outside the federation.",
        ),
        Provision(
            "164.312(e)(2)(ii)",
            "Transmission: encryption (addressable)",
            "The agreed encryption of contributions, and each ciphertext's digest and length.",
            ("charter", "manifests"),
            "The TLS sessions; they leave no record in a bundle.",
        ),
    ),
)
