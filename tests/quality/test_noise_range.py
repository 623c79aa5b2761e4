"""Noise ranges: from areas under the ROC to lowest timesteps, the classifier on latents whose answer is known."""

from __future__ import annotations

import argparse
import json
from collections import Counter

import numpy as np
import pytest
import torch

from audiocraft_qamdt.cli import main as qamdt
from audiocraft_qamdt.commands import noise_range as command
from audiocraft_qamdt.data.manifest import find_manifest
from audiocraft_qamdt.diffusion.objective import FlowSchedule, NoiseSchedule
from audiocraft_qamdt.quality.annotate import AnnotateReport, annotate, summarise
from audiocraft_qamdt.quality.noise_classifier import Clips, Training, _draw, measure_noise_range
from audiocraft_qamdt.quality.noise_range import (
    RATIOS,
    NoiseRange,
    checked_timesteps,
    falling,
    lowest_ratios,
    roc_curve,
)
from audiocraft_qamdt.quality.predictors.constant import Constant

from ..helpers.audio_folder import make_folder, write_track


def areas(told_below: float) -> list[float]:
    return [0.9 if ratio < told_below else 0.5 for ratio in RATIOS]


def test_a_level_teaches_from_the_first_noise_level_at_which_it_is_not_told():
    lowest = lowest_ratios({"1": areas(5.0), "4": areas(0.5)})
    assert [ratio >= 5 for ratio in lowest[:1]] == [True]
    assert lowest[0] == min(r for r in RATIOS if r >= 5)
    assert lowest[1] == lowest[2] == lowest[3] == min(r for r in RATIOS if r >= 0.5), "as the next better one"
    assert lowest[4] == 0


def test_a_worse_level_never_teaches_below_a_better_one():
    lowest = lowest_ratios({"1": areas(0.1), "3": areas(2.0)})
    assert lowest[0] == lowest[2]


def test_one_area_that_is_high_by_chance_does_not_move_the_range():
    area = areas(0.5)
    area[-2] = 0.61
    assert lowest_ratios({"4": area})[3] == lowest_ratios({"4": areas(0.5)})[3]


def test_a_level_that_is_always_told_keeps_the_last_noise_level():
    assert lowest_ratios({"1": areas(1e9)})[0] == RATIOS[-1]


def test_falling_values_are_the_closest_that_never_rise():
    assert falling([1.0, 0.5, 0.7, 0.2]) == pytest.approx([1.0, 0.6, 0.6, 0.2])
    assert falling([]) == []


def test_roc_of_scores_that_are_apart_and_of_scores_that_are_alike():
    assert roc_curve(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == (1.0, [1.0] * 11)
    area, shares = roc_curve(np.arange(1000.0), np.arange(1000.0))
    assert area == pytest.approx(0.5)
    assert shares == pytest.approx(np.linspace(0, 1, 11), abs=0.01)


@pytest.mark.parametrize(
    "schedule", [NoiseSchedule(), FlowSchedule(), FlowSchedule(shift=3.0)], ids=["published", "flow", "shifted flow"]
)
def test_published_schedule_and_flow_have_the_same_noise_at_their_timesteps(schedule):
    alpha, sigma = schedule.scales(torch.tensor([schedule.timestep_at(0.8)]))
    assert (sigma / alpha).item() == pytest.approx(0.8, rel=0.02)


@pytest.mark.parametrize(
    "wrong", ["[1,2,3]", [0, 0, 0, 0, 1000], [0, 0, 0, 0, -1], "loud", [0, 0, 0, 0, True]], ids=str
)
def test_ranges_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="quality.noise_range=.*lowest timestep of each level"):
        checked_timesteps(wrong, 1000)


