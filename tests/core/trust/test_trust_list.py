"""The trust list's form, and that a party never goes back to an older one."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_keys.registrar.ca import found_federation
from fedhelp_keys.registrar.trust import issue_trust_list
from fedhelp_secure.errors import MalformedMessage, SignatureRefused
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import (
    Revoked,
    TrustListOutdated,
    TrustListRolledBack,
    TrustStore,
    check_fresh,
    check_not_revoked,
)
from fedhelp_secure.trust.trust_list import (
    Revocation,
    TrustList,
    open_trust_list,
    sign_trust_list,
)

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
HOSPITAL = Identity("example", Role.HOSPITAL, "small-1")


@pytest.fixture
def registrar(tmp_path: Path) -> StateDirectory:
    return found_federation(tmp_path / "registrar", "example", now=NOW)


def changed(trusted: TrustList, **update: object) -> TrustList:
    return TrustList.model_validate(trusted.model_dump() | update)


def revoked(identity: Identity) -> dict[str, str]:
    return Revocation(
        identity=identity.uri, reason="left the federation", revoked="2026-01-01T00:00:00Z"
    ).model_dump()


def test_a_list_opens_as_it_was_signed(registrar: StateDirectory) -> None:
    held = TrustStore(registrar).current()
    key = registrar.signing_key()
    assert open_trust_list(sign_trust_list(held, key), key.public) == held


def test_another_key_s_list_is_refused(registrar: StateDirectory) -> None:
    held = TrustStore(registrar).current()
    with pytest.raises(SignatureRefused):
        TrustStore(registrar).install(sign_trust_list(held, SigningKey.generate()), now=NOW)


@pytest.mark.parametrize(
    "update",
    [
        {"sequence": 0},
        {"authorities": ()},
        {"authorities": ({"certificate": "no certificate"},)},
        {"maximum_age_seconds": 59},
        {"federation": "other"},
        {"revocations": (revoked(HOSPITAL), revoked(HOSPITAL))},
        {"revocations": ({**revoked(HOSPITAL), "reason": "a\x1b[31m"},)},
        {"revocations": (revoked(Identity("other", Role.HOSPITAL, "small-1")),)},
        {"surplus": 1},
    ],
    ids=str,
)
def test_what_is_no_list_is_refused(registrar: StateDirectory, update: dict[str, object]) -> None:
    held = TrustStore(registrar).current()
    document = held.document() | {"revocations": [revoked(HOSPITAL)]}
    key = registrar.signing_key()
    open_trust_list(key.sign_document("trust-list", document), key.public)
    wrong = document | {
        name: list(value) if isinstance(value, tuple) else value for name, value in update.items()
    }
    with pytest.raises(MalformedMessage):
        open_trust_list(key.sign_document("trust-list", wrong), key.public)


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
        others = [revoked(Identity("example", Role.HOSPITAL, f"h-{n}")) for n in range(sequence)]
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


@pytest.mark.parametrize(("hours", "fresh"), [(0, True), (24, True), (25, False), (-1, False)])
def test_a_list_is_fresh_for_its_time(registrar: StateDirectory, hours: int, fresh: bool) -> None:
    held = TrustStore(registrar).current()
    moment = NOW + datetime.timedelta(hours=hours)
    if fresh:
        check_fresh(held, moment)
        return
    with pytest.raises(TrustListOutdated):
        check_fresh(held, moment)


def test_who_is_revoked_is_refused_and_nobody_else(registrar: StateDirectory) -> None:
    held = changed(TrustStore(registrar).current(), revocations=(revoked(HOSPITAL),))
    check_not_revoked(held, Identity("example", Role.HOSPITAL, "small-2"))
    check_not_revoked(held, Identity("example", Role.AUDITOR, "small-1"))
    with pytest.raises(Revoked):
        check_not_revoked(held, HOSPITAL)
