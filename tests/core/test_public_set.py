from __future__ import annotations

import io
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from support.charters import make_charter_kit

from fedhelp_secure.canonical import digest
from fedhelp_secure.public_set import (
    CONSTANT,
    Projection,
    ProjectionMisused,
    PublicSet,
    PublicSetRefused,
    fit_projection,
    proxy_digest,
)

EMBEDDING, DIMENSION, COUNT = 20, 4, 8


def embeddings(count: int = COUNT, tokens: int = 1) -> NDArray[np.float32]:
    generator = np.random.default_rng(3)
    return generator.normal(size=(count, tokens, EMBEDDING)).astype(np.float32)


def images(count: int = COUNT, side: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(4).integers(0, 256, (count, side, side), dtype=np.uint8)


def public_set(tokens: int = 1) -> PublicSet:
    rows = embeddings(tokens=tokens)
    projection = fit_projection(rows, DIMENSION)
    return PublicSet(images=images(), features=projection.apply(rows), projection=projection)


def arrays(**changes: object) -> dict[str, Any]:
    made = public_set()
    usual = {
        "images": made.images,
        "features": made.features,
        "mean": made.projection.mean,
        "scale": made.projection.scale,
        "components": made.projection.components,
        "constant": made.projection.constant,
    }
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


@pytest.mark.parametrize("tokens", [1, 5])
def test_saved_and_loaded_is_equal_with_the_digest_of_the_file(tmp_path: Path, tokens: int) -> None:
    made = public_set(tokens)
    made.save(tmp_path / "set.npz")
    loaded = PublicSet.load(tmp_path / "set.npz")
    assert loaded.digest == made.digest == digest((tmp_path / "set.npz").read_bytes())
    assert np.array_equal(loaded.images, made.images)
    assert np.array_equal(loaded.features, made.features)
    rows = embeddings()
    assert np.array_equal(loaded.projection.apply(rows), made.projection.apply(rows))
    assert public_set(tokens).digest == made.digest


def test_a_file_that_numpy_wrote_otherwise_keeps_its_own_digest(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        for name, array in reversed(arrays().items()):
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    loaded = PublicSet.load(tmp_path / "set.npz")
    loaded.save(tmp_path / "copy.npz")
    assert (tmp_path / "copy.npz").read_bytes() == (tmp_path / "set.npz").read_bytes()
    assert loaded.digest != public_set().digest


def test_arrays_cannot_be_changed_and_are_copies() -> None:
    source = images()
    rows = embeddings()
    projection = fit_projection(rows, DIMENSION)
    made = PublicSet(source, projection.apply(rows), projection)
    source[0, 0, 0] ^= 255
    assert made.images[0, 0, 0] != source[0, 0, 0]
    for array in (made.images, made.features, projection.mean, projection.components):
        with pytest.raises(ValueError, match="read-only"):
            array.flat[0] = 0


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.just(EMBEDDING)),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
def test_every_projected_row_has_norm_one_and_the_constant(rows: NDArray[np.float32]) -> None:
    features = fit_projection(embeddings(), DIMENSION).apply(rows)
    assert features.shape == (*rows.shape[:-1], DIMENSION)
    assert features.dtype == np.float32
    assert np.all(features[..., -1] == np.float32(CONSTANT))
    assert np.allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-5)


def test_an_embedding_at_the_mean_keeps_only_the_constant() -> None:
    projection = Projection(
        mean=np.full(EMBEDDING, 0.5, np.float32),
        scale=np.ones(EMBEDDING, np.float32),
        components=np.eye(EMBEDDING, 3, dtype=np.float32),
        constant=np.array([0.25], np.float32),
    )
    assert projection.apply(projection.mean).tolist() == [0, 0, 0, np.float32(0.25)]


@pytest.mark.parametrize("constant", [0.0, 1.0, -0.5, 2.0])
def test_a_constant_that_leaves_nothing_is_refused(constant: float) -> None:
    with pytest.raises(PublicSetRefused, match="constant"):
        fit_projection(embeddings(), DIMENSION, constant=constant)


