"""What the evidence log costs at its size: append, reopen, prove, verify, and a bundle's bytes.

The real log on disk, with entries as an aggregator writes them. Each repeat measures everything
once beside its baseline: SQLite, as durable and in as many transactions, for appending; the hash of
one entry for proofs.
"""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhelp_secure.database import write_transaction
from fedhelp_secure.errors import ConfigurationError, InternalError
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.checkpoint import open_checkpoint
from fedhelp_secure.evidence.entries import parse_entry, serialise_entry
from fedhelp_secure.evidence.log import EvidenceLog
from fedhelp_secure.evidence.merkle import check_consistency, check_inclusion, leaf_hash
from fedhelp_secure.memory import peak_rss_mb
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.wire.v1.evidence_pb2 import ContributionAccepted, LogEntry

_ORIGIN = "bench/aggregator/log"
_HOSPITALS = 50

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class LogBench:
    """What to measure."""

    entries: int
    batch: int
    """Entries that become durable together."""
    singles: int
    """Entries that become durable one by one, beside the others."""
    proofs: int
    """Of each kind, at random places."""
    repeats: int


def run_log_bench(bench: LogBench, progress: Callable[[str], None]) -> dict[str, Any]:
    """The figures of every repeat, their medians and spread; ratios are of one repeat each."""
    repeats = []
    for number in range(1, bench.repeats + 1):
        progress(f"repeat {number} of {bench.repeats}")
        with tempfile.TemporaryDirectory(prefix="fedhelp-bench-", dir=Path.cwd()) as folder:
            repeats.append(_repeat(bench, Path(folder)))
    return {
        "entries": bench.entries,
        "batch": bench.batch,
        "singles": bench.singles,
        "proofs": bench.proofs,
        "repeats": bench.repeats,
        "figures": {
            name: {
                "median": round(statistics.median(column), 4),
                "spread": [round(min(column), 4), round(max(column), 4)],
            }
            for name, column in ((name, [one[name] for one in repeats]) for name in repeats[0])
        },
    }


def bundle_bytes(directory: Path) -> dict[str, Any]:
    """Bytes of the bundle in ``directory`` for each opened round, in all and by kind of file."""
    files = layout.read_files(directory)
    rounds = sum(parse_entry(leaf).HasField("round_summed") for leaf in layout.leaves(files))
    if not rounds:
        raise ConfigurationError(f"{directory} has no opened round; give another bundle.")
    kinds: Counter[str] = Counter()
    for path, data in files.items():
        kinds[path.partition("/")[0] if "/" in path else "charter, key and index"] += len(data)
    return {
        "rounds": rounds,
        "bytes": kinds.total(),
        "bytes_per_round": kinds.total() // rounds,
        "by_kind": dict(sorted(kinds.items())),
    }


def _repeat(bench: LogBench, folder: Path) -> Figures:
    """Writing and reading each in a process of its own, so that their memory is nobody else's."""
    key = SigningKey.generate()
    figures = _in_a_process(lambda: _written(bench, folder, key))
    figures |= _in_a_process(lambda: _read(bench, folder, key))
    figures |= _sqlite(bench, folder / "baseline.sqlite")
    figures["leaf_hashes_per_second"] = hashes = _leaf_hashes_per_second()
    for way in ("appended", "appended_singly"):
        baseline = figures[f"{way.replace('appended', 'sqlite')}_per_second"]
        figures[f"{way}_over_sqlite"] = figures[f"{way}_per_second"] / baseline
    for proof in ("inclusion_proof", "consistency_proof", "inclusion_check", "consistency_check"):
        figures[f"leaf_hashes_per_{proof}"] = hashes / figures[f"{proof}_per_second"]
    return figures


