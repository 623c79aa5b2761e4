"""Define the inputs and results of metrics: clips, outputs of networks, and numbers with their origin."""

from __future__ import annotations

import re
import typing as tp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from .bootstrap import REPLICATES, clip_seed, seeded_weights

HIDDEN = ("duration", "padded", "unscored")
"""What an evaluate stage logs of the data and the machine, not of the model."""

AUDIOCRAFT = "audiocraft_"
"""What stands before the names of numbers by AudioCraft's own metrics."""


Found = tp.TypeVar("Found")

Stages = Mapping[str, Mapping[str, float]]
"""An epoch in Dora's history: stage → name → value."""


class SumOverRanks:
    """Adds a float64 tensor up over all processes, every one of which gets the sum; here there is one."""

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, found: Found) -> list[Found]:
        """Return what each process found, in the order of their ranks."""
        return [found]


class Outputs(tp.NamedTuple):
    """A network's output for a clip.

    Args:
        embeddings: [n, D], one or several along the clip.
        probabilities: of each class over the clip [classes]; None = it is no classifier.
    """

    embeddings: Tensor
    probabilities: Tensor | None = None


class Network:
    """A frozen network that clips are measured with.

    Attributes:
        name: with its version or checkpoint, as numbers are logged.
        dim: D of its embeddings.
        classes: how many it knows; None = it is no classifier.
        module: the weights, which statistics that are kept on disk go with.
        sample_rate: Hz that it brings audio to; None = it takes any.
    """

    name: str
    dim: int
    classes: int | None = None
    module: nn.Module
    sample_rate: int | None = None

    def heard(self, clip: Clip) -> Tensor:
        """Return what it takes of a clip: the mono audio."""
        return clip.audio

    def __call__(self, audio: Tensor, sample_rate: int) -> Outputs:
        """Return outputs, on the CPU, for a mono clip [S]."""
        raise NotImplementedError


def check_audio(name: str, audio: Tensor) -> None:
    """Refuse audio of which nothing can be measured.

    Raises:
        ValueError: naming the file, when its audio is empty or not finite.
    """
    if not audio.numel():
        raise ValueError(f"{name}: the audio is empty, nothing can be measured of it")
    if not audio.isfinite().all():
        raise ValueError(f"{name}: the audio holds NaN or infinite samples, nothing can be measured of it")


@dataclass
class Clip:
    """One clip of audio.

    Args:
        name: the file that it is, or was generated for; errors name it.
        audio: mono [S].
        sample_rate: Hz.
        text: its description; None = there is none.
        raw: [C, S] or [S] as generated, before channels were mixed and the level normalised; None = as `audio`.
        channels: [C, S] that `audio` is mixed from; None = it was mono.
    Raises:
        ValueError: audio that is empty or not finite.
    """

    name: str
    audio: Tensor
    sample_rate: int
    text: str | None = None
    raw: Tensor | None = None
    channels: Tensor | None = None
    _outputs: dict[str, Outputs] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_audio(self.name, self.audio)

    @property
    def seconds(self) -> float:
        """Return the duration in seconds."""
        return len(self.audio) / self.sample_rate

    @cached_property
    def weights(self) -> Tensor:
        """Return how often the clip counts in a number and in each replicate (see `seeded_weights`)."""
        return seeded_weights(clip_seed(self.name))

    def outputs(self, network: Network) -> Outputs:
        """Return the network's output for the clip, computed once for all metrics."""
        if network.name not in self._outputs:
            self._outputs[network.name] = network(network.heard(self), self.sample_rate)
        return self._outputs[network.name]


class AudioCraftBatch(tp.NamedTuple):
    """Inputs of AudioCraft's own metrics.

    Args:
        generated, reference: [B, C, S].
        sizes: [B], samples that are not padding.
        stems: [B], names of files that AudioCraft's FAD writes.
    """

    generated: Tensor
    reference: Tensor
    sizes: Tensor
    stems: list[str]


@dataclass
class Batch:
    """Clips that are handed to the metrics together.

    Args:
        generated: clips to judge.
        reference: clips to judge them by, in the same order and of the same names; empty = given otherwise.
        seconds: time that generating took; 0 = not known.
        audiocraft: the same for AudioCraft's own metrics; None = there are none.
    """

    generated: Sequence[Clip]
    reference: Sequence[Clip] = ()
    seconds: float = 0.0
    audiocraft: AudioCraftBatch | None = None


