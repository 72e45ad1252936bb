"""What a node reads before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.federation import make_federation
from support.processes import context_file
from support.site import PUBLIC_SET

from fedhelp_client.data.folder import write_folder
from fedhelp_client.data.types import Dataset, Example, PatientUnderTwoNames
from fedhelp_client.node.node import NodeOptions, read_inputs
from fedhelp_secure.charter import Charter
from fedhelp_secure.public_set import proxy_digest

CLASSES = ("benign", "malignant")


def _dataset(counts: dict[str, int]) -> Dataset:
    random = np.random.default_rng(8)
    examples = [
        Example(random.integers(0, 256, (32, 32), dtype=np.uint8), number % 2, patient)
        for number, (patient, count) in enumerate(counts.items())
        for _ in range(count)
    ]
    return Dataset("own", CLASSES, tuple(examples))


@pytest.fixture(scope="module")
def charter_and_options(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Charter, NodeOptions]:
    root = tmp_path_factory.mktemp("node")
    count, height, width = PUBLIC_SET.images.shape
    federation = make_federation(
        root / "parties",
        large=1,
        small=1,
        privacy={"maximum_images": 2},
        proxy={
            "count": count,
            "height": height,
            "width": width,
            "digest": proxy_digest(PUBLIC_SET.images),
            "public_set_digest": PUBLIC_SET.digest,
        },
    )
    PUBLIC_SET.save(root / "public_set.npz")
    write_folder(_dataset({"p1": 5, "p2": 1, "p3": 3}), root / "own")
    write_folder(_dataset({"t1": 4, "t2": 1}), root / "test")
    options = NodeOptions(
        data=root / "own",
        test=root / "test",
        public_set=root / "public_set.npz",
        context=context_file(federation),
        aggregator=("aggregator", "127.0.0.1:1"),
        broker="127.0.0.1:1",
        policy=None,
        seed=0,
        out=root / "out",
    )
    return federation.charter, options


def test_no_patient_has_more_images_than_the_charter_counts(
    charter_and_options: tuple[Charter, NodeOptions],
) -> None:
    inputs = read_inputs(*charter_and_options)
    sizes = [
        sum(example.patient == patient for example in inputs.own.examples)
        for patient in ("p1", "p2", "p3")
    ]
    assert sizes == [2, 1, 2]
    # The public test set is nobody's contribution.
    assert len(inputs.test.examples) == 5


def test_one_picture_under_two_identifiers_stops_the_node(
    charter_and_options: tuple[Charter, NodeOptions], tmp_path: Path
) -> None:
    charter, options = charter_and_options
    shared = _dataset({"p1": 1, "p2": 1})
    first = shared.examples[0]
    again = Example(first.image, first.label, "p3")
    write_folder(Dataset("own", CLASSES, (*shared.examples, again)), tmp_path / "own")
    changed = replace(options, data=tmp_path / "own")
    with pytest.raises(PatientUnderTwoNames):
        read_inputs(charter, changed)
