from __future__ import annotations

import numpy as np
import pytest
import tenseal
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.federation import Federation
from support.secure_sum import coefficients_out_of_range, encrypt_reals, secret_context

from fedhelp_secure.charter import SecureSum
from fedhelp_secure.secure_sum.ckks import (
    ContextRefused,
    NotAnInteger,
    PublicContext,
    SecretContext,
    generate_keys,
)
from fedhelp_secure.secure_sum.framing import CiphertextRefused
from fedhelp_secure.secure_sum.ring import OutsideRing

SECRET, PUBLIC = generate_keys()


def _parameters(values: int = 5, ring_bits: int = 32) -> SecureSum:
    return SecureSum(values=values, ring_bits=ring_bits, fraction_bits=12, scale_bits=22)


def _vector(integers: list[int]) -> NDArray[np.uint64]:
    return np.array(integers, dtype=np.uint64)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_weighted_sums_are_exact_up_to_the_capacity(data: st.DataObject) -> None:
    values = data.draw(st.sampled_from([1, 5, 2048, 2049]))
    weights = data.draw(st.lists(st.integers(1, 16), min_size=2, max_size=5))
    ring_bits = data.draw(st.integers(8, 36 - (sum(weights) - 1).bit_length() + 1))
    parameters = _parameters(values, ring_bits)
    top = 2**ring_bits - 1
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    extremes = data.draw(st.booleans())
    vectors = [
        np.full(values, top, dtype=np.uint64)
        if extremes
        else generator.integers(0, top, values, dtype=np.uint64, endpoint=True)
        for _ in weights
    ]
    public = PublicContext(PUBLIC, parameters)
    parts = [(w, public.encrypt(v)) for w, v in zip(weights, vectors, strict=True)]
    opened = SecretContext(SECRET, parameters).decrypt(public.weighted_sum(parts))
    columns = zip(*(vector.tolist() for vector in vectors), strict=True)
    assert opened.tolist() == [
        sum(w * entry for w, entry in zip(weights, column, strict=True)) % 2**ring_bits
        for column in columns
    ]


def test_encryption_is_randomised() -> None:
    public = PublicContext(PUBLIC, _parameters())
    assert public.encrypt(_vector([1] * 5)) != public.encrypt(_vector([1] * 5))


@pytest.mark.parametrize("elements", [[1] * 4, [1] * 6, [2**32, 0, 0, 0, 0]])
def test_refuses_other_vectors(elements: list[int]) -> None:
    with pytest.raises(OutsideRing):
        PublicContext(PUBLIC, _parameters()).encrypt(_vector(elements))


def _context(bits: list[int], scale_bits: int, *, extra_keys: bool = False) -> bytes:
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=bits)
    context.global_scale = 2.0**scale_bits
    if extra_keys:
        context.generate_galois_keys()
    data: bytes = context.serialize(
        save_secret_key=False, save_galois_keys=extra_keys, save_relin_keys=extra_keys
    )
    return data


@pytest.mark.parametrize(
    "public",
    [
        SECRET,
        _context([60, 48], 22),
        _context([40, 20, 40], 22),
        _context([60, 49], 21),
        _context([60, 49], 22, extra_keys=True),
        b"",
        b"no context",
        PUBLIC[:1000],
    ],
    ids=["secret", "prime", "chain", "scale", "keys", "empty", "text", "truncated"],
)
def test_refuses_other_contexts(public: bytes) -> None:
    with pytest.raises(ContextRefused):
        PublicContext(public, _parameters())


def test_the_public_context_has_no_secret_and_the_secret_one_hides_it() -> None:
    with pytest.raises(ContextRefused):
        SecretContext(PUBLIC, _parameters())
    assert repr(SecretContext(SECRET, _parameters())) == "SecretContext(...)"
    assert len(PUBLIC) < 140_000


def test_refuses_sums_of_nothing_and_weights_below_one() -> None:
    public = PublicContext(PUBLIC, _parameters())
    part = public.encrypt(_vector([1] * 5))
    for parts in ([], [(0, part)], [(1, part), (-1, part)], [(1, part[:-1])], [(1, b"")]):
        with pytest.raises(CiphertextRefused):
            public.weighted_sum(parts)


def test_refuses_coefficients_outside_the_modulus() -> None:
    public = PublicContext(PUBLIC, _parameters())
    forged = coefficients_out_of_range(public.encrypt(_vector([1] * 5)))
    with pytest.raises(CiphertextRefused):
        public.weighted_sum([(1, forged)])
    with pytest.raises(CiphertextRefused):
        SecretContext(SECRET, _parameters()).decrypt(forged)


@pytest.mark.parametrize(
    ("reals", "position"), [([0.5], 0), ([0.2], 0), ([-3.3], 0), ([0.0] * 2047 + [0.5], 2047)]
)
def test_refuses_slots_that_are_no_integers_in_the_padding_too(
    federation: Federation, reals: list[float], position: int
) -> None:
    with pytest.raises(NotAnInteger):
        secret_context(federation).decrypt(encrypt_reals(federation, reals))


def test_reduces_integers_outside_the_ring(federation: Federation) -> None:
    reals = [-1.0, -(2.0**33) + 5, 2.0**34 + 7, 2.0**32]
    opened = secret_context(federation).decrypt(encrypt_reals(federation, reals))
    assert opened.tolist() == [2**32 - 1, 5, 7, 0, 0, 0, 0, 0]


def test_a_ciphertext_under_another_key_is_no_sum(federation: Federation) -> None:
    foreign = PublicContext(PUBLIC, federation.charter.secure_sum).encrypt(_vector([1] * 8))
    with pytest.raises(NotAnInteger):
        secret_context(federation).decrypt(foreign)
