"""GDPR (Regulation (EU) 2016/679), and what of a bundle bears on five of its articles.

Subjects are short names, not the text of the provision.
"""

from __future__ import annotations

from fedhelp_secure.report.mapping import Framework, Provision

GDPR = Framework(
    "gdpr",
    "GDPR: Articles 5, 25, 30, 32 and 35",
    "Regulation (EU) 2016/679. Whether released sums are personal data is a legal question that "
    "this report does not answer.",
    (
        Provision(
            "5(1)(a)",
            "Lawfulness, fairness, transparency",
            "",
            (),
            "The legal basis, and what patients were told.",
        ),
        Provision(
            "5(1)(b)",
            "Purpose limitation",
            "The agreed task and purpose, signed before the first round, and one charter in the "
            "whole log.",
            ("charter", "adoption"),
            "What a recipient does with the result afterwards.",
        ),
        Provision(
            "5(1)(c)",
            "Data minimisation",
            "What was released: sums over a cohort, of a fixed number of values, with noise of the "
            "agreed scale; no image or label is in the bundle.",
            ("charter", "rounds", "ledgers", "index"),
            "Which patients were chosen, and whether fewer would have done.",
        ),
        Provision(
            "5(1)(d)", "Accuracy", "", (), "That images and labels are right and up to date."
        ),
        Provision(
            "5(1)(e)",
            "Storage limitation",
            "The agreed retention in days; the custodians' statements of how long keys were "
            "in use.",
            ("charter", "epochs"),
            "That hospitals and recipients delete when it has passed.",
        ),
        Provision(
            "5(1)(f)",
            "Integrity and confidentiality",
            "Signed and logged contributions, opened only as sums over a cohort, by the "
            "custodians' own statements.",
            ("manifests", "custodians"),
            "Security of the hospital's own systems.",
        ),
        Provision(
            "5(2)",
            "Accountability",
            "The whole signed bundle, which anybody can verify offline.",
            ("index", "checkpoint"),
            "Policies and decisions outside the federation.",
        ),
        Provision(
            "25(1)",
            "Data protection by design",
            "The privacy budget, noise and cohort rule agreed before the first round, and debits "
            "made before every release.",
            ("charter", "ledgers"),
            "The state of the art and the cost that were weighed.",
        ),
        Provision(
            "25(2)",
            "Data protection by default",
            "Nothing is opened below the charter's cohort: every opened round lists its members.",
            ("charter", "rounds"),
            "Defaults of the hospital's other systems.",
        ),
        Provision(
            "30(1)(a), (d)",
            "Records: controllers and recipients",
            "The parties by name and role; the charter's hospitals are the agreed recipients.",
            ("charter",),
            "Their legal names, representatives and data protection officers.",
        ),
        Provision(
            "30(1)(b), (c)",
            "Records: purposes and categories",
            "The purpose, the task and its classes.",
            ("charter",),
            "Categories of patients and of data beyond that.",
        ),
        Provision(
            "30(1)(e)", "Records: transfers to third countries", "", (), "Where parties are."
        ),
        Provision(
            "30(1)(f)",
            "Records: time limits for erasure",
            "The agreed retention in days.",
            ("charter",),
            "Time limits for the hospital's own data.",
        ),
        Provision(
            "30(1)(g)",
            "Records: description of security measures",
            "The agreed encryption, noise, cohorts and custodians.",
            ("charter",),
            "Measures outside the federation.",
        ),
        Provision(
            "32(1)(a)",
            "Pseudonymisation and encryption",
            "The agreed parameters, and ciphertexts by digest.",
            ("charter", "manifests"),
            "Encryption at rest at the hospital.",
        ),
        Provision(
            "32(1)(b)",
            "Confidentiality, integrity, availability, resilience",
            "The log's integrity; rounds that failed, and why.",
            ("checkpoint", "rounds"),
            "Availability of the services over time.",
        ),
        Provision("32(1)(c)", "Restoring availability", "", (), "Backups and their tests."),
        Provision(
            "32(1)(d)",
            "Regular testing",
            "The verifier's steps, run on this bundle.",
            ("index",),
            "Tests of other measures, and their regularity.",
        ),
        Provision(
            "35(7)(a)",
            "Impact assessment: description of the processing",
            "The charter, the rounds and who took part.",
            ("charter", "rounds"),
            "The assessment itself.",
        ),
        Provision(
            "35(7)(b)",
            "Impact assessment: necessity and proportionality",
            "",
            (),
            "The argument that the processing is needed.",
        ),
        Provision(
            "35(7)(c)",
            "Impact assessment: risks to people",
            "Bounds on what can be learnt about one patient, recomputed under two assumptions.",
            ("ledgers",),
            "Other risks to patients, and how likely and severe they are.",
        ),
        Provision(
            "35(7)(d)",
            "Impact assessment: measures",
            "The measures agreed in the charter and the record that they were followed.",
            ("charter", "ledgers", "custodians"),
            "Measures outside the federation.",
        ),
        Provision("35(2), (9)", "Advice of the officer; views of patients", "", (), "Both."),
    ),
)
