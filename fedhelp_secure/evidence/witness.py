"""A witness of the log: remembers the newest checkpoint that it saw, and cosigns what continues it.

What it remembers is durable before it cosigns, so that a witness that was killed never cosigns two
histories. It is kept by charter, as an aggregator keeps a log for each.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import PeerError
from fedhelp_secure.evidence.checkpoint import Checkpoint, open_checkpoint
from fedhelp_secure.evidence.cosignature import cosign, witness_key
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.merkle import ProofRefused, check_consistency
from fedhelp_secure.keystore.files import exclusive, make_directory
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.wire.v1.evidence_pb2 import (
    CosignRequest,
    GetCheckpointRequest,
    GetConsistencyProofRequest,
)
from fedhelp_secure.wire.v1.evidence_pb2_grpc import EvidenceStub

_CALL_SECONDS = 60.0


class HistoryRefused(PeerError):
    """The log that is shown does not continue the one that was shown before."""

    code = "log-history"


@dataclass(frozen=True, slots=True)
class LogWitness:
    """One party's memory of one charter's log."""

    state: StateDirectory
    charter: Charter

    @property
    def path(self) -> Path:
        """The newest checkpoint that this party has found good, as the log signed it."""
        folder = self.charter.digest.removeprefix("sha256:")
        return self.state.role_directory() / "charters" / folder / "witnessed.txt"

    @property
    def contradicting_path(self) -> Path:
        """A checkpoint that does not continue `path`, once one was shown."""
        return self.path.with_name("contradicting.txt")

    def cosign_newest(self, stub: EvidenceStub) -> Checkpoint:
        """Check the log's newest checkpoint against the one remembered, remember it, cosign it.

        Raises HistoryRefused, MalformedMessage or SignatureRefused for a log that may not be
        believed, and whatever the calls raise; in all of these nothing was cosigned.
        """
        make_directory(self.path.parent)
        # Two processes of one party must not each remember a history of its own.
        with exclusive(self.path.with_suffix(".lock")):
            note = stub.GetCheckpoint(GetCheckpointRequest(), timeout=_CALL_SECONDS).checkpoint
            newest = self._opened(note)
            try:
                self._check(newest, stub)
            except ProofRefused as error:
                write_atomically(self.contradicting_path, note)
                raise HistoryRefused(
                    f"the aggregator shows another log than before ({error}) Nothing of it was "
                    f"cosigned; give {self.path} and {self.contradicting_path}, which it has both "
                    "signed, to an auditor."
                ) from error
            cosigned = cosign(
                note,
                charter=self.charter,
                witness=self.state.identity,
                key=self.state.signing_key_for(witness_key(self.charter, self.state.identity)),
                now=int(time.time()),
            )
            write_atomically(self.path, note)
            stub.Cosign(CosignRequest(checkpoint=cosigned), timeout=_CALL_SECONDS)
        return newest

    def remembered(self) -> Checkpoint | None:
        """The newest checkpoint seen, None before the first; raises as `cosign_newest` does."""
        return self._opened(self.path.read_bytes()) if self.path.exists() else None

    def _opened(self, note: bytes) -> Checkpoint:
        origin, key = log_origin(self.charter), self.charter.aggregator.verifying_key()
        return open_checkpoint(note, origin=origin, key=key)

    def _check(self, newest: Checkpoint, stub: EvidenceStub) -> None:
        """Raises ProofRefused unless ``newest`` continues what is remembered."""
        earlier = self.remembered()
        if earlier is None or earlier.size == 0:
            return
        if newest.size < earlier.size:
            raise ProofRefused(f"it had {earlier.size} entries and now has {newest.size}.")
        request = GetConsistencyProofRequest(first_size=earlier.size, second_size=newest.size)
        check_consistency(
            earlier.size,
            newest.size,
            path=list(stub.GetConsistencyProof(request, timeout=_CALL_SECONDS).path),
            first_root=earlier.root,
            second_root=newest.root,
        )
