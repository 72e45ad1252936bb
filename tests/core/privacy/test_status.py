"""``fedhelp privacy``: what the officer sees is what ledger and limits in force give."""

from __future__ import annotations

import json
import re
import stat
from fractions import Fraction
from pathlib import Path

import pytest
from support.charters import make_charter_kit
from support.passphrases import FIRST, SECOND, descriptor_with, give
from typer.testing import CliRunner, Result

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError, FedHelpError
from fedhelp_secure.keystore.lock import PassphraseWrong
from fedhelp_secure.keystore.passphrase import PassphraseMissing
from fedhelp_secure.policy import SitePolicy
from fedhelp_secure.privacy.accountant import epsilon_of_rho
from fedhelp_secure.privacy.commands import app
from fedhelp_secure.privacy.consent import ConsentRefused, NoPeriod
from fedhelp_secure.privacy.ledger import BudgetExhausted, Ledger
from fedhelp_secure.privacy.ledger_file import LedgerDamaged, NoLedger, ledger_path, read_account
from fedhelp_secure.privacy.plots import NoPlot, bar, short
from fedhelp_secure.privacy.status import status_of
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import StateDirectory, StateError, write_atomically
from fedhelp_secure.transport.identity import Identity, Role

KIT = make_charter_kit()
HOSPITAL = "large-1"
POLICY = """
epsilon: 5
year_epsilon: 3.5
data_set: scans
lifetime_epsilon: 9
lifetime_epsilon_collusion: 50
"""


