from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
from pydantic import ValidationError
from support.charters import make_charter_kit

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import Charter, CharterRefused
from fedhelp_secure.errors import FedHelpError, SignatureRefused
from fedhelp_secure.policy import SitePolicy, SitePolicyRefuses
from fedhelp_secure.privacy.account import check_chain, check_under_charter
from fedhelp_secure.privacy.accountant import epsilon_of_rho
from fedhelp_secure.privacy.events import event_of
from fedhelp_secure.privacy.ledger import (
    AlreadyReserved,
    BudgetExhausted,
    Ledger,
    LimitLoosened,
    NotRecorded,
)
from fedhelp_secure.privacy.ledger_file import LedgerDamaged
from fedhelp_secure.privacy.records import (
    Aborted,
    LedgerEntry,
    Limits,
    Outcome,
    Reservation,
    open_entry,
)
from fedhelp_secure.signing import SigningKey

KIT = make_charter_kit()
HOSPITAL = "small-1"
CONTRIBUTION = digest(b"a manifest")
SUM = digest(b"a sum")


def open_ledger(
    directory: Path, *, policy: SitePolicy | None = None, hospital: str = HOSPITAL
) -> Ledger:
    return Ledger.open(
        directory / "ledger.sqlite",
        hospital=hospital,
        signing_key=KIT.keys[hospital],
        policy=policy,
    )


def lines(ledger: Ledger, directory: Path) -> list[bytes]:
    ledger.export(directory / "export.jsonl")
    return (directory / "export.jsonl").read_bytes().splitlines()


def opened_round(
    ledger: Ledger, charter: Charter, number: int, *, contribution: str = CONTRIBUTION
) -> LedgerEntry:
    return ledger.record(
        charter,
        number,
        "opened",
        contribution_digest=contribution,
        contributors=("large-1", HOSPITAL),
        sum_digest=SUM,
    )


def unchanged(ledger: Ledger, before: int) -> None:
    assert len(ledger.account().entries) == before


def test_a_debit_is_signed_chained_and_states_both_losses(tmp_path: Path) -> None:
    charter = KIT.charter()
    ledger = open_ledger(tmp_path)
    entries = [ledger.reserve(charter, number) for number in (1, 2)]
    for number, entry in enumerate(entries, start=1):
        record = open_entry(entry.envelope, KIT.keys[HOSPITAL].public).record
        assert isinstance(record, Reservation)
        assert (record.charter, record.round, record.hospital) == (charter.digest, number, HOSPITAL)
        assert record.event == event_of(charter, HOSPITAL)
        assert record.previous == (entries[0].digest if number == 2 else None)
        aggregate = number * charter.round_rho("small")
        collusion = number * charter.round_rho_collusion("small")
        assert Fraction(record.totals.rho_aggregate) == aggregate
        assert Fraction(record.totals.rho_collusion) == collusion
        assert Fraction(record.totals.epsilon_aggregate) == epsilon_of_rho(aggregate, "1e-6")
        assert Fraction(record.totals.epsilon_collusion) == epsilon_of_rho(collusion, "1e-6")
        assert entry.digest == digest(entry.envelope)
    spent = ledger.spent(charter)
    assert spent.epsilon_aggregate < spent.epsilon_collusion
    assert spent.epsilon_aggregate <= 3
    assert check_under_charter(ledger.account(), charter) == spent


def test_an_entry_holds_only_public_fields(tmp_path: Path) -> None:
    entry = open_ledger(tmp_path).reserve(KIT.charter(), 1)
    document = entry.record.model_dump(mode="json")
    assert set(document) == {
        *("version", "status", "sequence", "previous", "federation", "hospital", "group"),
        *("charter", "round", "event", "rho_aggregate", "rho_collusion", "delta", "totals"),
        *("limits", "sampler", "sampler_version", "entropy_source", "software_version"),
        *(
            "tuning",
            "data_set",
            "attempt",
            "shape",
            "fraction_bits",
            "hospitals",
            "proxy",
            "public_set",
        ),
        *("previous_aggregate", "site", "software_commit", "protocol", "reserved_at"),
    }
    assert set(document["event"]) == {
        *("mechanism", "unit", "adjacency", "values", "clip_units", "weight", "sigma_units"),
        *("share_units", "cohort_minimum", "colluders", "honest_shares"),
        *("sensitivity", "rule", "sampling"),
    }
    text = json.dumps(document)
    assert not re.search(r"seed(?!ed by the operating)|loss|norm|count|patients|noise", text)
    assert re.fullmatch(r"\d+/\d+", document["rho_aggregate"])
    assert re.fullmatch(r"\d+\.\d{6}", document["totals"]["epsilon_collusion"])


