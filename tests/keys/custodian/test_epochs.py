"""A custodian's epochs: bound to rounds once, and destroyed when no round needs them."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.charters import complete
from support.federation import Federation, copied, make_federation
from support.keys import keys_of_stores, rounds_begun
from support.secure_sum import ask_decryptor, contribute_all, members_for
from support.sums import contribute, summed

from fedhelp_keys.custodian import key_files
from fedhelp_keys.custodian.database import FILE_NAME
from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.destruction import EpochRefused
from fedhelp_keys.custodian.epochs import (
    EpochStore,
    RoundNotBegun,
    RoundOutOfOrder,
)
from fedhelp_keys.custodian.store import EpochGone
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, CharterRefused, parse_charter
from fedhelp_secure.enrolment.request import make_request, open_request
from fedhelp_secure.sealing import SealRefused
from fedhelp_secure.secure_sum.ckks import NotAnInteger
from fedhelp_secure.secure_sum.contribution import Contribution, ManifestRefused
from fedhelp_secure.secure_sum.epochs import (
    ANSWERED,
    CustodianParty,
    KeysRefused,
    open_destroyed,
)
from fedhelp_secure.secure_sum.residues import CiphertextRefused
from fedhelp_secure.secure_sum.round_keys import custodian_parties, open_round_keys
from fedhelp_secure.state import StateDirectory, StateError

ROLES = ["decryptor", "unmasker"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(
        tmp_path_factory.mktemp("template"), large=1, small=2, rounds={"count": 3}
    )


@pytest.fixture
def own(template: Federation, tmp_path: Path) -> Federation:
    """A federation of the test's own: its epochs are used up."""
    return copied(template, tmp_path / "own")


def _party(federation: Federation, role: str) -> CustodianParty:
    return custodian_parties(federation.charter)[ROLES.index(role)]


def _answer(federation: Federation, role: str, sent: dict[str, Contribution], number: int) -> None:
    """The answer of a custodian, by a service on its state."""
    charter = federation.charter
    if role == "decryptor":
        decryptor = DecryptorService(federation.state(role))
        try:
            ask_decryptor(decryptor, charter, summed(charter, sent), round_number=number)
        finally:
            decryptor.close()
        return
    UnmaskerService(federation.state(role)).answer(
        charter,
        number,
        members_for(charter, role, sent),
        rounds_begun=rounds_begun(federation, charter, number),
    )


def _other_charter(federation: Federation) -> Charter:
    return parse_charter(complete(federation.charter.document() | {"name": "other"}))


@pytest.mark.parametrize("role", ROLES)
def test_a_round_is_bound_once_and_says_so_in_the_same_bytes(own: Federation, role: str) -> None:
    state, charter = own.state(role), own.charter
    store = EpochStore(state)
    first = store.begin(charter, 1)
    store.rotate()
    for again in (store, EpochStore(state)):
        assert again.begin(charter, 1) == first
        assert again.bound(charter, 1).epoch == 1
    other = EpochStore(state).begin(_other_charter(own), 1)
    assert len(other.key_epochs) == 2
    assert other.key_epochs[0] == first.key_epochs[0]
    assert other.round_begun != first.round_begun


@pytest.mark.parametrize("role", ROLES)
def test_rounds_are_begun_one_after_another(own: Federation, role: str, tmp_path: Path) -> None:
    """Nobody can bind tomorrow's rounds to today's keys."""
    store, charter = EpochStore(own.state(role)), own.charter
    sent = contribute_all(own, tmp_path / "sent")
    for number in (2, 3):
        with pytest.raises(RoundOutOfOrder):
            store.begin(charter, number)
    for each in ROLES:
        _answer(own, each, sent, 1)
    third = contribute_all(own, tmp_path / "third", round_number=3)
    for answered in (False, True):
        with pytest.raises(RoundOutOfOrder):
            store.begin(charter, 2)
        if not answered:
            _answer(own, role, third, 3)


@pytest.mark.parametrize("role", ROLES)
def test_a_charter_that_pins_another_key_begins_no_round(own: Federation, role: str) -> None:
    custodians = own.charter.custodians
    stranger = own.charter.hospitals[0].sealing_key
    decryptor = custodians.decryptor.model_copy(update={"context_digest": digest(b"another")})
    unmasker = custodians.unmaskers[0].model_copy(update={"sealing_key": stranger})
    named = custodians.model_copy(update={"decryptor": decryptor, "unmaskers": (unmasker,)})
    later = custodians.model_copy(update={"epoch": 2})
    for changed in (named, later):
        with pytest.raises(CharterRefused):
            EpochStore(own.state(role)).begin(
                own.charter.model_copy(update={"custodians": changed}), 1
            )


