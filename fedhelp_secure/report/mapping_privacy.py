"""NIST SP 800-226: its sections and privacy hazards, each asked as a question and answered.

Source: NIST SP 800-226, Guidelines for Evaluating Differential Privacy Guarantees (Near, Darais,
Lefkovitz, Howarth), final, March 2025, https://doi.org/10.6028/NIST.SP.800-226. Its text was not
at hand. Sections 2.1 to 3.4 and the fourteen hazards are as public readers of the final text list
them: a rule set with the section of every hazard, and two articles that quote sections 2.1, 2.2,
2.4 and 2.5. Sections 3.5 to 3.7 were known from the draft of December 2023 and not confirmed.
Components of the pyramid below the algorithms are named as such readers name them, and numbered
"4" without a second number, which nobody confirmed. The questions are worded here.
"""

from __future__ import annotations

from fedhelp_secure.report.mapping import Framework, Provision

SP_800_226 = Framework(
    "sp-800-226",
    "NIST SP 800-226: evidence bearing on its sections and privacy hazards, question by question",
    "From the top of the differential privacy pyramid (section 2) to its foundation (section 4). "
    "H1 to H14 are the publication's privacy hazards, in its order. The questions are worded here.",
    "NIST SP 800-226, Guidelines for Evaluating Differential Privacy Guarantees, final, March "
    "2025; https://doi.org/10.6028/NIST.SP.800-226",
    "The text was not at hand. Sections 2 and 3 and the hazards as public readers of the final "
    "text list them; 3.5 to 3.7 as in the draft of December 2023, unconfirmed; second numbers in "
    "section 4 left out. Paraphrased; check against the text.",
    (
        Provision(
            "2.1 Composition",
            "Do all releases count against one budget?",
            "Every round is a debit of its own before it is sent, and debits add up without "
            "rounding down, earlier charters of the same ledger included.",
            ("ledgers",),
            "Releases that are not in the ledger.",
        ),
        Provision(
            "2.2 Epsilon (H1)",
            "How large is the privacy loss, who says so, and is it small enough to mean something?",
            "Recomputed from each ledger by other code than the ledger's own, against the limit in "
            "the charter; what the figure means is said under privacy budgets.",
            ("charter", "ledgers"),
            "Whether the limit is right for these patients.",
        ),
        Provision(
            "2.3 Variants (H2)",
            "Which variant of the definition, and is delta small enough?",
            "(epsilon, delta), converted from zero-concentrated or Renyi losses; delta is in the "
            "charter, with its meaning as odds under privacy budgets.",
            ("charter", "ledgers"),
            "Why this delta was chosen; it is to be far below one over the number of patients, "
            "which no bundle names.",
        ),
        Provision(
            "2.4 Unit (H3)",
            "Are events protected, or people?",
            "People: one patient with all images of that patient, up to the charter's number.",
            ("charter",),
            "A patient known under two identifiers.",
        ),
        Provision(
            "2.4 Unit (H4)",
            "Are the data sets that are to be indistinguishable neighbours?",
            "Neighbours differ by one patient added or removed: whether a patient took part is "
            "what is protected.",
            ("charter",),
            "Secrets of groups of patients, of whole hospitals, or that hold for patients in "
            "general.",
        ),
        Provision(
            "2.4 Unit (H5)",
            "Is the unit at least one person?",
            "The charter's unit is the patient, and its form allows no other.",
            ("charter",),
            "A patient of two hospitals: losses there add up.",
        ),
        Provision(
            "2.5 Comparing (H6)",
            "Are figures compared at one delta?",
            "One delta for all hospitals of a charter.",
            ("charter",),
            "Figures published elsewhere, at another delta.",
        ),
        Provision(
            "2.5 Comparing (H7)",
            "Are figures compared at one unit of privacy?",
            "One unit and one adjacency for all hospitals of a charter.",
            ("charter",),
            "Figures published elsewhere, for another unit.",
        ),
        Provision(
            "2.5 Comparing (H8)",
            "Are the parameters given from which figures were converted?",
            "Clipping bound and noise in the charter, and in every debit the loss before "
            "conversion.",
            ("charter", "ledgers"),
            "How figures published elsewhere were converted.",
        ),
        Provision(
            "2.6 Other releases (H9)",
            "Was anything released without noise?",
            "The log names no release of patients' data but the rounds'.",
            ("log", "ledgers"),
            "Releases outside the federation. Results on the public test images that hospitals "
            "report (report/report.json) are measured on models that saw patients.",
        ),
        Provision(
            "3.1 Mechanisms (H10)",
            "Is the mechanism the one stated, and its implementation a tested one?",
            "Mechanism, clipping bound and noise are in the charter and repeated in every debit, "
            "with the library and version of the sampler and its source of randomness, by the "
            "hospital's word.",
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
            "3.3 Systemic bias (H11)",
            "Does the noise weigh on small groups?",
            "",
            (),
            "Any measurement by group of patients.",
        ),
        Provision(
            "3.3 Human bias (H12)",
            "Do people correct results in a way that biases them?",
            "",
            (),
            "What hospitals do with the result.",
        ),
        Provision(
            "3.3 Statistical bias (H13)",
            "Does the mechanism bias what it releases?",
            "The clipping bound, which shortens large contributions, is in the charter.",
            ("charter",),
            "How many contributions it shortens: fractions clipped are never written down.",
        ),
        Provision(
            "3.4 Queries (H14)",
            "Is one person's contribution bounded, and the noise set for that bound?",
            "The most images of one patient that count, the clipping bound and the noise are in "
            "the charter; the losses follow from them.",
            ("charter", "ledgers"),
            "That a hospital grouped images by patient correctly.",
        ),
        Provision(
            "3.5 Machine learning",
            "Are all rounds of learning, and the choice of parameters, counted?",
            "Every round is a debit. How parameters were chosen is as the charter declares, if it "
            "does.",
            ("ledgers", "charter"),
            "Tuning on patients that nobody declared.",
        ),
        Provision(
            "3.6 Synthetic data",
            "Are synthetic data released?",
            "",
            (),
            "Outside this system: none are made.",
        ),
        Provision(
            "3.7 Unstructured data",
            "Are images or texts released?",
            "A release is the agreed number of numbers, with noise; no image of a patient is in "
            "the bundle.",
            ("charter", "manifests"),
            "That the public images show nobody who must be protected.",
        ),
        Provision(
            "4 Query model",
            "Who may ask what?",
            "A fixed number of rounds of one agreed query; no others can be asked.",
            ("charter", "rounds"),
            "Queries to the hospital's other systems.",
        ),
        Provision(
            "4 Trust model",
            "Whom must a patient trust?",
            "Two figures: one holds if aggregator and custodians do not all work together, one "
            "even if they do. The cohort rule names how many contributors may collude.",
            ("charter", "ledgers", "custodians"),
            "That the parties are in fact independent organisations.",
        ),
        Provision(
            "4 Arithmetic",
            "Do rounding and floating point leak?",
            "Clipping bound and noise are whole numbers of grid units, so that the noise is "
            "discrete.",
            ("charter",),
            "That a hospital's machine computed as agreed.",
        ),
        Provision(
            "4 Side channels",
            "Do timing or the source of randomness leak?",
            "",
            (),
            "Both, on a hospital's machine: no bundle can show them. Times in the log are those of "
            "rounds, not of computations.",
        ),
        Provision(
            "4 Security",
            "Are data in transit and in the log protected?",
            "Ciphertexts by digest, signed manifests, receipts, a signed checkpoint.",
            ("manifests", "receipts", "checkpoint"),
            "Data at rest at the hospital.",
        ),
        Provision(
            "4 Access control",
            "Who could read what?",
            "Keys of all parties, and the custodians' statements of each opening.",
            ("charter", "custodians"),
            "Access on the hospital's own systems.",
        ),
        Provision(
            "4 Data collection exposure",
            "Who sees raw data before noise is added?",
            "No raw data is in the bundle; a hospital's contribution is logged by digest alone.",
            ("manifests", "log"),
            "Raw data at the hospital, which is where it stays.",
        ),
    ),
)
