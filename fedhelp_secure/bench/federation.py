"""A federation for rehearsals: real keys and a signed charter, invented numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedhelp_secure.demo.federation import DemoFederation
from fedhelp_secure.demo.processes import ProcessGroup
from fedhelp_secure.public_set import PublicSet, fit_projection
from fedhelp_secure.state import write_atomically

_DIMENSION = 2
_CLIP = "1"
_FRACTION_BITS = 9
"""A clip of 1 at 9 fraction bits: with 8 hospitals a sum takes 15 bits."""


def hospital_names(count: int) -> tuple[str, ...]:
    """One large hospital, the others small; all of weight 1."""
    return ("large-1", *(f"small-{number}" for number in range(1, count)))


def make_rehearsal(
    out: Path, processes: ProcessGroup, *, values: int, hospitals: int, unmaskers: int, rounds: int
) -> DemoFederation:
    """Enrol everybody under ``out`` and sign a rehearsal charter for ``values`` integers."""
    names = hospital_names(hospitals)
    federation = DemoFederation(out / "parties", names, unmaskers=unmaskers)
    federation.enrol(processes)
    public_set = out / "public-set.npz"
    write_atomically(public_set, _tiny_public_set().data)
    plan = {
        "name": "rehearsal",
        "task": "classification",
        "classes": ["first", "second"],
        "hospitals": list(names),
        "weights": {"large": 1, "small": 1},
        "privacy": {
            "mechanism": "rehearsal",
            "epsilon": "8",
            "delta": "1e-6",
            "clip": _CLIP,
            "maximum_patients": 1,
        },
        "secure_sum": {"fraction_bits": _FRACTION_BITS, "values": values},
        "probe": {"dimension": _DIMENSION, "ridge": "1", "step": "1", "nominal_patients": 1},
        "cohort": {
            "minimum": hospitals,
            "colluders": 1,
            "minimum_large": 1,
            "minimum_small": min(1, hospitals - 1),
        },
        "rounds": {"count": rounds, "deadline_seconds": 7200},
        "foundation_model": {
            "purpose": "none",
            "url": "https://127.0.0.1:1",
            "model": "none",
        },
        "retention_days": 1,
    }
    federation.make_charter(processes, plan, public_set)
    return federation


def _tiny_public_set() -> PublicSet:
    """Two black images: a charter needs a public set, and a rehearsal does not use it."""
    embeddings = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=np.float32)
    projection = fit_projection(embeddings, _DIMENSION)
    images = np.zeros((2, 16, 16), dtype=np.uint8)
    return PublicSet(images, projection.apply(embeddings), projection)
