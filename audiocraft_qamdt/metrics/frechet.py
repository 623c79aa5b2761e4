"""Fréchet distance between sets of clips, over the embeddings of a network (FAD, arXiv 1812.08466).

torchmetrics' `FrechetInceptionDistance` is not used: it sums raw second moments, which cancel where means are large
against deviations, takes the root of an asymmetric product, and knows neither other sizes nor single clips.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ..utils.randomness import keyed_seed
from .base import Clip, Metric, Network, SumOverRanks

logger = logging.getLogger(__name__)

SUBSETS = 10
LARGEST_INVERSE = 4.0  # subsets go down to a quarter of the clips


@dataclass
class Moments:
    """Count, mean [D] and scatter (sum of outer products around the mean) [D, D] of embeddings, in float64."""

    count: Tensor
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, dim: int) -> Moments:
        """Of nothing yet."""
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
        """Of all ranks together."""
        count = total(self.count)
        mean = total(self.count * self.mean) / count
        shift = self.mean - mean
        return Moments(count, mean, total(self.scatter + self.count * torch.outer(shift, shift)))

    @property
    def covariance(self) -> Tensor:
        """Unbiased [D, D]."""
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


class FrechetMetric(Metric):
    """Fréchet distance, its extrapolation to infinitely many clips, and that of each clip.

    `frechet` is biased upwards by about 1/N; `frechet_inf` is where a line through the distances of subsets of other
    sizes, over 1/N, meets 1/N = 0 (FID∞, arXiv 1911.07023; FAD∞, arXiv 2311.01616). Which clips a subset holds depends
    on their names alone. A single clip's distance is that of its own embeddings to the reference (arXiv 2311.01616).

    Args:
        network: whose embeddings.
        extrapolate: compute `frechet_inf`, where there are at least as many embeddings as dimensions.
        per_clip: compute each clip's distance.
    """

    needs = frozenset({"reference"})

    def __init__(self, network: Network, extrapolate: bool = True, per_clip: bool = True) -> None:
        super().__init__()
        self.network, self.instrument, self.per_clip = network, network.name, per_clip
        self.reference = Moments.empty(network.dim)
        inverses = torch.linspace(1, LARGEST_INVERSE, SUBSETS).tolist() if extrapolate else [1.0]
        self.subsets = {1 / inverse: Moments.empty(network.dim) for inverse in inverses}
        self.clips: dict[str, tuple[Tensor, Tensor]] = {}

    def compare_with(self, name: str, reference: Moments) -> None:
        """Compare with these moments, which all ranks know, and not with what batches bring."""
        self.reference_name, self.reference = name, reference

    def add_reference(self, clip: Clip) -> None:
        self.reference.add(clip.outputs(self.network).embeddings)

    def add(self, clip: Clip) -> None:
        embeddings = clip.outputs(self.network).embeddings
        for share, moments in self.subsets.items():
            if share == 1 or keyed_seed("subset", f"{share:.6f}", clip.name) < share * 2**63:
                moments.add(embeddings)
        if self.per_clip:
            mean = embeddings.mean(0)
            spread = (embeddings - mean) / max(1, len(embeddings) - 1) ** 0.5
            # Its triangular factor has the same covariance and no more rows than dimensions.
            self.clips[clip.name] = mean, spread if len(spread) <= len(mean) else torch.linalg.qr(spread).R

    def reduce(self, total: SumOverRanks) -> None:
        if self.reference_name is None:
            self.reference = self.reference.reduced(total)
        self.subsets = {share: moments.reduced(total) for share, moments in self.subsets.items()}

    def compute(self) -> dict[str, float]:
        generated = self.subsets[1.0]
        for side, moments in (("generated", generated), ("reference", self.reference)):
            if moments.count < self.network.dim:
                logger.warning(
                    "frechet with %s: %d %s embeddings in %d dimensions; below one for each dimension the distance is "
                    "mostly bias, compare it with nothing of another size",
                    *(self.instrument, int(moments.count), side, self.network.dim),
                )
        values = {"frechet": frechet_distance(generated, self.reference)}
        if len(self.subsets) > 1 and generated.count >= self.network.dim:
            values["frechet_inf"] = self._extrapolate()
        if self.per_clip:
            self.scores["frechet"] = self._clip_distances()
        return values

    def _extrapolate(self) -> float:
        known = [moments for moments in self.subsets.values() if moments.count > 1]
        distances = torch.tensor([frechet_distance(moments, self.reference) for moments in known], dtype=torch.float64)
        inverses = torch.stack([1 / moments.count for moments in known])
        line = torch.stack([torch.ones_like(inverses), inverses], dim=1)
        return torch.linalg.lstsq(line, distances[:, None]).solution[0].item()

    def _clip_distances(self) -> dict[str, float]:
        covariance, distances = self.reference.covariance, {}
        root = matrix_root(covariance)
        for name, (mean, spread) in self.clips.items():
            spread = spread.double()  # [n, D]: its covariance is spread.T @ spread
            cross = torch.linalg.svdvals(spread @ root).sum()
            means = (mean.double() - self.reference.mean).square().sum()
            distances[name] = (means + spread.square().sum() + covariance.trace() - 2 * cross).item()
        return distances
