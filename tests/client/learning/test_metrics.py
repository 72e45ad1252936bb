"""Accuracy and Dice against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedhelp_client.data.types import DataError
from fedhelp_client.metrics import accuracy, dice, hausdorff, one_vs_rest_auc


def test_accuracy_and_balanced_accuracy() -> None:
    result = accuracy(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 1]))
    assert result.name == "accuracy"
    assert result.value == pytest.approx(4 / 5)
    assert result.balanced == pytest.approx((1 + 1 / 2) / 2)
    assert result.images == 5


def test_dice_is_twice_the_overlap_over_the_sum() -> None:
    true = np.zeros((4, 6), np.uint8)
    true[:2, :4] = 1
    predicted = np.zeros((4, 6), np.uint8)
    predicted[:2, 2:] = 1
    result = dice([(predicted, true), (true, true)])
    assert result.name == "dice"
    assert result.value == pytest.approx((2 * 4 / 16 + 1) / 2)
    assert result.images == 2


def test_an_empty_prediction_scores_zero_and_an_empty_truth_is_left_out() -> None:
    empty, full = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    result = dice([(empty, full), (full, empty)])
    assert (result.value, result.images) == (0.0, 1)


def test_nothing_to_measure_on_is_refused() -> None:
    with pytest.raises(DataError):
        accuracy(np.array([], np.int64), np.array([], np.int64))
    with pytest.raises(DataError):
        dice([(np.ones((4, 4), np.uint8), np.zeros((4, 4), np.uint8))])


def test_auc_is_the_share_of_pairs_in_order() -> None:
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.2, 0.8]])
    labels = np.array([0, 0, 1, 1])
    # Of the four pairs three are in order and one is a tie, seen from either class.
    assert one_vs_rest_auc(scores, labels) == pytest.approx(3.5 / 4)
    assert one_vs_rest_auc(-scores, labels) == pytest.approx(0.5 / 4)


def test_auc_averages_over_the_classes_that_occur() -> None:
    scores = np.array([[0.9, 0.5, 0.0], [0.1, 0.1, 0.0], [0.2, 0.6, 0.0]])
    labels = np.array([0, 1, 1])
    assert one_vs_rest_auc(scores, labels) == pytest.approx((1 + 0.5) / 2)
    with pytest.raises(DataError, match="two classes"):
        one_vs_rest_auc(scores[:2], labels[1:])


def test_hausdorff_is_the_distance_of_contours_in_pixels() -> None:
    true = np.zeros((40, 30), np.uint8)
    true[5:15, 5:15] = 1
    shifted = np.roll(true, 7, axis=0)
    assert hausdorff([(true, true)]) == 0
    assert hausdorff([(shifted, true)]) == pytest.approx(7)
    # One stray pixel hardly counts, and a lesion that was not found counts as the diagonal.
    stray = true.copy()
    stray[39, 29] = 1
    assert hausdorff([(stray, true)]) < hausdorff([(stray, true)], percentile=100)
    assert hausdorff([(0 * true, true)]) == pytest.approx(50)
    assert hausdorff([(shifted, true), (true, 0 * true)]) == pytest.approx(7)
    with pytest.raises(DataError):
        hausdorff([(true, 0 * true)])
