"""Every domain separator of the secure sum, in one place.

Each is the ``domain`` entry of the canonical JSON (RFC 8785) that goes into a key derivation, into
an HPKE ``info`` or into the associated data of an AEAD, so that nothing made for one purpose serves
another. Vectors: ``tests/core/secure_sum/*_vectors.json``.
"""

from __future__ import annotations

from typing import Final

MASK: Final = "fedhelp-secure/v1/mask"
"""HKDF info: from a hospital's seed to the key stream of its mask."""

MASK_SEED: Final = "fedhelp-secure/v1/mask-seed"
"""HPKE info: a seed on its way to one unmasker."""

AUTHENTICATOR_KEY: Final = "fedhelp-secure/v1/authenticator-key"
"""HPKE info: the federation's authenticator key on its way to one hospital."""

AUTHENTICATOR_COEFFICIENTS: Final = "fedhelp-secure/v1/authenticator-coefficients"
"""HKDF info: from the authenticator key to the coefficients of one round."""

AUTHENTICATOR_PAD: Final = "fedhelp-secure/v1/authenticator-pad"
"""HKDF info: from the authenticator key to one hospital's one-time pads of one round."""

ANSWER_BODY: Final = "fedhelp-secure/v1/answer-body"
"""AEAD associated data: a custodian's answer."""

ANSWER_KEY: Final = "fedhelp-secure/v1/answer-key"
"""HPKE info: the content key of an answer on its way to one hospital."""