class Metric:
    """A number about a set of clips, which any order and any division of them over batches and ranks leaves the same.

    Attributes:
        quantities: names of what it gives.
        needs: what it cannot do without: "reference" clips, reference clips in "pairs" with the generated ones, a
            "text" with each clip, or the "seconds" that generating took.
        instrument: what it measures with: network and checkpoint, predictor and version.
        reference_name: set that it compares with, where that is not the one that batches bring.
        scores: quantity → clip's name → value, for quantities that single clips have.
        replicates: quantity → its values [REPLICATES] on resampled clips, where it has an interval; after `compute`.
    """

    quantities: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    instrument = ""
    reference_name: str | None = None

    def __init__(self) -> None:
        self.scores: dict[str, dict[str, float]] = {}
        self.replicates: dict[str, Tensor] = {}

    def update(self, batch: Batch) -> None:
        """Take a batch in."""
        if self.reference_name is None and self.needs & {"reference", "pairs"}:
            for clip in batch.reference:
                self.add_reference(clip)
        for clip in batch.generated:
            self.add(clip)

    def add(self, clip: Clip) -> None:
        """Take a generated clip in."""
        raise NotImplementedError

    def add_reference(self, clip: Clip) -> None:
        """Take a reference clip in."""
        raise NotImplementedError

    def reduce(self, total: SumOverRanks) -> None:
        """Combine what the ranks took in; every rank then computes the same."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """Return quantity → value."""
        raise NotImplementedError

    def used(self) -> int | None:
        """Return how many clips the values are of, after `reduce`; None = all clips."""
        return None

    def replicated(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Keep the replicates of quantities [1 + REPLICATES], and return the quantities themselves."""
        self.replicates |= {quantity: value[1:] for quantity, value in values.items()}
        return {quantity: value[0].item() for quantity, value in values.items()}

    def score(self, clip: Clip, quantity: str, value: float) -> None:
        """Note a clip's own value."""
        self.scores.setdefault(quantity, {})[clip.name] = value


def replicate_zeros(*shape: int) -> Tensor:
    """Return zeros [1 + REPLICATES, *shape] in float64, to add what clips give times their weights."""
    return torch.zeros(1 + REPLICATES, *shape, dtype=torch.float64)


class MeanMetric(Metric):
    """Means over clips: what `measure` gives for each."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = {quantity: replicate_zeros() for quantity in self.quantities}
        self.count = replicate_zeros()

    def measure(self, clip: Clip) -> dict[str, float]:
        """Return quantity → value for one clip."""
        raise NotImplementedError

    def add(self, clip: Clip) -> None:
        for quantity, value in self.measure(clip).items():
            self.sums[quantity] += value * clip.weights
            self.score(clip, quantity, value)
        self.count += clip.weights

    def reduce(self, total: SumOverRanks) -> None:
        self.count = total(self.count)
        self.sums = {quantity: total(value) for quantity, value in self.sums.items()}

    def used(self) -> int | None:
        return int(self.count[0])

    def compute(self) -> dict[str, float]:
        return self.replicated({quantity: value / self.count for quantity, value in self.sums.items()})


@dataclass(frozen=True)
class Number:
    """A result and all that it depends on.

    Args:
        metric: quantity, e.g. "frechet".
        instrument: network and checkpoint, or predictor and version; "" = none.
        value: the number.
        reference: what the clips were compared with; "" = with nothing.
        clips: how many were judged: those that the metric could use.
        best_of: of how many candidates each clip was chosen.
        seed: of the noise; None = not known.
        ci95: half the width of its 95 % interval over resampled clips; None = it has none.
    """

    metric: str
    instrument: str
    value: float
    reference: str
    clips: int
    best_of: int | None = None
    seed: int | None = None
    ci95: float | None = None

    @property
    def measured(self) -> str:
        """Return quantity and instrument, the name of a column."""
        return "_".join(filter(None, (self.metric, self.instrument)))

    @property
    def key(self) -> str:
        """Name under which it is logged, of characters that TensorBoard keeps."""
        condition = f"best{self.best_of}_seed{self.seed}" if self.best_of is not None else ""
        parts = (self.measured, "_".join(filter(None, (self.reference, f"n{self.clips}"))), condition)
        return "/".join(safe(part) for part in parts if part)


def comparable(key: str) -> str:
    """Return the key of a `Number` without the seed of the noise: one column for runs that repeat each other."""
    return re.sub(r"/(best\d+)_seed\w+$", r"/\1", key)


def evaluations(history: Sequence[Stages]) -> dict[int, dict[str, float]]:
    """Return what each epoch's evaluate stage measured, by epoch, for the epochs that have one.

    Args:
        history: Dora's, metrics by stage for each epoch.
    """
    measured = ((epoch, stages.get("evaluate") or {}) for epoch, stages in enumerate(history, 1))
    return {
        epoch: {key: value for key, value in found.items() if key not in HIDDEN} for epoch, found in measured if found
    }


def safe(text: str) -> str:
    """Return the text with nothing but letters, digits, dots, dashes and underscores."""
    return "".join(char if char.isalnum() or char in ".-_" else "-" for char in text).strip("-")
