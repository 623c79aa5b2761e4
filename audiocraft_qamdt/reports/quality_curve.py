"""The quality curve: clips at every level, judged by another predictor than the one that labelled the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.attributes import Curve
from ..generation.params import GenerationParams
from ..generation.qamdt import QAMDT
from ..quality.annotate import score_clip
from ..quality.levels import LEVELS
from ..quality.predictors.acoustic import measure
from ..quality.predictors.base import Predictor
from ..utils import plots
from ..utils.files import write_json, write_lines
from ..utils.randomness import keyed_seed
from ..utils.reading import JsonObject

CONFIDENCE = 0.95
RESAMPLES = 2000
MEASURED = ("noise_floor", "missing_octaves")
"""Measurements of `quality.predictors.acoustic` that give the faults in dB and octaves."""
ASKED = {
    "level": "level asked for",
    "rise": "seconds, level rising from 1 to 5",
    "best_of": "candidates, of which the best is kept",
}
"""Name of a curve → what is on its x axis."""


@dataclass(frozen=True)
class Points:
    """Judged quality of clips, at each of several places.

    Args:
        at: what was asked for [K]: levels, seconds along a clip whose level rises, or numbers of candidates.
        scores: judged quality [clips, K].
        measured: means of other quantities at every place [K], as `MEASURED`; empty where none was taken.
    """

    at: list[float]
    scores: np.ndarray
    measured: dict[str, list[float]]

    @property
    def rank_correlation(self) -> float:
        """Return Spearman's correlation of asked and judged quality, over all clips and places."""
        from scipy.stats import spearmanr

        if np.ptp(self.scores) == 0:
            return 0.0
        return float(spearmanr(np.broadcast_to(self.at, self.scores.shape).ravel(), self.scores.ravel()).statistic)

    @property
    def means(self) -> list[float]:
        return self.scores.mean(0).tolist()

    def band(self) -> tuple[list[float], list[float]]:
        """Return the 95 % confidence interval of each mean, by resampling clips (Efron's percentile bootstrap)."""
        draws = np.random.default_rng(0).integers(len(self.scores), size=(RESAMPLES, len(self.scores)))
        means = self.scores[draws].mean(1)  # [RESAMPLES, K]
        low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
        return low.tolist(), high.tolist()

    def to_dict(self) -> JsonObject:
        low, high = self.band()
        return {
            "at": self.at,
            "mean": self.means,
            "low": low,
            "high": high,
            "clips": len(self.scores),
            "rank_correlation": self.rank_correlation,
            "measured": self.measured,
        }


@torch.no_grad()
def by_level(
    model: QAMDT,
    prompts: Sequence[str],
    judge: Predictor,
    *,
    clips: int = 64,
    levels: Sequence[float] = LEVELS,
    batch_size: int = 16,
    seed: int = 0,
) -> Points:
    """Judge clips generated at each level: the same prompts and the same noise at all of them.

    Args:
        model: duration, steps and guidance are those it is set to.
        prompts: descriptions, repeated as often as needed.
        judge: scores the clips, over whose windows the mean is taken.
        clips: number of clips at each level.
        batch_size: clips generated at once.
        seed: of the noise.
    """
    scores, measured = [], []
    for level in levels:
        made = list(_generate(model, prompts, level, clips, batch_size, seed, f"level {level:g}"))
        scores.append([score_clip(judge, clip[None], model.sample_rate).mean().item() for clip in made])
        values = measure(torch.stack(made), model.sample_rate)
        measured.append([values[name].mean().item() for name in MEASURED])
    columns = (list(column) for column in zip(*measured, strict=True))
    return Points(list(map(float, levels)), np.array(scores).T, dict(zip(MEASURED, columns, strict=True)))


@torch.no_grad()
def along_rise(
    model: QAMDT, prompts: Sequence[str], judge: Predictor, *, clips: int = 64, batch_size: int = 16, seed: int = 0
) -> Points:
    """Judge clips whose level rises from 1 to 5, window by window; arguments as in `by_level`."""
    rise = [(0.0, float(LEVELS[0])), (model.params.duration, float(LEVELS[-1]))]
    made = _generate(model, prompts, rise, clips, batch_size, seed, "rising")
    scores = torch.stack([score_clip(judge, clip[None], model.sample_rate) for clip in made])  # [clips, K]
    times = [(index + 0.5) * judge.hop for index in range(scores.shape[1])]
    return Points(times, scores.numpy(), {})