def test_the_constant_and_the_rest_share_the_norm() -> None:
    features = fit_projection(embeddings(), DIMENSION, constant=0.3).apply(embeddings())
    assert np.all(features[..., -1] == np.float32(0.3))
    assert np.allclose(np.linalg.norm(features[..., :-1], axis=-1), np.sqrt(1 - 0.09), atol=1e-5)


def test_whitening_evens_the_variances_out() -> None:
    generator = np.random.default_rng(6)
    rows = generator.normal(size=(300, EMBEDDING)) @ generator.normal(size=(EMBEDDING, EMBEDDING))
    spread = {}
    for whitening in (0.0, 0.5, 1.0):
        projection = fit_projection(rows, DIMENSION, whitening=whitening)
        kept = np.var(projection.standardise(rows) @ projection.components, axis=0)
        spread[whitening] = kept.max() / kept.min()
    assert spread[0.0] > 1.2
    assert spread[0.5] == pytest.approx(spread[0.0] ** 0.5, rel=1e-3)
    assert spread[1.0] == pytest.approx(1, rel=1e-3)


def test_few_images_with_many_entries_have_the_same_components() -> None:
    """The smaller of the two matrices is decomposed: both must say the same."""
    rows = np.random.default_rng(7).normal(size=(12, EMBEDDING))
    wide = fit_projection(rows, DIMENSION, whitening=0.5)
    # The same images again and again: the same mean, deviations and directions.
    tall = fit_projection(np.tile(rows, (3, 1)), DIMENSION, whitening=0.5)
    assert np.allclose(wide.components, tall.components, atol=1e-4)


def test_as_many_components_as_images_are_refused() -> None:
    rows = np.random.default_rng(8).normal(size=(6, EMBEDDING))
    fit_projection(rows, 6)
    with pytest.raises(ProjectionMisused):
        fit_projection(rows, 7)


def test_components_are_the_directions_of_most_variance() -> None:
    generator = np.random.default_rng(5)
    factors = generator.normal(size=(400, 2))
    loadings = np.linalg.qr(generator.normal(size=(EMBEDDING, 2)))[0]
    rows = factors @ loadings.T + 0.001 * generator.normal(size=(400, EMBEDDING))
    projection = fit_projection(rows, 3)
    standard = (rows - projection.mean) / projection.scale
    kept = np.var(standard @ projection.components, axis=0)
    assert kept[0] >= kept[1]
    assert kept.sum() > 0.99 * standard.var(axis=0).sum()
    assert np.allclose(projection.components.T @ projection.components, np.eye(2), atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "dimension"),
    [
        (embeddings(), 1),
        (embeddings(), EMBEDDING + 2),
        (embeddings(2), 4),
        (np.full((9, EMBEDDING), np.nan), 4),
    ],
)
def test_what_cannot_be_fitted_is_refused(rows: NDArray[np.float32], dimension: int) -> None:
    with pytest.raises(ProjectionMisused):
        fit_projection(rows, dimension)


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros(EMBEDDING - 1),
        np.float64(1.0) * np.ones(()),
        np.full(EMBEDDING, np.nan),
        np.full(EMBEDDING, np.inf),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(rows: NDArray[np.float64]) -> None:
    with pytest.raises(ProjectionMisused):
        fit_projection(embeddings(), DIMENSION).apply(rows)


def test_the_proxy_digest_covers_pixels_and_shape() -> None:
    pixels = images()
    changed = pixels.copy()
    changed[-1, -1, -1] ^= 1
    seen = {
        proxy_digest(pixels),
        proxy_digest(changed),
        proxy_digest(pixels.reshape(2 * COUNT, 16, 32)),
        proxy_digest(pixels.reshape(COUNT, 64, 16)),
        proxy_digest(pixels[::-1]),
    }
    assert len(seen) == 5
    assert proxy_digest(np.asfortranarray(pixels)) == proxy_digest(pixels)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((2, 16, 16), np.float32),
        np.zeros((16, 16), np.uint8),
        np.zeros((0, 16, 16), np.uint8),
    ],
)
def test_only_grey_images_have_a_proxy_digest(pixels: NDArray[Any]) -> None:
    with pytest.raises(PublicSetRefused):
        proxy_digest(pixels)


