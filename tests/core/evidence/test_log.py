"""The log on disk: crashes, torn tails, damage, threads, two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.evidence.checkpoint import open_checkpoint
from fedhelp_secure.evidence.entries import serialise_entry
from fedhelp_secure.evidence.log import EvidenceLog, LogDamaged, LogFailed, LogInUse
from fedhelp_secure.evidence.merkle import (
    EMPTY_ROOT,
    MerkleTree,
    OutsideTree,
    check_consistency,
    check_inclusion,
    leaf_hash,
)
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import write_atomically
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry, RoundOpened

KEY = SigningKey.generate()
ORIGIN = "north/hub/log"


def entry(number: int) -> LogEntry:
    return LogEntry(unix_milliseconds=number, round_opened=RoundOpened(round=number))


def opened(directory: Path, key: SigningKey = KEY) -> EvidenceLog:
    return EvidenceLog.open(directory, origin=ORIGIN, signing_key=key)


def filled(directory: Path, count: int) -> None:
    with opened(directory) as log:
        for number in range(1, count + 1):
            assert log.append(entry(number)) == number - 1


def check_whole(log: EvidenceLog, count: int) -> None:
    leaves = [serialise_entry(entry(number)) for number in range(1, count + 1)]
    assert [log.entry(index) for index in range(log.size)] == leaves
    head = open_checkpoint(log.checkpoint(), origin=ORIGIN, key=KEY.public)
    assert (head.size, head.root) == (count, MerkleTree(leaves).root())


def test_a_new_log_is_empty_and_signed(tmp_path: Path) -> None:
    with opened(tmp_path / "new") as log:
        head = open_checkpoint(log.checkpoint(), origin=ORIGIN, key=KEY.public)
        assert (log.size, head.size, head.root, log.origin) == (0, 0, EMPTY_ROOT, ORIGIN)
        with pytest.raises(OutsideTree):
            log.entry(0)
        with pytest.raises(OutsideTree):
            log.receipt(0)


def test_entries_survive_reopening(tmp_path: Path) -> None:
    filled(tmp_path, 5)
    with opened(tmp_path) as log:
        check_whole(log, 5)
        assert log.append(entry(6)) == 5
        check_whole(log, 6)


def test_many_at_once_are_the_same_log(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        assert log.extend([]) == range(0)
        assert log.extend([entry(1)]) == range(1)
        assert log.extend([entry(number) for number in range(2, 9)]) == range(1, 8)
        assert log.append(entry(9)) == 8
        check_whole(log, 9)
    with opened(tmp_path) as log:
        check_whole(log, 9)


def test_one_bad_entry_of_many_changes_nothing(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    with opened(tmp_path) as log:
        with pytest.raises(MalformedMessage):
            log.extend([entry(3), LogEntry(unix_milliseconds=4), entry(5)])
        check_whole(log, 2)
        log.extend([entry(3), entry(4)])
        check_whole(log, 4)


def test_many_at_once_torn_at_any_byte_leave_whole_entries_only(tmp_path: Path) -> None:
    filled(tmp_path / "before", 2)
    acknowledged = (tmp_path / "before" / "checkpoint.txt").read_bytes()
    filled(tmp_path / "after", 5)
    data = (tmp_path / "after" / "entries.log").read_bytes()
    kept = (tmp_path / "before" / "entries.log").stat().st_size
    for end in range(kept, len(data) + 1):
        torn = tmp_path / f"torn-{end}"
        torn.mkdir()
        (torn / "entries.log").write_bytes(data[:end])
        (torn / "checkpoint.txt").write_bytes(acknowledged)
        with opened(torn) as log:
            assert 2 <= log.size <= 5
            check_whole(log, log.size)
            assert log.append(entry(log.size + 1)) == log.size - 1


def test_proofs_are_of_the_logs_tree(tmp_path: Path) -> None:
    filled(tmp_path, 11)
    with opened(tmp_path) as log:
        tree = MerkleTree(log.entry(index) for index in range(11))
        check_inclusion(
            leaf_hash(log.entry(3)),
            3,
            size=9,
            path=log.inclusion_proof(3, 9),
            root=tree.root(9),
        )
        check_consistency(
            4,
            11,
            path=log.consistency_proof(4, 11),
            first_root=tree.root(4),
            second_root=tree.root(),
        )
        with pytest.raises(OutsideTree):
            log.inclusion_proof(3, 12)
        with pytest.raises(OutsideTree):
            log.consistency_proof(3, 12)


def test_an_entry_without_an_event_changes_nothing(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    with opened(tmp_path) as log:
        with pytest.raises(MalformedMessage):
            log.append(LogEntry(unix_milliseconds=1))
        check_whole(log, 2)


def test_an_append_torn_at_any_byte_is_cut_off(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    entries, checkpoint = tmp_path / "entries.log", tmp_path / "checkpoint.txt"
    acknowledged, note = entries.read_bytes(), checkpoint.read_bytes()
    with opened(tmp_path) as log:
        log.append(entry(4))
    whole = entries.read_bytes()
    for length in range(len(acknowledged), len(whole)):
        # As a crash leaves it: part of the frame written, its checkpoint not yet.
        entries.write_bytes(whole[:length])
        checkpoint.write_bytes(note)
        with opened(tmp_path) as log:
            check_whole(log, 3)
            assert entries.read_bytes() == acknowledged
            log.append(entry(4))
            check_whole(log, 4)


@pytest.mark.parametrize("tail", [bytes(64), b"\xff" * 64, b"\x00\x00\x00\x04\x00\x00\x00\x00abcd"])
def test_garbage_after_the_acknowledged_entries_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    filled(tmp_path, 3)
    with (tmp_path / "entries.log").open("ab") as file:
        file.write(tail)
    with opened(tmp_path) as log:
        check_whole(log, 3)


def test_an_entry_synced_before_its_checkpoint_is_kept(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    note = (tmp_path / "checkpoint.txt").read_bytes()
    with opened(tmp_path) as log:
        log.append(entry(4))
    (tmp_path / "checkpoint.txt").write_bytes(note)
    with opened(tmp_path) as log:
        check_whole(log, 4)


def test_no_acknowledged_byte_can_be_cut(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    entries = tmp_path / "entries.log"
    whole = entries.read_bytes()
    for length in range(len(whole)):
        entries.write_bytes(whole[:length])
        with pytest.raises(LogDamaged):
            opened(tmp_path)
        assert entries.read_bytes() == whole[:length]


def test_no_acknowledged_byte_can_be_damaged(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    entries = tmp_path / "entries.log"
    whole = entries.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x41
        entries.write_bytes(damaged)
        with pytest.raises(LogDamaged):
            opened(tmp_path)
        assert entries.read_bytes() == bytes(damaged)


def test_a_rewritten_history_with_good_checksums_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "true", 3)
    with opened(tmp_path / "false") as log:
        for number in (1, 7, 3):
            log.append(entry(number))
    forged = (tmp_path / "false" / "entries.log").read_bytes()
    (tmp_path / "true" / "entries.log").write_bytes(forged)
    with pytest.raises(LogDamaged, match="does not hash"):
        opened(tmp_path / "true")


def test_a_missing_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    with pytest.raises(LogDamaged, match="by this key"):
        opened(tmp_path, SigningKey.generate())
    (tmp_path / "checkpoint.txt").unlink()
    with pytest.raises(LogDamaged, match="missing"):
        opened(tmp_path)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(LogInUse):
        opened(tmp_path)
    opened(tmp_path).close()


def test_a_file_cut_under_an_open_log_is_noticed(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    with opened(tmp_path) as log:
        os.truncate(tmp_path / "entries.log", 20)
        with pytest.raises(LogFailed, match="shorter"):
            log.entry(1)


def test_a_closed_log_refuses_everything(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    log = opened(tmp_path)
    log.close()
    log.close()
    for use in (
        lambda: log.append(entry(2)),
        lambda: log.entry(0),
        log.checkpoint,
        lambda: log.receipt(0),
        lambda: log.inclusion_proof(0, 1),
        lambda: log.consistency_proof(1, 1),
    ):
        with pytest.raises(LogFailed):
            use()


def test_a_failed_sync_stops_the_log_until_it_is_reopened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, 2)
    with opened(tmp_path) as log:
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", _refuse)
            with pytest.raises(LogFailed, match="check the disk"):
                log.append(entry(3))
        with pytest.raises(LogFailed):
            log.append(entry(3))
        with pytest.raises(LogFailed):
            log.checkpoint()
    with opened(tmp_path) as log:
        assert log.size in {2, 3}
        check_whole(log, log.size)


def _refuse(_: int) -> None:
    raise OSError(5, "Input/output error")


def test_nothing_is_acknowledged_before_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real_fsync, real_write = os.fsync, write_atomically

    def fsync(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("entries.log"):
            order.append("entry")
        real_fsync(descriptor)

    def write(path: Path, data: bytes) -> None:
        real_write(path, data)
        order.append("checkpoint")

    with opened(tmp_path) as log:
        monkeypatch.setattr("os.fsync", fsync)
        monkeypatch.setattr("fedhelp_secure.evidence.log.write_atomically", write)
        log.append(entry(1))
    assert order == ["entry", "checkpoint"]


def test_threads_append_and_read_at_once(tmp_path: Path) -> None:
    taken: list[int] = []

    def work(log: EvidenceLog, first: int) -> None:
        for number in range(first, first + 12):
            index = log.append(entry(number))
            receipt = log.receipt(index)
            head = open_checkpoint(receipt.checkpoint, origin=ORIGIN, key=KEY.public)
            check_inclusion(
                leaf_hash(serialise_entry(entry(number))),
                index,
                size=head.size,
                path=list(receipt.path),
                root=head.root,
            )
            taken.append(index)

    with opened(tmp_path) as log:
        threads = [threading.Thread(target=work, args=(log, 100 * n)) for n in range(1, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(taken) == list(range(72))
    with opened(tmp_path) as log:
        assert log.size == 72


APPENDER = """
import sys
from pathlib import Path
from fedhelp_secure.evidence.log import EvidenceLog
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import write_atomically
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry, RoundOpened

