"""Measure without a network: silence, clipping, speed, and the p-MOS of a predictor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..compat import prepare
from ..quality.annotate import score_clip
from ..quality.predictors.audiobox import Audiobox, AudioboxAxes
from ..quality.predictors.base import Predictor
from ..utils.reading import JsonObject
from .base import Batch, Clip, MeanMetric, Metric, SumOverRanks, replicate_zeros

SILENT = 10 ** (-60 / 20)  # peak, relative to full scale
CLIPPED, CLIPPED_SHARE = 0.999, 1e-3  # level, and share of the samples that must reach it
LOUDNESS = 23.0  # dB under full scale: -23 LUFS (EBU R 128)
GATE = 0.4  # seconds of a block of ITU-R BS.1770: a shorter clip has no loudness


class LevelShares(MeanMetric):
    """Shares of clips that are silent (peak below -60 dBFS) and clipped (a thousandth of the samples at full scale).

    Both are measured before the level is normalised and channels are mixed: afterwards no clip is either. A clip is
    clipped when one of its channels is, and silent when all are.
    """

    quantities = ("silent", "clipped")

    def measure(self, clip: Clip) -> dict[str, float]:
        level = (clip.audio if clip.raw is None else clip.raw).abs()
        clipped = (level >= CLIPPED).double().mean(-1).max() > CLIPPED_SHARE
        return {"silent": float(level.max() < SILENT), "clipped": float(clipped)}


class RealTimeFactor(Metric):
    """Seconds of work per second of generated audio, on one device; its interval resamples batches, not clips."""

    quantities = ("rtf",)
    needs = frozenset({"seconds"})

    def __init__(self) -> None:
        super().__init__()
        self.work, self.audio = replicate_zeros(), replicate_zeros()

    def update(self, batch: Batch) -> None:
        drawn = batch.generated[0].weights
        self.work += batch.seconds * drawn
        self.audio += sum(clip.seconds for clip in batch.generated) * drawn

    def reduce(self, total: SumOverRanks) -> None:
        self.work, self.audio = total(self.work), total(self.audio)

    def compute(self) -> dict[str, float]:
        return self.replicated({"rtf": self.work / self.audio})


class PredictedMOS(MeanMetric):
    """Mean p-MOS of the clips, each brought to -23 LUFS first, so that loud is not taken for good."""

    quantities = ("pmos",)

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor, self.instrument = predictor, f"{predictor.name}-{predictor.version}"

    def measure(self, clip: Clip) -> dict[str, float]:
        audio = normalize(clip.audio, clip.sample_rate)
        return {"pmos": score_clip(self.predictor, audio[None], clip.sample_rate).double().mean().item()}


class Aesthetics(MeanMetric):
    """Means of Audiobox Aesthetics' axes on their own scale of 1 to 10, as its package reports them for files.

    Windows of ten seconds follow each other, the last one filled with zeros; each counts by how much of it is audio.

    Args:
        axes: the network.
    """

    quantities = ("pq", "pc", "ce", "cu")

    def __init__(self, axes: AudioboxAxes) -> None:
        super().__init__()
        self.axes, self.instrument = axes, f"{axes.name}-{axes.version}"

    def measure(self, clip: Clip) -> dict[str, float]:
        from torchaudio.functional import resample

        audio = resample(clip.audio.float(), clip.sample_rate, Audiobox.sample_rate)
        size = round(Audiobox.window * Audiobox.sample_rate)
        windows = pad(audio, (0, -len(audio) % size)).view(-1, size)
        kept = (torch.arange(windows.numel()) < len(audio)).view(-1, size)
        shares = kept.double().mean(1)
        found = self.axes(windows, kept)
        return {axis.lower(): (values.cpu().double() @ shares / shares.sum()).item() for axis, values in found.items()}


def normalize(audio: Tensor, sample_rate: int) -> Tensor:
    """Return a clip [S] at -23 LUFS; silent clips, and those under 0.4 s, which have no loudness, as they are."""
    prepare()
    from audiocraft.data.audio_utils import normalize_loudness

    if len(audio) < GATE * sample_rate:
        return audio
    return normalize_loudness(audio[None], sample_rate, LOUDNESS)[0]


class Level:
    """Brings clips to one level, generated ones and references alike.

    Args:
        settings: arguments of AudioCraft's `normalize_audio`, as the config's `generate.audio`; `format` and
            `sample_rate` do not count.
    """

    def __init__(self, settings: JsonObject) -> None:
        self.settings = {name: value for name, value in settings.items() if name not in ("format", "sample_rate")}

    @property
    def name(self) -> str:
        """Return the settings as text: statistics that are kept on disk depend on them."""
        return ",".join(f"{name}={value}" for name, value in sorted(self.settings.items()))

    def __call__(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Return a clip [C, S] at the level; one that is silent, or too short to have a loudness, as it is."""
        prepare()
        from audiocraft.data.audio_utils import normalize_audio

        if audio.shape[-1] < GATE * sample_rate or not audio.any():
            return audio
        return normalize_audio(audio, sample_rate=sample_rate, **self.settings)