@torch.no_grad()
def by_candidates(
    model: QAMDT,
    prompts: Sequence[str],
    judge: Predictor,
    *,
    clips: int = 64,
    level: float = LEVELS[-1],
    batch_size: int = 16,
    seed: int = 0,
) -> Points:
    """Judge the best of 1, 2, 4, ... candidates, as many as the model is set to, chosen as it is set to.

    The candidates of a clip are made once; for n of them, they are divided into groups of n, and the mean over the
    groups is the clip's score. `measured` has the mean score by which each was chosen. Arguments as in `by_level`.

    Args:
        level: that all clips are asked for.
    """
    sizes = [2**power for power in range(model.params.candidates.bit_length())]
    scores, measured = [], []
    for texts, params in tqdm(
        list(_batches(model, prompts, level, clips, batch_size, seed)), "candidates", unit="batch"
    ):
        made = model.candidates_with(texts, params)
        judged = torch.stack([_judged(judge, audio, model.sample_rate) for audio in made.audio])  # [N, B]
        values = torch.stack([judged, *made.scores.values()])  # [1 + scorers, N, B]
        chosen = torch.stack([_best_of(values, made.total, size) for size in sizes], 1)  # [1 + scorers, K, B]
        scores.append(chosen[0].T)
        measured.append(chosen[1:])
    means = torch.cat(measured, 2).mean(2).tolist()
    return Points(list(map(float, sizes)), torch.cat(scores).numpy(), dict(zip(made.scores, means, strict=True)))


def _judged(judge: Predictor, audio: Tensor, sample_rate: int) -> Tensor:
    """Return the mean score of each clip [B]."""
    return torch.stack([score_clip(judge, clip, sample_rate).mean() for clip in audio])


def _best_of(values: Tensor, total: Tensor, size: int) -> Tensor:
    """Return values [M, B] of the best of `size` candidates by `total` [N, B], the mean over groups of them."""
    groups = len(total) // size
    best = total[: groups * size].unflatten(0, (groups, size)).argmax(1)  # [groups, B]
    grouped = values[:, : groups * size].unflatten(1, (groups, size))  # [M, groups, size, B]
    return grouped.gather(2, best[None, :, None].expand(len(values), -1, -1, -1)).squeeze(2).mean(1)


def _generate(
    model: QAMDT, prompts: Sequence[str], quality: float | Curve, clips: int, batch_size: int, seed: int, name: str
) -> Iterator[Tensor]:
    batches = list(_batches(model, prompts, quality, clips, batch_size, seed))
    for texts, params in tqdm(batches, name, unit="batch"):
        yield from model.generate_with(texts, params)[:, 0]


def _batches(
    model: QAMDT, prompts: Sequence[str], quality: float | Curve, clips: int, batch_size: int, seed: int
) -> Iterator[tuple[list[str | None], GenerationParams]]:
    texts: list[str | None] = [prompts[index % len(prompts)] for index in range(clips)]
    for first in range(0, clips, batch_size):
        yield (
            texts[first : first + batch_size],
            model.params.changed(seed=keyed_seed(seed, first), quality=quality),
        )


def write_curves(curves: dict[str, Points], judge: Predictor, labels: str, out: Path) -> list[str]:
    """Write `quality_curve.json` and `quality_curve.png`.

    Args:
        curves: by name of `ASKED`; "level" is there.
        judge: who scored.
        labels: predictor that the model's training data was labelled by.
        out: folder.
    Returns:
        The figures as lines of text.
    """
    out.mkdir(parents=True, exist_ok=True)
    by = f"{judge.name} {judge.version}"
    write_json(
        out / "quality_curve.json",
        {"judge": by, "labels": labels, **{name: points.to_dict() for name, points in curves.items()}},
    )
    write_lines(out / "quality_curve.md", lines := _lines(curves, by, labels))
    plots.quality_curves({name: points.to_dict() for name, points in curves.items()}, by, out / "quality_curve.png")
    return lines


def _lines(curves: dict[str, Points], judge: str, labels: str) -> list[str]:
    lines = [f"Judged by {judge}; the training data was labelled by {labels}.", ""]
    for name, points in curves.items():
        low, high = points.band()
        lines += [f"| {ASKED[name]} | judged | 95 % | {' | '.join(points.measured)} |".replace("|  |", "|")]
        lines += ["|" + "---|" * (3 + len(points.measured))]
        for index, at in enumerate(points.at):
            values = "".join(f" {column[index]:.3g} |" for column in points.measured.values())
            lines.append(f"| {at:g} | {points.means[index]:.2f} | {low[index]:.2f}–{high[index]:.2f} |{values}")
        lines += ["", f"Rank correlation over {points.scores.size} clips: {points.rank_correlation:.3f}", ""]
    return lines[:-1]