directory = Path(sys.argv[1])
key = SigningKey.from_pem((directory / "key.pem").read_bytes())
log = EvidenceLog.open(directory / "log", origin="north/hub/log", signing_key=key)
number, together = log.size, int(sys.argv[2])
while True:
    numbers = range(number + 1, number + 1 + together)
    number += together
    log.extend([LogEntry(unix_milliseconds=n, round_opened=RoundOpened(round=n)) for n in numbers])
    print(number, flush=True)
"""


@pytest.mark.parametrize("together", [1, 7])
def test_kill_nine_loses_no_acknowledged_entry(tmp_path: Path, together: int) -> None:
    (tmp_path / "key.pem").write_bytes(KEY.to_pem())
    for wanted in (3, 17, 40):
        with subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(tmp_path), str(together)],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            acknowledged = [int(process.stdout.readline()) for _ in range(wanted)]
            process.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in process.stdout.read().split("\n")[:-1]]
        with opened(tmp_path / "log") as log:
            assert acknowledged[-1] <= log.size <= acknowledged[-1] + together
            check_whole(log, log.size)


def test_a_second_process_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(KEY.to_pem())
    with opened(tmp_path / "log"):
        result = subprocess.run(
            [sys.executable, "-c", APPENDER, str(tmp_path), "1"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 1
    assert "LogInUse" in result.stderr
