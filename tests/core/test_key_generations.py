"""The generations of keys in a state directory."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.passphrases import FIRST, chosen, give
from support.softhsm import SoftToken

from fedhelp_secure.keystore.generations import GENERATIONS_FILE
from fedhelp_secure.keystore.lock import LEAST_COST
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.signing import SigningKey, open_document
from fedhelp_secure.state import KeyNotHeld, SignerUse, StateDirectory, StateError
from fedhelp_secure.transport.identity import Identity, Role

HOSPITAL = Identity("testfed", Role.HOSPITAL, "small-1")


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory.create(tmp_path / "state", HOSPITAL)


def rotate(state: StateDirectory) -> None:
    state.adopt(state.next_keys())


def test_a_state_without_a_rotation_has_one_key(state: StateDirectory) -> None:
    own, sealing = state.signing_key().public, state.unsealing_key().public
    assert state.generations() == ()
    assert state.verifying_keys() == (own,)
    assert state.signing_key_for(own).public == own
    assert state.unsealing_key_for(sealing).public.raw == sealing.raw
    with pytest.raises(KeyNotHeld, match="names a key of this party that it does not have"):
        state.signing_key_for(SigningKey.generate().public)
    with pytest.raises(KeyNotHeld):
        state.unsealing_key_for(UnsealingKey.generate().public)
    assert state.destroy_former_keys() == ()


def test_every_generation_is_found_by_its_public_half(state: StateDirectory) -> None:
    signing, sealing = [state.signing_key().public], [state.unsealing_key().public]
    for _ in range(2):
        rotate(state)
        signing.append(state.signing_key().public)
        sealing.append(state.unsealing_key().public)
    assert len(set(signing)) == 3
    assert state.verifying_keys() == tuple(reversed(signing))
    reopened = StateDirectory.open(state.root)
    for public, sealed_to in zip(signing, sealing, strict=True):
        assert reopened.signing_key_for(public).public == public
        message = sealed_to.seal(b"for me", b"info")
        assert reopened.unsealing_key_for(sealed_to).open(message, b"info") == b"for me"
        assert reopened.unsealing_key_beside(public).open(message, b"info") == b"for me"


def test_keys_that_are_made_are_not_in_use_before_they_are_adopted(state: StateDirectory) -> None:
    before = state.signing_key().public
    made = state.next_keys()
    again = StateDirectory.open(state.root).next_keys()
    assert (again.signing_key.public, again.number) == (made.signing_key.public, 2)
    assert again.sealing_key is not None
    assert made.sealing_key is not None
    assert again.sealing_key.raw == made.sealing_key.raw
    assert state.signing_key().public == before
    with pytest.raises(KeyNotHeld):
        state.signing_key_for(made.signing_key.public)


def test_a_half_made_pair_is_completed(state: StateDirectory) -> None:
    made = state.next_keys()
    (state.root / "keys" / "generation-2" / "sealing.bin").unlink()
    again = state.next_keys()
    assert again.signing_key.public == made.signing_key.public
    assert again.sealing_key is not None
    state.adopt(again)
    assert state.unsealing_key().public.raw == again.sealing_key.raw


@pytest.mark.parametrize("role", [Role.UNMASKER, Role.REGISTRAR])
def test_some_roles_keep_their_sealing_key(tmp_path: Path, role: Role) -> None:
    state = StateDirectory.create(tmp_path / "state", Identity("testfed", role, "one"))
    signing, sealing = state.signing_key().public, state.unsealing_key().public
    assert state.next_keys().sealing_key is None
    rotate(state)
    assert state.signing_key().public != signing
    assert state.unsealing_key().public.raw == sealing.raw
    state.destroy_former_keys()
    assert state.unsealing_key().public.raw == sealing.raw
    assert state.sealing_key_path == state.root / "keys" / "sealing.bin"


def test_destroyed_keys_are_gone_from_the_disk_and_still_known(state: StateDirectory) -> None:
    old, sealing = state.signing_key(), state.unsealing_key()
    files = (state.signing_key_path, state.sealing_key_path)
    held = state.root.parent / "held"
    held.mkdir()
    for path in files:
        (held / path.name).hardlink_to(path)
    secrets = {path.name: path.read_bytes() for path in files}
    rotate(state)
    present = state.signing_key().public
    assert [each.number for each in state.destroy_former_keys()] == [1]
    for path in files:
        assert not path.exists()
        # Overwritten, not only unlinked.
        left = (held / path.name).read_bytes()
        assert len(left) == len(secrets[path.name])
        assert left != secrets[path.name]
    assert state.verifying_keys() == (present, old.public)
    for refused in (
        lambda: state.signing_key_for(old.public),
        lambda: state.unsealing_key_for(sealing.public),
        lambda: state.unsealing_key_beside(old.public),
    ):
        with pytest.raises(KeyNotHeld, match="destroyed after a rotation"):
            refused()
    assert state.signing_key().public == present
    assert state.destroy_former_keys() == ()


def test_a_destruction_that_was_cut_short_is_completed(state: StateDirectory) -> None:
    rotate(state)
    (state.root / "keys" / "signing.pem").unlink()
    assert [each.number for each in state.destroy_former_keys()] == [1]
    assert not (state.root / "keys" / "sealing.bin").exists()
    assert state.generations()[0].destroyed


def test_a_passphrase_covers_all_generations(state: StateDirectory) -> None:
    old = state.signing_key().public
    rotate(state)
    give(FIRST)
    try:
        state.secrets.encrypt(chosen(FIRST), cost=LEAST_COST)
        for path in (state.root / "keys").rglob("*.pem"):
            assert b"PRIVATE KEY" not in path.read_bytes()
        reopened = StateDirectory.open(state.root)
        assert reopened.signing_key_for(old).public == old
        rotate(reopened)
        path = reopened.signing_key_path
        assert path.parent.name == "generation-3"
        assert b"PRIVATE KEY" not in path.read_bytes()
    finally:
        give(None)


def test_a_key_elsewhere_is_used_and_never_removed(state: StateDirectory) -> None:
    path = state.root.parent / "medium.pem"
    path.write_bytes(SigningKey.generate().to_pem())
    path.chmod(0o600)
    uri = f"file://{path}"
    state.adopt(state.next_keys(uri))
    elsewhere = state.signing_key().public
    assert state.signers_in_use() == f"signing key {uri}"
    rotate(state)
    assert state.signing_key_for(elsewhere).public == elsewhere
    envelope = state.signing_key_for(elsewhere).sign_document("statement", {"round": 1})
    assert open_document("statement", envelope, elsewhere) == {"round": 1}
    state.destroy_former_keys()
    assert path.exists()
    with pytest.raises(StateError, match="has or had"):
        state.next_keys(uri)


def test_a_damaged_list_of_generations_stops_everything(state: StateDirectory) -> None:
    rotate(state)
    (state.root / GENERATIONS_FILE).write_bytes(b"{}")
    with pytest.raises(StateError, match="is damaged; put its backup back"):
        state.signing_key()


def test_a_copy_without_the_list_uses_its_first_key(state: StateDirectory, tmp_path: Path) -> None:
    first = state.signing_key().public
    shutil.copytree(state.root, tmp_path / "copy")
    rotate(state)
    assert StateDirectory.open(tmp_path / "copy").signing_key().public == first


def test_generations_may_be_in_a_token(tmp_path: Path, soft_token: SoftToken) -> None:
    """From one key of a token to another, and on to a file: the token's keys are never removed."""
    uris = [soft_token.uri(name) for name in ("generation-one", "generation-two")]
    state = StateDirectory.create(
        tmp_path / "state", HOSPITAL, signers={SignerUse.SIGNING: uris[0]}
    )
    public = [state.signing_key().public]
    with pytest.raises(StateError, match="has or had"):
        state.next_keys(uris[0])
    # Made once, and the same one when the try is repeated.
    assert (
        state.next_keys(uris[1]).signing_key.public == state.next_keys(uris[1]).signing_key.public
    )
    state.adopt(state.next_keys(uris[1]))
    public.append(state.signing_key().public)
    assert state.signers_in_use() == f"signing key {uris[1]}"
    rotate(state)
    assert not (state.root / "keys" / "generation-2" / "signing.pem").exists()
    for key in public:
        # Deterministic: what is stated anew under a former key has the same bytes.
        envelopes = {state.signing_key_for(key).sign_document("statement", {}) for _ in range(2)}
        (envelope,) = envelopes
        assert open_document("statement", envelope, key) == {}
    assert [each.signer for each in state.destroy_former_keys()] == uris
    elsewhere = StateDirectory.create(
        tmp_path / "other", HOSPITAL, signers={SignerUse.SIGNING: uris[1]}
    )
    assert elsewhere.signing_key().public == public[1]