def _in_a_process(part: Callable[[], Figures]) -> Figures:
    """What ``part`` returns in a fork of this process, whose memory starts where ours is."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sending.send(part()))
    process.start()
    sending.close()
    try:
        figures: Figures = receiving.recv()
    except EOFError as error:
        raise InternalError("a part of the benchmark failed; its error is above.") from error
    finally:
        process.join()
    return figures


def _written(bench: LogBench, folder: Path, key: SigningKey) -> Figures:
    figures: Figures = {}
    with EvidenceLog.open(folder / "log", origin=_ORIGIN, signing_key=key) as log:
        figures["appended_per_second"] = _rate(bench.entries, lambda: _append(bench, log))
        figures["appended_singly_per_second"] = _rate(
            bench.singles,
            lambda: [log.append(_entry(bench.entries + at)) for at in range(bench.singles)],
        )
        size = log.size
    figures["bytes_per_entry"] = (folder / "log" / "entries.log").stat().st_size / size
    return figures


def _read(bench: LogBench, folder: Path, key: SigningKey) -> Figures:
    before, begun = peak_rss_mb(), time.perf_counter()
    with EvidenceLog.open(folder / "log", origin=_ORIGIN, signing_key=key) as log:
        figures = {
            "reopened_seconds": time.perf_counter() - begun,
            "memory_mb_of_the_open_log": peak_rss_mb() - before,
        }
        return figures | _proofs(bench, log, key)


def _append(bench: LogBench, log: EvidenceLog) -> None:
    for start in range(0, bench.entries, bench.batch):
        log.extend([_entry(at) for at in range(start, min(start + bench.batch, bench.entries))])


def _entry(number: int) -> LogEntry:
    """A contribution, as most entries are; nobody's."""
    accepted = ContributionAccepted(
        charter_digest=f"sha256:{0:064x}",
        round=number // _HOSPITALS + 1,
        hospital=f"small-{number % _HOSPITALS + 1}",
        manifest_digest=f"sha256:{2 * number:064x}",
        ciphertext_digest=f"sha256:{2 * number + 1:064x}",
        ciphertext_bytes=131_072,
    )
    return LogEntry(unix_milliseconds=1_700_000_000_000 + number, contribution_accepted=accepted)


def _proofs(bench: LogBench, log: EvidenceLog, key: SigningKey) -> Figures:
    """Proofs at random places, each made and then checked by who knows the signed heads alone."""
    head = open_checkpoint(log.checkpoint(), origin=_ORIGIN, key=key.public)
    # Where the bench looks; nothing depends on its being hard to guess.
    places = random.Random(0)  # noqa: S311
    sizes = [places.randint(1, head.size) for _ in range(bench.proofs)]
    indices = [places.randrange(size) for size in sizes]
    roots = [log.root(size) for size in sizes]
    leaves = [leaf_hash(log.entry(index)) for index in indices]
    made: list[list[bytes]] = []
    prefixes: list[list[bytes]] = []

    def prove_inclusion() -> None:
        made.extend(log.inclusion_proof(at, size) for at, size in zip(indices, sizes, strict=True))

    def prove_consistency() -> None:
        prefixes.extend(log.consistency_proof(size, head.size) for size in sizes)

    def verify_inclusion() -> None:
        for leaf, index, size, path, root in zip(leaves, indices, sizes, made, roots, strict=True):
            check_inclusion(leaf, index, size=size, path=path, root=root)

    def verify_consistency() -> None:
        for size, path, root in zip(sizes, prefixes, roots, strict=True):
            check_consistency(size, head.size, path=path, first_root=root, second_root=head.root)

    return {
        "inclusion_proof_per_second": _rate(bench.proofs, prove_inclusion),
        "consistency_proof_per_second": _rate(bench.proofs, prove_consistency),
        "inclusion_check_per_second": _rate(bench.proofs, verify_inclusion),
        "consistency_check_per_second": _rate(bench.proofs, verify_consistency),
    }


def _sqlite(bench: LogBench, path: Path) -> Figures:
    """The same bytes into a table, as durable, without hashes and signatures."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE entries (position INTEGER PRIMARY KEY, entry BLOB)")

        def insert(start: int, end: int, batch: int) -> None:
            for first in range(start, end, batch):
                with write_transaction(connection):
                    connection.executemany(
                        "INSERT INTO entries VALUES (?, ?)", _rows(first, min(first + batch, end))
                    )

        end = bench.entries + bench.singles
        return {
            "sqlite_per_second": _rate(
                bench.entries, lambda: insert(0, bench.entries, bench.batch)
            ),
            "sqlite_singly_per_second": _rate(bench.singles, lambda: insert(bench.entries, end, 1)),
        }
    finally:
        connection.close()


def _rows(start: int, end: int) -> Iterator[tuple[int, bytes]]:
    return ((at, serialise_entry(_entry(at))) for at in range(start, end))


def _leaf_hashes_per_second() -> float:
    data = serialise_entry(_entry(0))
    return _rate(100_000, lambda: [leaf_hash(data) for _ in range(100_000)])


def _rate(count: int, work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return count / (time.perf_counter() - begun)
