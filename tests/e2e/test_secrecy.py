"""What the parties of a real round hold in memory and on disk: DESIGN section 2, searched for.

The hospitals' parts are made here, so that the test knows every release, mask, seed and the
authenticator's key; aggregator and custodians are the real processes. After the round their memory
(every writable mapping, of their children too) and their state directories are searched for eight
consecutive values, or packed elements, of each secret vector in every encoding in use.
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
from fedhelp_secure.canonical import digest
from fedhelp_secure.secure_sum.authenticator import key_info
from fedhelp_secure.secure_sum.ckks import PublicContext
from fedhelp_secure.secure_sum.contribution import (
    Contribution,
    ContributionKeys,
    make_contribution,
    mask_purpose,
    open_manifest,
)
from fedhelp_secure.secure_sum.masks import MaskStream
from fedhelp_secure.secure_sum.packing import pack_lanes
from fedhelp_secure.secure_sum.ring import add, centre, pack, scale, to_ring

VALUES = 256
WINDOW = 8
UNMASKERS = ("unmasker", "unmasker-2")

Elements = NDArray[np.uint64]
Patterns = dict[str, list[bytes]]


def _patterns(elements: Elements, bits: int) -> list[bytes]:
    """Eight consecutive elements of so many bits, at two places, in every encoding in use."""
    found = []
    centred = centre(elements, bits)
    for start in (0, elements.size - WINDOW):
        part, centred_part = elements[start:][:WINDOW], centred[start:][:WINDOW]
        found += [
            part.astype("<u8").tobytes(),
            part.astype("<f8").tobytes(),
            centred_part.astype("<i8").tobytes(),
            centred_part.astype("<f8").tobytes(),
            pack(part, bits),
        ]
        if bits <= 32:
            found += [part.astype("<u4").tobytes(), centred_part.astype("<i4").tobytes()]
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
    """Looks for many patterns at once: two words of 8 bytes each, then the whole pattern."""

    def __init__(self, secrets: Mapping[str, list[bytes]]) -> None:
        self._patterns: dict[int, list[tuple[str, bytes]]] = {}
        for name, found in secrets.items():
            for pattern in found:
                self._patterns.setdefault(_word(pattern, 0), []).append((name, pattern))
        self._first = np.array(sorted(self._patterns), np.uint64)
        seconds = [_word(each, 8) for found in secrets.values() for each in found]
        self._second = np.array(sorted(set(seconds)), np.uint64)
        self._table = np.zeros(1 << 16, bool)
        self._table[self._first.astype(np.uint16)] = True
        self.held: set[str] = set()

    def look_into(self, image: bytes, *, alignment: int) -> None:
        """Add what ``image`` holds at multiples of ``alignment`` bytes."""
        for shift in range(0, 8, alignment):
            words = np.frombuffer(
                image, "<u8", max(0, len(image) - shift) // 8, min(shift, len(image))
            )
            candidates = np.flatnonzero(self._table[words[:-1].astype(np.uint16)])
            candidates = candidates[np.isin(words[candidates], self._first)]
            for index in candidates[np.isin(words[candidates + 1], self._second)]:
                start = shift + 8 * int(index)
                for name, pattern in self._patterns[int(words[index])]:
                    if image[start : start + len(pattern)] == pattern:
                        self.held.add(name)


def _word(pattern: bytes, start: int) -> int:
    return int.from_bytes(pattern[start : start + 8], "little")


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
        self.charter = federation.charter
        self.names = [hospital.name for hospital in self.charter.hospitals]
        self.releases: dict[str, NDArray[np.int64]] = {}
        self.masks: dict[str, dict[str, Elements]] = {name: {} for name in UNMASKERS}
        """By unmasker and hospital."""
        self.seeds: dict[str, dict[str, bytes]] = {name: {} for name in UNMASKERS}

    def run(self, folder: Path) -> None:
        generator = np.random.default_rng()
        context = PublicContext(context_file(self.federation).read_bytes(), self.charter.secure_sum)
        privacy = self.charter.privacy
        bound = privacy.clip_units * privacy.maximum_patients
        for name in self.names:
            state = self.federation.state(name)
            self.releases[name] = generator.integers(-bound, bound, VALUES)
            keys = ContributionKeys(state.signing_key(), state.unsealing_key(), context)
            coordinator = self._coordinator(name)
            coordinator.wait_until_open(1, lambda reason: None)
            contribution = make_contribution(
                self.charter,
                coordinator.round_keys(1, keys),
                hospital=name,
                release=self.releases[name],
                ledger_entry_digest=digest(b"none"),
                keys=keys,
                out=folder / name,
            )
            self._learn_masks(name, contribution)
            coordinator.contribute(1, contribution)
        coordinator = self._coordinator(self.names[0])
        coordinator.wait_until_opened(1, lambda reason: None)
        plain_sum = sum(
            self.charter.weight_of(name) * release for name, release in self.releases.items()
        )
        assert (coordinator.fetch_sum(1).values == plain_sum).all()

    def _coordinator(self, name: str) -> Coordinator:
        address = self.servers.addresses["aggregator"]
        return Coordinator(self.federation.state(name), self.charter, address)

    def _learn_masks(self, name: str, contribution: Contribution) -> None:
        manifest = open_manifest(self.charter, contribution.manifest)
        for unmasker, sealed in zip(UNMASKERS, contribution.sealed_seeds, strict=True):
            purpose = mask_purpose(self.charter, 1, hospital=name, unmasker=unmasker)
            key = self.federation.state(unmasker).unsealing_key()
            info = purpose.seed_info(manifest.ciphertext_digest, manifest.round_keys_digest)
            seed = key.open(sealed, info)
            self.seeds[unmasker][name] = seed
            mask = MaskStream(seed, purpose).take(self.charter.secure_sum.elements)
            # As far as the release fills it: the authenticator's values come after.
            self.masks[unmasker][name] = mask[: VALUES // self.charter.secure_sum.lanes]

    def authenticator_key(self) -> bytes:
        """As any hospital opens it from the charter."""
        hospital = self.charter.hospital(self.names[0])
        info = key_info(
            federation=self.charter.federation,
            charter_name=self.charter.name,
            created=self.charter.created,
            hospital=hospital.name,
        )
        key = self.federation.state(hospital.name).unsealing_key()
        return key.open(hospital.sealed_authenticator_key(), info)

    def packed(self, name: str) -> Elements:
        """The release of the hospital called ``name`` as elements, before any mask."""
        secure_sum = self.charter.secure_sum
        return pack_lanes(
            self.releases[name], ring_bits=secure_sum.ring_bits, lanes=secure_sum.lanes
        )

    def secrets(self) -> dict[str, Patterns]:
        """By kind and hospital, the byte patterns of everything that is secret to somebody."""
        bits, ring_bits = self.charter.secure_sum.packed_bits, self.charter.secure_sum.ring_bits
        packed = {name: self.packed(name) for name in self.names}
        first, second = (self.masks[unmasker] for unmasker in UNMASKERS)
        half = {name: add(packed[name], first[name], bits) for name in self.names}
        masked = {name: add(half[name], second[name], bits) for name in self.names}
        values = {name: to_ring(release, ring_bits) for name, release in self.releases.items()}

        def patterns(vectors: Mapping[str, Elements], width: int = bits) -> Patterns:
            total = np.zeros(next(iter(vectors.values())).size, np.uint64)
            for name, vector in vectors.items():
                total = add(total, scale(vector, self.charter.weight_of(name), width), width)
            found = {name: _patterns(vector, width) for name, vector in vectors.items()}
            return {**found, "sum": _patterns(total, width)}

        kinds = {
            "values": patterns(values, ring_bits),
            "packed": patterns(packed),
            "half masked": patterns(half),
            "masked": patterns(masked),
            "authenticator key": {"federation": [self.authenticator_key()]},
        }
        for unmasker in UNMASKERS:
            kinds[f"mask of {unmasker}"] = patterns(self.masks[unmasker])
            kinds[f"seed of {unmasker}"] = {
                name: [seed] for name, seed in self.seeds[unmasker].items()
            }
        return kinds


_RELEASES = ["values", "packed", "half masked", "authenticator key"]
MAY_NEVER_HOLD = {
    "aggregator": [
        *_RELEASES, "masked",
        "mask of unmasker", "seed of unmasker", "mask of unmasker-2", "seed of unmasker-2",
    ],
    "decryptor": [
        *_RELEASES,
        "mask of unmasker", "seed of unmasker", "mask of unmasker-2", "seed of unmasker-2",
    ],
    "unmasker": [*_RELEASES, "masked", "mask of unmasker-2", "seed of unmasker-2"],
    "unmasker-2": [*_RELEASES, "masked", "mask of unmasker", "seed of unmasker"],
}  # fmt: skip
"""By party, from the table of DESIGN section 2."""

MAY_HOLD = {"decryptor": {"masked of sum"}}
"""What the decryptor is for: the one sum that it opens, behind all masks."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Round]:
    root = tmp_path_factory.mktemp("secrecy")
    federation = make_federation(
        root / "parties",
        large=1,
        small=2,
        unmaskers=len(UNMASKERS),
        secure_sum={"values": VALUES},
        probe={"dimension": VALUES // 2},
        # Values as large as still leave room for two lanes.
        privacy={"clip_units": 900, "maximum_patients": 8},
        rounds={"count": 1},
    )
    assert federation.charter.secure_sum.lanes == 2
    with running_servers(federation, root / "run") as servers:
        finished = Round(federation, servers)
        finished.run(root)
        yield finished


def _forbidden(finished: Round, party: str) -> Patterns:
    secrets = finished.secrets()
    kinds = MAY_NEVER_HOLD[party]
    # Single masked releases are forbidden to the decryptor too, which sees their sum only.
    kinds = [*kinds, *({"masked"} - set(kinds))]
    found = {f"{kind} of {name}": each for kind in kinds for name, each in secrets[kind].items()}
    return {name: each for name, each in found.items() if name not in MAY_HOLD.get(party, set())}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("party", MAY_NEVER_HOLD)
def test_no_party_holds_what_it_must_not_learn(finished: Round, party: str) -> None:
    pid = finished.servers.running[party].process.pid
    storage = finished.federation.state(party).root
    forbidden = _forbidden(finished, party)
    assert len(forbidden) > 4 * len(finished.names)
    assert not _holds(pid, storage, forbidden)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_registrar_keeps_no_authenticator_key(finished: Round) -> None:
    secrets = {"key": [finished.authenticator_key()]}
    storage = finished.federation.state("registrar").root
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert not _holds(process.pid, storage, secrets)
        finally:
            process.kill()


HOLDER = """
import sys
data = sys.stdin.buffer.read()
print('ready', flush=True)
import time
time.sleep(60)
"""

ENCODINGS = ["<u8", "<f8", "packed"]


def _planted(finished: Round, kind: str) -> dict[str, bytes]:
    """Whole vectors of ``kind``, of the first hospital, in each encoding."""
    name, secure_sum = finished.names[0], finished.charter.secure_sum
    bits = secure_sum.packed_bits
    elements = finished.packed(name)
    if kind == "values":
        bits = secure_sum.ring_bits
        elements = to_ring(finished.releases[name], bits)
    elif kind == "masked":
        for masks in finished.masks.values():
            elements = add(elements, masks[name], bits)
    elif kind.startswith("mask of "):
        elements = finished.masks[kind.removeprefix("mask of ")][name]
    wide = {encoding: elements.astype(encoding).tobytes() for encoding in ("<u8", "<f8")}
    return {**wide, "packed": pack(elements, bits)}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", ["values", "packed", "masked", "mask of unmasker-2"])
def test_the_search_finds_a_process_that_does_hold_it(
    finished: Round, kind: str, encoding: str
) -> None:
    planted = _planted(finished, kind)[encoding]
    assert _held_by_a_process_with(planted, finished.secrets()[kind]) == {finished.names[0]}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["authenticator key", "seed of unmasker"])
def test_the_search_finds_a_process_that_does_hold_a_key(finished: Round, kind: str) -> None:
    name, [key] = next(iter(finished.secrets()[kind].items()))
    assert _held_by_a_process_with(key, finished.secrets()[kind]) == {name}


def _held_by_a_process_with(planted: bytes, secrets: Patterns) -> set[str]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(planted)
        process.stdin.close()
        assert process.stdout.readline() == b"ready\n"
        try:
            return _holds(process.pid, None, secrets)
        finally:
            process.kill()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_search_finds_it_in_storage(finished: Round, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "blob").write_bytes(b"x" * 7 + _planted(finished, "packed")[encoding])
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            held = _holds(process.pid, tmp_path, finished.secrets()["packed"])
        finally:
            process.kill()
    assert held == {finished.names[0]}
