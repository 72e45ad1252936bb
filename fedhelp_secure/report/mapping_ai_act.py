"""EU AI Act (Regulation (EU) 2024/1689), and what of a bundle bears on three articles.

Source: Regulation (EU) 2024/1689 of 13 June 2024 (OJ L, 12.7.2024), as amended by Regulation (EU)
2026/1744 of 8 July 2026 (OJ L, 24.7.2026, in force since 27 July 2026); consolidated text of 27
July 2026, https://eur-lex.europa.eu/eli/reg/2024/1689/2026-07-27/eng. Articles 10, 12 and 15 were
compared with public copies of the text of 2024. The consolidated text was not at hand: of the
amendment, a public transcription of the proposal and of the agreed text (article 1, points 5 and
7), and what three public readers of the adopted text say of it, agree that Article 10(5) is
deleted and re-enacted as Article 4a, that 10(1) and 10(6) refer to it, and when the articles
apply.
"""

from __future__ import annotations

from fedhelp_secure.report.mapping import Framework, Provision

AI_ACT = Framework(
    "ai-act",
    "EU AI Act: evidence bearing on Articles 10, 12 and 15",
    "For high-risk systems; whether a system is one is the provider's to decide. These articles "
    "apply from 2 December 2027 (systems of Annex III) or 2 August 2028 (systems of Annex I, as "
    "medical devices are). What was Article 10(5) is Article 4a since 27 July 2026.",
    "Regulation (EU) 2024/1689 of 13 June 2024, as amended by Regulation (EU) 2026/1744 of 8 July "
    "2026; consolidated text of 27 July 2026, "
    "https://eur-lex.europa.eu/eli/reg/2024/1689/2026-07-27/eng",
    "Articles compared with public copies of the text of 2024; the amendment by what public "
    "readers of it say. The consolidated text was not at hand: paraphrased; check against the "
    "text.",
    (
        Provision(
            "10(2)(a), (b)",
            "Data governance: design choices; collection and origin of data",
            "The agreed task, classes and public image set by digest; each hospital's signed "
            "contribution.",
            ("charter", "manifests"),
            "How images and labels were collected, and for which original purpose.",
        ),
        Provision(
            "10(2)(c)",
            "Preparation of data: annotation, labelling, cleaning",
            "",
            (),
            "How labels were made and checked.",
        ),
        Provision(
            "10(2)(d)",
            "Assumptions about what the data measure",
            "",
            (),
            "The assumptions.",
        ),
        Provision(
            "10(2)(e)",
            "Availability, quantity and suitability of data",
            "The number of public images, and which hospitals contributed.",
            ("charter", "rounds"),
            "How many patients: counts of patients never leave a hospital.",
        ),
        Provision(
            "10(2)(f), (g)",
            "Examination for bias; measures against it",
            "",
            (),
            "Any examination for bias; noise may also weigh on small groups.",
        ),
        Provision("10(2)(h)", "Gaps and shortcomings of the data", "", (), "Any such gaps."),
        Provision(
            "10(3)",
            "Relevant, representative, complete data",
            "Which hospitals, of which group, were in each round.",
            ("rounds", "charter"),
            "Whether their patients represent those on whom the result is used; errors in the "
            "data.",
        ),
        Provision(
            "10(4)",
            "Setting in which the system is used",
            "",
            (),
            "Whether the data reflect that setting.",
        ),
        Provision(
            "4a(1), before: 10(5)",
            "Special categories of data, to detect and correct bias",
            "",
            (),
            "Outside this system: it detects and corrects no bias, and so processes nothing for "
            "that purpose.",
        ),
        Provision(
            "12(1)",
            "Automatic recording of events",
            "An append-only log of the learning's events.",
            ("log", "checkpoint"),
            "Events of the finished system in use, over its lifetime.",
        ),
        Provision(
            "12(2)(a)",
            "Logs: situations of risk, substantial modifications",
            "Refusals, failures and sessions taken over, as recorded.",
            ("incidents",),
            "Risks that arise when the result is used.",
        ),
        Provision(
            "12(2)(b), (c)",
            "Logs: monitoring after placing on the market, and of operation by deployers",
            "",
            (),
            "Monitoring of the result in use.",
        ),
        Provision(
            "12(3)",
            "Logs of remote biometric identification",
            "",
            (),
            "Outside this system: it identifies nobody.",
        ),
        Provision(
            "15(1)",
            "Appropriate accuracy, robustness and cybersecurity",
            "The hospitals' measured results as the federation reports them. Their figures are the "
            "hospitals' word: the verifier cannot recompute them.",
            ("results",),
            "Whether they are appropriate for the intended purpose, and stay so.",
        ),
        Provision(
            "15(2)",
            "Benchmarks and methods of measurement",
            "",
            (),
            "Outside this system: it addresses the Commission.",
        ),
        Provision(
            "15(3)",
            "Declared accuracy and its metrics",
            "The metric and its value before and after, as the federation reports them.",
            ("results",),
            "Instructions for use; accuracy on the patients on whom the result is used.",
        ),
        Provision(
            "15(4)",
            "Robustness against errors and faults; feedback loops",
            "Rounds that were closed without every hospital, or failed, and how.",
            ("rounds",),
            "Robustness of the result in use, and feedback from its use.",
        ),
        Provision(
            "15(5)",
            "Cybersecurity: poisoned data and models, adversarial inputs, confidentiality",
            "Signatures of every party, the log's integrity, one recorded call to the foundation "
            "model, and the agreed noise, which bounds what sums reveal of a patient.",
            ("manifests", "checkpoint", "call", "charter"),
            "Attacks on the finished model; a hospital that contributes poisoned values.",
        ),
    ),
)
