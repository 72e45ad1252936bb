"""What the parties of a real round hold in memory and on disk: DESIGN section 2, searched for.

The hospitals' parts are made here, so that the test knows every release, mask and seed; aggregator
and custodians are the real processes. After the round their memory (every writable mapping, of
their children too) and their state directories are searched for four consecutive integers of each
secret vector in every encoding in use.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from support.federation import Federation, make_federation
from support.processes import Servers, context_file, running_servers

from fedhelp_client.node.coordinator import Coordinator
from fedhelp_secure.charter import Charter
from fedhelp_secure.secure_sum.ckks import PublicContext
from fedhelp_secure.secure_sum.contribution import Contribution, make_contribution, open_manifest
from fedhelp_secure.secure_sum.masks import expand_mask, seed_info
from fedhelp_secure.secure_sum.ring import add, scale, to_ring
from fedhelp_secure.transport.client import open_channel
from fedhelp_secure.transport.identity import Identity, Role

VALUES = 256
WINDOW = 4

Secrets = Mapping[str, NDArray[np.uint64]]


def _patterns(vector: NDArray[np.uint64], ring_bits: int) -> list[bytes]:
    """Four consecutive integers, at two places of the vector, in every encoding in use."""
    found = []
    signed = vector.astype(np.int64)
    centred = np.where(signed >= 1 << (ring_bits - 1), signed - (1 << ring_bits), signed)
    for start in (0, VALUES - WINDOW):
        part, centred_part = vector[start:][:WINDOW], centred[start:][:WINDOW]
        found += [
            part.astype("<u8").tobytes(),
            part.astype("<u4").tobytes(),
            part.astype("<f8").tobytes(),
            centred_part.astype("<i8").tobytes(),
            centred_part.astype("<f8").tobytes(),
        ]
    return found


def _memory(process: psutil.Process) -> Iterator[bytes]:
    with open(f"/proc/{process.pid}/maps") as maps:
        regions = [line.split() for line in maps]
    with open(f"/proc/{process.pid}/mem", "rb", buffering=0) as memory:
        for fields in regions:
            start, end = (int(address, 16) for address in fields[0].split("-"))
            # What cannot be written holds code, or a file that is searched as storage.
            if not fields[1].startswith("rw"):
                continue
            try:
                memory.seek(start)
                yield memory.read(end - start)
            except OSError:
                continue  # a mapping that went away, or a guard page


class Search:
    """Looks for many patterns at once: their first 8 bytes as words, then the whole pattern."""

    def __init__(self, secrets: Mapping[str, list[bytes]]) -> None:
        self._patterns = [(name, pattern) for name, found in secrets.items() for pattern in found]
        self._keys = np.array([_word(pattern) for _, pattern in self._patterns], np.uint64)
        self._table = np.zeros(1 << 16, bool)
        self._table[self._keys.astype(np.uint16)] = True
        self.held: set[str] = set()

    def look_into(self, image: bytes, *, alignment: int) -> None:
        """Add what ``image`` holds at multiples of ``alignment`` bytes."""
        for shift in range(0, 8, alignment):
            words = np.frombuffer(
                image, "<u8", max(0, len(image) - shift) // 8, min(shift, len(image))
            )
            candidates = np.flatnonzero(self._table[words.astype(np.uint16)])
            for index in candidates[np.isin(words[candidates], self._keys)]:
                start = shift + 8 * int(index)
                for name, pattern in self._patterns:
                    if image[start : start + len(pattern)] == pattern:
                        self.held.add(name)


def _word(pattern: bytes) -> int:
    return int.from_bytes(pattern[:8], "little")


def _holds(pid: int, storage: Path | None, secrets: Mapping[str, list[bytes]]) -> set[str]:
    search = Search(secrets)
    process = psutil.Process(pid)
    for member in [process, *process.children(recursive=True)]:
        for mapping in _memory(member):
            # Arrays of 4-byte and 8-byte numbers lie at multiples of 4; so do bytes objects' data.
            search.look_into(mapping, alignment=4)
    for path in sorted(storage.rglob("*")) if storage else ():
        if path.is_file():
            search.look_into(path.read_bytes(), alignment=1)
    return search.held


class Round:
    """One finished round, and every secret of it."""

    def __init__(self, federation: Federation, servers: Servers) -> None:
        self.federation = federation
        self.servers = servers
        self.names = [hospital.name for hospital in federation.charter.hospitals]
        self.releases: dict[str, NDArray[np.uint64]] = {}
        self.masks: dict[str, NDArray[np.uint64]] = {}
        self.seeds: dict[str, list[bytes]] = {}

    def run(self) -> NDArray[np.int64]:
        charter = self.federation.charter
        generator = np.random.default_rng()
        context = PublicContext(context_file(self.federation).read_bytes(), charter.secure_sum)
        plain_sum = np.zeros(VALUES, np.int64)
        for name in self.names:
            release = generator.integers(-(10**6), 10**6, VALUES)
            plain_sum += charter.weight_of(name) * release
            self.releases[name] = to_ring(release, charter.secure_sum.ring_bits)
            contribution = make_contribution(
                charter,
                1,
                hospital=name,
                release=release,
                ledger_entry_digest="sha256:" + "0" * 64,
                signing_key=self.federation.state(name).signing_key(),
                context=context,
            )
            self._learn_mask(name, contribution)
            self._coordinator(name).contribute(1, contribution)
        coordinator = self._coordinator(self.names[0])
        coordinator.wait_until_opened(1, lambda reason: None)
        opened = coordinator.fetch_sum(1)
        assert (opened.values == plain_sum).all()
        return opened.values

    def _coordinator(self, name: str) -> Coordinator:
        state = self.federation.state(name)
        expected = Identity(state.identity.federation, Role.AGGREGATOR, "aggregator")
        channel = open_channel(state, self.servers.addresses["aggregator"], expected=expected)
        return Coordinator(state, self.federation.charter, channel)

    def _learn_mask(self, name: str, contribution: Contribution) -> None:
        charter = self.federation.charter
        manifest = open_manifest(charter, contribution.manifest)
        info = seed_info(
            charter_digest=charter.digest,
            round_number=1,
            hospital=name,
            ciphertext_digest=manifest.ciphertext_digest,
        )
        key = self.federation.state(Role.UNMASKER).unsealing_key()
        seed = key.open(contribution.sealed_seed, info)
        self.seeds[name] = [seed]
        self.masks[name] = expand_mask(
            seed,
            charter_digest=charter.digest,
            round_number=1,
            hospital=name,
            values=VALUES,
            ring_bits=charter.secure_sum.ring_bits,
        )

    def secrets(self, charter: Charter) -> dict[str, dict[str, list[bytes]]]:
        """By kind and hospital, the byte patterns of everything that is secret to somebody."""
        bits = charter.secure_sum.ring_bits
        masked = {name: add(self.releases[name], self.masks[name], bits) for name in self.names}

        def patterns(vectors: Secrets) -> dict[str, list[bytes]]:
            return {name: _patterns(vector, bits) for name, vector in vectors.items()}

        def total(vectors: Secrets) -> dict[str, list[bytes]]:
            result = np.zeros(VALUES, np.uint64)
            for name, vector in vectors.items():
                result = add(result, scale(vector, charter.weight_of(name), bits), bits)
            return {"sum": _patterns(result, bits)}

        return {
            "release": patterns(self.releases),
            "masked": patterns(masked),
            "mask": patterns(self.masks),
            "seed": self.seeds,
            "release sum": total(self.releases),
            "masked sum": total(masked),
            "mask sum": total(self.masks),
        }


MAY_NEVER_HOLD = {
    "aggregator": [
        "release", "masked", "mask", "seed", "release sum", "masked sum", "mask sum",
    ],
    "decryptor": ["release", "masked", "mask", "seed", "release sum", "mask sum"],
    "unmasker": ["release", "masked", "release sum", "masked sum"],
}  # fmt: skip
"""By party, from the table of DESIGN section 2."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Round]:
    root = tmp_path_factory.mktemp("secrecy")
    federation = make_federation(
        root / "parties",
        large=1,
        small=2,
        secure_sum={"values": VALUES},
        probe={"dimension": VALUES // 2},
        rounds={"count": 1},
    )
    with running_servers(federation, root / "run") as servers:
        finished = Round(federation, servers)
        finished.run()
        yield finished


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("party", MAY_NEVER_HOLD)
def test_no_party_holds_what_it_must_not_learn(finished: Round, party: str) -> None:
    secrets = finished.secrets(finished.federation.charter)
    pid = finished.servers.running[party].process.pid
    storage = finished.federation.state(party).root
    forbidden = {
        f"{kind} of {name}": patterns
        for kind in MAY_NEVER_HOLD[party]
        for name, patterns in secrets[kind].items()
    }
    assert len(forbidden) > len(finished.names)
    assert not _holds(pid, storage, forbidden)


HOLDER = """
import sys
import numpy as np
vector = np.frombuffer(sys.stdin.buffer.read(), dtype=np.uint64).astype(sys.argv[1])
print('ready', flush=True)
import time
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("encoding", ["<u8", "<u4", "<f8"])
def test_the_search_finds_a_process_that_does_hold_it(finished: Round, encoding: str) -> None:
    name = finished.names[0]
    secrets = finished.secrets(finished.federation.charter)["release"]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, encoding], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(finished.releases[name].tobytes())
        process.stdin.close()
        assert process.stdout.readline() == b"ready\n"
        try:
            assert _holds(process.pid, None, secrets) == {name}
        finally:
            process.kill()


def test_the_search_finds_it_in_storage(finished: Round, tmp_path: Path) -> None:
    name = finished.names[0]
    (tmp_path / "blob").write_bytes(b"x" * 7 + finished.releases[name].tobytes())
    secrets = finished.secrets(finished.federation.charter)["release"]
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert _holds(process.pid, tmp_path, secrets) == {name}
        finally:
            process.kill()
