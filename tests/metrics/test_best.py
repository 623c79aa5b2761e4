"""The best weights by a metric of the evaluate stage: which way is better, and which numbers there are."""

from __future__ import annotations

import math

import pytest

from audiocraft_qamdt.metrics.best import BestMetric
from audiocraft_qamdt.metrics.networks import Networks
from audiocraft_qamdt.metrics.table import METRICS, MORE_IS_BETTER, Setup, build_metrics

SWITCHES = {"pmos": ["acoustic", "playground"], "frechet": ["playground"], "silence": True}


def best(name: str) -> BestMetric:
    return BestMetric(name, build_metrics(SWITCHES, Setup(Networks({}, "cpu"))), with_loss=True)


def epochs(key: str, values: list[float | None]) -> list[dict]:
    return [{"valid": {}} if value is None else {"valid": {}, "evaluate": {key: value}} for value in values]


@pytest.mark.parametrize(
    "name, key, values, expected",
    [
        ("pmos_playground", "pmos_playground-1.1/n4/best1_seed0", [3.0, 2.0, 4.0], [True, False, True]),
        ("frechet", "frechet_playground-2/music_n4/best1_seed0", [3.0, 2.0, 4.0], [True, True, False]),
        ("loss", "loss", [3.0, 2.0, 2.5], [True, True, False]),
    ],
)
def test_more_or_less_is_better_as_the_table_says(name, key, values, expected):
    history, metric = epochs(key, values), best(name)
    assert [metric.improves(history[:epoch], history[epoch]) for epoch in range(3)] == expected


def test_epochs_without_an_evaluation_keep_the_best_and_before_the_first_the_newest():
    history, metric = epochs("silent/n4/best1_seed0", [None, None, 0.5, None, 0.2]), best("silent")
    assert [metric.improves(history[:epoch], history[epoch]) for epoch in range(5)] == [True, True, True, False, True]


def test_what_is_not_a_number_is_not_the_best():
    history, metric = epochs("silent/n4/best1_seed0", [0.5, math.nan, 0.7, 0.4]), best("silent")
    assert [metric.improves(history[:epoch], history[epoch]) for epoch in range(4)] == [True, False, False, True]


@pytest.mark.parametrize(
    "name, problem",
    [("pmos", "fits pmos_acoustic-.*, pmos_playground-"), ("clap", "is not measured"), ("frech", "is not measured")],
)
def test_a_name_that_fits_several_numbers_or_none_is_refused_with_those_there_are(name, problem):
    with pytest.raises(ValueError, match=f"checkpoint.best_metric={name} {problem}.*choose one of loss, pmos_acoustic"):
        best(name)


def test_a_list_of_names_is_refused():
    with pytest.raises(ValueError, match="give one name"):
        best(["loss"])


def test_every_metric_names_what_it_gives():
    """Those of AudioCraft need a solver's config and its weights: their names are of the instance."""
    without = ("fad", "kld", "text_consistency", "chroma_cosine", "aesthetics")  # the last one has a test of its own
    own = [name for name in METRICS if name not in without]
    switches = {name: ["playground"] if name not in ("clap", "silence", "rtf") else True for name in own}
    metrics = build_metrics({**switches, "clap": False}, Setup(Networks({}, "cpu")))
    assert all(metric.quantities and set(metric.quantities) <= MORE_IS_BETTER.keys() for metric in metrics)