def test_the_weights_make_groups_spend_differently(tmp_path: Path) -> None:
    charter = KIT.charter()
    small = open_ledger(tmp_path / "small")
    large = open_ledger(tmp_path / "large", hospital="large-1")
    small.reserve(charter, 1)
    large.reserve(charter, 1)
    assert large.spent(charter).rho_aggregate == 4 * small.spent(charter).rho_aggregate


def test_a_round_is_debited_once(tmp_path: Path) -> None:
    charter = KIT.charter()
    ledger = open_ledger(tmp_path)
    ledger.reserve(charter, 1)
    before = ledger.spent(charter)
    for _ in range(2):
        with pytest.raises(AlreadyReserved, match="again"):
            ledger.reserve(charter, 1)
    assert ledger.spent(charter) == before
    unchanged(ledger, 1)
    with pytest.raises(AlreadyReserved):
        open_ledger(tmp_path).reserve(charter, 1)


def over_budget(charter: Charter) -> Charter:
    """The same with too little noise, as only a party that skips `check_bounds` could hold it."""
    privacy = charter.privacy.model_copy(update={"sigma_units": charter.privacy.sigma_units // 2})
    return charter.model_copy(update={"privacy": privacy})


def test_the_charters_epsilon_is_a_hard_stop_even_for_an_unchecked_charter(tmp_path: Path) -> None:
    charter = over_budget(KIT.charter(rounds={"count": 2}))
    ledger = open_ledger(tmp_path, hospital="large-1")
    with pytest.raises(BudgetExhausted, match="epsilon"):
        ledger.reserve(charter, 1)
    unchanged(ledger, 0)
    # One round alone is above the limit as well: the plan is not the only thing that is checked.
    with pytest.raises(BudgetExhausted):
        ledger.reserve(charter, 2)
    unchanged(ledger, 0)


def test_the_last_round_of_an_exact_budget_is_granted(tmp_path: Path) -> None:
    charter = KIT.charter(rounds={"count": 5})
    ledger = open_ledger(tmp_path, hospital="large-1")
    for number in range(1, 6):
        ledger.reserve(charter, number)
    spent = ledger.spent(charter).epsilon_aggregate
    assert Fraction("2.999") < spent <= 3


def test_a_lifetime_limit_counts_every_charter(tmp_path: Path) -> None:
    first, second = KIT.charter(name="first"), KIT.charter(name="second")
    policy = SitePolicy(lifetime_epsilon="4")
    ledger = open_ledger(tmp_path, policy=policy, hospital="large-1")
    ledger.reserve(first, 1)
    ledger.reserve(first, 2)
    # Each charter alone costs 3; both together 4.4.
    with pytest.raises(BudgetExhausted, match="lifetime"):
        ledger.reserve(second, 1)
    unchanged(ledger, 2)
    assert ledger.spent(second).rho_aggregate == 0
    # Taking the limit out of the policy's file is no way around it.
    without = open_ledger(tmp_path, hospital="large-1")
    with pytest.raises(LimitLoosened, match="lifetime_epsilon"):
        without.reserve(second, 1)
    unchanged(without, 2)


def test_a_charter_that_cannot_be_finished_is_not_begun(tmp_path: Path) -> None:
    charter = KIT.charter()
    one_round = epsilon_of_rho(charter.round_rho("large"), "1e-6")
    policy = SitePolicy(lifetime_epsilon=str(float(one_round) + 0.01)[:8])
    ledger = open_ledger(tmp_path, policy=policy, hospital="large-1")
    with pytest.raises(BudgetExhausted):
        ledger.reserve(charter, 1)
    ledger.reserve(charter, 2)


def test_a_collusion_limit_is_kept(tmp_path: Path) -> None:
    charter = KIT.charter()
    with pytest.raises(BudgetExhausted, match="collusion"):
        open_ledger(tmp_path, policy=SitePolicy(epsilon_collusion="2")).reserve(charter, 1)
    policy = SitePolicy(epsilon="4", epsilon_collusion="50", lifetime_epsilon="9")
    record = open_ledger(tmp_path, policy=policy).reserve(charter, 1).record
    assert isinstance(record, Reservation)
    assert record.limits == Limits(
        epsilon="3", epsilon_collusion="50", lifetime_epsilon="9", lifetime_delta="1e-6"
    )


def test_the_site_policy_is_checked_at_every_debit(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, policy=SitePolicy(epsilon="2.9"))
    with pytest.raises(SitePolicyRefuses):
        ledger.reserve(KIT.charter(), 1)
    unchanged(ledger, 0)


@pytest.mark.parametrize("number", [0, -1, 3, 100])
def test_a_round_outside_the_charter_is_refused(tmp_path: Path, number: int) -> None:
    ledger = open_ledger(tmp_path)
    with pytest.raises(CharterRefused, match="nothing was debited"):
        ledger.reserve(KIT.charter(), number)
    unchanged(ledger, 0)


def test_a_charter_without_this_hospital_or_with_another_key_is_refused(tmp_path: Path) -> None:
    stranger = SigningKey.generate()
    unknown = Ledger.open(tmp_path / "a.sqlite", hospital="small-9", signing_key=stranger)
    with pytest.raises(CharterRefused):
        unknown.reserve(KIT.charter(), 1)
    rekeyed = Ledger.open(tmp_path / "b.sqlite", hospital=HOSPITAL, signing_key=stranger)
    with pytest.raises(CharterRefused, match="key"):
        rekeyed.reserve(KIT.charter(), 1)


def test_outcomes_follow_their_reservation(tmp_path: Path) -> None:
    charter = KIT.charter()
    ledger = open_ledger(tmp_path)
    with pytest.raises(NotRecorded):
        ledger.record(charter, 1, "sent", contribution_digest=CONTRIBUTION)
    ledger.reserve(charter, 1)
    with pytest.raises(NotRecorded):
        opened_round(ledger, charter, 1)
    sent = ledger.record(charter, 1, "sent", contribution_digest=CONTRIBUTION)
    assert ledger.record(charter, 1, "sent", contribution_digest=CONTRIBUTION) == sent
    another = digest(b"another")
    with pytest.raises(NotRecorded):
        ledger.record(charter, 1, "sent", contribution_digest=another)
    with pytest.raises(NotRecorded):
        opened_round(ledger, charter, 1, contribution=another)
    opened = opened_round(ledger, charter, 1)
    assert opened_round(ledger, charter, 1) == opened
    assert isinstance(opened.record, Outcome)
    assert opened.record.contributors == ("large-1", HOSPITAL)
    assert opened.record.sum == SUM
    assert opened.record.previous == sent.digest
    unchanged(ledger, 3)
    assert ledger.spent(charter).rho_aggregate == charter.round_rho("small")


def test_an_aborted_round_stays_spent_and_ends_there(tmp_path: Path) -> None:
    charter = KIT.charter()
    ledger = open_ledger(tmp_path)
    assert ledger.abort(charter, 1, "round-failed") is None
    ledger.reserve(charter, 1)
    entry = ledger.abort(charter, 1, "round-failed")
    assert entry is not None
    assert isinstance(entry.record, Aborted)
    assert entry.record.code == "round-failed"
    assert ledger.abort(charter, 1, "contribution-lost") is None
    unchanged(ledger, 2)
    with pytest.raises(AlreadyReserved):
        ledger.reserve(charter, 1)
    with pytest.raises(NotRecorded):
        ledger.record(charter, 1, "sent", contribution_digest=CONTRIBUTION)
    assert ledger.spent(charter).rho_aggregate == charter.round_rho("small")
    ledger.reserve(charter, 2)
    ledger.record(charter, 2, "sent", contribution_digest=CONTRIBUTION)
    opened_round(ledger, charter, 2)
    with pytest.raises(NotRecorded):
        ledger.abort(charter, 2, "round-failed")
    unchanged(ledger, 5)


def test_a_round_names_the_sum_that_it_follows_from(tmp_path: Path) -> None:
    charter = KIT.charter()
    ledger = open_ledger(tmp_path)
    ledger.reserve(charter, 1)
    ledger.record(charter, 1, "sent", contribution_digest=CONTRIBUTION)
    opened_round(ledger, charter, 1)
    with pytest.raises(NotRecorded, match="another sum"):
        ledger.reserve(charter, 2, previous_aggregate=digest(b"another"))
    unchanged(ledger, 3)
    second = ledger.reserve(charter, 2).record
    assert isinstance(second, Reservation)
    assert second.previous_aggregate == SUM


def test_a_sum_that_a_hospital_sat_out_is_named_by_the_caller(tmp_path: Path) -> None:
    second = open_ledger(tmp_path).reserve(KIT.charter(), 2, previous_aggregate=SUM).record
    assert isinstance(second, Reservation)
    assert second.previous_aggregate == SUM


@pytest.mark.parametrize(
    "changes",
    [
        {"sum": None},
        {"contributors": ()},
        {"contributors": ("small-1", "large-1")},
        {"contributors": ("large-1",)},
        {"contributors": ("large-1", "large-1", "small-1")},
        {"status": "sent"},
    ],
)
def test_an_outcome_that_does_not_hold_together_is_refused(changes: dict[str, object]) -> None:
    opened: dict[str, object] = {
        "status": "opened",
        "sequence": 2,
        "previous": SUM,
        "hospital": HOSPITAL,
        "charter": SUM,
        "round": 1,
        "contribution": CONTRIBUTION,
        "contributors": ("large-1", HOSPITAL),
        "sum": SUM,
        "recorded_at": "2026-01-01T00:00:00Z",
    }
    Outcome.model_validate(opened)
    with pytest.raises(ValidationError):
        Outcome.model_validate(opened | changes)


def test_the_export_is_checked_without_the_ledger(tmp_path: Path) -> None:
    charter = KIT.charter()
    ledger = open_ledger(tmp_path)
    ledger.reserve(charter, 1)
    ledger.record(charter, 1, "sent", contribution_digest=CONTRIBUTION)
    ledger.reserve(charter, 2)
    exported = lines(ledger, tmp_path)
    account = check_chain(exported, hospital=HOSPITAL, keys=[KIT.keys[HOSPITAL].public])
    assert len(account.entries) == 3
    assert check_under_charter(account, charter) == ledger.spent(charter)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET envelope = x'00'",
        "UPDATE entries SET sequence = 7 WHERE sequence = 0",
        "DELETE FROM entries",
        "DELETE FROM entries WHERE sequence = 1",
        "INSERT OR REPLACE INTO entries VALUES (0, x'00')",
        "REPLACE INTO entries VALUES (1, x'00')",
        "INSERT INTO entries VALUES (5, x'00')",
        "INSERT INTO entries VALUES (-1, x'00')",
    ],
)
def test_the_table_only_grows_at_its_end(tmp_path: Path, statement: str) -> None:
    ledger = open_ledger(tmp_path)
    for number in (1, 2):
        ledger.reserve(KIT.charter(), number)
    before = lines(ledger, tmp_path)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)
        connection.rollback()
    connection.close()
    assert lines(ledger, tmp_path) == before


