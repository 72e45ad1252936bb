"""A hospital that signs a false ledger is found out by anyone who recomputes it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from pydantic import ValidationError
from support.charters import make_charter_kit

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import CharterRefused
from fedhelp_secure.privacy.account import Account, check_chain, check_under_charter
from fedhelp_secure.privacy.budgets import Place
from fedhelp_secure.privacy.events import (
    KIND,
    GaussianEvent,
    LedgerRefused,
    decimal_text,
    event_of,
)
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.privacy.records import open_entry

KIT = make_charter_kit()
HOSPITAL = "large-1"
KEY = KIT.keys[HOSPITAL]
CHARTER = KIT.charter(rounds={"count": 3})


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """An honest ledger: two rounds reserved, the first sent and opened."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    ledger = Ledger.open(path, hospital=HOSPITAL, signing_key=KEY)
    ledger.reserve(CHARTER, 1)
    ledger.record(CHARTER, 1, "sent", contribution_digest=digest(b"c"))
    ledger.record(
        CHARTER,
        1,
        "opened",
        contribution_digest=digest(b"c"),
        contributors=("large-1", "small-1"),
        sum_digest=digest(b"sum"),
    )
    ledger.reserve(CHARTER, 2)
    return [entry.record.model_dump(mode="json") for entry in ledger.account().entries]


def signed(documents: list[dict[str, Any]], *, first: int = 0) -> list[bytes]:
    """The documents signed anew by the hospital itself, linked, numbered from ``first``."""
    envelopes: list[bytes] = []
    for sequence, document in enumerate(documents, start=first):
        document["sequence"] = sequence
        document["previous"] = digest(envelopes[-1]) if envelopes else None
        envelopes.append(KEY.sign_document(KIND, document))
    return envelopes


def check(envelopes: list[bytes]) -> Account:
    account = check_chain(envelopes, hospital=HOSPITAL, keys=[KEY.public])
    check_under_charter(account, CHARTER)
    return account


def test_the_honest_ledger_passes(documents: list[dict[str, Any]]) -> None:
    assert len(check(signed(copy.deepcopy(documents))).entries) == 4


Lie = Callable[[list[dict[str, Any]]], None]


def set_totals(name: str, value: str) -> Lie:
    def lie(documents: list[dict[str, Any]]) -> None:
        documents[3]["totals"][name] = value

    return lie


def set_field(name: str, value: object) -> Lie:
    def lie(documents: list[dict[str, Any]]) -> None:
        documents[3][name] = value

    return lie


def remove(index: int) -> Lie:
    def lie(documents: list[dict[str, Any]]) -> None:
        del documents[index]

    return lie


def repeat(index: int) -> Lie:
    def lie(documents: list[dict[str, Any]]) -> None:
        documents.append(copy.deepcopy(documents[index]))

    return lie


def less_sensitive(documents: list[dict[str, Any]]) -> None:
    """A coherent entry for a smaller clip than the charter's."""
    charter = KIT.charter(
        rounds={"count": 3},
        privacy={"clip_units": 1000, "sigma_units": CHARTER.privacy.sigma_units},
    )
    event = event_of(charter, HOSPITAL)
    del documents[1:]
    place = Place(CHARTER.digest, documents[0]["reserved_at"][:4], documents[0]["data_set"])
    totals = Account(HOSPITAL).totals_after(place, event, "1e-6")
    documents[0]["event"] = event.model_dump(mode="json")
    documents[0]["rho_aggregate"] = totals.rho_aggregate
    documents[0]["rho_collusion"] = totals.rho_collusion
    documents[0]["totals"] = totals.model_dump(mode="json")


