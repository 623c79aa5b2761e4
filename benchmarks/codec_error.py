"""How much a codec loses: decoded clips against their originals.

python -m benchmarks.codec_error [--checkpoint //sig/<signature>] --clean FOLDER --degraded FOLDER [--real FOLDER]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import julius
import numpy as np
import soundfile
import torch
from omegaconf import OmegaConf
from torch import Tensor

from audiocraft_qamdt import builders
from audiocraft_qamdt.commands.output import say
from audiocraft_qamdt.data.manifest import read_manifest
from audiocraft_qamdt.latents.codec import LatentCodec
from audiocraft_qamdt.metrics.frechet import Moments, frechet_distance
from audiocraft_qamdt.playground.classifier import EMBEDDING_DIM, load_classifier
from audiocraft_qamdt.quality.annotate import score_clip
from audiocraft_qamdt.quality.predictors.base import load_predictor

SECONDS = 4.096
BANDS = 80


def clips(folder: Path, count: int, sample_rate: int) -> list[Tensor]:
    """The first seconds of the first tracks [S], of long ones from their middle."""
    found = []
    for row in read_manifest(folder)[:count]:
        start = int(max(0.0, row["duration"] / 2 - SECONDS) * row["sample_rate"]) if row["duration"] > 60 else 0
        frames = round(SECONDS * row["sample_rate"])
        audio, rate = soundfile.read(row["path"], frames, start, dtype="float32", always_2d=True)
        found.append(julius.resample_frac(torch.from_numpy(audio.mean(1)), rate, sample_rate))
    return found


def log_mel(audio: Tensor, sample_rate: int) -> Tensor:
    """Log power [bands, frames] of a clip [S]."""
    from torchaudio.transforms import MelSpectrogram

    return (MelSpectrogram(sample_rate, 1024, hop_length=256, n_mels=BANDS)(audio) + 1e-5).log()


def griffin_lim(audio: Tensor, sample_rate: int) -> Tensor:
    """A clip [S] from its mel spectrogram alone (Griffin and Lim 1984, 32 iterations)."""
    from torchaudio.transforms import GriffinLim, InverseMelScale, MelSpectrogram

    mel = MelSpectrogram(sample_rate, 1024, hop_length=256, n_mels=BANDS)(audio)
    spectrum = InverseMelScale(513, BANDS, sample_rate)(mel)
    return GriffinLim(1024, hop_length=256, n_iter=32)(spectrum)[: len(audio)]


@torch.no_grad()
def playground_row(codec: LatentCodec, originals: list[Tensor]) -> dict[str, float]:
    """Fréchet distance, judge and level of decoded clips against the originals."""
    from scipy.stats import spearmanr

    classifier, judge = load_classifier(), load_predictor("playground")
    moments = {name: Moments.empty(EMBEDDING_DIM) for name in ("original", "decoded")}
    scores: dict[str, list[float]] = {"original": [], "decoded": []}
    levels, spent = [], [0.0, 0.0]
    for audio in originals:
        begin = time.perf_counter()
        latents = codec.encode(audio[None, None])
        middle = time.perf_counter()
        decoded = codec.decode(latents, len(audio))[0, 0]
        spent = [spent[0] + middle - begin, spent[1] + time.perf_counter() - middle]
        for name, clip in (("original", audio), ("decoded", decoded)):
            moments[name].add(classifier.classify(clip, codec.sample_rate).embedding)
            scores[name].append(score_clip(judge, clip[None], codec.sample_rate).mean().item())
        levels.append(10 * float((decoded.square().mean() / audio.square().mean().clamp(min=1e-12)).log10()))
    seconds = len(originals) * SECONDS
    return {
        "Fréchet distance": frechet_distance(moments["decoded"], moments["original"]),
        "judge, original": float(np.mean(scores["original"])),
        "judge, decoded": float(np.mean(scores["decoded"])),
        "rank correlation": float(spearmanr(scores["original"], scores["decoded"]).statistic),
        "level, dB": float(np.mean(levels)),
        "encode, × real time": seconds / spent[0],
        "decode, × real time": seconds / spent[1],
    }


@torch.no_grad()
def real_row(codec: LatentCodec, originals: list[Tensor]) -> dict[str, float]:
    """Mean difference of log-mel spectrograms, of decoded clips and of Griffin–Lim from the originals' mel."""
    rate = codec.sample_rate
    errors: dict[str, list[float]] = {"log-mel L1, codec": [], "log-mel L1, Griffin–Lim": []}
    for audio in originals:
        wanted = log_mel(audio, rate)
        with torch.enable_grad():
            rebuilt = griffin_lim(audio, rate).detach()
        made = (codec.decode(codec.encode(audio[None, None]), len(audio))[0, 0], rebuilt)
        for values, clip in zip(errors.values(), made, strict=True):
            clip = torch.nn.functional.pad(clip, (0, len(audio) - len(clip)))
            values.append((log_mel(clip, rate) - wanted).abs().mean().item())
    return {name: float(np.mean(values)) for name, values in errors.items()}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec_error", description=__doc__)
    parser.add_argument("--checkpoint", help="//sig/<signature>, checkpoint or file; default: the package's codec")
    parser.add_argument("--clean", type=Path)
    parser.add_argument("--degraded", type=Path)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--clips", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    section = {"codec": "spectral_vae", "spectral_vae": {"checkpoint": options.checkpoint}}
    codec = builders.get_codec(OmegaConf.create(section))
    for name, measure in (("clean", playground_row), ("degraded", playground_row), ("real", real_row)):
        if folder := getattr(options, name):
            figures = measure(codec, clips(folder, options.clips, codec.sample_rate))
            say([f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in figures.items())])


if __name__ == "__main__":
    main()
