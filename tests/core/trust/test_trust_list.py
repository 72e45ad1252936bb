"""The trust list's form, and that a party never goes back to an older one."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.trust_lists import changed, held, issued, revocation, signed

from fedhelp_keys.registrar.ca import found_federation
from fedhelp_keys.registrar.trust import issue_trust_list
from fedhelp_secure.errors import MalformedMessage, SignatureRefused
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import StateDirectory, StateError
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import (
    CLOCK_SKEW,
    HeldTrust,
    Revoked,
    TrustListFromFuture,
    TrustListOutdated,
    TrustListRolledBack,
    TrustStore,
    check_not_revoked,
)
from fedhelp_secure.trust.trust_list import open_trust_list, sign_trust_list

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
HOSPITAL = Identity("example", Role.HOSPITAL, "small-1")


@pytest.fixture
def registrar(tmp_path: Path) -> StateDirectory:
    return found_federation(tmp_path / "registrar", "example", now=NOW)


def test_a_list_opens_as_it_was_signed(registrar: StateDirectory) -> None:
    trusted = TrustStore(registrar).current()
    key = registrar.signing_key()
    assert open_trust_list(sign_trust_list(trusted, key), key.public) == trusted


def test_another_key_s_list_is_refused(registrar: StateDirectory) -> None:
    trusted = TrustStore(registrar).current()
    with pytest.raises(SignatureRefused):
        TrustStore(registrar).install(sign_trust_list(trusted, SigningKey.generate()), now=NOW)


@pytest.mark.parametrize(
    "update",
    [
        {"sequence": 0},
        {"authorities": ()},
        {"authorities": ({"certificate": "no certificate"},)},
        {"maximum_age_seconds": 59},
        {"federation": "other"},
        {"revocations": (revocation(HOSPITAL), revocation(HOSPITAL))},
        {"revocations": ({**revocation(HOSPITAL), "reason": "a\x1b[31m"},)},
        {"revocations": (revocation(Identity("other", Role.HOSPITAL, "small-1")),)},
        {"surplus": 1},
    ],
    ids=str,
)
def test_what_is_no_list_is_refused(registrar: StateDirectory, update: dict[str, object]) -> None:
    trusted = TrustStore(registrar).current()
    document = trusted.document() | {"revocations": [revocation(HOSPITAL)]}
    key = registrar.signing_key()
    open_trust_list(key.sign_document("trust-list", document), key.public)
    wrong = document | {
        name: list(value) if isinstance(value, tuple) else value for name, value in update.items()
    }
    with pytest.raises(MalformedMessage):
        open_trust_list(key.sign_document("trust-list", wrong), key.public)


@settings(deadline=None, max_examples=30)
@given(sequences=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_the_newest_seen_is_kept(
    tmp_path_factory: pytest.TempPathFactory, sequences: list[int]
) -> None:
    root = tmp_path_factory.mktemp("state") / "registrar"
    registrar = found_federation(root, "example", now=NOW)
    store, key = TrustStore(registrar), registrar.signing_key()
    first = store.current()
    newest = first.sequence
    for sequence in sequences:
        # Every sequence has its own content, as only changes make a new one.
        others = [revocation(Identity("example", Role.HOSPITAL, f"h-{n}")) for n in range(sequence)]
        offered = changed(first, sequence=sequence + 1, revocations=tuple(others))
        if offered.sequence < newest:
            with pytest.raises(TrustListRolledBack):
                store.install(sign_trust_list(offered, key), now=NOW)
        else:
            store.install(sign_trust_list(offered, key), now=NOW)
            newest = offered.sequence
        assert store.current().sequence == newest


def test_one_sequence_has_one_content(registrar: StateDirectory) -> None:
    store = TrustStore(registrar)
    other = changed(store.current(), issued="2026-01-01T00:04:00Z", maximum_age_seconds=60)
    with pytest.raises(TrustListRolledBack):
        store.install(sign_trust_list(other, registrar.signing_key()), now=NOW)


def test_issuing_again_renews_the_time_and_never_goes_back(registrar: StateDirectory) -> None:
    later = NOW + datetime.timedelta(hours=3)
    key = registrar.signing_key().public
    assert open_trust_list(issue_trust_list(registrar, now=later), key).issued_at == later
    assert open_trust_list(issue_trust_list(registrar, now=NOW), key).issued_at == later


SECOND = datetime.timedelta(seconds=1)
DAY = datetime.timedelta(days=1)


@pytest.mark.parametrize(
    ("age", "fresh"),
    [
        (datetime.timedelta(0), True),
        (DAY, True),
        (DAY + SECOND, False),
        # The registrar's clock is ahead of ours.
        (-CLOCK_SKEW, True),
        (-CLOCK_SKEW - SECOND, False),
    ],
)
def test_a_list_is_fresh_for_its_time(
    registrar: StateDirectory, age: datetime.timedelta, fresh: bool
) -> None:
    trusted = HeldTrust(registrar)
    if fresh:
        assert trusted.fresh(NOW + age).sequence == 1
        return
    with pytest.raises(TrustListOutdated):
        trusted.fresh(NOW + age)


@pytest.mark.parametrize(("ahead", "taken"), [(CLOCK_SKEW, True), (CLOCK_SKEW + SECOND, False)])
def test_a_list_from_the_future_is_not_taken(
    registrar: StateDirectory, ahead: datetime.timedelta, taken: bool
) -> None:
    store, before = TrustStore(registrar), held(registrar)
    envelope = signed(registrar, **issued(NOW + ahead))
    if taken:
        assert store.install(envelope, now=NOW).issued_at == NOW + ahead
        return
    # It would be the newest until then, and every list of the right time a rollback.
    with pytest.raises(TrustListFromFuture):
        store.install(envelope, now=NOW)
    assert held(registrar) == before


def test_a_running_process_sees_a_new_file_and_keeps_the_newest(
    registrar: StateDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    trusted, store, old = HeldTrust(registrar), TrustStore(registrar), held(registrar)
    store.install(signed(registrar, sequence=2, revocations=(revocation(HOSPITAL),)), now=NOW)
    assert trusted.newest().revocation_of(HOSPITAL) is not None
    new = held(registrar)
    for data in (old, b"", b"{}", new.replace(b'"payload"', b'"payloat"')):
        store.path.write_bytes(data)
        assert trusted.newest().sequence == 2
        assert f"{store.path} is not taken" in caplog.text
        caplog.clear()
        # Told once, not with every call.
        trusted.newest()
        assert caplog.text == ""
    store.path.unlink()
    assert trusted.newest().sequence == 2
    store.path.write_bytes(new)
    assert trusted.newest().sequence == 2


def test_a_state_without_a_list_is_refused(registrar: StateDirectory) -> None:
    TrustStore(registrar).path.unlink()
    with pytest.raises(StateError, match="enrol this party again"):
        HeldTrust(registrar)


def test_who_is_revoked_is_refused_and_nobody_else(registrar: StateDirectory) -> None:
    trusted = changed(TrustStore(registrar).current(), revocations=(revocation(HOSPITAL),))
    check_not_revoked(trusted, Identity("example", Role.HOSPITAL, "small-2"))
    check_not_revoked(trusted, Identity("example", Role.AUDITOR, "small-1"))
    with pytest.raises(Revoked):
        check_not_revoked(trusted, HOSPITAL)
