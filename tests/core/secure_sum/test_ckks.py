from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tenseal import sealapi

from fedhelp_secure.charter import (
    CKKS_NOISE_UNITS,
    LARGEST_NOISE_SHIFT,
    SCALE_BITS,
    SecureSum,
    noise_fits,
)
from fedhelp_secure.secure_sum import residues, seal
from fedhelp_secure.secure_sum.ckks import (
    DEGREE,
    MODULUS_BITS,
    NotAnInteger,
    PublicContext,
    SecretContext,
    generate_keys,
)
from fedhelp_secure.secure_sum.plan import plan_secure_sum
from fedhelp_secure.secure_sum.residues import (
    MODULUS,
    CiphertextRefused,
    ContextRefused,
    weighted_sum,
)
from fedhelp_secure.secure_sum.ring import OutsideRing

SECRET, PUBLIC = generate_keys()
OTHER_SECRET, OTHER_PUBLIC = generate_keys()

Elements = NDArray[np.uint64]


def _plan(bound: int, weights: Sequence[int]) -> SecureSum:
    return plan_secure_sum(values=5000, fraction_bits=12, bound_of_sum=bound, weights=weights)


PLAN = _plan(30_000, [2, 2, 1, 1, 1, 1])

PLANS: list[tuple[int, list[int]]] = [
    (100, [1, 1]),
    (30_000, [2, 2, 1, 1, 1, 1]),
    (2**24, [2, 2, 1, 1, 1, 1]),
    (2**29 - 1, [1, 1, 1]),
    (5000, [1] * 8),
    (5000, [1] * 64),
    (100, [64, 64, 1]),
    (2**20, [3] * 5),
    (1000, [5] * 40),
]


def _weighted(parameters: SecureSum, parts: Sequence[tuple[int, Elements]]) -> bytes:
    public = PublicContext(PUBLIC, parameters)
    encrypted = [(weight, iter([public.encrypt_frame(part)])) for weight, part in parts]
    return b"".join(weighted_sum(encrypted, parameters))


def _expected(parameters: SecureSum, parts: Sequence[tuple[int, Elements]]) -> list[int]:
    modulus = 2**parameters.packed_bits
    columns = zip(*(part.tolist() for _, part in parts), strict=True)
    weights = [weight for weight, _ in parts]
    return [
        sum(weight * entry for weight, entry in zip(weights, column, strict=True)) % modulus
        for column in columns
    ]


def _full(element: int) -> Elements:
    return np.full(DEGREE, element, dtype=np.uint64)


def _patterns(packed_bits: int) -> list[Elements]:
    """Frames whose elements are at the ends of the ring: the largest coefficients of each sign."""
    half = 2 ** (packed_bits - 1)
    low, high = half, half - 1  # as signed integers -half and half - 1
    alternating = _full(low)
    alternating[1::2] = high
    halves = _full(low)
    halves[DEGREE // 2 :] = high
    return [_full(low), _full(high), alternating, halves]


@pytest.mark.parametrize(("bound", "weights"), PLANS)
def test_sums_of_the_largest_elements_that_a_plan_allows_are_exact(
    bound: int, weights: list[int]
) -> None:
    parameters = _plan(bound, weights)
    secret = SecretContext(SECRET, parameters)
    for pattern in _patterns(parameters.packed_bits):
        parts = [(weight, pattern) for weight in weights]
        opened = secret.decrypt_frame(_weighted(parameters, parts))
        assert opened.tolist() == _expected(parameters, parts)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(PLANS), st.integers(1, DEGREE), st.integers(0, 2**32))
def test_sums_of_random_elements_are_exact_under_every_plan(
    plan: tuple[int, list[int]], size: int, seed: int
) -> None:
    bound, weights = plan[0], plan[1][:8]
    parameters, generator = _plan(bound, plan[1]), np.random.default_rng(seed)
    top = 2**parameters.packed_bits
    parts = [(weight, generator.integers(0, top, size, dtype=np.uint64)) for weight in weights]
    opened = SecretContext(SECRET, parameters).decrypt_frame(_weighted(parameters, parts))
    assert opened[:size].tolist() == _expected(parameters, parts)
    assert not opened[size:].any()