@pytest.mark.parametrize(
    "changes",
    [
        {"images": images(side=15)},
        {"images": images(1), "features": public_set().features[:1]},
        {"images": images().astype(np.float32)},
        {"images": images()[..., None]},
        {"features": public_set().features[:-1]},
        {"features": public_set().features[..., :-1]},
        {"features": public_set().features.astype(np.float64)},
        {"features": public_set().features.astype(">f4")},
        {"features": 2 * public_set().features},
        {"features": public_set().features[:, 0]},
        {"features": public_set().features[:, :0]},
        {"features": np.full_like(public_set().features, np.nan)},
        {"scale": np.zeros(EMBEDDING, np.float32)},
        {"scale": -np.ones(EMBEDDING, np.float32)},
        {"scale": np.ones(EMBEDDING - 1, np.float32)},
        {"mean": np.full(EMBEDDING, np.inf, np.float32)},
        {"mean": np.zeros((EMBEDDING, 1), np.float32)},
        {"components": np.zeros((EMBEDDING + 1, DIMENSION - 1), np.float32)},
        {"components": np.zeros(EMBEDDING, np.float32)},
        {"components": None},
        {"another": np.zeros(3)},
        {"images": np.array([{"an": "object"}] * COUNT, dtype=object)},
    ],
)
def test_a_file_with_other_arrays_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    np.savez(tmp_path / "set.npz", allow_pickle=True, **arrays(**changes))
    with pytest.raises(PublicSetRefused):
        PublicSet.load(tmp_path / "set.npz")


def test_a_file_that_decompresses_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "set.npz", **arrays())
    with pytest.raises(PublicSetRefused):
        PublicSet.load(tmp_path / "set.npz")


@pytest.mark.parametrize("data", [b"", b"PK", pickle.dumps([1]), b"\x93NUMPY" + bytes(100)])
def test_bytes_that_are_no_archive_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(data)
    with pytest.raises(PublicSetRefused, match="fetch it again"):
        PublicSet.load(tmp_path / "set.npz")


def test_a_shape_beyond_memory_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 16, 16), }" % 2**55
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("images.npy", member)
        for name, array in arrays(images=None).items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    with pytest.raises(PublicSetRefused):
        PublicSet.load(tmp_path / "set.npz")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PublicSetRefused, match="cannot be read"):
        PublicSet.load(tmp_path / "none.npz")


def test_damage_is_refused_or_changes_the_digest(tmp_path: Path) -> None:
    made = public_set()
    chosen = random.Random(6)
    refused = 0
    for trial in range(150):
        damaged = bytearray(made.data)
        if trial % 3 == 0:
            del damaged[chosen.randrange(len(damaged)) :]
        else:
            damaged[chosen.randrange(len(damaged))] ^= 1 << chosen.randrange(8)
        path = tmp_path / "damaged.npz"
        path.write_bytes(bytes(damaged))
        try:
            assert PublicSet.load(path).digest != made.digest
        except PublicSetRefused:
            refused += 1
    assert refused > 100


def test_the_charter_names_the_set() -> None:
    made = public_set()
    kit = make_charter_kit()
    proxy = {"digest": proxy_digest(made.images), "public_set_digest": made.digest}
    made.check(kit.charter(proxy=proxy))
    for wrong in (
        {**proxy, "digest": digest(b"other")},
        {**proxy, "public_set_digest": digest(b"other")},
        {**proxy, "count": COUNT + 1},
        {**proxy, "height": 64},
    ):
        with pytest.raises(PublicSetRefused):
            made.check(kit.charter(proxy=wrong))
    with pytest.raises(PublicSetRefused, match="dimension"):
        made.check(kit.charter(proxy=proxy, probe={"dimension": 5}, secure_sum={"values": 15}))
