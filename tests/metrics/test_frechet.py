"""Fréchet distance: closed forms, another library, and what order, batches and ranks must not change."""

from __future__ import annotations

import importlib.util
import logging

import numpy as np
import pytest
import torch
from torch import multiprocessing

from audiocraft_qamdt.metrics.base import Batch, Clip, Metric, Network, Outputs
from audiocraft_qamdt.metrics.coverage import DensityCoverage, KernelDistance
from audiocraft_qamdt.metrics.frechet import FrechetMetric, Moments, frechet_distance
from audiocraft_qamdt.metrics.probabilities import ClassAgreement, InceptionScore, KLDivergence, SplitInceptionScore
from audiocraft_qamdt.metrics.signal import LevelShares
from audiocraft_qamdt.metrics.table import Evaluation, sum_over_ranks

DIM = 6


def moments(samples: torch.Tensor, batch: int = 7) -> Moments:
    found = Moments.empty(samples.shape[1])
    for part in samples.split(batch):
        found.add(part)
    return found


def gaussian(count: int, seed: int, dim: int = DIM, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) @ mixing * scale + shift


class Rows(Network):
    """A network whose embeddings are the audio itself, in rows."""

    name, dim, classes, module = "rows", DIM, None, torch.nn.Identity()

    def __call__(self, audio: torch.Tensor, sample_rate: int) -> Outputs:
        return Outputs(audio.view(-1, DIM))


def clips(count: int, seed: int, rows: int = 5, **kwargs) -> list[Clip]:
    parts = gaussian(count * rows, seed, **kwargs).view(count, -1)
    return [Clip(f"clip{index}", part, 16000) for index, part in enumerate(parts)]


class Classes(Rows):
    """The same with the softmax of the mean row as probabilities."""

    classes = DIM

    def __call__(self, audio: torch.Tensor, sample_rate: int) -> Outputs:
        rows = audio.view(-1, DIM)
        return Outputs(rows, rows.mean(0).softmax(0))


def all_kinds() -> list[Metric]:
    """A metric of each way to combine what processes took in."""
    network = Classes()
    kinds = (FrechetMetric, KernelDistance, DensityCoverage, InceptionScore, KLDivergence, ClassAgreement)
    return [*(kind(network) for kind in kinds), SplitInceptionScore(network, 3), LevelShares()]


def measure(generated, reference, batch: int = 4, metrics=None, **kwargs) -> dict[str, float]:
    evaluation = Evaluation(metrics or [FrechetMetric(Rows(), **kwargs)])
    for first in range(0, len(generated), batch):
        evaluation.update(Batch(generated[first : first + batch], reference[first : first + batch]))
    return {number.metric: number.value for number in evaluation.numbers()}


def test_moments_are_numpys_also_far_from_zero():
    """At a mean of 1e6 deviations, sums of squares would have lost every digit of the covariance."""
    samples = gaussian(500, seed=0) + 1e6
    found = moments(samples)
    assert found.count == 500
    assert torch.allclose(found.mean, samples.mean(0), rtol=1e-12)
    assert np.allclose(found.covariance.numpy(), np.cov(samples.numpy().T), rtol=1e-6)


def test_one_dimension_is_the_closed_form():
    first, second = gaussian(100, 0, dim=1), gaussian(100, 1, dim=1, scale=3, shift=2)
    expected = (first.mean() - second.mean()) ** 2 + (first.std() - second.std()) ** 2
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(expected.item(), rel=1e-10)


def test_scaled_and_shifted_gaussian_is_the_closed_form():
    """N(μ, Σ) and N(μ + d, c²Σ) are |d|² + (1 − c)² tr Σ apart."""
    samples = gaussian(300, 0)
    shift = torch.arange(DIM, dtype=torch.float64)
    found = frechet_distance(moments(samples), moments((samples - samples.mean(0)) * 3 + samples.mean(0) + shift))
    expected = shift.square().sum() + 4 * moments(samples).covariance.trace()
    assert found == pytest.approx(expected.item(), rel=1e-10)


def test_general_covariances_agree_with_scipy():
    from scipy.linalg import sqrtm

    first, second = gaussian(200, 0), gaussian(200, 1) @ torch.randn(DIM, DIM, dtype=torch.float64).exp()
    covariances = [np.cov(samples.numpy().T) for samples in (first, second)]
    root = np.trace(sqrtm(covariances[0] @ covariances[1]).real)
    expected = (first.mean(0) - second.mean(0)).square().sum().item() + sum(map(np.trace, covariances)) - 2 * root
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(expected, rel=1e-8)


