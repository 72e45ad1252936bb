"""The public set: the images that every soft label is about, their features, and the projection.

One ``.npz`` file that any party may read. The charter pins the digest of the file and, apart from
it, the digest of the pixels, which is what the broker recomputes before it sends them. Nothing in
it may depend on a patient: the projection is fitted on the proxy images alone.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError, InternalError
from fedhelp_secure.state import write_atomically

MAXIMUM_BYTES = 1 << 31
"""A public set is refused, before it is read, if its file is larger."""

CONSTANT = 1 / sqrt(2)
"""Last entry of every projected feature, unless a projection is fitted with another one."""

_PROXY_DOMAIN = b"fedhelp-secure/v1/proxy\n"
_NORM_TOLERANCE = 1e-3
_SMALLEST_SCALE = 1e-6
_Kind = TypeVar("_Kind", bound=np.generic)

# What zipfile and numpy raise on bytes that are not theirs, among them shapes beyond all memory.
_DAMAGE = (
    ValueError,
    KeyError,
    EOFError,
    OSError,
    MemoryError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
)
_PARTS = ("mean", "scale", "components", "constant")
"""Of a projection."""
_ARRAYS = ("images", "features", *_PARTS)


class PublicSetRefused(ConfigurationError):
    """A public set's file is damaged, or not the one that the charter names."""

    code = "public-set"


