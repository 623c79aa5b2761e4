"""The curve of judged quality against the level asked for: its statistics, and the command on a trained model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from audiocraft_qamdt.cli import main
from audiocraft_qamdt.quality.predictors.base import load_predictor
from audiocraft_qamdt.reports.quality_curve import Points, _best_of, by_candidates, write_curves

LEVELS = [1.0, 2.0, 3.0, 4.0, 5.0]


def points(slope: float, noise: float, clips: int = 64) -> Points:
    draws = np.random.default_rng(1).standard_normal((clips, 5))
    return Points(LEVELS, 3 + slope * (np.array(LEVELS) - 3) + noise * draws, {"noise_floor": [0.0] * 5})


def test_rank_correlation_tells_a_model_that_listens_from_one_that_does_not():
    assert points(0.5, 0.0).rank_correlation == pytest.approx(1)
    assert points(-0.5, 0.0).rank_correlation == pytest.approx(-1)
    assert 0.5 < points(0.5, 0.5).rank_correlation < 0.95
    assert abs(points(0.0, 1.0).rank_correlation) < 0.15
    assert Points(LEVELS, np.full((4, 5), 3.0), {}).rank_correlation == 0


def test_the_band_narrows_with_the_clips_and_covers_the_truth():
    few, many = points(0.5, 0.5, clips=8), points(0.5, 0.5, clips=512)
    for curve in (few, many):
        low, high = map(np.array, curve.band())
        assert (low < curve.means).all()
        assert (curve.means < high).all()
    widths = [np.subtract(*reversed(curve.band())).mean() for curve in (few, many)]
    assert widths[1] < widths[0] / 4
    truth = 3 + 0.5 * (np.array(LEVELS) - 3)
    low, high = many.band()
    assert ((np.array(low) < truth) & (truth < high)).sum() >= 4


def test_figures_are_written_with_who_judged_and_who_labelled(tmp_path):
    curves = {"level": points(0.5, 0.2), "rise": Points([0.5, 1.0, 1.5], np.random.default_rng(2).random((6, 3)), {})}
    lines = write_curves(curves, load_predictor("constant"), "acoustic", tmp_path / "new")
    written = json.loads((tmp_path / "new" / "quality_curve.json").read_text())
    assert written["judge"].startswith("constant")
    assert written["labels"] == "acoustic"
    assert written["level"]["rank_correlation"] == curves["level"].rank_correlation
    assert (tmp_path / "new" / "quality_curve.md").read_text() == "\n".join(lines) + "\n"
    assert (tmp_path / "new" / "quality_curve.png").stat().st_size > 5000
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_the_best_of_n_is_the_mean_over_groups_of_n_candidates():
    total = torch.tensor([[1.0], [4.0], [3.0], [2.0]])
    judged = torch.tensor([[[10.0], [20.0], [40.0], [30.0]]])
    assert [_best_of(judged, total, size).item() for size in (1, 2, 4)] == [25.0, 30.0, 20.0]


def test_what_chooses_rises_with_the_candidates_and_another_predictor_judges(model):
    model.set_generation_params(candidates=4, rerank="pmos:acoustic", steps=2, duration=1.0)
    curve = by_candidates(model, ["piano", "drums"], load_predictor("playground"), clips=3, batch_size=2)
    assert curve.at == [1.0, 2.0, 4.0]
    assert curve.scores.shape == (3, 3)
    chosen = curve.measured["pmos:acoustic"]
    assert chosen[0] < chosen[1] < chosen[2]
    judged = model.candidates_with(["piano", "drums"], model.params)
    assert judged.scores["pmos:acoustic"].shape == (4, 2)


def test_the_judge_must_not_be_what_chose(tmp_path, caplog):
    asked = ["quality-curve", "m", "--data", str(tmp_path), "--out", str(tmp_path / "x"), "--rerank", "pmos:playground"]
    assert main(asked) == 2
    assert "--judge playground chooses among the candidates" in caplog.text