def fedhelp_privacy(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class Officer:
    """A hospital's state, its policy's file and the privacy officer's key."""

    def __init__(self, root: Path) -> None:
        identity = Identity("testfed", Role.HOSPITAL, HOSPITAL)
        self.state = StateDirectory.create(root / "state", identity)
        write_atomically(self.state.signing_key_path, KIT.keys[HOSPITAL].to_pem())
        self.key = root / "officer.pem"
        made = fedhelp_privacy("consent-key", "--out", self.key)
        self.policy = root / "policy.yaml"
        self.policy.write_text(POLICY + made.output)

    def ledger(self) -> Ledger:
        return Ledger.open(
            ledger_path(self.state),
            hospital=HOSPITAL,
            signing_key=KIT.keys[HOSPITAL],
            policy=SitePolicy.load(self.policy),
        )

    def spend(self, charter: Charter) -> None:
        for number in range(1, charter.rounds.count + 1):
            self.ledger().reserve(charter, number)

    def consent(self, **options: object) -> Result:
        """The command with a consent that is right, but for ``options``."""
        right = {
            "state": self.state.root,
            "policy": self.policy,
            "key": self.key,
            "period": "lifetime",
            "epsilon": "12",
            "reason": "agreed by the board",
        }
        chosen = right | options
        return fedhelp_privacy(
            "consent",
            *(part for name, value in chosen.items() for part in (f"--{name}", value)),
        )


@pytest.fixture
def officer(tmp_path: Path) -> Officer:
    return Officer(tmp_path)


def test_status_is_the_ledgers_account_against_the_limits_in_force(officer: Officer) -> None:
    charter = KIT.charter()
    officer.spend(charter)
    shown = fedhelp_privacy(
        "status", "--state", officer.state.root, "--policy", officer.policy, "--json"
    )
    assert shown.exit_code == 0, shown.output
    status = json.loads(shown.output)
    assert (status["hospital"], status["entries"], status["consents"]) == (HOSPITAL, 2, [])
    assert status["head"] == officer.ledger().account().head
    periods = {period["period"]: period for period in status["periods"]}
    year = officer.ledger().account().last_at[:4]
    assert list(periods) == [
        f"charter:{charter.digest}",
        f"year:{year}",
        "data-set:scans",
        "lifetime",
    ]
    limits = {
        name: (period["limit_aggregate"], period["limit_collusion"])
        for name, period in periods.items()
    }
    assert list(limits.values()) == [("3", None), ("3.5", None), (None, None), ("9", "50")]
    for period in periods.values():
        assert period["rounds"] == 2
        for name, rho in (
            ("epsilon_aggregate", 2 * charter.round_rho("large")),
            ("epsilon_collusion", 2 * charter.round_rho_collusion("large")),
        ):
            assert Fraction(period[name]) == epsilon_of_rho(rho, "1e-6")
        fewer = period["epsilon_fewer_honest"]
        assert list(fewer) == ["1", "2", "3"]
        for missing, epsilon in fewer.items():
            worse = 2 * charter.round_rho("large") * Fraction(4, 4 - int(missing))
            assert Fraction(epsilon) == epsilon_of_rho(worse, "1e-6")


def test_charters_with_other_cohorts_are_added_share_by_share(officer: Officer) -> None:
    first = KIT.charter(rounds={"count": 1}, privacy={"epsilon": "1"})
    second = KIT.charter(name="b", cohort={"minimum": 3}, privacy={"epsilon": "2"})
    officer.spend(first)
    officer.spend(second)
    lifetime = status_of(officer.ledger().account()).periods[-1]
    assert list(lifetime.epsilon_fewer_honest) == ["1"]
    worse = first.round_rho("large") * Fraction(4, 3) + 2 * second.round_rho("large") * 2
    assert Fraction(lifetime.epsilon_fewer_honest["1"]) == epsilon_of_rho(worse, "1e-6")


def test_the_table_shows_both_epsilons_and_a_bar(officer: Officer) -> None:
    officer.spend(KIT.charter())
    shown = fedhelp_privacy("status", "--state", officer.state.root)
    assert shown.exit_code == 0, shown.output
    assert "█" in shown.output
    for word in ("aggregate", "collusion", "lifetime", "data-set:scans", "3 fewer"):
        assert word in shown.output
    table = shown.output.split("Epsilon (aggregate) if fewer")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert not re.search(r"seed|loss|norm|patients:", shown.output)


def test_a_consent_raises_the_limit_that_is_shown_and_kept(officer: Officer) -> None:
    officer.spend(KIT.charter())
    second = KIT.charter(name="second")
    with pytest.raises(BudgetExhausted, match="fedhelp privacy consent"):
        officer.ledger().reserve(second, 1)
    year = officer.ledger().account().last_at[:4]
    done = officer.consent(period=f"year:{year}", epsilon="4.5", reason="a second study")
    assert done.exit_code == 0, done.output
    assert "entry 2" in done.output
    officer.spend(second)
    shown = fedhelp_privacy("status", "--state", officer.state.root)
    assert "a second study" in shown.output
    status = status_of(officer.ledger().account())
    assert [consent.epsilon for consent in status.consents] == ["4.5"]
    (limit,) = [one.limit_aggregate for one in status.periods if one.period.startswith("year")]
    assert limit == "4.5"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"period": "month:1"}, NoPeriod),
        ({"epsilon": "9"}, ConsentRefused),
        ({"reason": ""}, ConsentRefused),
        ({"key": "/nonexistent"}, ConfigurationError),
    ],
)
def test_a_wrong_consent_records_nothing(
    officer: Officer, options: dict[str, str], error: type[FedHelpError]
) -> None:
    refused = officer.consent(**options)
    assert isinstance(refused.exception, error)
    assert officer.ledger().account().entries == []


def test_an_exposed_or_foreign_consent_key_is_refused(officer: Officer, tmp_path: Path) -> None:
    officer.key.chmod(0o644)
    assert isinstance(officer.consent().exception, ConfigurationError)
    stranger = tmp_path / "stranger.pem"
    write_atomically(stranger, SigningKey.generate().to_pem())
    assert isinstance(officer.consent(key=stranger).exception, ConsentRefused)
    assert officer.ledger().account().entries == []
    officer.key.chmod(0o600)
    assert officer.consent().exit_code == 0


