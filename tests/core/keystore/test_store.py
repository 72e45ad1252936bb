"""One passphrase for all secrets of a state, changed all at once or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.passphrases import FIRST, SECOND, chosen, give

from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.keystore import lock
from fedhelp_secure.keystore.container import is_sealed
from fedhelp_secure.keystore.lock import LEAST_COST, PassphraseWrong
from fedhelp_secure.keystore.passphrase import PassphraseMissing, PassphraseUnfit
from fedhelp_secure.keystore.store import LOCK_FILE, NotEncrypted, SecretStore, secret_files
from fedhelp_secure.state import NotASecretName, StateDirectory, StateError
from fedhelp_secure.transport.identity import Identity, Role

PARTY = {"federation": "testfed", "role": "decryptor", "name": "one"}
SECRETS = {
    "keys/signing.pem": b"-----BEGIN PRIVATE KEY-----\nsigning",
    "keys/sealing.bin": bytes(range(96)),
    "tls/key.pem": b"-----BEGIN PRIVATE KEY-----\ntls",
    "tls/next-key.pem": b"-----BEGIN PRIVATE KEY-----\nnext",
    "decryptor/context.secret": os.urandom(70_000),
}
PUBLIC = {"tls/certificate.pem": b"certificate", "decryptor/context.public": b"public"}

Change = Callable[[SecretStore], None]


def encrypt(passphrase: str) -> Change:
    return lambda store: store.encrypt(chosen(passphrase), cost=LEAST_COST)


def decrypt(store: SecretStore) -> None:
    store.decrypt()


def store_at(root: Path) -> SecretStore:
    return SecretStore(root, PARTY)


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    """One with every secret, in the clear."""
    root = tmp_path / "state"
    root.mkdir(mode=0o700)
    give(None)
    made = store_at(root)
    for name, secret in SECRETS.items():
        made.write(root / name, secret)
    for name, data in PUBLIC.items():
        (root / name).write_bytes(data)
    return made


@pytest.fixture
def root(store: SecretStore, tmp_path: Path) -> Path:
    return tmp_path / "state"


def readable(root: Path, passphrase: str | None) -> bool:
    """Whether ``passphrase`` opens every secret; raises unless it is every one or none."""
    give(passphrase)
    opened = []
    for name, secret in SECRETS.items():
        try:
            opened.append(store_at(root).read(root / name) == secret)
        except (PassphraseMissing, PassphraseWrong):
            opened.append(False)
    assert len(set(opened)) == 1, f"only some open with {passphrase}: {opened}"
    return opened[0]


def in_the_clear(root: Path) -> list[str]:
    """The files in ``root``, whatever they are called, that show a secret."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return [
        str(path.relative_to(root))
        for path in files
        if any(secret in path.read_bytes() for secret in SECRETS.values())
    ]


def test_a_passphrase_is_set_changed_and_removed(store: SecretStore, root: Path) -> None:
    assert len(in_the_clear(root)) == len(SECRETS)
    encrypt(FIRST)(store)
    assert store.is_encrypted
    assert in_the_clear(root) == []
    assert readable(root, FIRST)
    assert not readable(root, SECOND)
    assert not readable(root, None)

    give(FIRST)
    files = {path: path.read_bytes() for path in secret_files(root)}
    encrypt(SECOND)(store)
    assert readable(root, SECOND)
    assert not readable(root, FIRST)
    # The key of the secrets stays, so that a server that runs reads on.
    assert {path: path.read_bytes() for path in secret_files(root)} == files

    give(SECOND)
    store.decrypt()
    assert readable(root, None)
    assert not (root / LOCK_FILE).exists()
    assert {name: (root / name).read_bytes() for name in PUBLIC} == PUBLIC
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("change", [encrypt(SECOND), decrypt])
def test_a_wrong_passphrase_changes_nothing(store: SecretStore, root: Path, change: Change) -> None:
    encrypt(FIRST)(store)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for wrong, error in ((SECOND, PassphraseWrong), (None, PassphraseMissing)):
        give(wrong)
        with pytest.raises(error):
            change(store)
        with pytest.raises(error):
            store.write(root / "keys" / "signing.pem", b"other")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_weak_passphrase_changes_nothing(store: SecretStore, root: Path) -> None:
    with pytest.raises(PassphraseUnfit):
        encrypt("too short")(store)
    assert readable(root, None)


CHANGES = [(None, encrypt(FIRST), FIRST), (FIRST, encrypt(SECOND), SECOND), (FIRST, decrypt, None)]


@pytest.mark.parametrize(("old", "change", "new"), CHANGES, ids=["set", "change", "remove"])
def test_killed_at_any_step_the_old_or_the_new_passphrase_opens_everything(
    store: SecretStore, root: Path, tmp_path: Path, old: str | None, change: Change, new: str | None
) -> None:
    if old is not None:
        encrypt(old)(store)
    finished, step, outcomes = False, 0, []
    while not finished:
        step += 1
        copy = tmp_path / f"copy-{step}"
        shutil.copytree(root, copy)
        give(old)
        finished = _killed_before(step, lambda copy=copy: change(store_at(copy)))  # type: ignore[misc]
        tried = sorted({None, old, new}, key=str)
        opens = [text for text in tried if readable(copy, text)]
        # In the clear, everything opens with any passphrase.
        holds = None if None in opens else opens[0]
        assert holds in (old, new), f"killed before step {step}"
        assert len(opens) == (len(tried) if holds is None else 1)
        assert [path.name for path in copy.iterdir() if path.name.startswith(".secrets")] == []
        if holds is not None:
            assert in_the_clear(copy) == []
        outcomes.append(holds == new)
        shutil.rmtree(copy)
    # Both were seen, and never the old one after the new one.
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}
    assert step > (2 if old and new else 25)


