"""A ledger with site limits and a consent, and what a dishonest hospital could make of it.

Two verifiers recompute ledgers without sharing code; both must find every one of `FORGERIES`.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.charters import make_charter_kit

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.policy import SitePolicy
from fedhelp_secure.privacy.consent import CONSENT_KIND, Consent, Period, sign_consent
from fedhelp_secure.privacy.events import KIND
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.privacy.ledger_file import Clock, utc_now
from fedhelp_secure.privacy.records import Consented
from fedhelp_secure.signing import SigningKey, peek_document

KIT = make_charter_kit()
HOSPITAL = "large-1"
KEY = KIT.keys[HOSPITAL]
OFFICER = SigningKey.generate()
YEAR = f"{datetime.now(UTC):%Y}"

CHARTERS = [KIT.charter(name=name) for name in ("first", "second", "third")]
"""Each costs a large hospital epsilon 3, two of them 4.4 and three 5.5."""


def policy_of(**limits: str) -> SitePolicy:
    """A policy with the officer's key and ``limits``, for the data set ``scans`` unless given."""
    defaults = {"consent_key": OFFICER.public.to_base64(), "data_set": "scans"}
    return SitePolicy.model_validate(defaults | limits)


def open_ledger(directory: Path, policy: SitePolicy, *, clock: Clock = utc_now) -> Ledger:
    return Ledger.open(
        directory / "ledger.sqlite",
        hospital=HOSPITAL,
        signing_key=KEY,
        policy=policy,
        clock=clock,
    )


def spend(ledger: Ledger, charter: Charter) -> None:
    for number in range(1, charter.rounds.count + 1):
        ledger.reserve(charter, number)


def consent(
    ledger: Ledger,
    period: str,
    epsilon: str | None = None,
    *,
    collusion: str | None = None,
    key: SigningKey = OFFICER,
) -> Consented:
    entry = ledger.consent(
        Period.parse(period),
        epsilon=epsilon,
        epsilon_collusion=collusion,
        reason="the board agreed on 2026-11-25",
        key=key,
    )
    assert isinstance(entry.record, Consented)
    return entry.record


Documents = list[dict[str, Any]]


def documents_with_consent(directory: Path) -> Documents:
    """A charter that is spent, a consent to a larger lifetime, and a round of the next charter."""
    ledger = open_ledger(directory, policy_of(lifetime_epsilon="3.5", year_epsilon="9"))
    spend(ledger, CHARTERS[0])
    consent(ledger, "lifetime", "4.5")
    ledger.reserve(CHARTERS[1], 1)
    return [entry.record.model_dump(mode="json") for entry in ledger.account().entries]


def signed(documents: Documents) -> list[bytes]:
    """The documents, numbered and chained, signed by the hospital itself."""
    envelopes: list[bytes] = []
    for sequence, document in enumerate(documents):
        document["sequence"] = sequence
        document["previous"] = digest(envelopes[-1]) if envelopes else None
        envelopes.append(KEY.sign_document(KIND, document))
    return envelopes


def resigned(key: SigningKey = OFFICER, **changes: str | None) -> Callable[[Documents], None]:
    def change(documents: Documents) -> None:
        statement = peek_document(CONSENT_KIND, documents[2]["statement"].encode())
        forged = Consent.model_validate({**statement, **changes})
        documents[2]["statement"] = sign_consent(forged, key).decode()

    return change


def one_bit(documents: Documents) -> None:
    envelope = json.loads(documents[2]["statement"])
    signature = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
    signature[0] ^= 1
    envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    documents[2]["statement"] = canonical_json(envelope).decode()


def replayed(documents: Documents) -> None:
    documents.insert(3, copy.deepcopy(documents[2]))


def without_consent(documents: Documents) -> None:
    del documents[2]


def later_than_its_use(documents: Documents) -> None:
    documents[2], documents[3] = documents[3], documents[2]


def at(entry: int, *path: str, value: object) -> Callable[[Documents], None]:
    def change(documents: Documents) -> None:
        place = documents[entry]
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value

    return change


def laxer_file(documents: Documents) -> None:
    del documents[2]
    documents[2]["site"]["lifetime_epsilon"] = "4.5"


def laxer_delta(documents: Documents) -> None:
    for place in ("site", "limits"):
        documents[3][place]["lifetime_delta"] = "1e-5"


def no_larger_budget(documents: Documents) -> None:
    del documents[3]
    resigned(epsilon="3.5")(documents)


def consent_to_the_past(documents: Documents) -> None:
    del documents[3]
    resigned(scope="year", subject="2020", epsilon="10", instead_of="9")(documents)


def own_consent_key(documents: Documents) -> None:
    for document in documents:
        document["site"]["consent_key"] = KEY.public.to_base64()


FORGERIES: list[tuple[str, Callable[[Documents], None]]] = [
    ("no consent by the consent key", resigned(SigningKey.generate())),
    ("no consent by the consent key", resigned(KEY)),
    ("no consent by the consent key", one_bit),
    ("no consent by the consent key", at(2, "statement", value="{}")),
    ("another place", resigned(hospital="large-2")),
    ("another place", resigned(after=digest(b"another ledger"))),
    ("another place", resigned(after=None)),
    ("another place", replayed),
    ("does not count", resigned(instead_of="4")),
    ("does not count", resigned(epsilon="3.5")),
    ("does not count", resigned(scope="year", subject=YEAR)),
    ("does not count", resigned(scope="year", subject="2020")),
    ("year that has passed", consent_to_the_past),
    ("does not count", resigned(instead_of="3")),
    ("raises no limit", no_larger_budget),
    ("other limits", resigned(epsilon="9")),
    ("other limits", without_consent),
    ("other limits", later_than_its_use),
    ("other limits", at(3, "limits", "lifetime_epsilon", value="9")),
    ("other limits", at(3, "limits", "year_epsilon", value="10")),
    ("loosens the site's lifetime_epsilon", laxer_file),
    ("loosens the site's consent_key", at(3, "site", "consent_key", value=None)),
    ("loosens the site's lifetime_delta", laxer_delta),
    ("loosens the site's lifetime_delta", at(3, "site", "lifetime_delta", value="1e-5")),
    ("hospital's own", own_consent_key),
    ("older than the one before", at(2, "recorded_at", value="2020-01-01T00:00:00Z")),
    ("other totals", at(3, "reserved_at", value="2999-01-01T00:00:00Z")),
    ("other totals", at(3, "data_set", value="another")),
    ("other totals", at(3, "totals", "year_rho_aggregate", value="1/1000")),
    ("other totals", at(3, "totals", "data_set_rho_collusion", value="1/1000")),
    ("other totals", at(3, "totals", "lifetime_rho_collusion", value="1/1000")),
    ("other totals", at(3, "totals", "epsilon_fewer_honest", value=["3.000000"])),
    ("not valid", at(3, "attempt", value=2)),
    ("not valid", at(3, "patients", value=250)),
]
