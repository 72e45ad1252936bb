"""A custodian's keys made before witnesses, lost, and made good from backup and shares."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.federation import Federation, copied, make_federation
from support.keys import keys_of_stores
from support.secure_sum import ask_decryptor, ask_unmaskers, contribute_all
from support.sums import summed

from fedhelp_keys.custodian import key_files
from fedhelp_keys.custodian.backup import (
    BackupRefused,
    backup_key_path,
    make_backup,
    restore_backup,
)
from fedhelp_keys.custodian.ceremony import KIND, CeremonyRefused, hold
from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.epochs import EpochStore, RoundNotBegun
from fedhelp_keys.custodian.shares import SharesRefused, split
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.secure_sum.ckks import NotAnInteger
from fedhelp_secure.secure_sum.contribution import ManifestRefused
from fedhelp_secure.secure_sum.opening import Answers, open_sum
from fedhelp_secure.signing import open_document
from fedhelp_secure.state import StateDirectory, StateError
from fedhelp_secure.transport.identity import Identity, Role

FEDHELP = str(Path(sys.executable).with_name("fedhelp"))
PRESENT = ["Ada Example, security", "Ben Example, privacy"]
ROLES = {"decryptor": Role.DECRYPTOR, "unmasker": Role.UNMASKER}


def _new(root: Path, role: str) -> StateDirectory:
    return StateDirectory.create(root, Identity("testfed", ROLES[role], role))


def _files(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("role", ROLES)
def test_a_ceremony_makes_keys_shares_and_a_transcript_without_secrets(
    tmp_path: Path, role: str
) -> None:
    state = _new(tmp_path, role)
    held = hold(state, PRESENT, threshold=2, count=3)
    document = open_document(KIND, held.transcript, state.signing_key().public)
    assert document["present"] == PRESENT
    assert document["shares"] == {"threshold": 2, "count": 3}
    assert set(document["versions"]) > {"shamir-mnemonic", "cryptography", "python"}
    epoch = EpochStore(state).status()[0]
    assert [one["key"] for one in document["fingerprints"]] == [
        "signing key",
        "key of epoch 1",
        "backup key",
    ]
    assert document["fingerprints"][1]["digest"] == epoch.key
    words = {share for share in held.shares}
    assert len(words) == 3
    told = held.transcript.decode() + repr(held)
    secret = key_files.secret_path(state, 1).read_bytes()
    assert not any(share in told for share in held.shares)
    assert secret.hex() not in told
    with pytest.raises(CeremonyRefused):
        hold(state, PRESENT, threshold=2, count=3)


@pytest.mark.parametrize(
    ("present", "threshold", "error"),
    [
        ([], 2, CeremonyRefused),
        (["two\nlines"], 2, CeremonyRefused),
        (["x"] * 21, 2, CeremonyRefused),
        (PRESENT, 4, SharesRefused),
        (PRESENT, 1, SharesRefused),
    ],
)
def test_a_ceremony_that_is_refused_makes_nothing(
    tmp_path: Path, present: list[str], threshold: int, error: type[Exception]
) -> None:
    state = _new(tmp_path, "decryptor")
    before = _files(tmp_path)
    with pytest.raises(error):
        hold(state, present, threshold=threshold, count=3)
    assert _files(tmp_path) == before
    hold(state, PRESENT, threshold=2, count=3)


def test_no_ceremony_with_a_custodian_that_has_keys(tmp_path: Path) -> None:
    state = _new(tmp_path, "decryptor")
    key_files.prepare(state)
    with pytest.raises(CeremonyRefused):
        hold(state, PRESENT, threshold=2, count=3)
    with pytest.raises(BackupRefused):
        make_backup(state)


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("template"), large=1, small=2)


class _Lost:
    """A federation whose custodian called ``role`` is lost but for a backup and shares."""

    def __init__(self, federation: Federation, role: str, folder: Path) -> None:
        self.federation = federation
        self.role = role
        self.folder = folder
        state = federation.state(role)
        # As a ceremony leaves it (which comes before the enrolment).
        EpochStore(state)
        (folder / "ceremony").mkdir()
        other = hold(_new(folder / "ceremony" / "state", role), PRESENT, threshold=2, count=3)
        self.shares = other.shares
        made = StateDirectory(folder / "ceremony" / "state", state.identity)
        shutil.copyfile(backup_key_path(made), backup_key_path(state))
        self.backup = folder / "backup.json"

    def back_up(self) -> None:
        self.backup.write_bytes(make_backup(self.federation.state(self.role)))

    def restore(self, *shares: str) -> StateDirectory:
        """The custodian anew, in the place of the one that is lost."""
        root = self.federation.state(self.role).root
        shutil.rmtree(root)
        return restore_backup(self.backup, list(shares), root)


@pytest.fixture(params=list(ROLES))
def lost(request: pytest.FixtureRequest, enrolled: Federation, tmp_path: Path) -> _Lost:
    return _Lost(copied(enrolled, tmp_path / "parties"), request.param, tmp_path)


def _opened_sum(federation: Federation, number: int, folder: Path) -> bool:
    """Whether a round from contributions to the opened sum is exact."""
    charter = federation.charter
    release = np.arange(charter.secure_sum.values, dtype=np.int64)
    names = [hospital.name for hospital in charter.hospitals]
    sent = contribute_all(
        federation, folder, releases=dict.fromkeys(names, release), round_number=number
    )
    decryptor = DecryptorService(federation.state("decryptor"))
    unmaskers = {"unmasker": UnmaskerService(federation.state("unmasker"))}
    answers = Answers(
        ask_decryptor(decryptor, charter, summed(charter, sent), round_number=number),
        ask_unmaskers(federation, unmaskers, charter, sent, round_number=number),
    )
    decryptor.close()
    opened = open_sum(
        charter,
        number,
        recipient="small-1",
        unsealing_key=federation.state("small-1").unsealing_key(),
        answers=answers,
    )
    return bool((opened.values == release * charter.total_weight).all())


def test_a_restored_custodian_opens_the_rounds_that_it_begins(lost: _Lost, tmp_path: Path) -> None:
    federation = lost.federation
    assert _opened_sum(federation, 1, tmp_path / "first")
    store = EpochStore(federation.state(lost.role))
    assert store.rotate() == 2
    lost.back_up()
    signing_key = federation.state(lost.role).signing_key().public
    restored = lost.restore(lost.shares[2], lost.shares[0])
    assert restored.signing_key().public == signing_key
    fates = [epoch.fate.partition(":")[0] for epoch in EpochStore(restored).status()]
    # The first was destroyed before, with its record in the backup.
    assert fates == ["destroyed", "lost", "present"]
    keys = keys_of_stores(federation, federation.charter, 2)
    assert sorted(keys.epochs) == [1, 3]
    assert _opened_sum(federation, 2, tmp_path / "second")


def test_a_restored_custodian_answers_no_round_begun_before(lost: _Lost, tmp_path: Path) -> None:
    """It has forgotten what it answered: a second set of an old round must stay closed."""
    federation, charter = lost.federation, lost.federation.charter
    sent = contribute_all(federation, tmp_path / "sent")
    old = keys_of_stores(federation, charter)
    total = summed(charter, sent)
    lost.back_up()
    lost.restore(*lost.shares[:2])
    decryptor = DecryptorService(federation.state("decryptor"))
    unmasker = UnmaskerService(federation.state("unmasker"))
    asked: Callable[[], object] = partial(unmasker.answer, charter, 1, [], rounds_begun=[])
    again: Callable[[], object] = partial(
        ask_unmaskers, federation, {"unmasker": unmasker}, charter, sent
    )
    error: type[FedHelpError] = ManifestRefused
    if lost.role == "decryptor":
        parts = iter([total])
        asked = partial(decryptor.answer, charter, 1, sum_digest=digest(total), chunks=parts)
        again, error = partial(ask_decryptor, decryptor, charter, total), NotAnInteger
    with pytest.raises(RoundNotBegun):
        asked()
    # Begun again, it is another beginning, under other keys.
    new = keys_of_stores(federation, charter)
    assert new.digest != old.digest
    assert new.epochs != old.epochs
    with pytest.raises(error):
        again()
    decryptor.close()


def test_a_backup_holds_no_secret_of_an_epoch(lost: _Lost) -> None:
    lost.back_up()
    state = lost.federation.state(lost.role)
    secret = key_files.secret_path(state, 1).read_bytes()
    signing_pem = state.signing_key_path.read_bytes()
    restored = lost.restore(*lost.shares[:2])
    everything = b"".join(_files(restored.root).values())
    assert secret not in everything
    assert signing_pem in everything
    assert signing_pem not in lost.backup.read_bytes()


def test_wrong_shares_and_spoilt_backups_change_nothing(lost: _Lost, tmp_path: Path) -> None:
    lost.back_up()
    good = lost.backup.read_bytes()
    document = json.loads(good)
    target = tmp_path / "new"
    of_another = split(bytes(32), threshold=2, shares=2)
    for shares in ([], lost.shares[:1], lost.shares, of_another, [lost.shares[0], of_another[0]]):
        with pytest.raises(SharesRefused):
            restore_backup(lost.backup, list(shares), target)
    sealed = document["sealed"]
    altered = ("B" if sealed[-20] == "A" else "A").join([sealed[:-20], sealed[-19:]])
    for spoilt in (
        b"",
        b"{}",
        good[:-10],
        json.dumps(document | {"sealed": altered}).encode(),
        json.dumps(document | {"name": "another"}).encode(),
        json.dumps(document | {"role": "hospital"}).encode(),
        json.dumps(document | {"more": 1}).encode(),
    ):
        lost.backup.write_bytes(spoilt)
        with pytest.raises(BackupRefused):
            restore_backup(lost.backup, list(lost.shares[:2]), target)
    assert not target.exists()
    lost.backup.write_bytes(good)
    target.mkdir()
    (target / "something").touch()
    with pytest.raises(StateError):
        restore_backup(lost.backup, list(lost.shares[:2]), target)
    assert [path.name for path in target.iterdir()] == ["something"]


def _run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FEDHELP, "custodian", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_commands_from_ceremony_to_restored_keys(tmp_path: Path) -> None:
    state = _new(tmp_path / "state", "unmasker")
    where = ("--state", str(state.root))
    present = [part for name in PRESENT for part in ("--present", name)]
    out = tmp_path / "ceremony"
    numbers = ("--threshold", "2", "--shares", "3")
    held = _run("ceremony", *where, *present, *numbers, "--out", str(out))
    assert held.returncode == 0, held.stderr
    lines = held.stdout.splitlines()
    shares = [
        lines[number + 1].strip() for number, line in enumerate(lines) if line.startswith("share ")
    ]
    assert len(shares) == 3
    transcript = open_document(
        KIND, (out / "transcript.json").read_bytes(), state.signing_key().public
    )
    for fingerprint in transcript["fingerprints"]:
        assert f"{fingerprint['key']}: {fingerprint['groups']}" in lines
        assert f"    {fingerprint['words']}" in lines
    assert not any(share in (out / "transcript.json").read_text() for share in shares)
    EpochStore(state).rotate()
    refused = _run("destroy-epoch", "2", *where, "--reason", "none")
    assert refused.returncode == 1
    assert "only an earlier epoch" in refused.stderr
    listed = _run("epochs", *where, "--out", str(tmp_path / "statements")).stdout
    assert "epoch 1" in listed
    assert "destroyed" in listed
    names = {path.name for path in (tmp_path / "statements").iterdir()}
    assert names == {"epoch-1.json", "epoch-2.json", "epoch-1-destroyed.json"}
    (out / "backup.json").write_bytes(make_backup(state))
    new = ("--state", str(tmp_path / "new"), "--backup", str(out / "backup.json"))
    wrong = _run("restore", *new, stdin=f"{shares[0]}\n\n")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("fedhelp: ")
    assert not (tmp_path / "new").exists()
    done = _run("restore", *new, stdin=f"{shares[2]}\n{shares[0]}\n\n")
    assert done.returncode == 0, done.stderr
    restored = StateDirectory.open(tmp_path / "new", Role.UNMASKER)
    assert restored.signing_key().public == state.signing_key().public
    assert f"signing key: {transcript['fingerprints'][0]['groups']}" in done.stdout
    assert [epoch.number for epoch in EpochStore(restored).status()] == [1, 2, 3]


def test_an_outdated_backup_makes_another_epoch_of_a_number_that_was_used(lost: _Lost) -> None:
    """The aggregator, which knows the first one, takes no round from it (test_round_keys)."""
    lost.back_up()
    store = EpochStore(lost.federation.state(lost.role))
    store.rotate()
    first = store.begin(lost.federation.charter, 1).key_epochs
    restored = lost.restore(*lost.shares[:2])
    second = EpochStore(restored).begin(lost.federation.charter, 1).key_epochs
    assert first[0] == second[0]
    assert first[1] != second[1]
