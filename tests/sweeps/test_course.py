"""A grid's metrics against the time of training."""

from __future__ import annotations

import csv
import statistics

import pytest

from audiocraft_qamdt.sweeps.arms import make_sweep
from audiocraft_qamdt.sweeps.course import LOSS, courses, equal_time
from audiocraft_qamdt.sweeps.report import write_grid_report

from .test_arms import FRECHET, run


def trained(seconds: float, losses, frechet: dict[int, float]) -> list[dict]:
    """A history of epochs of that many seconds, with evaluations at some of them."""
    measured = {epoch: {"evaluate": {FRECHET: value, "duration": 99.0}} for epoch, value in frechet.items()}
    return [
        {"train": {"duration": seconds}, "valid": {"loss": loss, "duration": 9.0}} | measured.get(epoch, {})
        for epoch, loss in enumerate(losses, 1)
    ]


@pytest.fixture
def ratios():
    return make_sweep(
        "qamdt.mask_ratio",
        [
            run("a0", trained(60, [1.0, 0.8], {1: 50.0, 2: 30.0}), masking__ratio=0.0, seed=0),
            run("a1", trained(120, [1.2, 0.9], {1: 54.0, 2: 38.0}), masking__ratio=0.0, seed=1),
            run("b0", trained(60, [1.1, 0.7], {1: 60.0, 2: 20.0}), masking__ratio=0.5, seed=0),
        ],
    )


def test_an_arm_is_at_the_mean_of_its_seeds_after_the_time_that_they_were_trained_for(ratios):
    quick, slow = (arm.name for arm in reversed(ratios.arms))
    found = courses(ratios)
    assert list(found) == [LOSS, FRECHET]
    assert [(moment.epoch, moment.minutes, moment.found.mean) for moment in found[FRECHET][slow]] == [
        (1, 1.5, 52.0),
        (2, 3.0, 34.0),
    ]
    assert found[LOSS][slow][1].point == (3.0, pytest.approx(0.85), pytest.approx(statistics.stdev([0.8, 0.9])), 0.0)
    assert found[LOSS][quick][1].point == (2.0, 0.7, None, 0.0)


def test_at_equal_time_an_arm_counts_as_far_as_the_quickest_got(ratios):
    quick, slow = (arm.name for arm in reversed(ratios.arms))
    minutes, values = equal_time(courses(ratios)[FRECHET])
    assert minutes == 2.0
    assert values == {quick: 20.0, slow: pytest.approx(52 - 18 / 3)}


def test_arms_without_a_time_in_common_are_not_compared(ratios):
    late = {"a": courses(ratios)[FRECHET][ratios.arms[0].name][1:], "b": courses(ratios)[FRECHET][ratios.arms[1].name]}
    assert equal_time(late) is None
    assert equal_time({"a": late["a"]}) is None


@pytest.mark.parametrize("spoil", [{"train": {}}, {"evaluate": {FRECHET: float("nan")}}])
def test_an_epoch_without_a_duration_or_a_number_makes_no_moment(spoil):
    history = trained(60, [1.0, 0.9, 0.8], {1: 3.0, 2: 2.0, 3: 1.0})
    history[1] |= spoil
    found = courses(
        make_sweep("g", [run("a", history), run("b", trained(60, [1, 1, 1], {1: 1, 2: 1}), masking__ratio=0)])
    )
    assert [moment.epoch for moment in found[FRECHET]["masking.ratio=0.3"]] == ([1] if "train" in spoil else [1, 3])


def test_a_report_has_the_courses_as_a_table_a_picture_and_numbers(ratios, tmp_path):
    written = write_grid_report(ratios, tmp_path)
    text = written.text.read_text()
    assert f"| arm | valid loss ↓, 2.00 min | {FRECHET} ↓, 2.00 min |" in text
    assert "| masking.ratio=0.0 | 1.017 | 46 |" in text
    assert "| masking.ratio=0.5 | **0.7** | **20** |" in text
    assert "At equal time" in written.page.read_text()
    rows = list(csv.DictReader(open(written.course, newline="")))
    assert {(row["arm"], row["metric"], row["epoch"]) for row in rows} == {
        (arm.name, metric, epoch) for arm in ratios.arms for metric in (LOSS, FRECHET) for epoch in "12"
    }
    assert (rows[0]["minutes"], rows[0]["mean"], rows[0]["seeds"]) == ("1.5", "1.1", "2")
    for name in ("course_valid-loss", f"course_{FRECHET.replace('/', '-')}"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_where_nothing_was_evaluated_twice_there_is_no_table_of_equal_time(tmp_path):
    runs = [run(f"{r}", trained(60, [1.0, 0.9], {2: 5.0}), masking__ratio=r) for r in (0.0, 0.5)]
    written = write_grid_report(make_sweep("g", runs), tmp_path)
    assert "equal time" not in written.text.read_text() + written.page.read_text()
    assert {row["metric"] for row in csv.DictReader(open(written.course, newline=""))} == {LOSS}
