"""The sums that ours is compared with: the same integers without protection, and NVFlare's way.

Neither is used by any party of a federation. `NvflareDefault` repeats what NVFlare 2.x does with
its default parameters (``nvflare/app_opt/he``): one CKKS context (degree 8192, modulus [60, 40,
40], scale 2**40) whose secret key every client shares, a vector encrypted with ``ckks_vector``, and
the context serialised along with it; the server adds, every client decrypts.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import tenseal
from numpy.typing import NDArray

from fedhelp_secure.secure_sum.packing import pack_lanes, unpack_lanes
from fedhelp_secure.secure_sum.ring import add, pack, unpack

_RING_BITS, _LANES = 15, 2


class Scheme(Protocol):
    """A way to add vectors of small integers: one hospital's, the aggregator's, a recipient's."""

    name: str

    @property
    def secret(self) -> bytes:
        """What all hospitals share before a round; empty if nothing."""

    def encode(self, values: NDArray[np.int64]) -> bytes:
        """What a hospital sends for ``values``."""

    def add(self, contributions: Sequence[bytes]) -> bytes:
        """What the aggregator makes of all contributions."""

    def decode(self, total: bytes, values: int) -> NDArray[np.int64]:
        """What a recipient reads: int64 [values]."""


class Plaintext:
    """The same packed integers, in the clear."""

    name = "plaintext"
    secret = b""

    def encode(self, values: NDArray[np.int64]) -> bytes:
        """Two values of 15 bits in four bytes."""
        return pack(pack_lanes(values, ring_bits=_RING_BITS, lanes=_LANES), _RING_BITS * _LANES)

    def add(self, contributions: Sequence[bytes]) -> bytes:
        """In the ring."""
        bits = _RING_BITS * _LANES
        total = self._elements(contributions[0])
        for contribution in contributions[1:]:
            total = add(total, self._elements(contribution), bits)
        return pack(total, bits)

    def decode(self, total: bytes, values: int) -> NDArray[np.int64]:
        """The first ``values`` lanes."""
        return unpack_lanes(
            self._elements(total), ring_bits=_RING_BITS, lanes=_LANES, values=values
        )

    def _elements(self, data: bytes) -> NDArray[np.uint64]:
        return unpack(data, _RING_BITS * _LANES, values=len(data) // 4)


class NvflareDefault:
    """NVFlare's defaults, through TenSEAL directly. All clients hold ``secret``."""

    name = "nvflare_default"

    def __init__(self, secret: bytes | None = None) -> None:
        """``secret`` is the shared context; None makes a new one."""
        self._context = _nvflare_context() if secret is None else tenseal.context_from(secret)
        public = self._context.copy()
        public.make_context_public()
        # NVFlare's decomposer puts the (public) context beside every vector it serialises.
        self._public: bytes = public.serialize()

    @property
    def secret(self) -> bytes:
        """The context with its secret key, as NVFlare's start-up kits carry it."""
        data: bytes = self._context.serialize(save_secret_key=True)
        return data

    def encode(self, values: NDArray[np.int64]) -> bytes:
        """Length and bytes of the context, then the vector."""
        with _without_tenseal_warning():
            encrypted = tenseal.ckks_vector(self._context, values.astype(float).tolist())
        vector: bytes = encrypted.serialize()
        return len(self._public).to_bytes(8, "little") + self._public + vector

    def add(self, contributions: Sequence[bytes]) -> bytes:
        """Parse each vector with the context beside it, and add."""
        total = None
        for contribution in contributions:
            context, data = _split(contribution)
            vector = tenseal.ckks_vector_from(tenseal.context_from(context), data)
            total = vector if total is None else total + vector
        summed: bytes = b"" if total is None else total.serialize()
        return len(self._public).to_bytes(8, "little") + self._public + summed

    def decode(self, total: bytes, values: int) -> NDArray[np.int64]:
        """Decrypted and rounded; NVFlare itself does not round."""
        _, data = _split(total)
        slots: list[float] = tenseal.ckks_vector_from(self._context, data).decrypt()
        rounded: NDArray[np.int64] = np.rint(np.array(slots[:values])).astype(np.int64)
        return rounded


BASELINES: dict[str, Callable[[bytes | None], Scheme]] = {
    Plaintext.name: lambda _secret: Plaintext(),
    NvflareDefault.name: NvflareDefault,
}


@contextlib.contextmanager
def _without_tenseal_warning() -> Iterator[None]:
    """TenSEAL writes to the process's standard output, from C++, when a vector is long."""
    sys.stdout.flush()
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)


def _nvflare_context() -> tenseal.Context:
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 40]
    )
    context.global_scale = 2**40
    return context


def _split(data: bytes) -> tuple[bytes, bytes]:
    end = 8 + int.from_bytes(data[:8], "little")
    return data[8:end], data[end:]