class ProjectionMisused(InternalError):
    """Embeddings and projection do not fit each other."""

    code = "projection"


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Standardise an embedding, map it to D - 1 directions, scale to norm 1, add a constant."""

    mean: NDArray[np.float32]
    """[E], of the proxy embeddings."""
    scale: NDArray[np.float32]
    """[E], their standard deviations; positive."""
    components: NDArray[np.float32]
    """[E, D - 1]."""
    constant: NDArray[np.float32]
    """[1], between 0 and 1: the last entry of every projected feature. Noise on it blurs how common
    the classes are, noise on the rest what they look like: the rest of a row has the norm left."""

    def __post_init__(self) -> None:
        for name in _PARTS:
            object.__setattr__(self, name, _frozen(getattr(self, name), name, np.float32))
        embedding = self.mean.shape
        if len(embedding) != 1 or self.scale.shape != embedding or self.components.ndim != 2:
            raise PublicSetRefused("the projection's arrays do not fit one another; make it again.")
        if self.components.shape[0] != embedding[0] or self.components.shape[1] < 1:
            raise PublicSetRefused("the projection's arrays do not fit one another; make it again.")
        if not (self.scale > 0).all():
            raise PublicSetRefused("the projection's scale is not positive; make it again.")
        if self.constant.shape != (1,) or not 0 < self.constant[0] < 1:
            raise PublicSetRefused(
                "the projection's constant is not between 0 and 1; make it again."
            )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> Projection:
        """What `arrays` gave; raises KeyError or PublicSetRefused."""
        return cls(*(arrays[f"{prefix}{name}"] for name in _PARTS))

    def arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """Its arrays by name, after ``prefix``, for a file that has others too."""
        return {f"{prefix}{name}": getattr(self, name) for name in _PARTS}

    @property
    def dimension(self) -> int:
        """D: entries of a projected feature, the constant included."""
        return int(self.components.shape[1]) + 1

    def apply(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Features [..., D] of ``embeddings`` [..., E].

        The last entry is the constant; the others are scaled to the norm that is left, so that a
        row has norm 1 (or that of the constant, if an embedding projects to zero). Only the
        direction of an embedding counts: no image can weigh more than another. Raises
        ProjectionMisused unless the last axis has E finite entries.
        """
        if embeddings.ndim < 1 or embeddings.shape[-1] != len(self.mean):
            raise ProjectionMisused("these embeddings are of another backbone than the projection.")
        standard = self.standardise(embeddings)
        if not np.isfinite(standard).all():
            raise ProjectionMisused("an embedding is not finite; mend the image or the backbone.")
        directions = standard @ self.components.astype(np.float64)
        norms = np.linalg.norm(directions, axis=-1, keepdims=True)
        np.divide(directions, norms, out=directions, where=norms > 0)
        constant = float(self.constant[0])
        directions *= sqrt(1 - constant**2)
        constants = np.full((*directions.shape[:-1], 1), constant)
        return np.concatenate([directions, constants], axis=-1).astype(np.float32)

    def standardise(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        """``embeddings`` [..., E] less the proxies' mean, over their standard deviations."""
        standard: NDArray[np.float64] = (embeddings.astype(np.float64) - self.mean) / self.scale
        return standard


def fit_projection(
    embeddings: NDArray[np.floating],
    dimension: int,
    *,
    whitening: float = 0.0,
    constant: float = CONSTANT,
) -> Projection:
    """The projection to ``dimension`` entries fitted on public ``embeddings`` [..., E].

    Standardises every entry, then takes the ``dimension - 1`` principal components with the largest
    variance, each divided by that variance to the power ``whitening`` / 2: at 0 they keep their
    lengths, at 1 all have the same. Components have a fixed sign (their largest entry is positive),
    so that equal inputs give equal files. Raises ProjectionMisused if there are fewer rows or
    entries than components.
    """
    rows = embeddings.reshape(-1, embeddings.shape[-1]).astype(np.float64)
    wanted = dimension - 1
    # One row less: they are centred.
    if wanted < 1 or wanted > min(len(rows) - 1, rows.shape[1]):
        raise ProjectionMisused(
            f"a projection to {dimension} dimensions needs as many rows and entries; "
            "lower the dimension or add proxy images."
        )
    if not np.isfinite(rows).all():
        raise ProjectionMisused("an embedding is not finite; mend the image or the backbone.")
    mean = rows.mean(axis=0)
    scale = np.maximum(rows.std(axis=0), _SMALLEST_SCALE)
    standard = (rows - mean) / scale
    variances, leading = _principal(standard, wanted)
    largest = np.take_along_axis(leading, np.abs(leading).argmax(axis=0)[np.newaxis], axis=0)
    components = leading * np.where(largest < 0, -1.0, 1.0) / variances ** (whitening / 2)
    return Projection(
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        components=components.astype(np.float32),
        constant=np.array([constant], dtype=np.float32),
    )


def _principal(
    standard: NDArray[np.float64], wanted: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variances [wanted], floored above 0, and unit directions [E, wanted], the largest first."""
    rows, entries = standard.shape
    if rows >= entries:
        variances, vectors = np.linalg.eigh(standard.T @ standard / rows)
    else:
        # The same from the smaller matrix: embeddings may have more entries than there are images.
        variances, left = np.linalg.eigh(standard @ standard.T / rows)
        vectors = standard.T @ left
        vectors /= np.maximum(np.linalg.norm(vectors, axis=0), _SMALLEST_SCALE)
    kept = variances[::-1][:wanted]
    return np.maximum(kept, _SMALLEST_SCALE), vectors[:, ::-1][:, :wanted]


def proxy_digest(images: NDArray[np.uint8]) -> str:
    """Digest of the pixels and the shape of ``images`` [N, H, W].

    Raises PublicSetRefused for any other shape or type.
    """
    if images.dtype != np.uint8 or images.ndim != 3 or images.size == 0:
        raise PublicSetRefused("proxy images must be grey uint8 images of one size.")
    count, height, width = images.shape
    shape = canonical_json({"count": count, "height": height, "width": width})
    return digest(_PROXY_DOMAIN + shape + b"\n" + np.ascontiguousarray(images).tobytes())


@dataclass(frozen=True, slots=True, eq=False)
class PublicSet:
    """Proxy images, their projected features and the projection; arrays are read-only."""

    images: NDArray[np.uint8]
    """[N, H, W], grey."""
    features: NDArray[np.float32]
    """[N, T, D], projected; T is 1 for classification, the number of patch tokens otherwise."""
    projection: Projection
    source: InitVar[bytes | None] = None
    """The file's bytes, if it came from one; None makes them."""
    data: bytes = field(init=False, repr=False)
    """The file's bytes: what `save` writes and `digest` covers."""
    digest: str = field(init=False)
    """Digest of `data`; the charter's ``proxy.public_set_digest``."""

    def __post_init__(self, source: bytes | None) -> None:
        object.__setattr__(self, "images", _frozen(self.images, "images", np.uint8))
        object.__setattr__(self, "features", _frozen(self.features, "features", np.float32))
        self._check_shapes()
        data = self._encoded() if source is None else source
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "digest", digest(data))

    def _check_shapes(self) -> None:
        if self.images.ndim != 3 or self.images.shape[0] < 2 or min(self.images.shape[1:]) < 16:
            raise PublicSetRefused(
                "a public set needs at least two grey images of 16 pixels a side or more."
            )
        if self.features.ndim != 3 or self.features.shape[0] != self.images.shape[0]:
            raise PublicSetRefused("the public set's features do not match its images.")
        if self.features.shape[1] < 1 or self.features.shape[2] != self.projection.dimension:
            raise PublicSetRefused("the public set's features do not match its projection.")
        if float(np.linalg.norm(self.features, axis=-1).max()) > 1 + _NORM_TOLERANCE:
            raise PublicSetRefused("the public set's features are not scaled; make it again.")

    def _encoded(self) -> bytes:
        buffer = io.BytesIO()
        # numpy writes no time stamps and does not compress here: equal arrays give equal bytes.
        np.savez(
            buffer,
            allow_pickle=False,
            images=self.images,
            features=self.features,
            **self.projection.arrays(),
        )
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path) -> PublicSet:
        """The public set in the file at ``path``; raises PublicSetRefused if it is damaged."""
        try:
            if path.stat().st_size > MAXIMUM_BYTES:
                raise PublicSetRefused(f"{path} is too large for a public set; fetch it again.")
            data = path.read_bytes()
        except OSError as error:
            raise PublicSetRefused(f"{path} cannot be read; give the public set's file.") from error
        try:
            arrays = _read_arrays(data)
        except _DAMAGE as error:
            raise PublicSetRefused(
                f"{path} is not a public set, or is damaged; fetch it again."
            ) from error
        projection = Projection.from_arrays(arrays)
        return cls(arrays["images"], arrays["features"], projection, source=data)

    def save(self, path: Path) -> None:
        """Write the file whose digest is `digest`: all of it or nothing."""
        write_atomically(path, self.data, mode=0o644)

    def check(self, charter: Charter) -> None:
        """Raises PublicSetRefused unless this is the very set that ``charter`` names."""
        if self.digest != charter.proxy.public_set_digest:
            raise PublicSetRefused("this is not the charter's public set; fetch the one it names.")
        count, height, width = self.images.shape
        if (count, height, width) != (
            charter.proxy.count,
            charter.proxy.height,
            charter.proxy.width,
        ) or proxy_digest(self.images) != charter.proxy.digest:
            raise PublicSetRefused(
                "the public set's images are not the charter's proxy images; "
                "do not use the charter."
            )
        if self.projection.dimension != charter.probe.dimension:
            raise PublicSetRefused(
                "the public set's projection has another dimension than the charter's probe; "
                "do not use the charter."
            )


def _read_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Raises one of `_DAMAGE` unless ``data`` holds exactly our arrays."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if sorted(entry.filename for entry in entries) != sorted(f"{name}.npy" for name in _ARRAYS):
            raise ValueError("other members than a public set's")
        # Stored members cannot be larger than the file: no decompression bomb.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("compressed members")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in _ARRAYS}


def _frozen(array: NDArray[_Kind], name: str, kind: type[_Kind]) -> NDArray[_Kind]:
    """A read-only C-ordered copy; raises PublicSetRefused for another type or values not finite."""
    if array.dtype != np.dtype(kind):
        raise PublicSetRefused(f"the public set's {name} are not of type {np.dtype(kind)}.")
    copy = np.array(array, dtype=kind, order="C", copy=True)
    if array.size == 0 or not np.isfinite(copy).all():
        raise PublicSetRefused(f"the public set's {name} are empty or not finite; make it again.")
    copy.flags.writeable = False
    return copy
