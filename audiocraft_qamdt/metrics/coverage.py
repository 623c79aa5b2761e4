"""Numbers from distances between single embeddings of two sets: kernel distance, density and coverage.

Of a set with more than `samples.LARGEST` embeddings so many are drawn. Distances are computed in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .base import Clip, Metric, Network, SumOverRanks
from .samples import Sample

BLOCK = 1 << 20  # distances at a time
LEADING_BITS = 15
SCALE = 100.0  # of the published kernel distance
STABLE = 1e-8  # beside the squared bandwidth, as published
NEIGHBOURS = 5  # arXiv 2002.09797


class SampleMetric(Metric):
    """A number from a sample of the embeddings of generated clips and one of the reference's.

    Args:
        network: whose embeddings.
    """

    needs = frozenset({"reference"})

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, self.instrument = network, network.name
        self.generated, self.reference = Sample.empty(network.dim), Sample.empty(network.dim)

    def compare_with(self, name: str, reference: Sample) -> None:
        """Compare with this sample, which all ranks know, and not with what batches bring."""
        reference.settle()
        self.reference_name, self.reference = name, reference

    def add_reference(self, clip: Clip) -> None:
        self.reference.add(clip.name, clip.outputs(self.network).embeddings)

    def add(self, clip: Clip) -> None:
        self.generated.add(clip.name, clip.outputs(self.network).embeddings)

    def reduce(self, total: SumOverRanks) -> None:
        self.generated.merge(total.gather(self.generated.settle()))
        if self.reference_name is None:
            self.reference.merge(total.gather(self.reference.settle()))

    def sets(self, least: int) -> tuple[Tensor, Tensor]:
        """Return embeddings of the reference and of the generated clips, in float64, the reference's mean at 0.

        Raises:
            ValueError: there are fewer than `least` on a side.
        """
        reference, generated = self.reference.embeddings.double(), self.generated.embeddings.double()
        if min(len(reference), len(generated)) < least:
            raise ValueError(f"{type(self).__name__} needs {least} embeddings on each side: give more or longer clips")
        mean = reference.mean(0)  # without it, differences of squares would lose digits
        return reference - mean, generated - mean


class KernelDistance(SampleMetric):
    """Kernel audio distance (KAD, arXiv 2502.15602): 100 times the unbiased squared maximum mean discrepancy.

    The kernel is exp(−d² / 2σ²), and σ the median distance between the reference's embeddings. As kadtk computes it;
    unbiased, so it can be below 0, and does not fall with the number of clips as Fréchet distances do.
    """

    quantities = ("kad",)

    def compute(self) -> dict[str, float]:
        reference, generated = self.sets(2)
        weights = self.generated.weights()
        gamma = 1 / (2 * median_distance(reference) ** 2 + STABLE)
        one = torch.ones(1, len(reference), dtype=torch.float64)
        within = _mean_of_pairs(reference, one, gamma) + _mean_of_pairs(generated, weights, gamma)
        across = sum(
            (block.mul(-gamma).exp().mean(0) @ weights[:, part].T) for part, block in _blocks(generated, reference)
        )
        return self.replicated({"kad": SCALE * (within - 2 * across / weights.sum(1))})


class DensityCoverage(SampleMetric):
    """Density and coverage (arXiv 2002.09797) with 5 neighbours: how near generated clips are, and how much they cover.

    Each embedding of the reference has a ball that reaches to its fifth neighbour. Density is the mean number of balls
    around a generated embedding, over 5; coverage the share of balls that hold a generated one.
    """

    quantities = ("density", "coverage")

    def compute(self) -> dict[str, float]:
        reference, generated = self.sets(NEIGHBOURS + 1)
        weights = self.generated.weights()
        drawn = (weights > 0).T.float()  # [M, 1 + REPLICATES]
        radii = torch.cat([near.T.kthvalue(NEIGHBOURS + 1).values for _, near in _blocks(reference, reference)])
        around, covered = torch.zeros(len(generated), dtype=torch.float64), torch.zeros(len(weights)).double()
        for part, squares in _blocks(reference, generated):
            inside = squares < radii[part]  # [M, block]
            around += inside.sum(1)
            covered += (inside.T.float() @ drawn > 0).sum(0)
        density = weights @ around / (NEIGHBOURS * weights.sum(1))
        return self.replicated({"density": density, "coverage": covered / len(reference)})


def median_distance(embeddings: Tensor) -> float:
    """Return the median of the distances between any two rows, the lower one where there are two.

    There are up to fifty million: a first pass counts them by the leading bits of their float32, a second one keeps
    those of the median's bin alone.
    """
    bins = torch.zeros(1 << LEADING_BITS, dtype=torch.long)
    for found in _distances(embeddings):
        bins += torch.bincount(_leading(found), minlength=len(bins))
    last = bins.cumsum(0)
    rank = (int(last[-1]) - 1) // 2
    chosen = int(torch.searchsorted(last, rank, right=True))
    inside = torch.cat([found[_leading(found) == chosen] for found in _distances(embeddings)])
    return inside.kthvalue(rank - int(last[chosen] - bins[chosen]) + 1).values.item()


def _distances(embeddings: Tensor) -> Iterator[Tensor]:
    """Distances between any two rows in float32, in parts."""
    for part, squares in _blocks(embeddings, embeddings):
        before = torch.arange(len(embeddings))[:, None] < torch.arange(part.start, part.stop)
        yield squares[before].sqrt().float()


def _leading(distances: Tensor) -> Tensor:
    """First bits after the sign, in the order of the distances, which are not negative."""
    return distances.view(torch.int32) >> (31 - LEADING_BITS)


def _blocks(columns: Tensor, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (which columns, squared distances [rows, block]) of parts of `columns`, of one size whatever the rows."""
    squares = rows.square().sum(1)[:, None]
    width = max(1, BLOCK // len(rows))
    for first in range(0, len(columns), width):
        part = slice(first, min(first + width, len(columns)))
        block = columns[part]
        yield part, (squares + block.square().sum(1) - 2 * rows @ block.T).clamp(min=0)


def _mean_of_pairs(embeddings: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """Return the weighted mean of the kernel over pairs of different embeddings, [replicates]."""
    found = torch.zeros(len(weights), dtype=torch.float64)
    for part, squares in _blocks(embeddings, embeddings):
        kernel = squares.mul(-gamma).exp()
        kernel[torch.arange(part.start, part.stop), torch.arange(part.stop - part.start)] = 0
        found += (weights @ kernel * weights[:, part]).sum(1)
    return found / (weights.sum(1).square() - weights.square().sum(1))
