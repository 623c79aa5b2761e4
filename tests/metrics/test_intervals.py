"""Intervals, tests of differences, and numbers from distances between single embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from audiocraft_qamdt.metrics import coverage
from audiocraft_qamdt.metrics.base import Batch, Clip, MeanMetric, Network, Outputs
from audiocraft_qamdt.metrics.comparison import compare
from audiocraft_qamdt.metrics.coverage import DensityCoverage, KernelDistance
from audiocraft_qamdt.metrics.frechet import FrechetMetric
from audiocraft_qamdt.metrics.probabilities import InceptionScore
from audiocraft_qamdt.metrics.samples import Sample, Spill
from audiocraft_qamdt.metrics.table import Evaluation

DIM, ROWS = 3, 4


class Rows(Network):
    """A network whose embeddings are the audio itself, in rows."""

    name, dim, classes, module = "rows", DIM, DIM, torch.nn.Identity()

    def __call__(self, audio, sample_rate):
        rows = audio.view(-1, DIM)
        return Outputs(rows, rows.mean(0).softmax(0))


class Level(MeanMetric):
    quantities = ("level",)

    def measure(self, clip):
        return {"level": clip.audio.mean().item()}


def clips(count, seed, shift=0.0, scale=1.0, names="clip{}"):
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randn(count, ROWS * DIM, generator=generator) * scale + shift
    audio += torch.randn(count, 1, generator=generator) * scale  # embeddings of a clip are alike
    return [Clip(names.format(index), part, 16000) for index, part in enumerate(audio)]


def rows(found):
    return torch.cat([clip.audio.view(-1, DIM) for clip in found]).double().numpy()


def measure(metric, generated, reference=(), batch=7):
    evaluation = Evaluation([metric])
    evaluation.update(Batch([generated[0]], reference))
    for first in range(1, len(generated), batch):
        evaluation.update(Batch(generated[first : first + batch]))
    return {number.metric: number for number in evaluation.numbers()}, evaluation.replicates()


def test_kernel_distance_is_the_published_formula():
    """arXiv 2502.15602, equations 3 to 5, written with loops over nothing but SciPy's distances."""
    generated, reference = clips(20, 0, shift=0.3), clips(30, 1)
    first, second = rows(reference), rows(generated)
    width = np.sort(pdist(first))[(len(pdist(first)) - 1) // 2]
    kernel = [np.exp(-(cdist(*pair) ** 2) / (2 * width**2)) for pair in ((first, first), (second, second))]
    within = sum((k.sum() - len(k)) / (len(k) * (len(k) - 1)) for k in kernel)
    expected = 100 * (within - 2 * np.exp(-(cdist(first, second) ** 2) / (2 * width**2)).mean())
    found, _ = measure(KernelDistance(Rows()), generated, reference)
    assert found["kad"].value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [2, 3, 60, 61])
