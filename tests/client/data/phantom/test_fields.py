from __future__ import annotations

import numpy as np
import pytest

from fedhelp_client.data.phantom.fields import ridges, smooth_curve, smooth_field, step


@pytest.mark.parametrize("correlation", [(0.8, 0.8), (2.0, 10.0), (8.0, 3.0)])
def test_fields_have_unit_variance_everywhere(correlation: tuple[float, float]) -> None:
    random = np.random.default_rng(0)
    fields = np.stack([smooth_field(random, (40, 50), correlation) for _ in range(400)])
    deviation = fields.std(axis=0)
    assert abs(float(fields.mean())) < 0.05
    assert 0.8 < deviation.min() <= deviation.max() < 1.25


def test_neighbours_are_alike_over_the_correlation_length() -> None:
    random = np.random.default_rng(1)
    curves = np.stack([smooth_curve(random, 100, 6.0) for _ in range(300)])
    near = float((curves[:, 50] * curves[:, 52]).mean())
    far = float((curves[:, 50] * curves[:, 90]).mean())
    assert near > 0.8
    assert abs(far) < 0.2


def test_steps_and_ridges() -> None:
    values = np.array([-9.0, 0.0, 9.0])
    assert np.allclose(step(values, 0.5), [0.0, 0.5, 1.0])
    assert np.allclose(ridges(values, 0.5), [0.0, 1.0, 0.0])
