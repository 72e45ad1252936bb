"""Accuracy and Dice against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedhelp_client.data.types import DataError
from fedhelp_client.metrics import accuracy, dice


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
