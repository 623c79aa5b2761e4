"""What can be heard in a clip of the playground without a network: its key and how dense its onsets are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from audiocraft_qamdt.playground.synthesis import KEYS, PITCHES, SCALES

FRAME, HOP = 4096, 1024
"""Samples of the chroma's windows, at 16 kHz."""
LOWEST, HIGHEST = 60.0, 2000.0
"""Hz between which pitch classes are counted."""
ONSET_HOP = 160
ONSET_GAP = 6
"""Frames of 10 ms that two onsets are apart at the least."""
TONIC, FIFTH = 2.0, 1.2
"""Weights of the tonic and the fifth beside the other degrees of a scale (1)."""


def chroma(audio: Tensor, sample_rate: int) -> np.ndarray:
    """Energy by pitch class [12], C first, of a clip [S]."""
    power = torch.stft(audio, FRAME, HOP, window=torch.hann_window(FRAME), return_complex=True).abs().sum(1).numpy()
    frequencies = np.fft.rfftfreq(FRAME, 1 / sample_rate)
    used = (frequencies >= LOWEST) & (frequencies <= HIGHEST)
    pitch = np.round(69 + 12 * np.log2(frequencies[used] / 440)).astype(int) % 12
    return np.bincount(pitch, power[used] ** 0.5, minlength=12)


def heard_key(audio: Tensor, sample_rate: int) -> str:
    """The key among the playground's 14 whose scale fits the chroma best, such as "A minor"."""
    classes = chroma(audio, sample_rate)
    classes = (classes - classes.mean()) / (classes.std() + 1e-9)

    def fit(key: str, mode: str) -> float:
        template = np.zeros(12)
        template[[(PITCHES[key] + step) % 12 for step in SCALES[mode]]] = 1
        template[PITCHES[key]], template[(PITCHES[key] + 7) % 12] = TONIC, FIFTH
        return float(((template - template.mean()) / template.std()) @ classes)

    return " ".join(max(((key, mode) for key in KEYS for mode in SCALES), key=lambda pair: fit(*pair)))


def onset_rate(audio: Tensor, sample_rate: int) -> float:
    """Onsets per second of a clip [S]: peaks of the positive flux of its spectrum."""
    magnitude = torch.stft(audio, 512, ONSET_HOP, window=torch.hann_window(512), return_complex=True).abs()
    flux = (magnitude + 1e-3).log().diff(dim=1).clamp(min=0).mean(0)  # [frames]
    flux = (flux - flux.median()).clamp(min=0)
    highest = torch.nn.functional.max_pool1d(flux[None, None], 2 * ONSET_GAP + 1, 1, ONSET_GAP)[0, 0]
    peaks = (flux == highest) & (flux > 0.3 * flux.quantile(0.98))
    return float(peaks.sum()) / (len(audio) / sample_rate)
