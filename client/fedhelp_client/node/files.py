"""What a node keeps of its rounds, so that a retry after a crash sends the same bytes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedhelp_secure.keystore.files import make_directory
from fedhelp_secure.secure_sum.contribution import SEALED_SEED_BYTES, Contribution
from fedhelp_secure.state import StateDirectory, synchronise, write_atomically

_MANIFEST = "manifest"
_SEALED_SEEDS = "sealed_seeds"
_CIPHERTEXT = "ciphertext"


@dataclass(frozen=True, slots=True)
class ReleaseFiles:
    """The contributions and receipts of one charter, under the node's state directory."""

    directory: Path

    @classmethod
    def of_charter(cls, state: StateDirectory, charter_digest: str) -> ReleaseFiles:
        """Where ``state``'s hospital keeps its rounds under this charter."""
        return cls(state.role_directory() / "charters" / charter_digest.removeprefix("sha256:"))

    def stored(self, round_number: int) -> Contribution | None:
        """The contribution made for ``round_number``, or None if there is no complete one.

        What a crash left unfinished is removed.
        """
        folder = self._folder(round_number)
        _remove_unfinished(folder)
        ciphertext = folder / _CIPHERTEXT
        if not ciphertext.exists():
            return None
        seeds = (folder / _SEALED_SEEDS).read_bytes()
        return Contribution(
            manifest=(folder / _MANIFEST).read_bytes(),
            sealed_seeds=tuple(
                seeds[start : start + SEALED_SEED_BYTES]
                for start in range(0, len(seeds), SEALED_SEED_BYTES)
            ),
            ciphertext=ciphertext,
        )

    def store(self, round_number: int, make: Callable[[Path], Contribution]) -> Contribution:
        """Have ``make`` write a ciphertext to the path that it is given, and keep what it returns.

        The ciphertext gets its name last, when all else is durable: that completes it.
        """
        folder = self._folder(round_number)
        make_directory(folder)
        _remove_unfinished(folder)
        made = make(folder / f".{_CIPHERTEXT}.tmp")
        # A state directory is its owner's alone, down to the last file.
        made.ciphertext.chmod(0o600)
        write_atomically(folder / _MANIFEST, made.manifest)
        write_atomically(folder / _SEALED_SEEDS, b"".join(made.sealed_seeds))
        synchronise(made.ciphertext)
        completed = made.ciphertext.rename(folder / _CIPHERTEXT)
        synchronise(folder)
        return Contribution(made.manifest, made.sealed_seeds, completed)

    def store_receipt(self, round_number: int, serialised: bytes) -> None:
        """Keep the aggregator's receipt for ``round_number``."""
        write_atomically(self.directory / "receipts" / f"{round_number}.bin", serialised)

    def export_receipts(self, out: Path, hospital: str) -> None:
        """Copy every receipt to ``out`` as ``<hospital>-<round>.bin``, for an auditor."""
        for receipt in sorted((self.directory / "receipts").glob("*.bin")):
            write_atomically(out / f"{hospital}-{receipt.stem}.bin", receipt.read_bytes())

    def _folder(self, round_number: int) -> Path:
        return self.directory / f"round-{round_number}"


@contextlib.contextmanager
def answers_folder(state: StateDirectory) -> Iterator[Path]:
    """An empty folder for a round's answers within the block; what a crash left in it goes first.

    In the state directory, not in memory: an answer may have hundreds of megabytes.
    """
    folder = state.role_directory() / "answers"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_unfinished(folder: Path) -> None:
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink()
