"""What the backbone says of each image, kept by the image's digest: a second run needs no backbone.

The backbone depends on neither charter, epsilon nor mechanism, and takes most of a node's time. A
store of patients' images belongs in the hospital's state directory; one of public images may be
shared by everybody on a machine.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.embeddings import embed, resize_images
from fedhelp_client.data.types import Example, Task
from fedhelp_client.progress import ProgressCallback
from fedhelp_secure.backbone import WEIGHTS_DIGEST, Backbone, load_backbone
from fedhelp_secure.canonical import digest
from fedhelp_secure.state import write_atomically

_DIGEST_BYTES = 32
_SHAPE_BYTES = 16


class EmbeddingStore:
    """One file an image under ``folder``. Several processes may use it at a time."""

    def __init__(self, folder: Path, task: Task) -> None:
        self._folder = folder / WEIGHTS_DIGEST.removeprefix("sha256:")[:16] / task
        # Each by itself: the names are digests of patients' images, and a mode is of the last only.
        for directory in (folder, self._folder.parent, self._folder):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._task: Task = task
        self._backbone: Backbone | None = None

    def embed(
        self, examples: Sequence[Example], progress: ProgressCallback | None = None
    ) -> NDArray[np.float32]:
        """[N, T, E] of the examples' images, each computed by itself, as `embed` gives them."""
        return self.embed_images(resize_images([example.image for example in examples]), progress)

    def embed_images(
        self, images: NDArray[np.uint8], progress: ProgressCallback | None = None
    ) -> NDArray[np.float32]:
        """The same of ``images``, uint8 [N, 224, 224]."""
        found: dict[int, NDArray[np.float32]] = {}
        # In an order of our own, so that processes that share a store share the work as well.
        order = list(range(len(images)))
        random.SystemRandom().shuffle(order)
        for done, index in enumerate(order, start=1):
            found[index] = self._one(images[index])
            if progress is not None:
                progress("features", done, len(images))
        return np.stack([found[index] for index in range(len(images))])

    def keep(self, image: NDArray[np.uint8], embedding: NDArray[np.float32]) -> None:
        """Store ``embedding`` [T, E] as what the backbone says of ``image`` [224, 224]."""
        shape = np.array(embedding.shape, dtype="<i8").tobytes()
        data = shape + embedding.astype("<f4").tobytes()
        write_atomically(self._path(image), hashlib.sha256(data).digest() + data)

    def _one(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        stored = self._stored(image)
        if stored is None:
            self._backbone = self._backbone or load_backbone()
            stored = embed(self._backbone, image[np.newaxis], self._task)[0]
            self.keep(image, stored)
        return stored

    def _stored(self, image: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """What was kept; None if there is nothing, or if the disk changed it."""
        try:
            content = self._path(image).read_bytes()
        except FileNotFoundError:
            return None
        data = content[_DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != content[:_DIGEST_BYTES]:
            return None
        shape = tuple(np.frombuffer(data[:_SHAPE_BYTES], dtype="<i8"))
        return np.frombuffer(data[_SHAPE_BYTES:], dtype="<f4").reshape(shape).astype(np.float32)

    def _path(self, image: NDArray[np.uint8]) -> Path:
        return self._folder / f"{digest(image.tobytes()).removeprefix('sha256:')}.f32"