def test_an_encrypted_consent_key_needs_its_own_passphrase(
    officer: Officer, tmp_path: Path
) -> None:
    """Not the node's: what opens a hospital's keys may not raise its budget."""
    give(SECOND)
    key = tmp_path / "encrypted"
    made = fedhelp_privacy("consent-key", "--out", key)
    officer.policy.write_text(POLICY + made.output)
    assert b"PRIVATE KEY" not in key.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600

    def consent(text: str | None) -> Result:
        option = {"key-passphrase-fd": descriptor_with(text.encode())} if text else {}
        return officer.consent(key=key, **option)

    give(None)
    assert isinstance(consent(None).exception, PassphraseMissing)
    assert isinstance(consent(FIRST).exception, PassphraseWrong)
    whole = key.read_bytes()
    key.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert isinstance(consent(SECOND).exception, StateError)
    key.write_bytes(whole)
    # The node's passphrase is never tried on it.
    give(SECOND)
    assert isinstance(consent(None).exception, PassphraseMissing)
    assert officer.ledger().account().entries == []
    assert consent(SECOND).exit_code == 0


def test_a_consent_key_is_never_overwritten(officer: Officer) -> None:
    before = officer.key.read_bytes()
    assert stat.S_IMODE(officer.key.stat().st_mode) == 0o600
    again = fedhelp_privacy("consent-key", "--out", officer.key)
    assert isinstance(again.exception, ConfigurationError)
    assert officer.key.read_bytes() == before


def test_pictures_and_pages_are_whole(officer: Officer, tmp_path: Path) -> None:
    officer.spend(KIT.charter())
    reason = "<script>alert(1)</script>"
    assert officer.consent(reason=reason).exit_code == 0
    page, picture = tmp_path / "status.html", tmp_path / "status.png"
    for out in (page, picture):
        done = fedhelp_privacy("status", "--state", officer.state.root, "--plot", out)
        assert done.exit_code == 0, done.output
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    text = page.read_text()
    totals = status_of(officer.ledger().account()).periods[0]
    assert totals.epsilon_aggregate in text
    assert totals.epsilon_collusion in text
    assert "<svg" in text
    assert reason not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=.http", text)


def test_what_cannot_be_plotted_is_refused(officer: Officer, tmp_path: Path) -> None:
    officer.ledger()
    nothing = fedhelp_privacy("status", "--state", officer.state.root, "--plot", tmp_path / "a.png")
    assert isinstance(nothing.exception, NoPlot)
    officer.spend(KIT.charter())
    other = fedhelp_privacy("status", "--state", officer.state.root, "--plot", tmp_path / "a.pdf")
    assert isinstance(other.exception, NoPlot)
    assert not list(tmp_path.glob("a.*"))


def test_a_ledger_that_is_not_there_or_damaged_is_said_and_not_made(officer: Officer) -> None:
    path = ledger_path(officer.state)
    missing = fedhelp_privacy("status", "--state", officer.state.root)
    assert isinstance(missing.exception, NoLedger)
    assert not path.exists()
    path.write_bytes(b"this is no ledger, whatever its name" * 50)
    damaged = fedhelp_privacy("status", "--state", officer.state.root)
    assert isinstance(damaged.exception, LedgerDamaged)


def test_reading_changes_nothing(officer: Officer) -> None:
    officer.spend(KIT.charter())
    path = ledger_path(officer.state)
    path.chmod(0o400)
    before = path.read_bytes()
    account = read_account(path, hospital=HOSPITAL, keys=[KIT.keys[HOSPITAL].public])
    assert len(account.entries) == 2
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("spent", "limit", "shown"),
    [
        ("0.000000", "3", "·" * 20),
        ("3.000000", "3", "█" * 20),
        ("9.000000", "3", "█" * 20),
        ("1.500000", "3", "█" * 10 + "·" * 10),
        ("0.100000", "1", "██" + "·" * 18),
        ("1.000000", "0", "█" * 20),
        ("1.000000", None, ""),
    ],
)
def test_a_bar_is_the_spent_share_of_the_limit(spent: str, limit: str | None, shown: str) -> None:
    assert bar(spent, limit) == shown


def test_a_charter_is_named_by_its_first_digits() -> None:
    assert short(f"charter:sha256:{'ab' * 32}") == "charter:ababababababa"
    assert short("year:2026") == "year:2026"