TAMPERING = {
    "first entry removed": "DELETE FROM entries WHERE sequence = 0",
    "entries swapped": (
        "UPDATE entries SET sequence = 9 WHERE sequence = 0;"
        "UPDATE entries SET sequence = 0 WHERE sequence = 1;"
        "UPDATE entries SET sequence = 1 WHERE sequence = 9;"
    ),
    "entry repeated": ("INSERT INTO entries SELECT 3, envelope FROM entries WHERE sequence = 2"),
    "foreign bytes": "UPDATE entries SET envelope = x'7b7d' WHERE sequence = 1",
    "a number instead of bytes": "UPDATE entries SET envelope = 12 WHERE sequence = 1",
}


@pytest.mark.parametrize("script", TAMPERING.values(), ids=TAMPERING.keys())
def test_an_edited_file_is_refused_and_nothing_is_debited(tmp_path: Path, script: str) -> None:
    charter = KIT.charter(rounds={"count": 4})
    ledger = open_ledger(tmp_path)
    for number in (1, 2, 3):
        ledger.reserve(charter, number)
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (name,) in names:
        connection.execute(f"DROP TRIGGER {name}")
    connection.executescript(script)
    connection.commit()
    connection.close()
    with pytest.raises(LedgerDamaged, match="Release nothing"):
        ledger.reserve(charter, 4)
    with pytest.raises(LedgerDamaged):
        open_ledger(tmp_path)


