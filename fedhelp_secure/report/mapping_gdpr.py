"""GDPR (Regulation (EU) 2016/679), and what of a bundle bears on five of its articles.

Source: Regulation (EU) 2016/679 of 27 April 2016 (OJ L 119, 4.5.2016, p. 1), with the corrigendum
of 23 May 2018; https://eur-lex.europa.eu/eli/reg/2016/679/oj. Articles 5(1), 5(2), 25(1), 25(2),
30(1), 30(2), 32(1) and 35(1), (2), (3), (7), (9) were compared with public copies of that text.
The proposal COM(2025) 837 of 19 November 2025 would amend the GDPR; it was not found adopted.
"""

from __future__ import annotations

from fedhelp_secure.report.mapping import Framework, Provision

GDPR = Framework(
    "gdpr",
    "GDPR: evidence bearing on Articles 5, 25, 30, 32 and 35",
    "Whether released sums are personal data, and who is controller and who processor, are legal "
    "questions that this report does not answer.",
    "Regulation (EU) 2016/679 of 27 April 2016, OJ L 119, 4.5.2016, with the corrigendum of 23 May "
    "2018; https://eur-lex.europa.eu/eli/reg/2016/679/oj",
    "Compared with public copies of the text. The proposed amendment COM(2025) 837 was not found "
    "adopted: check whether it is.",
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
            "The agreed task, and the purpose of the call to the foundation model, signed before "
            "the first round; one charter in the whole log.",
            ("charter", "adoption"),
            "The purposes for which the images were collected; what a recipient does with the "
            "result afterwards.",
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
            "Data protection by default: amount, extent, storage, accessibility",
            "Nothing is opened below the charter's cohort, and every opened round lists its "
            "members; how many numbers a release has, and the agreed retention.",
            ("charter", "rounds"),
            "Defaults of the hospital's other systems.",
        ),
        Provision(
            "30(1)(a), (d)",
            "Controller's record: names and recipients",
            "The parties by name and role; the charter's hospitals are the agreed recipients.",
            ("charter",),
            "Legal names and contacts, representatives, data protection officers.",
        ),
        Provision(
            "30(1)(b), (c)",
            "Controller's record: purposes; categories of people and data",
            "The task, its classes and the purpose of the call to the foundation model.",
            ("charter",),
            "Categories of patients and of data beyond that.",
        ),
        Provision("30(1)(e)", "Controller's record: third countries", "", (), "Where parties are."),
        Provision(
            "30(1)(f)",
            "Controller's record: time limits for erasure",
            "The agreed retention in days.",
            ("charter",),
            "Time limits for the hospital's own data.",
        ),
        Provision(
            "30(1)(g)",
            "Controller's record: description of security measures",
            "The agreed encryption, noise, cohorts and custodians.",
            ("charter",),
            "Measures outside the federation.",
        ),
        Provision(
            "30(2)",
            "Processor's record",
            "Which party had which role, and the rounds in which it acted.",
            ("charter", "rounds"),
            "Which party is a processor, for whom, and its own record.",
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
        Provision(
            "32(1)(c)",
            "Restoring availability and access",
            "",
            (),
            "Backups and their tests.",
        ),
        Provision(
            "32(1)(d)",
            "Regular testing, assessing and evaluating",
            "The verifier's steps, run on this bundle.",
            ("index",),
            "Tests of other measures, and their regularity.",
        ),
        Provision(
            "35(1), (3)",
            "Whether an impact assessment is required",
            "",
            (),
            "That judgement; health data on a large scale are one of the cases of paragraph 3.",
        ),
        Provision(
            "35(7)(a)",
            "Impact assessment: description of operations and purposes",
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
        Provision(
            "35(2), (9)",
            "Advice of the data protection officer; views of data subjects",
            "",
            (),
            "Both.",
        ),
        Provision("35(11)", "Review when the risk changes", "", (), "Reviews."),
    ),
)