def _errors(parameters: SecureSum, frame: bytes) -> NDArray[np.int64]:
    """What rounding takes away: it never leaves `SecretContext`. Units of 2**-scale_bits."""
    numbers = SecretContext(SECRET, parameters).decrypt_coefficients(frame)
    unit = 2**parameters.scale_bits
    errors: NDArray[np.int64] = (numbers + unit // 2) % unit - unit // 2
    return errors


def test_the_error_of_a_fresh_ciphertext_has_the_deviation_that_the_bound_is_made_of() -> None:
    public = PublicContext(PUBLIC, PLAN)
    zeros = np.zeros(DEGREE, dtype=np.uint64)
    errors = np.concatenate([_errors(PLAN, public.encrypt_frame(zeros)) for _ in range(60)])
    # One key, so its own norm leaves some spread around 240; the mean's own deviation is 0.5.
    assert 230 < errors.std() < 250
    assert abs(errors.mean()) < 5
    # The proxy variance of 78,100 is a deviation of 280 at most: half the bound is 4.8 of them.
    assert np.abs(errors).max() < CKKS_NOISE_UNITS / 1.5


def test_a_frame_is_what_seal_encrypts_for_the_polynomial_with_these_coefficients() -> None:
    """SEAL's own decryption and embedding, against the embedding worked out here."""
    context, scratch = seal.seal_context(DEGREE, MODULUS_BITS), seal.Scratch()
    elements = np.random.default_rng().integers(0, 2**PLAN.packed_bits, DEGREE, dtype=np.uint64)
    frame = PublicContext(PUBLIC, PLAN).encrypt_frame(elements)
    prefix = seal.saved_prefix(DEGREE, MODULUS_BITS)
    ciphertext = scratch.load(sealapi.Ciphertext(), prefix + frame, context)
    sealapi.Evaluator(context).transform_to_ntt_inplace(ciphertext)
    key, plaintext = scratch.load(sealapi.SecretKey(), SECRET, context), sealapi.Plaintext()
    sealapi.Decryptor(context, key).decrypt(ciphertext, plaintext)
    slots = np.array(sealapi.CKKSEncoder(context).decode_complex(plaintext))
    # Slot j is the polynomial's value at exp(pi i 3**j / degree) (Cheon et al. 2017, section 3.2).
    half = 2 ** (PLAN.packed_bits - 1)
    integers = [element - 2 * half if element >= half else element for element in elements.tolist()]
    powers = np.arange(DEGREE)
    for slot in (0, 1, 2, 777, DEGREE // 2 - 1):
        turns = pow(3, slot, 2 * DEGREE) * powers % (2 * DEGREE)
        value = np.dot(np.array(integers, dtype=float), np.exp(1j * np.pi * turns / DEGREE))
        assert abs(slots[slot] / 2.0**PLAN.scale_bits - value) < 1e-6 * half


@pytest.mark.parametrize(("bound", "weights"), PLANS)
def test_errors_stay_well_inside_a_quarter(bound: int, weights: list[int]) -> None:
    parameters = _plan(bound, weights)
    patterns = _patterns(parameters.packed_bits)
    for pattern in (patterns[0], patterns[2]):
        errors = _errors(parameters, _weighted(parameters, [(w, pattern) for w in weights]))
        assert np.abs(errors).max() < 2 ** (parameters.scale_bits - LARGEST_NOISE_SHIFT - 1)


@pytest.mark.parametrize("weights", [[1, 1], [2, 2, 1, 1, 1, 1], [64] * 20])
def test_the_smallest_scale_that_fits_leaves_the_noise_a_quarter(weights: list[int]) -> None:
    squared = sum(weight**2 for weight in weights)
    scale = next(bits for bits in SCALE_BITS if noise_fits(squared, bits))
    assert CKKS_NOISE_UNITS * squared**0.5 <= 2**scale / 4
    assert CKKS_NOISE_UNITS * squared**0.5 > 2 ** (scale - 1) / 4


def test_encryption_is_randomised_and_has_no_header() -> None:
    public = PublicContext(PUBLIC, PLAN)
    frames = [public.encrypt_frame(_full(1)) for _ in range(2)]
    assert frames[0] != frames[1]
    first, second = (np.frombuffer(frame, dtype="<u8") for frame in frames)
    assert first.size == 2 * DEGREE
    assert (first != second).mean() > 0.999
    for words in (first, second):
        assert words.max() < MODULUS
        # Uniform: the mean of 8,192 is within 8 deviations of the middle.
        assert abs(float(words.mean()) / MODULUS - 0.5) < 8 * (12 * 8192) ** -0.5


@pytest.mark.parametrize(
    "elements",
    [
        np.zeros(0, dtype=np.uint64),
        np.zeros(DEGREE + 1, dtype=np.uint64),
        np.array([2**PLAN.packed_bits], dtype=np.uint64),
        np.array([2**63], dtype=np.uint64),
        np.array([1], dtype=np.int64),
        np.zeros((2, 2), dtype=np.uint64),
    ],
)
def test_refuses_to_encrypt_anything_else(elements: Elements) -> None:
    with pytest.raises(OutsideRing):
        PublicContext(PUBLIC, PLAN).encrypt_frame(elements)


def test_signed_numbers_and_residues_are_each_others_inverse() -> None:
    half = MODULUS // 2
    numbers = np.array([0, 1, -1, half, -half, 2**58, -(2**58)], dtype=np.int64)
    words = residues.of_signed(numbers)
    assert words.tolist() == [number % MODULUS for number in numbers.tolist()]
    assert residues.signed(words).tolist() == numbers.tolist()
    others = words[::-1].copy()
    exact = [left - right for left, right in zip(words.tolist(), others.tolist(), strict=True)]
    assert residues.subtract(words, others).tolist() == [number % MODULUS for number in exact]


def _key_of(bits: list[int]) -> bytes:
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(DEGREE, bits))
    public = sealapi.PublicKey()
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    sealapi.KeyGenerator(context).create_public_key(public)
    return seal.Scratch().saved(public)


@pytest.mark.parametrize(
    "public",
    [SECRET, _key_of([59]), _key_of([60, 49]), b"", b"no key", PUBLIC[:1000], PUBLIC[:-1]],
    ids=["secret", "prime", "chain", "empty", "text", "truncated", "short"],
)
def test_refuses_what_is_no_public_key_of_these_parameters(public: bytes) -> None:
    with pytest.raises(ContextRefused):
        PublicContext(public, PLAN)


def test_the_secret_key_is_no_public_one_and_does_not_show() -> None:
    with pytest.raises(ContextRefused):
        SecretContext(PUBLIC, PLAN)
    assert repr(SecretContext(SECRET, PLAN)) == "SecretContext(...)"
    assert SECRET[200:300] not in PUBLIC
    assert (len(SECRET) < 34_000, len(PUBLIC) < 67_000) == (True, True)


def _encrypted_reals(reals: list[float], scale_bits: int) -> bytes:
    """A frame whose numbers begin with ``reals``: what no honest hospital sends."""
    zeros = PublicContext(PUBLIC, PLAN).encrypt_frame(np.zeros(DEGREE, dtype=np.uint64))
    words = np.frombuffer(zeros, dtype="<u8").copy()
    message = np.array([round(real * 2**scale_bits) for real in reals], dtype=np.int64)
    words[: message.size] = residues.add(words[: message.size], residues.of_signed(message))
    return words.tobytes()


@pytest.mark.parametrize("reals", [[0.5], [0.4], [-3.4], [0.0] * 4095 + [0.5], [2.0**20 + 0.45]])
def test_refuses_numbers_that_are_no_integers_in_the_padding_too(reals: list[float]) -> None:
    frame = _encrypted_reals(reals, PLAN.scale_bits)
    with pytest.raises(NotAnInteger):
        SecretContext(SECRET, PLAN).decrypt_frame(frame)


def test_reduces_integers_outside_the_ring() -> None:
    bits = PLAN.packed_bits
    frame = _encrypted_reals([-1.0, -(2.0**bits) + 5, 2.0**bits + 7, 2.0**bits], PLAN.scale_bits)
    opened = SecretContext(SECRET, PLAN).decrypt_frame(frame)
    assert opened[:4].tolist() == [2**bits - 1, 5, 7, 0]


def test_a_ciphertext_under_another_key_or_scale_is_no_sum() -> None:
    foreign = PublicContext(OTHER_PUBLIC, PLAN).encrypt_frame(_full(1))
    finer = PLAN.model_copy(update={"scale_bits": PLAN.scale_bits - 3})
    for frame, secret in (
        (foreign, SecretContext(SECRET, PLAN)),
        (PublicContext(PUBLIC, finer).encrypt_frame(_full(3)), SecretContext(SECRET, PLAN)),
        (PublicContext(PUBLIC, PLAN).encrypt_frame(_full(3)), SecretContext(OTHER_SECRET, PLAN)),
    ):
        with pytest.raises(NotAnInteger):
            secret.decrypt_frame(frame)


@pytest.mark.parametrize("length", [0, 8, 65_535, 65_537, 131_072])
def test_refuses_to_decrypt_anything_but_one_frame(length: int) -> None:
    with pytest.raises(CiphertextRefused):
        SecretContext(SECRET, PLAN).decrypt_frame(bytes(length))


def test_refuses_to_decrypt_words_that_are_no_residues() -> None:
    frame = bytearray(PublicContext(PUBLIC, PLAN).encrypt_frame(_full(1)))
    for word in (MODULUS, 2**64 - 1):
        frame[-8:] = word.to_bytes(8, "little")
        with pytest.raises(CiphertextRefused):
            SecretContext(SECRET, PLAN).decrypt_frame(bytes(frame))


def test_random_residues_are_no_integers() -> None:
    generator = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    secret = SecretContext(SECRET, PLAN)
    for _ in range(20):
        frame = generator.integers(0, MODULUS, 2 * DEGREE, dtype=np.uint64).tobytes()
        with pytest.raises(NotAnInteger):
            secret.decrypt_frame(frame)


def test_prepared_encryptions_of_zero_are_used_once_each() -> None:
    """Equal plaintexts under prepared zeros give other ciphertexts, which open to the same."""
    secret, public = generate_keys()
    context, opener = PublicContext(public, PLAN), SecretContext(secret, PLAN)
    elements = np.arange(4096, dtype=np.uint64)
    context.prepare(2)
    frames = [context.encrypt_frame(elements) for _ in range(4)]
    assert len(set(frames)) == 4
    # Not even one polynomial of two is the same: a zero that served twice would show that.
    assert len({frame[:32_768] for frame in frames} | {frame[32_768:] for frame in frames}) == 8
    for frame in frames:
        assert opener.decrypt_frame(frame).tolist() == elements.tolist()
