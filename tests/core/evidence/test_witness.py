"""A witness remembers, before it cosigns, and never cosigns a second history."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.federation import Federation

from fedhelp_secure.errors import SignatureRefused, UnavailablePeer
from fedhelp_secure.evidence.cosignature import open_cosigned
from fedhelp_secure.evidence.log import EvidenceLog, log_origin
from fedhelp_secure.evidence.merkle import OutsideTree
from fedhelp_secure.evidence.witness import HistoryRefused, LogWitness
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.wire.v1 import evidence_pb2 as wire
from fedhelp_secure.wire.v1.evidence_pb2_grpc import EvidenceStub


class Shown(EvidenceStub):
    """A real log on disk, asked without a network; keeps what is cosigned."""

    def __init__(self, log: EvidenceLog) -> None:
        self.log = log
        self.cosigned: list[bytes] = []
        self.fail = False
        self.GetCheckpoint = self._checkpoint  # type: ignore[assignment]
        self.GetConsistencyProof = self._proof  # type: ignore[assignment]
        self.Cosign = self._cosign  # type: ignore[assignment]

    def _checkpoint(
        self, request: wire.GetCheckpointRequest, timeout: float
    ) -> wire.GetCheckpointResponse:
        return wire.GetCheckpointResponse(checkpoint=self.log.checkpoint())

    def _proof(
        self, request: wire.GetConsistencyProofRequest, timeout: float
    ) -> wire.GetConsistencyProofResponse:
        path = self.log.consistency_proof(request.first_size, request.second_size)
        return wire.GetConsistencyProofResponse(path=path)

    def _cosign(self, request: wire.CosignRequest, timeout: float) -> wire.CosignResponse:
        if self.fail:
            raise UnavailablePeer("the log cannot be reached.")
        self.cosigned.append(request.checkpoint)
        return wire.CosignResponse()


def event(number: int) -> wire.LogEntry:
    opened = wire.RoundOpened(charter_digest="sha256:" + "0" * 64, round=number)
    return wire.LogEntry(unix_milliseconds=number, round_opened=opened)


def log_in(folder: Path, federation: Federation, key: SigningKey | None = None) -> EvidenceLog:
    key = key or federation.state(Role.AGGREGATOR).signing_key()
    return EvidenceLog.open(folder, origin=log_origin(federation.charter), signing_key=key)


@pytest.fixture
def state(federation: Federation, tmp_path: Path) -> StateDirectory:
    shutil.copytree(federation.state("small-1").root, tmp_path / "state")
    return StateDirectory.open(tmp_path / "state", Role.HOSPITAL)


@pytest.fixture
def witness(federation: Federation, state: StateDirectory) -> LogWitness:
    return LogWitness(state, federation.charter)


@pytest.fixture
def shown(federation: Federation, tmp_path: Path) -> Iterator[Shown]:
    with log_in(tmp_path / "log", federation) as log:
        for number in range(1, 4):
            log.append(event(number))
        yield Shown(log)


def test_a_growing_log_is_cosigned_again_and_again(witness: LogWitness, shown: Shown) -> None:
    assert witness.remembered() is None
    for number in range(4, 12):
        head = witness.cosign_newest(shown)
        assert head == witness.remembered()
        opened = open_cosigned(
            shown.cosigned[-1], charter=witness.charter, witness=witness.state.identity
        )
        assert opened.checkpoint == head
        assert head.size == number - 1
        shown.log.append(event(number))
    # Unchanged, it is cosigned with a newer time.
    witness.cosign_newest(shown)
    witness.cosign_newest(shown)
    assert len(shown.cosigned) == 10


def test_an_empty_log_is_a_beginning(
    witness: LogWitness, federation: Federation, tmp_path: Path
) -> None:
    with log_in(tmp_path / "empty", federation) as log:
        shown = Shown(log)
        assert witness.cosign_newest(shown).size == 0
        log.append(event(1))
        assert witness.cosign_newest(shown).size == 1


@pytest.mark.parametrize("entries", [0, 1, 2, 3, 4, 9])
def test_another_history_is_not_cosigned(
    witness: LogWitness, shown: Shown, federation: Federation, tmp_path: Path, entries: int
) -> None:
    witness.cosign_newest(shown)
    before = witness.path.read_bytes()
    with log_in(tmp_path / "other", federation) as log:
        for number in range(100, 100 + entries):
            log.append(event(number))
        other = Shown(log)
        with pytest.raises(HistoryRefused, match="another log than before"):
            witness.cosign_newest(other)
        assert other.cosigned == []
        assert witness.path.read_bytes() == before
        # Both are signed by the log: whoever sees the two files has the proof.
        assert witness.contradicting_path.read_bytes() == log.checkpoint()
    # The true one is still believed.
    witness.cosign_newest(shown)


def test_a_log_of_another_key_is_refused(
    witness: LogWitness, shown: Shown, federation: Federation, tmp_path: Path
) -> None:
    with log_in(tmp_path / "other", federation, SigningKey.generate()) as log:
        with pytest.raises(SignatureRefused):
            witness.cosign_newest(Shown(log))
        assert not witness.path.exists()


def test_it_remembers_before_it_cosigns(witness: LogWitness, shown: Shown) -> None:
    shown.fail = True
    with pytest.raises(UnavailablePeer):
        witness.cosign_newest(shown)
    head = witness.remembered()
    assert head is not None
    assert head.size == 3
    shown.fail = False
    assert witness.cosign_newest(shown) == head


def test_a_proof_that_is_withheld_cosigns_nothing(
    witness: LogWitness, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness.cosign_newest(shown)
    shown.log.append(event(4))

    def withheld(request: wire.GetConsistencyProofRequest, timeout: float) -> None:
        raise OutsideTree("the log has no such proof.")

    monkeypatch.setattr(shown, "GetConsistencyProof", withheld)
    with pytest.raises(OutsideTree):
        witness.cosign_newest(shown)
    assert len(shown.cosigned) == 1


def test_each_charter_has_a_memory_of_its_own(
    witness: LogWitness, shown: Shown, state: StateDirectory
) -> None:
    witness.cosign_newest(shown)
    folder = witness.charter.digest.removeprefix("sha256:")
    assert witness.path == state.role_directory() / "charters" / folder / "witnessed.txt"
    assert witness.path.stat().st_mode & 0o077 == 0
