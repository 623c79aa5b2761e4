"""Cut a clip into the windows that a network of sound hears one at a time."""

from __future__ import annotations

import julius
from torch import Tensor

from ..clap.scorer import SHORTEST, windows


def cut(audio: Tensor, sample_rate: int, rate: int, seconds: float | None) -> list[Tensor]:
    """Return consecutive windows of audio [S] at another sample rate; a short remainder is left out.

    Args:
        audio: mono [S].
        sample_rate: of the audio.
        rate: of the windows.
        seconds: length of a window; None = one window of the whole audio.
    """
    audio = julius.resample_frac(audio.float(), sample_rate, rate)
    size = len(audio) if seconds is None else round(seconds * rate)
    return windows(audio, size, round(SHORTEST * rate))


def repeated(audio: Tensor, shortest: int) -> Tensor:
    """Repeat audio [S] until it has at least `shortest` samples."""
    return audio.repeat(max(1, -(-shortest // len(audio))))
