from __future__ import annotations

from dataclasses import replace

import pytest

from fedhelp_client.data.types import (
    SEGMENTATION_CLASSES,
    DataError,
    Dataset,
    PatientAtTwoPlaces,
    check_disjoint,
)


def test_segmentation_keeps_lesions_only_and_relabels(phantom: Dataset) -> None:
    lesions = phantom.with_lesions()
    assert {lesions.classes[example.label] for example in lesions.examples} == {
        "benign",
        "malignant",
    }
    pixels = lesions.for_segmentation()
    assert pixels.classes == SEGMENTATION_CLASSES
    assert {example.label for example in pixels.examples} == {1}
    assert {example.label for example in phantom.for_segmentation().examples} == {0, 1}


def test_segmentation_without_masks_is_refused(phantom: Dataset) -> None:
    bare = replace(
        phantom, examples=tuple(replace(example, mask=None) for example in phantom.examples)
    )
    with pytest.raises(DataError, match="mask"):
        bare.with_lesions()
    with pytest.raises(DataError, match="mask"):
        bare.for_segmentation()


def test_a_patient_at_two_places_is_named_by_place_only() -> None:
    places = {
        "large-1": frozenset({"secret-a", "b"}),
        "small-1": frozenset({"secret-a"}),
        "small-2": frozenset({"c"}),
    }
    with pytest.raises(PatientAtTwoPlaces, match=r"1 patient.*large-1, small-1;") as caught:
        check_disjoint(places)
    assert "secret" not in str(caught.value)
    check_disjoint({"large-1": frozenset({"a"}), "small-1": frozenset({"b"})})


def test_no_place_is_a_failure() -> None:
    with pytest.raises(DataError):
        check_disjoint({})
