"""Intervals are those of Student's t, whether their quantile is looked up or computed."""

from __future__ import annotations

import numpy as np
from scipy import special

from xsp.analysis.spans.statistics import student_quantile
from xsp.analysis.spans.student import QUANTILES


def test_quantiles_are_scipys() -> None:
    """For every number of degrees of freedom, below, in and beyond the table, one at a time and
    several at once, half the width of the interval is what scipy has for it.
    """
    degrees = np.arange(1, len(QUANTILES) + 30)
    expected = special.stdtrit(degrees.astype(float), 0.975)
    alone = [float(student_quantile(each)) for each in degrees.tolist()]
    np.testing.assert_allclose(alone, expected, rtol=1e-13)
    np.testing.assert_allclose(student_quantile(degrees), expected, rtol=1e-13)
    assert np.isnan(student_quantile(0))
    np.testing.assert_allclose(student_quantile(2.5), special.stdtrit(2.5, 0.975))