def _killed_before(step: int, work: Callable[[], None]) -> bool:
    """Run ``work`` in a child that is killed before its ``step``-th change of the file system.

    Returns whether it came to its end before that.
    """
    child = os.fork()
    if child == 0:  # pragma: no cover (the child is killed, or ends without a word)
        seen = 0

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") or (
                event == "open"
                and isinstance(arguments[2], int)
                and bool(arguments[2] & os.O_CREAT)
            )
            seen += changes
            if changes and seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(count)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == 0


def test_a_secret_in_the_clear_beside_encrypted_ones_is_refused_until_it_is_taken_in(
    store: SecretStore, root: Path
) -> None:
    encrypt(FIRST)(store)
    give(FIRST)
    planted = root / "keys" / "signing.pem"
    planted.write_bytes(SECRETS["keys/signing.pem"])
    with pytest.raises(NotEncrypted, match="fedhelp enrol passphrase --state"):
        store.read(planted)
    encrypt(FIRST)(store)
    assert is_sealed(planted.read_bytes())
    assert readable(root, FIRST)


def test_encrypted_secrets_without_their_lock_are_not_taken_for_keys(
    store: SecretStore, root: Path
) -> None:
    encrypt(FIRST)(store)
    give(FIRST)
    (root / LOCK_FILE).unlink()
    with pytest.raises(StateError, match=r"passphrase\.json is missing"):
        store.read(root / "keys" / "sealing.bin")
    with pytest.raises(StateError, match=r"passphrase\.json is missing"):
        encrypt(FIRST)(store)


def test_files_that_change_places_do_not_open(store: SecretStore, root: Path) -> None:
    encrypt(FIRST)(store)
    give(FIRST)
    os.replace(root / "keys" / "signing.pem", root / "keys" / "sealing.bin")
    with pytest.raises(StateError, match="belongs to another party or name"):
        store.read(root / "keys" / "sealing.bin")
    # The key that waits for its certificate is the exception: it is written for its later name.
    os.replace(root / "tls" / "next-key.pem", root / "tls" / "key.pem")
    assert store.read(root / "tls" / "key.pem") == SECRETS["tls/next-key.pem"]


def test_one_partys_secrets_do_not_open_as_anothers(store: SecretStore, root: Path) -> None:
    encrypt(FIRST)(store)
    give(FIRST)
    with pytest.raises(PassphraseWrong):
        SecretStore(root, {**PARTY, "name": "two"}).read(root / "keys" / "sealing.bin")


def test_what_an_interrupted_write_left_is_not_kept_in_the_clear(
    store: SecretStore, root: Path
) -> None:
    (root / "tls" / ".key.pem.17.0a1b2c3d.tmp").write_bytes(SECRETS["tls/key.pem"])
    (root / "tls" / ".certificate.pem.17.0a1b2c3d.tmp").write_bytes(b"public")
    encrypt(FIRST)(store)
    assert in_the_clear(root) == []
    assert [path.name for path in (root / "tls").glob(".*")] == [".certificate.pem.17.0a1b2c3d.tmp"]


def test_scrypt_is_paid_once_for_all_secrets(store: SecretStore, root: Path) -> None:
    encrypt(FIRST)(store)
    give(FIRST)
    before = lock._derived.cache_info().misses
    for name in SECRETS:
        store_at(root).read(root / name)
    assert lock._derived.cache_info().misses == before


def test_writers_and_a_change_of_the_passphrase_take_turns(store: SecretStore, root: Path) -> None:
    """What is written while all secrets are encrypted or decrypted is not lost, nor left behind."""
    give(FIRST)
    path, written, problems = root / "keys" / "signing.pem", [b""], []

    def write() -> None:
        try:
            for number in range(25):
                written[0] = b"%d" % number
                store_at(root).write(path, written[0])
        except FedHelpError as error:
            problems.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        encrypt(FIRST)(store)
        store.decrypt()
    thread.join()
    assert problems == []
    assert store.read(path) == written[0] == b"24"


def test_a_state_is_made_encrypted_if_there_is_a_passphrase(tmp_path: Path) -> None:
    give(FIRST)
    identity = Identity("testfed", Role.HOSPITAL, "one")
    state = StateDirectory.create(tmp_path / "state", identity)
    for path in secret_files(state.root):
        assert is_sealed(path.read_bytes()), path
    reopened = StateDirectory.open(state.root)
    assert reopened.signing_key().public == state.signing_key().public
    sealed = reopened.unsealing_key().public.seal(b"for me", b"info")
    assert state.unsealing_key().open(sealed, b"info") == b"for me"
    give(SECOND)
    with pytest.raises(PassphraseWrong):
        StateDirectory.open(state.root).signing_key()
    give(None)
    with pytest.raises(PassphraseMissing):
        StateDirectory.open(state.root).unsealing_key()


def test_secrets_have_names_that_everything_knows_them_by(tmp_path: Path) -> None:
    identity = Identity("testfed", Role.HOSPITAL, "one")
    state = StateDirectory.create(tmp_path / "state", identity)
    with pytest.raises(NotASecretName):
        state.write_secret(state.root / "hospital" / "key.bin", b"secret")
    path = state.root / "keys" / "epochs" / "3" / "sealing.bin"
    state.write_secret(path, b"secret")
    assert state.read_secret(path) == b"secret"
    state.destroy_secret(path)
    assert not path.exists()
    state.destroy_secret(path)
    with pytest.raises(StateError, match="cannot be read"):
        state.read_secret(path)
