"""How cost grows: the fits, the table of points and what data sets are measured on."""

from __future__ import annotations

import pytest
import torch

from benchmarks import growth
from benchmarks.growth import Point, fit, measured


@pytest.mark.parametrize("exact", [(2.0, 0.5, 0.01), (0.0, 0.3, 0.0), (1.5, 0.0, 0.2)], ids=["all", "linear", "no n"])
def test_a_fit_finds_the_coefficients_it_was_made_of(exact):
    amounts = [2, 5, 10, 30, 100]
    values = [sum(c * n**power for power, c in enumerate(exact)) for n in amounts]
    assert fit(amounts, values) == pytest.approx(exact, abs=1e-9)


def test_no_coefficient_of_a_fit_is_negative():
    assert min(fit([1, 2, 4, 8], [1.0, 1.9, 3.5, 6.0])) >= 0


def test_two_points_make_a_line():
    assert fit([1000, 10000], [1.5, 10.5]) == pytest.approx((0.5, 0.001, 0), abs=1e-9)


def test_points_are_read_as_they_were_written(tmp_path):
    points = [Point("evaluation", "seconds of audio", 2.0, 0.0125, 31.5), Point("manifest, read", "tracks", 1e4, 1, 2)]
    growth.write_csv(points, tmp_path / "growth.csv")
    assert growth.read_csv(tmp_path / "growth.csv") == points


def test_what_tracks_cost_is_extrapolated():
    points = [Point("manifest, read", "tracks", n, 3.6e-3 * n, 1.0) for n in (1000, 10000)]
    assert "1e+06: 1 h; 1e+08: 100 h" in growth.report(points)


def test_time_and_memory_are_those_of_the_work():
    def prepare():
        held = []
        return lambda: held.append(torch.ones(8 << 20))  # 32 MiB each time

    seconds, mebibytes = measured(prepare)
    assert seconds > 0
    assert mebibytes > 90


def test_what_fails_in_a_process_of_its_own_is_an_error(capfd):
    with pytest.raises(RuntimeError, match="without a result"):
        measured(lambda: 1 // 0)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_data_set_to_measure_on_is_built_read_and_passed_over(tmp_path):
    folder = growth.tracks(tmp_path / "tracks", 3, scored=True)
    growth.manifest_work(folder, "build")()
    assert len(growth.manifest_work(folder, "read")()) == 3
    report = growth.annotation(folder)()
    assert (report.skipped, report.scored) == (3, 0)
    growth.records(folder)()
    assert '"description 0"' in (folder / "0000001.json").read_text()
