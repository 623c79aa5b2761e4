"""`qamdt evaluate --calibrate`: which step of a degradation a metric tells first."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import soundfile
import torch
from scipy import stats

from audiocraft_qamdt.cli import main
from audiocraft_qamdt.metrics.base import MeanMetric
from audiocraft_qamdt.metrics.calibration import _first, calibrate, cut_excerpts, rank_correlation
from audiocraft_qamdt.playground.synthesis import compose, render
from audiocraft_qamdt.quality.predictors.acoustic import Acoustic

FILES = 8
PMOS = f"pmos_acoustic-{Acoustic.version}"


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    for index in range(FILES):
        soundfile.write(folder / f"track{index}.wav", render(compose(5, index), 3.0, 16000), 16000)
    return folder


class Treble(MeanMetric):
    """Takes what noise adds for good: the mean square of differences of samples."""

    quantities = ("pmos",)

    def measure(self, clip):
        return {"pmos": clip.audio.diff().square().mean().item()}


class Shrill(Treble):
    """The same, taken for bad."""

    quantities = ("loss",)

    def measure(self, clip):
        return {"loss": super().measure(clip)["pmos"]}


class Deaf(MeanMetric):
    """Knows a clip by its name alone."""

    quantities = ("pmos",)

    def measure(self, clip):
        return {"pmos": float(clip.weights[1])}


def response(music, metric, **options):
    found = calibrate(music, None, lambda: [metric()], kinds=["noise"], strengths=[0.4, 0.1, 1.0], **options)
    assert found.strengths == [0.1, 0.4, 1.0]
    assert found.clips == FILES / 2
    return found.responses[0]


def test_what_hears_the_fault_tells_and_is_correlated(music):
    found = response(music, Shrill)
    assert found.paired is not None
    assert found.paired <= 0.4
    assert found.rank_correlation == pytest.approx(1)
    assert found.better == 0


def test_what_takes_the_fault_for_good_never_tells_and_its_steps_are_counted(music):
    found = response(music, Treble)
    assert found.paired is None
    assert found.unpaired is None
    assert found.better >= 2
    assert found.rank_correlation == pytest.approx(-1)


def test_what_hears_nothing_never_tells(music):
    found = response(music, Deaf)
    assert (found.paired, found.unpaired, found.better, found.rank_correlation) == (None, None, 0, 0.0)
    assert found.p == [1.0] * 3


def test_values_and_probabilities_are_those_of_the_paired_test(music):
    """Against Student's paired test over the clips, with each clip degraded by hand."""
    excerpts = [file[0] for file in cut_excerpts(music, 2.0)[::2]]
    clean, noisy = ([Treble().measure(one.clip(*how))["pmos"] for one in excerpts] for how in ((), ("noise", 0.4)))
    found = response(music, Treble, seconds=2.0)
    assert found.values[0] == pytest.approx(np.mean(clean))
    assert found.values[2] == pytest.approx(np.mean(noisy))
    assert found.p[1] == pytest.approx(stats.ttest_rel(noisy, clean).pvalue, abs=0.01)


FIRST = {
    "all": ([True, True, True], 0.1),
    "from the second on": ([False, True, True], 0.2),
    "with a gap": ([True, False, True], 0.3),
    "lost at the end": ([True, True, False], None),
    "none": ([False, False, False], None),
}


@pytest.mark.parametrize("told, expected", FIRST.values(), ids=FIRST)
def test_the_first_step_is_the_weakest_from_which_on_all_are_told(told, expected):
    assert _first([0.1, 0.2, 0.3], told) == expected


def test_rank_correlation_is_by_order_and_nothing_for_a_constant():
    assert rank_correlation([0, 0.5, 1], [1, 10, 100]) == pytest.approx(1)
    assert rank_correlation([0, 0.5, 1], [2, 2, 2]) == 0


def test_excerpts_are_spread_over_files_and_inside_them(music):
    assert [len(file) for file in cut_excerpts(music, 1.0)] == [1] * FILES
    several = cut_excerpts(music, 0.5, clips=3 * FILES)
    assert [[one.start for one in file] for file in several] == [[0.417, 1.25, 2.083]] * FILES
    assert [file[0].path.stem for file in cut_excerpts(music, 1.0, clips=4)] == ["track0", "track2", "track4", "track6"]