def made_clips(count: int, seed: int) -> Clips:
    """Latents of unit noise; the lower the level, the larger an offset that some noise hides: 0 for the best."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.arange(count) % 5 + 1
    latents = torch.randn(count, 4, 16, 2, generator=generator)
    return Clips(latents + 0.5 * (5 - levels).view(-1, 1, 1, 1), levels)


def test_the_classifier_finds_where_noise_hides_the_difference():
    names = {"codec": "mdct", "rule": "even", "segment": 1.0}
    training = Training(steps=150, batch_size=50, width=32)
    found = measure_noise_range(made_clips(200, 1), made_clips(100, 2), training=training, **names)
    assert found.auc["1"][0] > 0.95
    assert found.auc["1"][-1] < 0.7
    assert found.lowest[0] > found.lowest[3] > 0 == found.lowest[4]
    again = measure_noise_range(made_clips(200, 1), made_clips(100, 2), training=training, **names)
    assert again == found
    assert NoiseRange.from_dict(json.loads(json.dumps(found.to_dict())), "file") == found


def test_levels_with_another_ones_value_are_named():
    auc = {"1": areas(0.1), "3": areas(2.0)}
    measured = NoiseRange("mdct", "even", 1.0, 0.75, [9, 3, 9, 4, 9], list(RATIOS), auc, {}, lowest_ratios(auc))
    said = measured.lines(lambda ratio: ratio)[-3:]
    assert said == [
        "Level 1 takes the value of level 3: its own would be below a better level's",
        "Level 2 takes the value of level 3: too few held-out clips to measure it (3)",
        "Level 4 takes the value of level 5: too few held-out clips to measure it (4)",
    ]


def test_no_clip_is_drawn_twice_while_its_level_has_more():
    levels = torch.tensor([1] * 30 + [5] * 14 + [3] * 4)
    for seed in range(5):
        drawn = _draw(levels, 40, torch.Generator().manual_seed(seed))
        counts = [int((levels[drawn] == level).sum()) for level in (1, 3, 5)]
        assert sorted(counts) == [13, 13, 14]
        assert len(drawn[levels[drawn] == 1].unique()) == counts[0]
        assert len(drawn[levels[drawn] == 5].unique()) == counts[2]
        assert len(drawn[levels[drawn] == 3].unique()) == 4


def test_as_many_clips_are_taken_of_each_track(folder):
    args = argparse.Namespace(folder=folder, tracks=30, clips=4)
    dataset = command._dataset(args, command._recipe(["solver=qamdt/playground_mdct"]))
    counts = Counter(dataset[index][1].meta.path for index in range(len(dataset)))
    assert len(counts) == 30
    assert set(counts.values()) == {4}


def test_too_few_clips_are_counted_and_refused():
    clips = made_clips(20, 1)
    with pytest.raises(ValueError, match=r"\[4, 4, 4, 4, 4\].*--tracks"):
        measure_noise_range(clips, clips, codec="mdct", rule="even", segment=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("audio") / "set", tracks=30, duration=3.0, quality=False)
    for index in range(30):
        write_track(folder / f"track{index}.wav", index, 3.0, 16000, 1.0 + index % 5)
    summarise(AnnotateReport(find_manifest(folder), "test", "1"))
    return folder


OPTIONS = ["solver=qamdt/playground_mdct", "--clips", "16", "--steps", "3"]


def test_the_command_writes_what_annotating_again_keeps_and_other_scores_do_not(folder, capsys):
    before = json.loads((folder / "quality.json").read_text())
    assert qamdt(["noise-range", str(folder), *OPTIONS]) == 0
    assert "Lowest timestep of levels 1 to 5" in capsys.readouterr().out
    content = json.loads((folder / "quality.json").read_text())
    measured = NoiseRange.from_dict(content.pop("noise_range"), "quality.json")
    assert content == before
    assert measured.codec == "mdct"
    assert measured.rule == "even"
    predictor = Constant("3")
    annotate(folder, predictor, overwrite=True)
    assert "noise_range" not in json.loads((folder / "quality.json").read_text())
    content = json.loads((folder / "quality.json").read_text())
    (folder / "quality.json").write_text(json.dumps({**content, "noise_range": measured.to_dict()}))
    annotate(folder, predictor)
    assert "noise_range" in json.loads((folder / "quality.json").read_text())


@pytest.mark.parametrize("option", ["--tracks", "--clips", "--steps"])
def test_counts_below_one_are_refused(folder, option, caplog):
    assert qamdt(["noise-range", str(folder), option, "0"]) == 2
    assert f"{option} 0: give at least 1" in caplog.text


@pytest.mark.parametrize("auc", ["0.4", "1"])
def test_an_area_that_is_none_is_refused(folder, auc, caplog):
    assert qamdt(["noise-range", str(folder), "--auc", auc]) == 2
    assert "from 0.5 (chance) to 1" in caplog.text
