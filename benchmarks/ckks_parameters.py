"""Compare CKKS parameters and ways to call SEAL for sums of 15-bit values of eight hospitals.

    python benchmarks/ckks_parameters.py --repeats 5

Prints, for each, values a ciphertext, bytes a value, and microseconds a value of encryption, of one
addition and of decryption, as ratios to the first line (what the product uses) within the same
repeat; and how much two threads and two processes gain over one. docs/adr/0012 quotes it.
"""

from __future__ import annotations

import argparse
import enum
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tenseal
from tenseal import sealapi

from fedhelp_secure.secure_sum.ckks import PublicContext, SecretContext, generate_keys
from fedhelp_secure.secure_sum.plan import plan_secure_sum
from fedhelp_secure.secure_sum.residues import weighted_sum
from fedhelp_secure.secure_sum.seal import Scratch

RING_BITS, TOTAL_WEIGHT_BITS = 15, 3
DOUBLE_BITS = 53
PASSES = 12


class Call(enum.Enum):
    """How integers get into a ciphertext."""

    COEFFICIENTS = "the product's own code: coefficients, added to an encryption of zero"
    SLOTS = "both parts of every slot, through SEAL"
    VECTOR = "the real part of every slot, through TenSEAL"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One set of parameters and one way to call SEAL."""

    name: str
    degree: int
    modulus_bits: tuple[int, ...]
    scale_bits: int
    call: Call

    @property
    def lanes(self) -> int:
        """Values in one number of a slot; the last prime of several only switches keys."""
        usable = self.modulus_bits[:-1] if len(self.modulus_bits) > 1 else self.modulus_bits
        room = sum(usable) - 1 - self.scale_bits
        if self.call is not Call.COEFFICIENTS:
            room = min(room, DOUBLE_BITS)
        return (room - TOTAL_WEIGHT_BITS) // RING_BITS

    @property
    def numbers(self) -> int:
        """Numbers in one ciphertext."""
        return self.degree // 2 if self.call is Call.VECTOR else self.degree

    @property
    def values(self) -> int:
        """Values in one ciphertext."""
        return self.numbers * self.lanes


CANDIDATES = (
    Candidate("4096/[60] coefficients", 4096, (60,), 15, Call.COEFFICIENTS),
    Candidate("4096/[60] sealapi, complex", 4096, (60,), 22, Call.SLOTS),
    Candidate("4096/[60,49] sealapi, complex", 4096, (60, 49), 18, Call.SLOTS),
    Candidate("4096/[54,54] sealapi, complex", 4096, (54, 54), 18, Call.SLOTS),
    Candidate("4096/[60,49] ckks_vector", 4096, (60, 49), 18, Call.VECTOR),
    Candidate("4096/[54,54] ckks_vector", 4096, (54, 54), 18, Call.VECTOR),
    Candidate("8192/[60,40,40] ckks_vector", 8192, (60, 40, 40), 40, Call.VECTOR),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds a value, and bytes a value."""

    encrypt: float
    add: float
    decrypt: float
    bytes: float


def seconds(call: Callable[[], object]) -> float:
    """Mean of a few passes, after one that does not count."""
    call()
    start = time.perf_counter()
    for _ in range(PASSES):
        call()
    return (time.perf_counter() - start) / PASSES


def numbers(candidate: Candidate) -> np.ndarray:
    """Uniform masked numbers, as many as the slots hold."""
    half = 1 << (RING_BITS * candidate.lanes - 1)
    return np.random.default_rng().integers(-half, half, candidate.numbers).astype(float)


def measure(candidate: Candidate) -> Cost:
    """All of one candidate; raises AssertionError if a decrypted number is not exact."""
    plain = numbers(candidate)
    run = {
        Call.COEFFICIENTS: measure_coefficients,
        Call.SLOTS: measure_complex,
        Call.VECTOR: measure_vector,
    }[candidate.call]
    encrypt, add, decrypt, size = run(candidate, plain)
    micro = 1e6 / candidate.values
    return Cost(encrypt * micro, add * micro, decrypt * micro, size / candidate.values)


def measure_coefficients(
    candidate: Candidate, plain: np.ndarray
) -> tuple[float, float, float, int]:
    """What the product does; encryptions of zero are made in the measured time too."""
    secure_sum = plan_secure_sum(
        values=candidate.values - 8, fraction_bits=9, bound_of_sum=14_000, weights=[1] * 8
    )
    assert secure_sum.scale_bits == candidate.scale_bits
    secret, public = generate_keys()
    context, opener = PublicContext(public, secure_sum), SecretContext(secret, secure_sum)
    elements = plain.astype(np.int64).view(np.uint64) & np.uint64(2**secure_sum.packed_bits - 1)
    saved = context.encrypt_frame(elements)
    assert (opener.decrypt_frame(saved) == elements).all()

    def add() -> None:
        # Of eight, with reading, checking and reducing.
        for _ in weighted_sum([(1, iter([saved])) for _ in range(8)], secure_sum):
            pass

    return (
        seconds(lambda: context.encrypt_frame(elements)),
        seconds(add) / 8,
        seconds(lambda: opener.decrypt_frame(saved)),
        len(saved),
    )


