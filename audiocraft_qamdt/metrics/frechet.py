"""Fréchet distance between sets of clips, over the embeddings of a network (FAD, arXiv 1812.08466).

torchmetrics' `FrechetInceptionDistance` is not used: it sums raw second moments, which cancel where means are large
against deviations, takes the root of an asymmetric product, and knows neither other sizes nor single clips.
"""

from __future__ import annotations

import logging
import typing as tp
from dataclasses import dataclass

import torch
from torch import Tensor

from ..utils.randomness import keyed_seed
from .base import Clip, Metric, Network, SumOverRanks
from .bootstrap import REPLICATES, clip_seed, seeded_weights
from .samples import Spill

logger = logging.getLogger(__name__)

SUBSETS = 10
SINGULAR = 1e-10  # share of the largest eigenvalue that counts as zero
LARGEST_INVERSE = 4.0  # subsets go down to a quarter of the clips


@dataclass
class Moments:
    """Count, mean [D] and scatter (sum of outer products around the mean) [D, D] of embeddings, in float64."""

    count: Tensor
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, dim: int) -> Moments:
        """Return the moments of no clips."""
        return cls(*(torch.zeros(shape, dtype=torch.float64) for shape in ((), (dim,), (dim, dim))))

    def add(self, embeddings: Tensor) -> None:
        """Take embeddings [n, D] in (Chan, Golub and LeVeque 1979: nothing cancels where means are large)."""
        embeddings = embeddings.double()
        new, mean = len(embeddings), embeddings.mean(0)
        centred, shift = embeddings - mean, mean - self.mean
        count = self.count + new
        self.scatter = self.scatter + centred.T @ centred + torch.outer(shift, shift) * (self.count * new / count)
        self.mean = self.mean + shift * (new / count)
        self.count = count

    def reduced(self, total: SumOverRanks) -> Moments:
        """Return the moments of all ranks together."""
        count = total(self.count)
        mean = total(self.count * self.mean) / count
        shift = self.mean - mean
        return Moments(count, mean, total(self.scatter + self.count * torch.outer(shift, shift)))

    @property
    def covariance(self) -> Tensor:
        """Return the unbiased covariance [D, D]."""
        return self.scatter / (self.count - 1)