def test_the_median_distance_is_that_of_all_pairs_also_in_several_blocks(monkeypatch, count):
    monkeypatch.setattr(coverage, "BLOCK", 256)
    rows = torch.randn(count, 5, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    pairs = torch.pdist(rows).sort().values
    assert coverage.median_distance(rows) == pytest.approx(pairs[(len(pairs) - 1) // 2].item(), rel=1e-6)
    assert coverage.median_distance(torch.ones(4, 3)) == 0


def test_kernel_distance_to_oneself_is_about_nothing_of_any_size():
    found = [measure(KernelDistance(Rows()), clips(count, 5), clips(200, 6))[0]["kad"] for count in (15, 150)]
    assert all(abs(number.value) < 3 * number.ci95 for number in found)
    shifted, _ = measure(KernelDistance(Rows()), clips(60, 5, shift=1.0), clips(200, 6))
    assert shifted["kad"].value > 5
    assert shifted["kad"].value > 2 * shifted["kad"].ci95


def test_density_and_coverage_are_the_published_formulas():
    """arXiv 2002.09797, equations 3 and 4."""
    generated, reference = clips(20, 0, scale=0.5), clips(30, 1)
    first, second = rows(reference), rows(generated)
    radii = np.sort(cdist(first, first), 1)[:, 5]
    inside = cdist(first, second) < radii[:, None]
    found, _ = measure(DensityCoverage(Rows()), generated, reference)
    assert found["density"].value == pytest.approx(inside.sum() / (5 * len(second)))
    assert found["coverage"].value == pytest.approx(inside.any(1).mean())


@pytest.mark.parametrize("build", [KernelDistance, DensityCoverage, FrechetMetric, InceptionScore])
def test_order_and_batches_change_neither_numbers_nor_intervals(build):
    generated, reference = clips(20, 0, shift=0.3), clips(30, 1)
    base, _ = measure(build(Rows()), generated, reference)
    other, _ = measure(build(Rows()), generated[::-1], reference[::-1], batch=3)
    for name, number in base.items():
        assert (other[name].value, other[name].ci95) == pytest.approx((number.value, number.ci95), rel=1e-6)


def test_a_sample_of_more_than_it_keeps_is_the_same_in_any_order_and_over_any_ranks():
    found = clips(60, 0)

    def sample(part):
        kept = Sample.empty(DIM, largest=50)
        for clip in part:
            kept.add(clip.name, clip.outputs(Rows()).embeddings)
        return kept

    whole, reverse, merged = sample(found), sample(found[::-1]), sample([])
    merged.merge([sample(found[::2]).settle(), sample(found[1::2]).settle()])
    for other in (reverse, merged):
        assert all(map(torch.equal, whole.settle(), other.settle()))
    assert len(whole.embeddings) == 50
    assert len(whole.seeds.unique()) > 25


def test_spilled_arrays_come_back_by_name():
    spill = Spill()
    assert list(spill) == []
    spill.append("a", torch.ones(2), torch.zeros(1, 3))
    spill.append("b", torch.ones(1), torch.ones(2, 3))
    found = dict(spill)
    assert found.keys() == {"a", "b"}
    assert torch.equal(found["b"][1], torch.ones(2, 3))
    assert dict(spill).keys() == {"a", "b"}


def test_the_interval_of_a_mean_is_students():
    found, _ = measure(Level(), clips(40, 0))
    values = [clip.audio.mean().item() for clip in clips(40, 0)]
    expected = stats.t(39).ppf(0.975) * np.std(values, ddof=1) / 40**0.5
    assert found["level"].ci95 == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(
    ("build", "quantity"),
    [
        (FrechetMetric, "frechet"),
        (FrechetMetric, "frechet_inf"),
        (KernelDistance, "kad"),
        (DensityCoverage, "density"),
        (InceptionScore, "inception"),
    ],
)
def test_intervals_are_as_wide_as_numbers_of_other_clips_scatter(build, quantity):
    reference = clips(150, 1)
    found = [measure(build(Rows()), clips(60, seed, shift=0.5), reference)[0][quantity] for seed in range(100, 130)]
    scatter = np.std([number.value for number in found], ddof=1)
    assert np.mean([number.ci95 for number in found]) / 2 == pytest.approx(scatter, rel=0.4)


def test_one_clip_has_no_interval():
    found, _ = measure(Level(), clips(1, 0))
    assert found["level"].ci95 is None


def chances(build, quantity, shift, seeds, names="clip{}", alike=False):
    found, reference = [], clips(60, 1, shift=1.0)
    for seed in seeds:
        first = clips(30, seed)
        second = (
            [Clip(c.name, c.audio + shift, 16000) for c in first]
            if alike
            else clips(30, seed + 500, shift, names=names)
        )
        sides = [measure(build(), part, reference) for part in (first, second)]
        found.append(compare(*(numbers[quantity] for numbers, _ in sides), *(drawn for _, drawn in sides)).p)
    return np.array(found)


@pytest.mark.parametrize(
    ("build", "quantity"),
    [(Level, "level"), (lambda: FrechetMetric(Rows(), extrapolate=False), "frechet")],
    ids=["mean", "frechet"],
)
def test_folders_that_do_not_differ_seldom_do(build, quantity):
    found = chances(build, quantity, 0.0, range(200, 260), names="other{}")
    assert (found < 0.05).mean() <= 0.15
    assert (found < 0.5).mean() == pytest.approx(0.5, abs=0.2)


def test_a_difference_is_found_and_pairs_find_a_smaller_one():
    assert (chances(Level, "level", 1.0, range(5), names="other{}") < 0.05).all()
    assert (chances(Level, "level", 0.05, range(5), alike=True) < 0.05).all()
    assert (chances(Level, "level", 0.05, range(5), names="other{}") > 0.05).any()