def test_fewer_samples_than_dimensions_are_no_trouble():
    first, second = gaussian(3, 0), gaussian(4, 1)
    assert frechet_distance(moments(first), moments(first)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(moments(first), moments(second)) > 0
    with pytest.raises(ValueError, match="at least two embeddings"):
        frechet_distance(moments(first[:1]), moments(second))


@pytest.mark.skipif(
    importlib.util.find_spec("frechet_audio_distance") is None, reason="frechet-audio-distance is not installed"
)
def test_frechet_audio_distance_gives_the_same():
    from frechet_audio_distance.fad import FrechetAudioDistance

    theirs = FrechetAudioDistance.__new__(FrechetAudioDistance)  # its constructor downloads a network
    first, second = gaussian(200, 0).float().numpy(), (gaussian(300, 1) * 1.5 + 1).float().numpy()
    statistics = [theirs.calculate_embd_statistics(part) for part in (first, second)]
    expected = theirs.calculate_frechet_distance(*statistics[0], *statistics[1])
    found = frechet_distance(*(moments(torch.from_numpy(part)) for part in (first, second)))
    assert found == pytest.approx(expected, rel=1e-4)


def test_order_and_batches_change_nothing():
    generated, reference = clips(40, 0, scale=1.5), clips(40, 1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5)).tolist()
    base = measure(generated, reference)
    assert set(base) == {"frechet", "frechet_inf"}
    assert measure(generated, reference, batch=40) == pytest.approx(base, rel=1e-9)
    assert measure(generated, reference, batch=1) == pytest.approx(base, rel=1e-9)
    assert measure([generated[i] for i in order], [reference[i] for i in order]) == pytest.approx(base, rel=1e-9)


def test_extrapolation_takes_most_of_the_bias_away():
    """Two samples of one distribution: the true distance is 0."""

    def found_with(seed):
        metric = FrechetMetric(Rows(), per_clip=False)
        metric.compare_with("many", moments(gaussian(20000, 1000), batch=20000))
        metric.update(Batch(clips(100, seed)))
        return metric.compute()

    found = [found_with(seed) for seed in range(6)]
    biased, extrapolated = (np.mean([values[name] for values in found]) for name in ("frechet", "frechet_inf"))
    assert biased > 0.05
    assert abs(extrapolated) < biased / 3


def test_scores_of_single_clips_are_their_own_distance():
    generated, reference = clips(3, 0, rows=40, shift=1), clips(50, 1)
    metric = FrechetMetric(Rows())
    metric.update(Batch(generated, reference))
    metric.compute()
    expected = [
        frechet_distance(
            moments(clip.audio.view(-1, DIM)), moments(torch.cat([r.audio.view(-1, DIM) for r in reference]))
        )
        for clip in generated
    ]
    assert list(metric.scores["frechet"].values()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count, warned", [(1, True), (2, False)])
def test_fewer_embeddings_than_dimensions_warn(caplog, count, warned):
    with caplog.at_level(logging.WARNING):
        values = measure(clips(count, 0), clips(40, 1), batch=40)
    assert ("5 generated embeddings in 6 dimensions" in caplog.text) == warned
    assert ("frechet_inf" in values) == (not warned)


def _rank(rank: int, port: int, queue) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    generated, reference = clips(21, 0, scale=1.5, shift=100), clips(21, 1)
    evaluation = Evaluation(all_kinds())
    evaluation.update(Batch(generated[rank::2], reference[rank::2]))
    numbers = evaluation.numbers(sum_over_ranks("cpu"))
    queue.put((rank, numbers[0].clips, {number.metric: number.value for number in numbers}))
    torch.distributed.destroy_process_group()


def test_two_ranks_are_one_by_every_metric():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    multiprocessing.spawn(_rank, (port, queue), nprocs=2)
    expected = measure(clips(21, 0, scale=1.5, shift=100), clips(21, 1), metrics=all_kinds())
    assert {"frechet", "frechet_inf", "kad", "density", "coverage", "inception", "kl", "silent"} < set(expected)
    for _ in range(2):
        _, count, values = queue.get()
        assert count == 21
        assert values == pytest.approx(expected, rel=1e-9)
