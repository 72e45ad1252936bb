"""Mutate valid messages of the secure sum, and count what is accepted and refused.

    python benchmarks/fuzz_secure_sum.py [--mutations 100000] [--seed 0] [--frames 2000]

A federation with fresh keys makes one honest round; every mutation of its messages (and of the
corpus in tests/core/secure_sum/corpus) goes to what takes such a message. Ends with an error for
anything but an error of ours or protobuf's DecodeError, for an altered message that is taken for
the honest one, and for a sum that opens to anything but the honest one. Frames of random residues
are then decrypted in a child process, which must come back alive.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for folder in ("tests", "client", "server", "keys", ""):
    sys.path.insert(0, str(ROOT / folder))

from support.federation import Federation, make_federation  # noqa: E402
from support.fuzzing import Round, decrypt_random_frames, fuzz  # noqa: E402

CORPUS = ROOT / "tests" / "core" / "secure_sum" / "corpus"


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=2000, help="random frames to decrypt")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        federation = make_federation(Path(folder) / "federation", unmaskers=2)
        started = time.monotonic()
        messages = Round(federation, Path(folder), CORPUS)
        results = fuzz(messages.targets(), arguments.mutations, arguments.seed)
        _print(results, time.monotonic() - started)
        frames = _frames_in_a_child(federation, arguments.frames, arguments.seed)
    print(f"\n{arguments.frames} frames of random residues, decrypted in a child: {dict(frames)}")
    if frames["accepted"]:
        sys.exit("a frame of random residues was taken for a sum")


def _frames_in_a_child(federation: Federation, frames: int, seed: int) -> Counter[str]:
    state = federation.state("decryptor")
    secret = state.read(state.role_directory() / "context.secret")
    parameters = federation.charter.secure_sum.model_dump_json()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        # A child that dies never answers; the pool starts another.
        job = pool.apply_async(decrypt_random_frames, (secret, parameters, frames, seed))
        return job.get(timeout=60 + frames / 10)


def _print(results: Counter[tuple[str, str]], seconds: float) -> None:
    targets = sorted({target for target, _ in results})
    print(f"{results.total()} mutations in {seconds:.0f} s; nothing unexpected\n")
    print("| target | mutations | accepted | refused, by error code |\n| --- | --- | --- | --- |")
    for target in targets:
        codes = {code: count for (name, code), count in results.items() if name == target}
        accepted, total = codes.pop("accepted", 0), sum(codes.values())
        refused = ", ".join(f"{code} {count}" for code, count in sorted(codes.items()))
        print(f"| {target} | {accepted + total} | {accepted} | {refused} |")


if __name__ == "__main__":
    main()