def test_a_bit_flipped_anywhere_in_an_entry_is_noticed(tmp_path: Path) -> None:
    charter = KIT.charter()
    ledger = open_ledger(tmp_path)
    for number in (1, 2):
        ledger.reserve(charter, number)
    good = lines(ledger, tmp_path)
    key = KIT.keys[HOSPITAL].public
    chosen = random.Random(11)
    for _ in range(150):
        damaged = [bytearray(line) for line in good]
        victim = chosen.choice(damaged)
        victim[chosen.randrange(len(victim))] ^= 1 << chosen.randrange(8)
        with pytest.raises(FedHelpError):
            check_chain([bytes(line) for line in damaged], hospital=HOSPITAL, keys=[key])


def test_another_hospitals_ledger_or_key_does_not_open(tmp_path: Path) -> None:
    open_ledger(tmp_path).reserve(KIT.charter(), 1)
    path = tmp_path / "ledger.sqlite"
    for name, key in (("small-2", KIT.keys[HOSPITAL]), (HOSPITAL, KIT.keys["small-2"])):
        with pytest.raises(LedgerDamaged):
            Ledger.open(path, hospital=name, signing_key=key)


@pytest.mark.parametrize("content", [b"this is not a database, whatever its name", b"SQLite"])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(content * 100)
    with pytest.raises(LedgerDamaged, match="older copy"):
        open_ledger(tmp_path)
    assert (tmp_path / "ledger.sqlite").read_bytes() == content * 100