def test_a_file_shorter_than_an_excerpt_is_taken_whole(music):
    excerpt = cut_excerpts(music, 60.0)[0][0]
    assert excerpt.start == 0
    assert len(excerpt.clip().audio) == 3 * 16000


def test_a_stronger_step_has_the_same_noise(music):
    excerpt = cut_excerpts(music, 1.0)[0][0]
    clean, weak, strong = (excerpt.clip(*how).audio for how in ((), ("noise", 0.2), ("noise", 0.4)))
    assert torch.cosine_similarity(weak - clean, strong - clean, dim=0) > 0.99


METRICS = "pmos:acoustic,frechet:playground,kl:playground,silence"
STEPS = ["--kinds", "noise,clipping", "--strengths", "0.3,0.8", "--clip-seconds", "2"]


def run(tmp_path, music, *more):
    out = tmp_path / "out.json"
    return main(["evaluate", "--calibrate", "--generated", str(music), "--out", str(out), *more]), out


@pytest.fixture(scope="module")
def report(tmp_path_factory, music):
    code, out = run(tmp_path_factory.mktemp("report"), music, "--metrics", METRICS, *STEPS)
    assert code == 0
    return out


def test_the_report_has_every_number_and_kind(report):
    found = {(one["measured"], one["kind"]): one for one in json.loads(report.read_text())["responses"]}
    assert len(found) == 2 * 7
    assert found[PMOS, "noise"]["paired"] is not None
    assert found[PMOS, "noise"]["rank_correlation"] == pytest.approx(1)
    assert np.isfinite(found["frechet_playground-1", "noise"]["values"]).all()
    assert found["silent", "noise"]["paired"] is None


def test_what_is_zero_by_definition_has_no_step(report):
    """KL compares each clip with itself: any fault at all is a difference."""
    found = [one for one in json.loads(report.read_text())["responses"] if one["measured"].startswith("kl")]
    assert len(found) == 6
    assert not any(one["tested"] for one in found)
    assert all(abs(one["values"][0]) < 1e-4 < one["values"][-1] and one["paired"] is None for one in found)


def test_table_and_plot_lie_beside_the_report(report):
    head, rule, *rows = report.with_suffix(".md").read_text().splitlines()
    assert PMOS in head
    assert {line.count("|") for line in (head, rule, *rows)} == {9}
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["noise", "clipping", *SUMS]
    assert report.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


SUMS = ("told", "steps taken for better", "rank correlation, mean")


def test_a_reference_folder_is_compared_with_and_all_files_are_degraded(tmp_path, music):
    more = ("--reference", str(music), "--cache", str(tmp_path / "cache"), "--kinds", "noise", "--strengths", "0.5")
    code, out = run(tmp_path, music, "--metrics", "kad:playground", *more)
    found = json.loads(out.read_text())
    assert code == 0
    assert found["clips"] == FILES
    assert found["reference"] == str(music)


MISTAKES = {
    "kind": (["--calibrate", "--kinds", "noize"], "no degradation is called noize: choose from noise"),
    "strength": (["--calibrate", "--strengths", "0,0.5"], "--strengths: each must be above 0 and at most 1"),
    "no number": (["--calibrate", "--strengths", "weak"], "--strengths weak: give numbers"),
    "no clips": (["--calibrate", "--clips", "0"], "must be above 0, got 5 and 0"),
    "a duration that is none": (["--calibrate", "--clip-seconds", "nan"], "must be above 0, got nan and None"),
    "against": (["--calibrate", "--against", "x"], "--against: not with --calibrate"),
    "no calibration": (["--kinds", "noise"], "--kinds: only with --calibrate"),
    "one clip": (["--calibrate", "--clips", "1"], "1 clips to degrade and 0 to compare with: give more files"),
}


@pytest.mark.parametrize("options, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(tmp_path, music, caplog, options, message):
    assert main(["evaluate", "--generated", str(music), "--out", str(tmp_path / "o.json"), *options]) == 2
    assert re.search(message, caplog.text)
    assert not list(tmp_path.iterdir())
