"""A ledger that outlives its hospital's signing key: what its writer and its verifiers follow."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.federation import Federation, copied, make_federation

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, CharterRefused, Hospital
from fedhelp_secure.enrolment.old_keys import OldKeysNeeded, destroy_old_keys
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.evidence.verify_chain import account_of
from fedhelp_secure.privacy.account import check_chain
from fedhelp_secure.privacy.events import KIND
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.privacy.ledger_file import LedgerDamaged, ledger_path, read_account
from fedhelp_secure.signing import SigningKey, peek_document, sign_jointly
from fedhelp_secure.state import StateDirectory

NAME = "small-1"
SENT, SUM = digest(b"a manifest"), digest(b"a sum")


@dataclass(frozen=True, slots=True)
class Told:
    """A ledger of two keys: reserved under the first, then sent and opened under the second."""

    state: StateDirectory
    charter: Charter
    old: SigningKey
    new: SigningKey

    @property
    def ledger(self) -> Ledger:
        return Ledger.of(self.state)

    def lines(self) -> list[bytes]:
        return [entry.envelope for entry in self.ledger.account().entries]

    def named(self, key: SigningKey) -> Hospital:
        """The hospital as a charter names it that pins ``key``."""
        own = self.charter.hospital(NAME)
        return own.model_copy(update={"signing_key": key.public.to_base64()})


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), large=1, small=2)


@pytest.fixture
def told(federation: Federation, tmp_path: Path) -> Told:
    own = copied(federation, tmp_path / "parties")
    state, charter = own.state(NAME), own.charter
    # One object throughout: a node that runs goes on with the ledger that it opened.
    ledger = Ledger.of(state)
    ledger.reserve(charter, 1)
    old = state.signing_key()
    state.adopt(state.next_keys())
    ledger.record(charter, 1, "sent", contribution_digest=SENT)
    ledger.record(
        charter,
        1,
        "opened",
        contribution_digest=SENT,
        contributors=("large-1", NAME),
        sum_digest=SUM,
    )
    return Told(state, charter, old, state.signing_key())


def verify(told: Told, lines: list[bytes], key: SigningKey) -> None:
    """As an auditor whose charter pins ``key`` for this hospital."""
    account_of(b"".join(line + b"\n" for line in lines), told.charter, told.named(key))


def test_entries_after_a_rotation_follow_one_that_both_keys_signed(told: Told) -> None:
    entries = told.ledger.account().entries
    assert [entry.record.status for entry in entries] == ["reserved", "succeeded", "sent", "opened"]
    for key in (told.old, told.new):
        verify(told, told.lines(), key)
    again = told.ledger.reserve(told.charter, 2)
    assert again.record.sequence == 4


def test_a_ledger_goes_on_through_several_keys(told: Told) -> None:
    told.state.adopt(told.state.next_keys())
    told.ledger.reserve(told.charter, 2)
    assert [entry.record.status for entry in told.ledger.account().entries[4:]] == [
        "succeeded",
        "reserved",
    ]
    for key in (told.old, told.new, told.state.signing_key()):
        verify(told, told.lines(), key)


def test_every_key_is_in_the_ledger_also_where_nothing_was_written_under_it(
    federation: Federation, tmp_path: Path
) -> None:
    own = copied(federation, tmp_path / "own")
    state, keys = own.state(NAME), []
    for _ in range(2):
        keys.append(state.signing_key())
        state.adopt(state.next_keys())
    # The ledger begins under the oldest charter, with the third pair of keys.
    Ledger.of(state).reserve(own.charter, 1)
    for _ in range(2):
        keys.append(state.signing_key())
        state.adopt(state.next_keys())
    Ledger.of(state).reserve(own.charter, 2)
    keys.append(state.signing_key())
    told = Told(state, own.charter, keys[0], keys[-1])
    said = [entry.record.status for entry in told.ledger.account().entries]
    assert said == ["succeeded"] * 2 + ["reserved"] + ["succeeded"] * 2 + ["reserved"]
    for key in keys:
        verify(told, told.lines(), key)


def test_a_charter_that_names_none_of_the_keys_is_not_this_ledgers(told: Told) -> None:
    with pytest.raises(FedHelpError, match="no succession leads to or from the key"):
        verify(told, told.lines(), SigningKey.generate())


def signed(documents: list[dict[str, Any]], keys: list[list[SigningKey]]) -> list[bytes]:
    """``documents`` chained anew, each signed by its keys."""
    lines: list[bytes] = []
    for sequence, (document, by) in enumerate(zip(documents, keys, strict=True)):
        previous = digest(lines[-1]) if lines else None
        linked = document | {"sequence": sequence, "previous": previous}
        lines.append(sign_jointly(KIND, linked, by))
    return lines


Documents = list[dict[str, Any]]
Forged = tuple[Documents, list[list[SigningKey]]]
"""Entries, and by whom each is signed."""
Forgery = Callable[[Told, Documents], Forged]


def another_key_gives_way(told: Told, documents: Documents) -> Forged:
    thief = SigningKey.generate()
    return documents, [[told.old], [thief, told.new], [told.new], [told.new]]


def another_key_is_said_to_give_way(told: Told, documents: Documents) -> Forged:
    thief = SigningKey.generate()
    documents[1]["old_key"] = thief.public.to_base64()
    return documents, [[told.old], [thief, told.new], [told.new], [told.new]]


def the_new_key_is_not_held(told: Told, documents: Documents) -> Forged:
    return documents, [[told.old], [told.old], [told.new], [told.new]]


def a_third_signature(told: Told, documents: Documents) -> Forged:
    third = SigningKey.generate()
    return documents, [[told.old], [told.old, told.new, third], [told.new], [told.new]]


def the_old_key_goes_on(told: Told, documents: Documents) -> Forged:
    return documents, [[told.old], [told.old, told.new], [told.old], [told.new]]


def the_new_key_signs_before(told: Told, documents: Documents) -> Forged:
    return documents, [[told.new], [told.old, told.new], [told.new], [told.new]]


def back_to_the_old_key(told: Told, documents: Documents) -> Forged:
    back = documents[1] | {
        "old_key": documents[1]["new_key"],
        "new_key": documents[1]["old_key"],
    }
    return [*documents[:2], back], [[told.old], [told.old, told.new], [told.new, told.old]]


def the_consent_key_succeeds(told: Told, documents: Documents) -> Forged:
    documents[0]["site"]["consent_key"] = told.new.public.to_base64()
    return documents, [[told.old], [told.old, told.new], [told.new], [told.new]]


def the_old_key_consents(told: Told, documents: Documents) -> Forged:
    debit = documents[0] | {"site": documents[0]["site"] | {}}
    debit["site"]["consent_key"] = told.old.public.to_base64()
    succession = documents[1] | {"recorded_at": debit["reserved_at"]}
    return [succession, debit], [[told.old, told.new], [told.new]]


NOT_SIGNED = "the ledger-entry is not signed by"
FORGERIES = {
    another_key_gives_way: f"entry 1: {NOT_SIGNED}",
    another_key_is_said_to_give_way: f"entry 0: {NOT_SIGNED}",
    the_new_key_is_not_held: f"entry 1: {NOT_SIGNED}",
    a_third_signature: "entry 1: the ledger-entry is signed by others than it must be",
    the_old_key_goes_on: f"entry 2: {NOT_SIGNED}",
    the_new_key_signs_before: f"entry 0: {NOT_SIGNED}",
    back_to_the_old_key: "entry 2 goes back to a key it had given up",
    the_consent_key_succeeds: "entry 1: the consent key is one of the hospital's own",
    the_old_key_consents: "entry 1: the consent key is one of the hospital's own",
}
"""And what an auditor is told."""


def test_what_was_told_again_unchanged_verifies(told: Told) -> None:
    documents = [peek_document(KIND, line) for line in told.lines()]
    keys = [[told.old], [told.old, told.new], [told.new], [told.new]]
    again = signed(documents, keys)
    assert again == told.lines()


@pytest.mark.parametrize(("forge", "why"), FORGERIES.items())
def test_a_forged_succession_is_refused_by_writer_and_verifier(
    told: Told, forge: Forgery, why: str
) -> None:
    documents = [peek_document(KIND, line) for line in told.lines()]
    lines = signed(*forge(told, documents))
    own = (told.old.public, told.new.public)
    with pytest.raises(FedHelpError):
        check_chain(lines, hospital=NAME, keys=own)
    for key in (told.old, told.new):
        with pytest.raises(FedHelpError, match=why):
            verify(told, lines, key)


def test_a_ledger_that_was_handed_to_a_stranger_is_not_written_on(told: Told) -> None:
    thief = SigningKey.generate()
    head = told.ledger.account().entries[-1]
    stolen = peek_document(KIND, told.lines()[1]) | {
        "sequence": 4,
        "previous": head.digest,
        "old_key": told.new.public.to_base64(),
        "new_key": thief.public.to_base64(),
        "recorded_at": head.record.at,
    }
    envelope = sign_jointly(KIND, stolen, [told.new, thief])
    with sqlite3.connect(ledger_path(told.state)) as connection:
        connection.execute("INSERT INTO entries VALUES (4, ?)", (envelope,))
    with pytest.raises(LedgerDamaged):
        read_account(ledger_path(told.state), hospital=NAME, keys=told.state.verifying_keys())


def test_the_ledger_is_read_also_between_rotation_and_the_next_entry(told: Told) -> None:
    told.state.adopt(told.state.next_keys())
    keys = told.state.verifying_keys()
    assert len(keys) == 3
    account = read_account(ledger_path(told.state), hospital=NAME, keys=keys)
    assert account.key == told.new.public


def test_destroying_old_keys_hands_the_ledger_over_first(told: Told) -> None:
    told.state.adopt(told.state.next_keys())
    assert [each.number for each in destroy_old_keys(told.state)] == [1, 2]
    account = told.ledger.account()
    assert account.key == told.state.signing_key().public
    assert account.entries[-1].record.status == "succeeded"
    verify(told, told.lines(), told.old)
    # The charter of the destroyed key is over here.
    with pytest.raises(CharterRefused, match="another signing key"):
        told.ledger.reserve(told.charter, 2)


def test_old_keys_stay_while_a_sum_may_still_come(told: Told) -> None:
    told.ledger.reserve(told.charter, 2)
    with pytest.raises(OldKeysNeeded, match="round 2 of charter"):
        destroy_old_keys(told.state)
    assert told.state.signing_key_for(told.old.public).public == told.old.public
    assert destroy_old_keys(told.state, abandon=True)


def test_base64_of_a_key_is_its_one_spelling(told: Told) -> None:
    # What a succession names is compared as text: another spelling must be no other key.
    documents = [peek_document(KIND, line) for line in told.lines()]
    raw = base64.b64decode(documents[1]["new_key"])
    text = documents[1]["new_key"]
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    spelt = text[:-2] + last[last.index(text[-2]) ^ 1] + "="
    assert base64.b64decode(spelt) == raw
    documents[1]["new_key"] = spelt
    lines = signed(documents, [[told.old], [told.old, told.new], [told.new], [told.new]])
    with pytest.raises(FedHelpError, match="new_key"):
        verify(told, lines, told.old)