@pytest.mark.parametrize("role", ROLES)
def test_an_epoch_outlives_rotation_until_its_rounds_are_answered_and_no_longer(
    own: Federation, role: str, tmp_path: Path
) -> None:
    state = own.state(role)
    sent = contribute_all(own, tmp_path / "sent")
    secret = key_files.secret_path(state, 1)
    before = secret.read_bytes()
    os.link(secret, tmp_path / "same-blocks")
    store = EpochStore(state)
    assert store.rotate() == 2
    assert secret.read_bytes() == before
    assert [epoch.fate for epoch in store.status()] == ["waiting", "present"]
    assert store.status()[0].waiting == (f"round 1 of {own.charter.digest}",)
    _answer(own, role, sent, 1)
    assert not secret.exists()
    # Not only the name is gone.
    after = (tmp_path / "same-blocks").read_bytes()
    assert len(after) == len(before)
    assert after != before
    assert store.status()[0].fate == f"destroyed: {ANSWERED}"
    gone = open_destroyed(_party(own, role), store.statements()["epoch-1-destroyed.json"])
    assert (gone.epoch, gone.abandoned) == (1, False)
    assert store.begin(own.charter, 2).destroyed == [store.statements()["epoch-1-destroyed.json"]]
    # The stored answer needs no key; another request for the round gets none.
    _answer(own, role, sent, 1)
    with pytest.raises(EpochGone):
        store.secret(1)


@pytest.mark.parametrize("role", ROLES)
def test_an_abandoned_epoch_opens_nothing_any_more(
    own: Federation, role: str, tmp_path: Path
) -> None:
    store = EpochStore(own.state(role))
    sent = contribute_all(own, tmp_path / "sent")
    for epoch, reason, abandon in (
        (1, "the present one", True),
        (0, "none", True),
        (2, "not made yet", True),
    ):
        with pytest.raises(EpochRefused):
            store.give_up(epoch, reason, abandon=abandon)
    store.rotate()
    for reason, abandon in (("rounds wait", False), ("", True), ("two\nlines", True)):
        with pytest.raises(EpochRefused):
            store.give_up(1, reason, abandon=abandon)
    assert key_files.secret_path(own.state(role), 1).exists()
    store.give_up(1, "the machine was stolen", abandon=True)
    assert not key_files.secret_path(own.state(role), 1).exists()
    with pytest.raises(EpochGone):
        _answer(own, role, sent, 1)
    gone = open_destroyed(_party(own, role), store.statements()["epoch-1-destroyed.json"])
    assert (gone.reason, gone.abandoned) == ("the machine was stolen", True)
    with pytest.raises(EpochRefused):
        store.give_up(1, "again", abandon=True)


def test_nothing_is_answered_under_an_epoch_that_ends_meanwhile(
    own: Federation, tmp_path: Path
) -> None:
    charter = own.charter
    sent = contribute_all(own, tmp_path / "sent")
    service = DecryptorService(own.state("decryptor"))
    total = summed(charter, sent)

    def chunks() -> Iterator[bytes]:
        store = EpochStore(own.state("decryptor"))
        store.rotate()
        store.give_up(1, "in the middle of an answer", abandon=True)
        yield total

    bodies = own.state("decryptor").role_directory() / "answers.bodies"
    with pytest.raises(EpochGone):
        service.answer(charter, 1, sum_digest=digest(total), chunks=chunks())
    assert list(bodies.iterdir()) == []
    service.close()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("wiped", [False, True], ids=["before the file", "after the file"])
def test_a_crash_in_the_middle_of_a_destruction_is_made_up_for(
    own: Federation, role: str, wiped: bool
) -> None:
    state = own.state(role)
    store = EpochStore(state)
    store.begin(own.charter, 1)
    store.rotate()
    database = sqlite3.connect(state.role_directory() / FILE_NAME)
    database.execute("UPDATE epochs SET closing = 'a reason', abandoned = 1 WHERE number = 1")
    database.commit()
    database.close()
    if wiped:
        key_files.destroy(state, 1)
    with pytest.raises(EpochGone):
        store.secret(1)
    service = DecryptorService(state) if role == "decryptor" else UnmaskerService(state)
    assert not key_files.secret_path(state, 1).exists()
    gone = open_destroyed(_party(own, role), service.epochs.statements()["epoch-1-destroyed.json"])
    assert (gone.reason, gone.abandoned) == ("a reason", True)
    if isinstance(service, DecryptorService):
        service.close()


