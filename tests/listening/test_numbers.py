"""Means, win rates and agreement of a listening test, against published figures and simple cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from audiocraft_qamdt.listening.agreement import group, krippendorff_alpha
from audiocraft_qamdt.listening.intervals import Judgement, mean_of, rate_of

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section D: four observers, twelve units.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
UNITS = {unit: [row[unit] for row in OBSERVERS if row[unit] is not None] for unit in range(12)}


@pytest.mark.parametrize("difference, alpha", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(difference, alpha):
    assert krippendorff_alpha(UNITS, difference) == pytest.approx(alpha, abs=5e-4)


def test_alpha_of_the_published_binary_example():
    """The same paper, section A: two observers, ten units, two values."""
    first, second = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert krippendorff_alpha(dict(enumerate(zip(first, second, strict=True))), "nominal") == pytest.approx(
        0.095, abs=5e-4
    )


@pytest.mark.parametrize("difference", ["nominal", "ordinal", "interval"])
def test_alpha_of_raters_who_agree_is_one_and_does_not_depend_on_order(difference):
    assert krippendorff_alpha({"a": [1, 1], "b": [4, 4]}, difference) == pytest.approx(1)
    turned = {unit: values[::-1] for unit, values in reversed(UNITS.items())}
    assert krippendorff_alpha(turned, difference) == pytest.approx(krippendorff_alpha(UNITS, difference))


@pytest.mark.parametrize("units", [{}, {"a": [3]}, {"a": [3, 3], "b": [3, 3]}], ids=["none", "one rater", "one value"])
def test_alpha_is_none_where_nothing_can_be_said(units):
    assert krippendorff_alpha(units, "ordinal") is None


def test_values_are_grouped_by_what_was_judged():
    assert group([("a", 1), ("b", 2), ("a", 3)]) == {"a": [1, 3], "b": [2]}


def test_independent_ratings_have_the_classical_interval():
    values = [3, 4, 5, 2, 4, 3]
    found = mean_of([Judgement(f"rater {n}", f"clip {n}", value) for n, value in enumerate(values)])
    half = stats.t(5).ppf(0.975) * np.std(values, ddof=1) / 6**0.5
    assert (found.low, found.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))


def test_one_rater_has_the_classical_interval_over_clips():
    found = mean_of([Judgement("anna", f"clip {n}", value) for n, value in enumerate([3, 4, 5])])
    assert found.high - found.mean == pytest.approx(stats.t(2).ppf(0.975) / 3**0.5)


@pytest.mark.parametrize("clips", [4, 40])
def test_more_clips_do_not_narrow_what_raters_differ_by(clips):
    """Three raters of 1, 3 and 5 whatever they hear: the interval is that of three numbers."""
    judged = [Judgement(str(rater), str(clip), rater) for rater in (1, 3, 5) for clip in range(clips)]
    found = mean_of(judged)
    assert found.high - found.mean == pytest.approx(stats.t(2).ppf(0.975) * 2 / 3**0.5, rel=0.15)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    draw = np.random.default_rng(0)
    held = []
    for _ in range(300):
        raters, clips = draw.normal(0, 0.5, 12), draw.normal(0, 0.5, 12)
        judged = [
            Judgement(str(r), str(c), 3 + raters[r] + clips[c] + draw.normal()) for r in range(12) for c in range(12)
        ]
        found = mean_of(judged)
        held.append(found.low < 3 < found.high)
    assert 0.9 < np.mean(held) < 0.99


def test_a_single_judgement_has_no_interval():
    assert mean_of([Judgement("anna", "clip", 4)]).low is None
    assert rate_of([Judgement("anna", "clip", 1.0)]).high is None


def test_independent_choices_have_wilson_s_interval_with_student_s_t():
    judged = [Judgement(str(n), str(n), float(n < 15)) for n in range(20)]
    found = rate_of(judged)
    worth, square = 20, stats.t(19).ppf(0.975) ** 2
    middle = (0.75 + square / (2 * worth)) / (1 + square / worth)
    half = (square * (0.75 * 0.25 / worth + square / (4 * worth**2))) ** 0.5 / (1 + square / worth)
    assert (found.mean, found.low, found.high) == pytest.approx((0.75, middle - half, middle + half))


def test_a_win_rate_of_100_percent_is_worth_its_raters():
    judged = [Judgement(str(rater), str(clip), 1.0) for rater in range(5) for clip in range(30)]
    found = rate_of(judged)
    assert found.mean == found.high == 1
    assert found.low == pytest.approx(1 / (1 + stats.t(4).ppf(0.975) ** 2 / 5))
