"""A custodian whose signing key was rotated: what it states under the old charter and the new."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.federation import Federation, copied, make_federation
from support.rotation import rotate, with_present_keys

from fedhelp_keys.custodian.backup import backup_key_path, make_backup, restore_backup
from fedhelp_keys.custodian.ceremony import hold
from fedhelp_keys.custodian.epochs import EpochStore
from fedhelp_keys.custodian.requests import CharterGate
from fedhelp_secure.charter import CharterRefused
from fedhelp_secure.errors import SignatureRefused
from fedhelp_secure.secure_sum.epochs import CustodianParty, open_destroyed
from fedhelp_secure.secure_sum.round_keys import custodian_parties, open_custodian_keys
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.wire.v1.coordinator_pb2 import CustodianKeys

ROLES = ["decryptor", "unmasker"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    root = tmp_path_factory.mktemp("template")
    return make_federation(root, large=1, small=2, rounds={"count": 3})


@pytest.fixture
def own(template: Federation, tmp_path: Path) -> Federation:
    return copied(template, tmp_path / "own")


def party(federation: Federation, role: str) -> CustodianParty:
    return custodian_parties(federation.charter)[ROLES.index(role)]


def check(federation: Federation, role: str, number: int, stated: CustodianKeys) -> int:
    """The epoch as a hospital finds it that holds this federation's charter."""
    for record in stated.destroyed:
        open_destroyed(party(federation, role), record)
    named = federation.charter.digest
    return open_custodian_keys(named, number, party(federation, role), stated).epoch


@pytest.mark.parametrize("role", ROLES)
def test_the_same_epochs_are_stated_under_the_key_that_each_charter_names(
    own: Federation, role: str
) -> None:
    state = own.state(role)
    store = EpochStore(state)
    first = store.begin(own.charter, 1)
    store.rotate()
    rotate(state)
    new = with_present_keys(own)
    # The charter that runs is shown what it was shown, by the running process and by another.
    for each in (store, EpochStore(state)):
        assert each.begin(own.charter, 1) == first
    under_new = store.begin(new.charter, 1)
    assert check(new, role, 1, under_new) == 2
    with pytest.raises(SignatureRefused):
        check(own, role, 1, under_new)
    # Epochs that are made now continue both chains.
    assert store.rotate() == 3
    other = with_present_keys(own, retention_days=30)
    stated = store.begin(other.charter, 1)
    assert check(other, role, 1, stated) == 3
    assert list(stated.key_epochs[:2]) == list(under_new.key_epochs)


@pytest.mark.parametrize("role", ROLES)
def test_the_end_of_an_epoch_is_stated_to_both(own: Federation, role: str) -> None:
    state = own.state(role)
    store = EpochStore(state)
    store.rotate()
    rotate(state)
    new = with_present_keys(own)
    for federation in (own, new):
        stated = store.begin(federation.charter, 1)
        assert check(federation, role, 1, stated) == 2
        assert len(stated.destroyed) == 1
        assert store.begin(federation.charter, 1) == stated


@pytest.mark.parametrize("role", ROLES)
def test_a_custodian_answers_for_charters_of_both_keys(own: Federation, role: str) -> None:
    state = own.state(role)
    gate = CharterGate(state)
    old = state.signing_key().public
    rotate(state)
    new = with_present_keys(own)
    assert gate.open(own.charter_envelope, 1) == own.charter
    assert gate.open(new.charter_envelope, 1) == new.charter
    assert gate.signing_key(own.charter).public == old
    assert gate.signing_key(new.charter).public == state.signing_key().public
    state.destroy_former_keys()
    with pytest.raises(CharterRefused, match="names another custodian or another key"):
        gate.open(own.charter_envelope, 1)
    assert gate.open(new.charter_envelope, 1) == new.charter


@pytest.mark.parametrize("destroyed", [False, True])
@pytest.mark.parametrize("role", ROLES)
def test_a_backup_restores_the_present_key(
    own: Federation, tmp_path: Path, role: str, destroyed: bool
) -> None:
    state = own.state(role)
    EpochStore(state).rotate()
    made = StateDirectory.create(tmp_path / "ceremony", state.identity)
    held = hold(made, ["Ada Example, security"], threshold=2, count=3)
    shutil.copyfile(backup_key_path(made), backup_key_path(state))
    rotate(state)
    if destroyed:
        state.destroy_former_keys()
    backup = tmp_path / "backup.json"
    backup.write_bytes(make_backup(state))
    restored = restore_backup(backup, list(held.shares[:2]), tmp_path / "restored")
    assert restored.signing_key().public == state.signing_key().public
    assert restored.verifying_keys() == state.verifying_keys()
    assert (tmp_path / "restored" / "keys" / "signing.pem").exists() is not destroyed
    new = with_present_keys(own)
    assert check(new, role, 1, EpochStore(restored).begin(new.charter, 1)) == 3
