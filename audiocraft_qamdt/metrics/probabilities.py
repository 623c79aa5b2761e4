"""Inception score, KL divergence and agreement over the class probabilities of a classifier."""

from __future__ import annotations

import typing as tp

import numpy as np
import torch
from torch import Tensor

from ..compat import prepare
from .base import Clip, MeanMetric, Metric, Network, SumOverRanks, replicate_zeros

CLIPPING = 1e-6
"""Added to the probabilities inside the logarithm of KL's second argument, as in AudioCraft."""


SPLIT_SEED = 2020
"""Of the order of clips in `SplitInceptionScore`, as in audioldm_eval."""


def probabilities(clip: Clip, network: Network) -> Tensor:
    """Return class probabilities [classes] of a clip, in float64."""
    return tp.cast(Tensor, clip.outputs(network).probabilities).double()


def _classes(network: Network) -> int:
    if network.classes is None:
        raise ValueError(f"{network.name} gives embeddings but no class probabilities: choose playground or passt")
    return network.classes


class InceptionScore(Metric):
    """exp(H(mean of p) − mean of H(p)) of the class probabilities p of each clip (arXiv 1606.03498).

    From 1 to the number of classes. Over all clips at once: the usual average over ten splits depends on their order.

    Args:
        network: a classifier.
    Raises:
        ValueError: it is none.
    """

    quantities = ("inception",)

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, self.instrument = network, network.name
        self.count, self.sum = replicate_zeros(), replicate_zeros(_classes(network))  # sum of p
        self.negative_entropy = replicate_zeros()

    def add(self, clip: Clip) -> None:
        found = probabilities(clip, self.network)
        self.sum += torch.outer(clip.weights, found)
        self.negative_entropy += clip.weights * torch.xlogy(found, found).sum()
        self.count += clip.weights

    def reduce(self, total: SumOverRanks) -> None:
        self.count, self.sum, self.negative_entropy = map(total, (self.count, self.sum, self.negative_entropy))

    def compute(self) -> dict[str, float]:
        mean = self.sum / self.count[:, None]
        entropy = -torch.xlogy(mean, mean).sum(1)
        return self.replicated({"inception": (self.negative_entropy / self.count + entropy).exp()})


class SplitInceptionScore(Metric):
    """Mean inception score of parts, into which clips in the order of their names are shuffled, as audioldm_eval does.

    Args:
        network: a classifier.
        splits: number of parts.
    """

    def __init__(self, network: Network, splits: int) -> None:
        super().__init__()
        _classes(network)
        self.network, self.instrument, self.splits = network, network.name, splits
        self.found: dict[str, Tensor] = {}

    def add(self, clip: Clip) -> None:
        self.found[clip.name] = probabilities(clip, self.network)

    def reduce(self, total: SumOverRanks) -> None:
        self.found = {name: found for part in total.gather(self.found) for name, found in part.items()}

    def compute(self) -> dict[str, float]:
        count = len(self.found)
        if count < self.splits:
            raise ValueError(f"inception in {self.splits} parts needs as many clips, there are {count}")
        order = np.random.RandomState(SPLIT_SEED).permutation(count)
        rows = torch.stack([self.found[name] for name in sorted(self.found)])[order]
        scores = []
        for part in range(self.splits):
            rows_of = rows[part * count // self.splits : (part + 1) * count // self.splits]
            divergence = torch.xlogy(rows_of, rows_of) - torch.xlogy(rows_of, rows_of.mean(0))
            scores.append(divergence.sum(1).mean().exp())
        return {"inception": torch.stack(scores).mean().item()}


class KLDivergence(MeanMetric):
    """Mean KL divergence between the class probabilities of each generated clip and of its own reference.

    `kl` is KL(reference ‖ generated), what papers report and AudioCraft calls kld_pq; `kl_reverse` is
    KL(generated ‖ reference), and `kl_both` their sum. AudioCraft's function computes them: the second argument has
    `CLIPPING` added inside the logarithm. A clip longer than the classifier's window has the mean of its windows'
    probabilities.

    Args:
        network: a classifier.
        quantities: those that are wanted.
    """

    needs = frozenset({"pairs"})
    quantities: tuple[str, ...] = ("kl", "kl_reverse", "kl_both")

    def __init__(self, network: Network, quantities: tuple[str, ...] = quantities) -> None:
        self.quantities = quantities
        super().__init__()
        _classes(network)
        self.network, self.instrument = network, network.name
        self.reference: dict[str, Tensor] = {}

    def add_reference(self, clip: Clip) -> None:
        self.reference[clip.name] = probabilities(clip, self.network)

    def measure(self, clip: Clip) -> dict[str, float]:
        prepare()
        from audiocraft.metrics.kld import kl_divergence

        generated, reference = probabilities(clip, self.network), self.reference.pop(clip.name)
        forward = kl_divergence(generated, reference, CLIPPING).item()
        reverse = kl_divergence(reference, generated, CLIPPING).item()
        found = {"kl": forward, "kl_reverse": reverse, "kl_both": forward + reverse}
        return {quantity: found[quantity] for quantity in self.quantities}


class ClassAgreement(MeanMetric):
    """Share of generated clips in which a classifier hears the class that it hears in the clip's own reference.

    Of clips generated for the references' descriptions, it says how many are what the words ask for: over `playground`
    those with the genre and the lead instrument.

    Args:
        network: a classifier.
    Raises:
        ValueError: it is none.
    """

    needs = frozenset({"pairs"})
    quantities = ("agreement",)

    def __init__(self, network: Network) -> None:
        super().__init__()
        _classes(network)
        self.network, self.instrument = network, network.name
        self.reference: dict[str, int] = {}

    def add_reference(self, clip: Clip) -> None:
        self.reference[clip.name] = int(probabilities(clip, self.network).argmax())

    def measure(self, clip: Clip) -> dict[str, float]:
        found = int(probabilities(clip, self.network).argmax())
        return {"agreement": float(found == self.reference.pop(clip.name))}