def measure_complex(candidate: Candidate, plain: np.ndarray) -> tuple[float, float, float, int]:
    """SEAL directly: both parts of each slot; residues added by the evaluator."""
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(candidate.degree)
    modulus = sealapi.CoeffModulus.Create(candidate.degree, list(candidate.modulus_bits))
    parameters.set_coeff_modulus(modulus)
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    generator, public = sealapi.KeyGenerator(context), sealapi.PublicKey()
    generator.create_public_key(public)
    encoder, evaluator = sealapi.CKKSEncoder(context), sealapi.Evaluator(context)
    encryptor = sealapi.Encryptor(context, public)
    decryptor = sealapi.Decryptor(context, generator.secret_key())
    scratch = Scratch()

    def encrypt() -> bytes:
        halves = plain.reshape(2, -1)
        plaintext, ciphertext = sealapi.Plaintext(), sealapi.Ciphertext()
        slots = (halves[0] + 1j * halves[1]).tolist()
        encoder.encode(slots, 2.0**candidate.scale_bits, plaintext)
        encryptor.encrypt(plaintext, ciphertext)
        return scratch.saved(ciphertext)

    def parsed() -> sealapi.Ciphertext:
        return scratch.load(sealapi.Ciphertext(), saved, context)

    def decrypt() -> np.ndarray:
        plaintext = sealapi.Plaintext()
        decryptor.decrypt(parsed(), plaintext)
        slots = np.array(encoder.decode_complex(plaintext))
        return np.concatenate([slots.real, slots.imag])

    saved = encrypt()
    assert (np.rint(decrypt()) == plain).all()
    total = parsed()
    return (
        seconds(encrypt),
        seconds(lambda: evaluator.add_inplace(total, parsed())),
        seconds(decrypt),
        len(saved),
    )


def measure_vector(candidate: Candidate, plain: np.ndarray) -> tuple[float, float, float, int]:
    """TenSEAL's vectors: the real part of each slot."""
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        candidate.degree,
        coeff_mod_bit_sizes=list(candidate.modulus_bits),
        n_threads=1,
    )
    context.global_scale = 2.0**candidate.scale_bits

    def encrypt() -> bytes:
        data: bytes = tenseal.ckks_vector(context, plain.tolist()).serialize()
        return data

    def decrypt() -> np.ndarray:
        return np.array(tenseal.ckks_vector_from(context, saved).decrypt())

    saved = encrypt()
    assert (np.rint(decrypt()) == plain).all()
    total = tenseal.ckks_vector_from(context, saved)
    return (
        seconds(encrypt),
        seconds(lambda: total.add_(tenseal.ckks_vector_from(context, saved))),
        seconds(decrypt),
        len(saved),
    )


def encrypt_for(passes: int) -> None:
    """Work of one thread or process: encrypt frames with the product's own code."""
    secure_sum = plan_secure_sum(values=8192, fraction_bits=9, bound_of_sum=14_000, weights=[1] * 8)
    context = PublicContext(generate_keys()[1], secure_sum)
    elements = np.zeros(4096, dtype=np.uint64)
    for _ in range(passes):
        context.encrypt_frame(elements)


def parallel_gain(kind: type[threading.Thread] | type[multiprocessing.Process]) -> float:
    """How much more two of ``kind`` encrypt in the same time than one."""

    def elapsed(count: int) -> float:
        workers = [kind(target=encrypt_for, args=(1500,)) for _ in range(count)]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return time.perf_counter() - start

    return 2 * elapsed(1) / elapsed(2)


def spread(figures: list[float], form: str) -> str:
    """Median, least and largest."""
    return (
        f"{form.format(statistics.median(figures))} "
        f"({form.format(min(figures))}-{form.format(max(figures))})"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    costs: dict[str, list[Cost]] = {candidate.name: [] for candidate in CANDIDATES}
    for _ in range(arguments.repeats):
        for candidate in CANDIDATES:
            costs[candidate.name].append(measure(candidate))
    base = costs[CANDIDATES[0].name]
    print(f"{'':30} values  bytes   us a value: encrypt, add, decrypt; ratio of their sum")
    for candidate in CANDIDATES:
        own = costs[candidate.name]
        ratios = [
            (cost.encrypt + cost.add + cost.decrypt) / (first.encrypt + first.add + first.decrypt)
            for cost, first in zip(own, base, strict=True)
        ]
        print(
            f"{candidate.name:30} {candidate.values:6} {own[0].bytes:6.1f}  "
            f"{spread([cost.encrypt for cost in own], '{:.3f}')}  "
            f"{spread([cost.add for cost in own], '{:.4f}')}  "
            f"{spread([cost.decrypt for cost in own], '{:.3f}')}  x {spread(ratios, '{:.2f}')}"
        )
    for name, kind in (("threads", threading.Thread), ("processes", multiprocessing.Process)):
        gains = [parallel_gain(kind) for _ in range(arguments.repeats)]
        print(f"two {name} against one: x {spread(gains, '{:.2f}')}")


if __name__ == "__main__":
    main()
