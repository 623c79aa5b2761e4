"""p-MOS by any audio regression or classification checkpoint of Hugging Face, such as the paper's kind."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from .base import digest, onto_pmos

if TYPE_CHECKING:
    from transformers import BatchFeature, PretrainedConfig, PreTrainedModel

_NUMBER = r"-?\d+(?:\.\d+)?"


class FeatureExtractor(Protocol):
    """An extractor of transformers that takes audio."""

    sampling_rate: int

    def __call__(self, raw_speech: list[np.ndarray], *, sampling_rate: int, return_tensors: str) -> BatchFeature: ...


class Wav2Vec2:
    """A fine-tuned audio network with one output (regression), or one per label (classification by numbers).

    A classifier's score is the expected value of its label, and its scale runs from the smallest label to the largest;
    a regression's scale is 1 to 5. Another scale is given, and becomes 1 to 5 linearly.

    Args:
        which: "CHECKPOINT" or "CHECKPOINT@LOW-HIGH": a local folder or hub id, and its scale.
        device: where it computes.
    Raises:
        ValueError: without a checkpoint, for labels that are no numbers, or an empty scale.
    """

    window = 10.0  # seconds, as the paper's clips
    hop = 5.0

    def __init__(self, which: str = "", device: str = "cpu") -> None:
        match = re.fullmatch(rf"(.+?)(?:@({_NUMBER})-({_NUMBER}))?", which)
        if match is None:
            raise ValueError("wav2vec2 needs a checkpoint: wav2vec2/FOLDER, wav2vec2/HUB-ID, or either with @LOW-HIGH")
        checkpoint, low, high = match.groups()
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

        self.extractor: FeatureExtractor = AutoFeatureExtractor.from_pretrained(checkpoint)
        self.model: PreTrainedModel = AutoModelForAudioClassification.from_pretrained(checkpoint).to(device).eval()
        self.device = device
        self.sample_rate = int(self.extractor.sampling_rate)
        self.labels = _labels(self.model.config, checkpoint)
        natural = (min(self.labels), max(self.labels)) if self.labels else (1.0, 5.0)
        self.scale = natural if low is None else (float(low), float(high))
        if self.scale[0] >= self.scale[1]:
            raise ValueError(f"wav2vec2/{which}: the scale {self.scale[0]:g} to {self.scale[1]:g} is empty")
        self.name = f"wav2vec2/{Path(checkpoint).name if Path(checkpoint).exists() else checkpoint}"
        self.version = _revision(checkpoint, self.model.config) + ("" if low is None else f"@{low}-{high}")

    @torch.no_grad()
    def score(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Return p-MOS [B] of mono windows [B, S]."""
        inputs = self.extractor(list(audio.cpu().numpy()), sampling_rate=sample_rate, return_tensors="pt")
        logits = self.model(**inputs.to(self.device)).logits.float()  # [B, labels]
        if not self.labels:
            return onto_pmos(logits[:, 0], *self.scale)
        return onto_pmos(logits.softmax(1) @ torch.tensor(self.labels, device=self.device), *self.scale)


def _labels(config: PretrainedConfig, checkpoint: str) -> list[float]:
    """Return the number that each label of a classifier stands for; none for a regression."""
    if config.num_labels == 1:
        return []
    of_index = cast("dict[int, str]", config.id2label)
    names = [of_index[index] for index in range(cast(int, config.num_labels))]
    try:
        labels = [float(name) for name in names]
    except ValueError as error:
        raise ValueError(f"{checkpoint}: its labels ({', '.join(names)}) must be numbers to make a score") from error
    if not all(map(math.isfinite, labels)):
        raise ValueError(f"{checkpoint}: its labels ({', '.join(names)}) must be finite")
    return labels


def _revision(checkpoint: str, config: PretrainedConfig) -> str:
    """Return what identifies the weights: the commit on the hub, or the hash of the local file."""
    for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        if (Path(checkpoint) / name).exists():
            return digest(Path(checkpoint) / name)
    return (getattr(config, "_commit_hash", None) or "unknown")[:12]