def test_a_ledger_that_cannot_be_written_grants_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(LedgerDamaged):
        open_ledger(tmp_path / "file")


def test_the_file_is_its_owners_alone_and_commits_are_synced(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    assert stat.S_IMODE((tmp_path / "ledger.sqlite").stat().st_mode) == 0o600
    with ledger._file.connection() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (3,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_nothing_is_logged_and_nothing_private_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ledger = open_ledger(tmp_path)
    ledger.reserve(KIT.charter(), 1)
    assert caplog.records == []
    assert KIT.keys[HOSPITAL].to_pem().decode() not in repr(vars(ledger))


def test_threads_and_openings_share_one_debit(tmp_path: Path) -> None:
    charter = KIT.charter()
    open_ledger(tmp_path)
    granted: list[int] = []
    refused: list[int] = []

    def try_both() -> None:
        ledger = open_ledger(tmp_path)
        for number in (1, 2):
            try:
                ledger.reserve(charter, number)
                granted.append(number)
            except AlreadyReserved:
                refused.append(number)

    threads = [threading.Thread(target=try_both) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(granted) == [1, 2]
    assert len(refused) == 8
    assert len(open_ledger(tmp_path).account().entries) == 2


PROGRAM = """
import os, signal, sys
from pathlib import Path
from fedhelp_secure.charter import parse_charter
from fedhelp_secure.canonical import parse_json
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.signing import SigningKey
root = Path(sys.argv[1])
charter = parse_charter(parse_json((root / "charter.json").read_bytes(), "the charter"))
key = SigningKey.from_pem((root / "key.pem").read_bytes())
ledger = Ledger.open(root / "ledger.sqlite", hospital=sys.argv[2], signing_key=key)
print("ready", flush=True)
for number in range(1, charter.rounds.count + 1):
    ledger.reserve(charter, number)
    print(number, flush=True)
    if sys.argv[3] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def start(root: Path, charter: Charter, mode: str) -> subprocess.Popen[str]:
    (root / "charter.json").write_bytes(canonical_json(charter.document()))
    (root / "key.pem").write_bytes(KIT.keys[HOSPITAL].to_pem())
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root), HOSPITAL, mode],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_process_killed_right_after_its_debit_has_spent_it(tmp_path: Path) -> None:
    charter = KIT.charter()
    with start(tmp_path, charter, "die") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert output.split() == ["ready", "1"]
    ledger = open_ledger(tmp_path)
    assert ledger.spent(charter).rho_aggregate == charter.round_rho("small")
    with pytest.raises(AlreadyReserved):
        ledger.reserve(charter, 1)
    ledger.reserve(charter, 2)


def test_a_process_killed_anywhere_leaves_a_whole_ledger(tmp_path: Path) -> None:
    charter = KIT.charter(rounds={"count": 40})
    delays = random.Random(12)
    for attempt in range(3):
        root = tmp_path / str(attempt)
        root.mkdir()
        with start(root, charter, "live") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(delays.uniform(0, 0.3))
            os.kill(process.pid, signal.SIGKILL)
            announced = [int(line) for line in process.stdout.read().split()]
        entries = len(open_ledger(root).account().entries)
        # What was announced is spent; at most one debit more was committed and not announced.
        assert len(announced) <= entries <= len(announced) + 1
        if entries < 40:
            open_ledger(root).reserve(charter, entries + 1)


def test_a_signature_of_another_kind_is_not_an_entry() -> None:
    envelope = KIT.keys[HOSPITAL].sign_document("manifest", {"version": 1})
    with pytest.raises(FedHelpError):
        open_entry(envelope, KIT.keys[HOSPITAL].public)
    other = KIT.keys["small-2"].sign_document("ledger-entry", {"version": 1})
    with pytest.raises(SignatureRefused):
        open_entry(other, KIT.keys[HOSPITAL].public)