def matrix_root(matrix: Tensor) -> Tensor:
    """Return the symmetric square root of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(first: Moments, second: Moments) -> float:
    """Return |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½), the distance of two Gaussians (Dowson and Landau 1982).

    The trace of (Σ₁Σ₂)^½ is the sum of the singular values of Σ₁^½ Σ₂^½: real, not negative, and exact to rounding also
    where a covariance is singular, which the root of the product is not.

    Raises:
        ValueError: fewer than two embeddings.
    """
    for moments in (first, second):
        if moments.count < 2:
            raise ValueError("a Fréchet distance needs at least two embeddings on each side: give more or longer clips")
    cross = torch.linalg.svdvals(matrix_root(first.covariance) @ matrix_root(second.covariance)).sum()
    traces = first.covariance.trace() + second.covariance.trace()
    return ((first.mean - second.mean).square().sum() + traces - 2 * cross).item()


class Slope(tp.NamedTuple):
    """How a Fréchet distance to a reference moves with the moments of the generated clips.

    Its derivative by their mean is 2 (μ − μᵣ), that by their covariance Σ is I − T with T = Σᵣ^½ (Σᵣ^½ Σ Σᵣ^½)^-½ Σᵣ^½,
    the optimal transport between the Gaussians; the root's inverse is that of what is not zero.

    Args:
        total: number of embeddings.
        mean: μ [D].
        shift: 2 (μ − μᵣ) [D].
        curve: I − T [D, D].
        level: trace of curve · Σ.
    """

    total: float
    mean: Tensor
    shift: Tensor
    curve: Tensor
    level: float

    @classmethod
    def of(cls, generated: Moments, reference: Moments) -> Slope:
        """Return the slope at these moments."""
        root = matrix_root(reference.covariance)
        values, vectors = torch.linalg.eigh(root @ generated.covariance @ root)
        inverses = torch.where(values > SINGULAR * values.max(), values.clamp(min=1e-300).rsqrt(), 0.0)
        curve = torch.eye(len(root), dtype=torch.float64) - root @ (vectors * inverses) @ vectors.T @ root
        level = (curve * generated.covariance).sum().item()
        shift = 2 * (generated.mean - reference.mean)
        return cls(generated.count.item(), generated.mean, shift, curve, level)

    def change(self, count: float, mean: Tensor, factor: Tensor) -> float:
        """Return the change by one more of a clip: its count, mean [D] and a factor [n, D] of its scatter."""
        centred = mean - self.mean
        scatter = ((factor @ self.curve) * factor).sum() + count * (centred @ self.curve @ centred)
        return (count * (self.shift @ centred) + scatter - count * self.level).item() / self.total


class FrechetMetric(Metric):
    """Fréchet distance, its extrapolation to infinitely many clips, and that of each clip.

    `frechet` is biased upwards by about 1/N; `frechet_inf` is where a line through the distances of subsets of other
    sizes, over 1/N, meets 1/N = 0 (FID∞, arXiv 1911.07023; FAD∞, arXiv 2311.01616). Which clips a subset holds depends
    on their names alone. Intervals are those of the first-order change of the distance on resampled clips, which costs
    one more pass over small matrices in place of `REPLICATES` distances. A single clip's distance is that of its own
    embeddings to the reference (arXiv 2311.01616).

    Args:
        network: whose embeddings.
        extrapolate: compute `frechet_inf`, where there are at least as many embeddings as dimensions.
        per_clip: compute each clip's distance.
    """

    quantities = ("frechet", "frechet_inf")
    needs = frozenset({"reference"})

    def __init__(self, network: Network, extrapolate: bool = True, per_clip: bool = True) -> None:
        super().__init__()
        self.network, self.instrument, self.per_clip = network, network.name, per_clip
        self.reference = Moments.empty(network.dim)
        inverses = torch.linspace(1, LARGEST_INVERSE, SUBSETS).tolist() if extrapolate else [1.0]
        self.subsets = {1 / inverse: Moments.empty(network.dim) for inverse in inverses}
        self.clips = Spill()
        self._drawn = torch.full((len(self.subsets), REPLICATES), torch.nan, dtype=torch.float64)  # by `reduce`

    def compare_with(self, name: str, reference: Moments) -> None:
        """Compare with these moments, which all ranks know, and not with what batches bring."""
        self.reference_name, self.reference = name, reference

    def add_reference(self, clip: Clip) -> None:
        self.reference.add(clip.outputs(self.network).embeddings)

    def add(self, clip: Clip) -> None:
        embeddings = clip.outputs(self.network).embeddings
        for share, moments in self.subsets.items():
            if _holds(share, clip.name):
                moments.add(embeddings)
        mean = embeddings.mean(0)
        spread = embeddings - mean
        # Its triangular factor has the same scatter and no more rows than dimensions.
        factor = spread if len(spread) <= len(mean) else torch.linalg.qr(spread).R
        self.clips.append(clip.name, torch.tensor(float(len(embeddings))), mean, factor)

    def reduce(self, total: SumOverRanks) -> None:
        if self.reference_name is None:
            self.reference = self.reference.reduced(total)
        self.subsets = {share: moments.reduced(total) for share, moments in self.subsets.items()}
        self._drawn = total(self._draw_anew())

    def compute(self) -> dict[str, float]:
        generated = self.subsets[1.0]
        for side, moments in (("generated", generated), ("reference", self.reference)):
            if moments.count < self.network.dim:
                logger.warning(
                    "frechet with %s: %d %s embeddings in %d dimensions; below one for each dimension the distance is "
                    "mostly bias, compare it with nothing of another size",
                    *(self.instrument, int(moments.count), side, self.network.dim),
                )
        known = {share: moments for share, moments in self.subsets.items() if moments.count > 1}
        distances = [frechet_distance(moments, self.reference) for moments in known.values() or [generated]]
        values = {"frechet": distances[0]}
        self.replicates["frechet"] = distances[0] + self._drawn[0]
        if len(self.subsets) > 1 and generated.count >= self.network.dim:
            line = _intercept([moments.count for moments in known.values()])
            values["frechet_inf"] = (line @ torch.tensor(distances, dtype=torch.float64)).item()
            changes = self._drawn[[index for index, share in enumerate(self.subsets) if share in known]]
            self.replicates["frechet_inf"] = values["frechet_inf"] + line @ changes
        if self.per_clip:
            self.scores["frechet"] = self._clip_distances()
        return values

    def _draw_anew(self) -> Tensor:
        """Return each subset's first-order change on resampled clips, by this rank's [subsets, REPLICATES]."""
        slopes = {
            share: Slope.of(moments, self.reference)
            for share, moments in self.subsets.items()
            if min(moments.count, self.reference.count) > 1
        }
        changes = torch.zeros(len(self.subsets), REPLICATES, dtype=torch.float64)
        for name, (count, mean, factor) in self.clips:
            drawn = seeded_weights(clip_seed(name))[1:]
            for index, share in enumerate(self.subsets):
                if share in slopes and _holds(share, name):
                    changes[index] += drawn * slopes[share].change(count.item(), mean.double(), factor.double())
        return changes

    def _clip_distances(self) -> dict[str, float]:
        covariance, distances = self.reference.covariance, {}
        root = matrix_root(covariance)
        for name, (count, mean, factor) in self.clips:
            spread = factor.double() / max(1, count.item() - 1) ** 0.5  # [n, D]: its covariance is spread.T @ spread
            cross = torch.linalg.svdvals(spread @ root).sum()
            means = (mean.double() - self.reference.mean).square().sum()
            distances[name] = (means + spread.square().sum() + covariance.trace() - 2 * cross).item()
        return distances


def _holds(share: float, name: str) -> bool:
    """Return whether the clip of that name is in the subset of that share."""
    return share == 1 or keyed_seed("subset", f"{share:.6f}", name) < share * 2**63


def _intercept(counts: list[Tensor]) -> Tensor:
    """Return factors of distances [n] whose sum is where their line over 1/count meets 1/count = 0."""
    inverses = 1 / torch.stack(counts)
    return torch.linalg.pinv(torch.stack([torch.ones_like(inverses), inverses], dim=1))[0]