@pytest.mark.parametrize("role", ROLES)
def test_keys_of_an_epoch_that_was_never_stated_are_replaced(own: Federation, role: str) -> None:
    """A crash after the files and before the statement."""
    state = own.state(role)
    store = EpochStore(state)
    made = key_files.make(state, 2)
    assert store.rotate() == 2
    assert key_files.public_key(state, 2) != made
    assert EpochStore(state).status()[-1].number == 2


@pytest.mark.parametrize("role", ROLES)
def test_key_files_of_another_are_noticed_at_the_start(own: Federation, role: str) -> None:
    state = own.state(role)
    EpochStore(state).rotate()
    key_files.make(state, 2)
    with pytest.raises(StateError, match="not those that this custodian stated"):
        EpochStore(state)


def test_an_unmasker_answers_for_the_beginning_that_it_made_and_no_other(
    own: Federation, tmp_path: Path
) -> None:
    charter = own.charter
    sent = contribute_all(own, tmp_path / "sent")
    service = UnmaskerService(own.state("unmasker"))
    members, begun = members_for(charter, "unmasker", sent), rounds_begun(own, charter)
    other = EpochStore(own.state("decryptor")).begin(_other_charter(own), 1).round_begun
    cases: list[tuple[list[bytes], type[Exception]]] = [
        ([], KeysRefused),
        (begun[1:], KeysRefused),
        (begun[::-1], KeysRefused),
        ([begun[0], other], KeysRefused),
        # Its own is right, but these manifests name another statement of the decryptor's.
        ([other, begun[1]], ManifestRefused),
    ]
    for wrong, error in cases:
        with pytest.raises(error):
            service.answer(charter, 1, members, rounds_begun=wrong)
    service.answer(charter, 1, members, rounds_begun=begun)


@pytest.mark.parametrize("role", ROLES)
def test_what_was_not_begun_is_not_answered(own: Federation, role: str, tmp_path: Path) -> None:
    charter = own.charter
    sent = contribute_all(own, tmp_path / "sent", begun=False)
    total = summed(charter, sent)
    decryptor = DecryptorService(own.state("decryptor"))
    ask: Callable[[], object] = (
        (lambda: decryptor.answer(charter, 1, sum_digest=digest(total), chunks=iter([total])))
        if role == "decryptor"
        else (
            lambda: UnmaskerService(own.state("unmasker")).answer(
                charter, 1, members_for(charter, "unmasker", sent), rounds_begun=[]
            )
        )
    )
    with pytest.raises(RoundNotBegun):
        ask()
    decryptor.close()


def test_a_contribution_under_an_earlier_epochs_keys_is_never_opened(
    own: Federation, tmp_path: Path
) -> None:
    """Round 2 is under new keys: what was encrypted and sealed under the old ones stays closed."""
    charter = own.charter
    sent = contribute_all(own, tmp_path / "sent")
    old = keys_of_stores(own, charter)
    for role in ROLES:
        _answer(own, role, sent, 1)
        EpochStore(own.state(role)).rotate()
    new = keys_of_stores(own, charter, 2)
    assert new.epochs == (2, 2)
    assert new.context_digest != old.context_digest
    # Hospitals that believed an aggregator that shows round 2 with the keys of round 1.
    forged = dataclasses.replace(old, round_number=2, digest=new.digest)
    names = [hospital.name for hospital in charter.hospitals]
    late = {
        name: contribute(own, name, tmp_path / f"late-{name}", round_number=2, round_keys=forged)
        for name in names
    }
    decryptor = DecryptorService(own.state("decryptor"))
    with pytest.raises((NotAnInteger, CiphertextRefused)):
        ask_decryptor(decryptor, charter, summed(charter, late), round_number=2)
    decryptor.close()
    with pytest.raises(SealRefused):
        _answer(own, "unmasker", late, 2)


def test_statements_survive_a_restart_and_are_what_hospitals_accept(own: Federation) -> None:
    stores = [EpochStore(own.state(role)) for role in ROLES]
    for _ in range(3):
        for store in stores:
            store.rotate()
    stated = [EpochStore(own.state(role)).begin(own.charter, 1) for role in ROLES]
    keys = open_round_keys(own.charter, 1, stated)
    assert keys.epochs == (4, 4)
    assert [len(one.key_epochs) for one in stated] == [4, 4]
    assert [len(one.destroyed) for one in stated] == [3, 3]


def test_an_enrolment_after_a_destruction_names_the_key_that_charters_begin_with(
    own: Federation,
) -> None:
    state: StateDirectory = own.state("unmasker")
    EpochStore(state).rotate()
    assert not state.sealing_key_path.exists()
    request = open_request(make_request(state))
    assert request.sealing_key.to_base64() == own.charter.custodians.unmaskers[0].sealing_key
