"""NIST SP 800-226: the components of its pyramid, each asked as a question.

Source: NIST SP 800-226, Guidelines for Evaluating Differential Privacy Guarantees, figure 1 and
sections 2 to 4; component names and section numbers as in the public draft of December 2023. The
publication says that every component must be examined; the questions are worded here.
"""

from __future__ import annotations

from fedhelp_secure.report.mapping import Framework, Provision

SP_800_226 = Framework(
    "sp-800-226",
    "NIST SP 800-226: the differential privacy pyramid, question by question",
    "From the top of the pyramid (section 2) to its foundation (section 4). Component names and "
    "section numbers follow the public draft of December 2023.",
    (
        Provision(
            "2.2 Epsilon",
            "How large is the privacy loss, and who says so?",
            "Recomputed from each ledger by other code than the ledger's own, against the limit in "
            "the charter.",
            ("charter", "ledgers"),
            "Whether the limit is right for these patients.",
        ),
        Provision(
            "2.3 Variants",
            "Which variant of the definition?",
            "(epsilon, delta), converted from zero-concentrated or Renyi losses; delta is in the "
            "charter.",
            ("charter", "ledgers"),
            "Why this delta was chosen.",
        ),
        Provision(
            "2.4 Unit of privacy",
            "What does one unit of protection cover?",
            "One patient, with all images of that patient up to the charter's number; neighbours "
            "differ by one patient added or removed.",
            ("charter",),
            "A patient known under two identifiers or at two hospitals: losses there add up.",
        ),
        Provision(
            "2.5 Comparing guarantees",
            "Can the figures be compared with others?",
            "Only at the same unit, delta and adjacency: all three are stated.",
            ("charter",),
            "That figures published elsewhere are on the same terms.",
        ),
        Provision(
            "2.6 Other releases",
            "Was anything released without noise?",
            "The log names no release of patients' data but the rounds'; losses under earlier "
            "charters in the same ledgers are listed.",
            ("log", "ledgers"),
            "Releases outside the federation.",
        ),
        Provision(
            "3.1 Algorithms and correctness",
            "Is the mechanism the one stated, with the stated sensitivity?",
            "Mechanism, clipping bound and noise are in the charter and repeated in every debit; "
            "the losses follow from them.",
            ("charter", "ledgers"),
            "That hospitals ran unaltered software; an attack on the installed software is "
            "'fedhelp audit privacy'.",
        ),
        Provision(
            "3.2 Utility",
            "What accuracy is left?",
            "Results before and after as the federation reports them; the hospitals' own word.",
            ("results",),
            "Accuracy on other patients.",
        ),
        Provision(
            "3.3 Bias",
            "Does the noise weigh on small groups?",
            "",
            (),
            "Any measurement by group of patients.",
        ),
        Provision(
            "3.5 Machine learning",
            "Is the composition over rounds counted?",
            "Every round is a debit of its own before it is sent, and debits add up without "
            "rounding down. How parameters were chosen is as the charter declares, if it does.",
            ("ledgers", "charter"),
            "Tuning on patients that nobody declared.",
        ),
        Provision(
            "4.1 Query model",
            "Who may ask what?",
            "A fixed number of rounds of one agreed query; no others can be asked.",
            ("charter", "rounds"),
            "Queries to the hospital's other systems.",
        ),
        Provision(
            "4.2 Threat model",
            "Whom must a patient trust?",
            "Two figures: one holds if aggregator and custodians do not all work together, one "
            "even if they do. The cohort rule names how many contributors may collude.",
            ("charter", "ledgers", "custodians"),
            "That the parties are in fact independent organisations.",
        ),
        Provision(
            "4.3 Side channels",
            "Do timing, arithmetic or randomness leak?",
            "",
            (),
            "Noise is discrete and from the operating system in this software; no bundle can show "
            "that it was so on a hospital's machine.",
        ),
        Provision(
            "4.4 Security",
            "Are data in transit and in the log protected?",
            "Ciphertexts by digest, signed manifests, receipts, a signed checkpoint.",
            ("manifests", "receipts", "checkpoint"),
            "Data at rest at the hospital.",
        ),
        Provision(
            "4.4 Access control",
            "Who could read what?",
            "Keys of all parties, and the custodians' statements of each opening.",
            ("charter", "custodians"),
            "Access on the hospital's own systems.",
        ),
        Provision(
            "4.5 Data collection exposure",
            "Who sees raw data before noise is added?",
            "No raw data is in the bundle; a hospital's contribution is logged by digest alone.",
            ("manifests", "log"),
            "Raw data at the hospital, which is where it stays.",
        ),
    ),
)
