"""What is kept of a set of clips in memory of one size: a sample of its embeddings, and arrays of each clip on disk."""

from __future__ import annotations

import tempfile
import typing as tp
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..utils.randomness import keyed_generator
from .bootstrap import clip_seed, seeded_weights

LARGEST = 10_000
"""Embeddings of a set between which single distances are computed; of a larger set so many are drawn."""


class Sample:
    """Embeddings of a set of clips: all of them, or `largest`, drawn by the names of their clips alone.

    Each embedding has a place between 0 and 1 that its clip's name decides, and the first ones are kept. So no order
    and no division over processes changes what is kept.

    Args:
        places: [n] in float64, ascending.
        seeds: [n], `clip_seed` of the clip that each belongs to.
        embeddings: [n, D].
        largest: how many are kept.
    """

    def __init__(self, places: Tensor, seeds: Tensor, embeddings: Tensor, largest: int = LARGEST) -> None:
        self.places, self.seeds, self.embeddings, self.largest = places, seeds, embeddings, largest
        self._more: list[tuple[Tensor, Tensor, Tensor]] = []
        self._waiting = 0

    @classmethod
    def empty(cls, dim: int, largest: int = LARGEST) -> Sample:
        """Return a sample of no clips."""
        places, seeds = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
        return cls(places, seeds, torch.zeros(0, dim), largest)

    def add(self, name: str, embeddings: Tensor) -> None:
        """Take a clip's embeddings [n, D] in."""
        count = len(embeddings)
        places = torch.rand(count, dtype=torch.float64, generator=keyed_generator("place", name))
        self._more.append((places, torch.full((count,), clip_seed(name)), embeddings.float()))
        self._waiting += count
        if self._waiting >= self.largest:
            self.settle()

    def settle(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keep the first `largest` embeddings, in order, and return places, seeds and embeddings."""
        if self._more:
            parts = [(self.places, self.seeds, self.embeddings), *self._more]
            places, seeds, embeddings = (torch.cat(columns) for columns in zip(*parts, strict=True))
            first = places.argsort()[: self.largest]
            self.places, self.seeds, self.embeddings = places[first], seeds[first], embeddings[first]
            self._more, self._waiting = [], 0
        return self.places, self.seeds, self.embeddings

    def merge(self, others: tp.Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Become the sample of all that these samples (see `settle`) were drawn from."""
        self._more = list(others)
        self.places, self.seeds, self.embeddings = self.places[:0], self.seeds[:0], self.embeddings[:0]
        self.settle()

    def weights(self) -> Tensor:
        """Return how often each embedding counts [1 + REPLICATES, n], see `seeded_weights`."""
        clips, which = self.seeds.unique(return_inverse=True)
        return torch.stack([seeded_weights(seed) for seed in clips.tolist()], dim=1)[:, which]


class Spill:
    """Named arrays that are read again once all are known; they wait in a temporary file, not in memory."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.file: tp.IO[bytes] | None = None

    def append(self, name: str, *arrays: Tensor) -> None:
        """Put arrays under a name; the same number of them each time."""
        self.file = self.file or tempfile.TemporaryFile()
        self.names.append(name)
        for array in arrays:
            np.save(self.file, array.numpy())
        self.each = len(arrays)

    def __iter__(self) -> Iterator[tuple[str, list[Tensor]]]:
        if self.file is None:
            return
        self.file.seek(0)
        for name in self.names:
            yield name, [torch.from_numpy(np.load(self.file)) for _ in range(self.each)]