LIES: dict[str, Lie] = {
    "cumulative rho": set_totals("rho_aggregate", "1/1000"),
    "cumulative collusion rho": set_totals("rho_collusion", "1/1000"),
    "epsilon": set_totals("epsilon_aggregate", "0.100000"),
    "epsilon of collusion": set_totals("epsilon_collusion", "0.100000"),
    "lifetime": set_totals("lifetime_rho_aggregate", "1/1000"),
    "negative rho": set_field("rho_aggregate", "-1/1000"),
    "division by zero": set_field("rho_aggregate", "1/0"),
    "rho of the round": set_field("rho_aggregate", "1/1000"),
    "collusion rho of the round": set_field("rho_collusion", "1/1000"),
    "delta": set_field("delta", "1e-2"),
    "group": set_field("group", "small"),
    "federation": set_field("federation", "other"),
    "round after the last": set_field("round", 4),
    "the same round again": set_field("round", 1),
    "hospital": set_field("hospital", "large-2"),
    "field of another version": set_field("version", 2),
    "field that is not ours": set_field("patients", 250),
    "laxer limit": set_field(
        "limits",
        {
            "epsilon": "900",
            "epsilon_collusion": None,
            "lifetime_epsilon": None,
            "lifetime_delta": "1e-6",
        },
    ),
    "limit already broken": set_field(
        "limits",
        {
            "epsilon": "0.5",
            "epsilon_collusion": None,
            "lifetime_epsilon": None,
            "lifetime_delta": "1e-6",
        },
    ),
    "another sum before it": set_field("previous_aggregate", digest(b"another sum")),
    "first reservation left out": remove(0),
    "opened without sent": remove(1),
    "reserved twice": repeat(0),
    "opened twice": repeat(2),
    "parameters of another charter": less_sensitive,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_false_ledger_is_found_out(documents: list[dict[str, Any]], lie: Lie) -> None:
    false = copy.deepcopy(documents)
    lie(false)
    with pytest.raises(LedgerRefused):
        check(signed(false))


@pytest.mark.parametrize("index", range(3))
def test_a_gap_or_a_replaced_entry_breaks_the_chain(
    documents: list[dict[str, Any]], index: int
) -> None:
    envelopes = signed(copy.deepcopy(documents))
    with pytest.raises(LedgerRefused):
        check(envelopes[:index] + envelopes[index + 1 :])
    changed = copy.deepcopy(documents)
    name = "reserved_at" if changed[index]["status"] == "reserved" else "recorded_at"
    changed[index][name] = "2999-01-01T00:00:00Z"
    replaced = signed(changed)[index]
    with pytest.raises(LedgerRefused, match="broken"):
        check([*envelopes[:index], replaced, *envelopes[index + 1 :]])


def test_a_ledger_that_does_not_begin_at_its_beginning_is_found_out(
    documents: list[dict[str, Any]],
) -> None:
    with pytest.raises(LedgerRefused, match="broken"):
        check(signed(copy.deepcopy(documents), first=1))
    with pytest.raises(LedgerRefused, match="broken"):
        check(signed(copy.deepcopy(documents))[3:])


def test_a_refused_entry_leaves_the_account_as_it_was(documents: list[dict[str, Any]]) -> None:
    envelopes = signed(copy.deepcopy(documents))
    account = check(envelopes[:3])
    before = (account.head, account.spent)
    false = copy.deepcopy(documents)
    false[3]["totals"]["epsilon_aggregate"] = "0.000001"
    with pytest.raises(LedgerRefused):
        account.add(open_entry(signed(false)[3], KEY.public))
    assert (account.head, account.spent) == before
    account.add(open_entry(envelopes[3], KEY.public))


def test_another_charters_entries_do_not_count(documents: list[dict[str, Any]]) -> None:
    account = check(signed(copy.deepcopy(documents)))
    other = KIT.charter(name="other")
    assert check_under_charter(account, other).epsilon_aggregate == 0
    with pytest.raises(CharterRefused):
        check_under_charter(Account("nobody"), CHARTER)


EVENT = event_of(CHARTER, HOSPITAL).model_dump()


@pytest.mark.parametrize(
    "changes",
    [
        {"honest_shares": EVENT["honest_shares"] + 1},
        {"share_units": EVENT["share_units"] - 1},
        {"sigma_units": 2 * EVENT["sigma_units"]},
        {"weight": 0},
        {"clip_units": 0},
        {"colluders": 0, "honest_shares": 5},
        {"unit": "image"},
        {"adjacency": "replace-one"},
        {"mechanism": "unknown"},
        {"mechanism": "dp_sgd"},
        {"mechanism": "logit_noise"},
        {"sampling": "poisson"},
        {"rule": "whole-matrix"},
        {"sensitivity": f"{EVENT['clip_units'] - 1}/1"},
        {"sensitivity": f"{2 * EVENT['clip_units']}/2"},
    ],
)
def test_an_event_that_does_not_hold_together_is_refused(changes: dict[str, Any]) -> None:
    GaussianEvent(**EVENT)
    with pytest.raises(ValidationError):
        GaussianEvent(**{**EVENT, **changes})


def test_losses_of_an_event_are_the_charters() -> None:
    for hospital in ("large-1", "small-1"):
        event = event_of(CHARTER, hospital)
        group = CHARTER.hospital(hospital).group
        assert isinstance(event, GaussianEvent)
        assert event.rho_aggregate == CHARTER.round_rho(group)
        assert event.rho_collusion == CHARTER.round_rho_collusion(group)


def test_epsilons_are_written_exactly() -> None:
    assert decimal_text(Fraction(0)) == "0.000000"
    assert decimal_text(Fraction(3)) == "3.000000"
    assert decimal_text(Fraction(1234567, 10**6)) == "1.234567"
    with pytest.raises(ValueError, match="six decimals"):
        decimal_text(Fraction(1, 3))
