"""EU AI Act (Regulation (EU) 2024/1689), and what of a bundle bears on three articles.

Subjects are short names, not the text of the provision.
"""

from __future__ import annotations

from fedhelp_secure.report.mapping import Framework, Provision

AI_ACT = Framework(
    "ai-act",
    "EU AI Act: Articles 10, 12 and 15",
    "Regulation (EU) 2024/1689, for high-risk systems. Whether a system is one is the provider's "
    "to decide.",
    (
        Provision(
            "10(2)(a), (b)",
            "Data governance: design choices, origin of data",
            "The agreed task, classes and public image set by digest; each hospital's signed "
            "contribution.",
            ("charter", "manifests"),
            "How images and labels were collected.",
        ),
        Provision(
            "10(2)(c)", "Data preparation, labelling", "", (), "How labels were made and checked."
        ),
        Provision(
            "10(2)(f), (g)",
            "Examination for bias",
            "",
            (),
            "Any examination for bias; noise may also weigh on small groups.",
        ),
        Provision(
            "10(3)",
            "Relevant and representative data",
            "Which hospitals, of which group, were in each round.",
            ("rounds", "charter"),
            "Whether their patients represent those on whom the result is used.",
        ),
        Provision(
            "10(5)",
            "Special categories: safeguards",
            "Noise, cohort rule and budget, with the recomputed loss.",
            ("charter", "ledgers"),
            "Whether the paragraph applies.",
        ),
        Provision(
            "12(1)",
            "Automatic recording of events",
            "An append-only log of the learning's events.",
            ("log", "checkpoint"),
            "Events of the finished system in use.",
        ),
        Provision(
            "12(2)(a)",
            "Logs: situations of risk",
            "Refusals, failures and sessions taken over, as recorded.",
            ("incidents",),
            "Risks that arise when the result is used.",
        ),
        Provision(
            "12(2)(b), (c)",
            "Logs: monitoring after placing on the market",
            "",
            (),
            "Monitoring of the result in use.",
        ),
        Provision(
            "15(1), (3)",
            "Accuracy and its declaration",
            "The hospitals' measured results as the federation reports them. Their figures are the "
            "hospitals' word: the verifier cannot recompute them.",
            ("results",),
            "Accuracy on the patients on whom the result is used.",
        ),
        Provision(
            "15(4)",
            "Robustness",
            "Rounds that were closed without every hospital, or failed, and how.",
            ("rounds",),
            "Robustness of the result in use, and against poisoned data.",
        ),
        Provision(
            "15(5)",
            "Cybersecurity",
            "Signatures of every party, the log's integrity, one recorded call to the foundation "
            "model.",
            ("manifests", "checkpoint", "call"),
            "Attacks on the finished model.",
        ),
    ),
)
