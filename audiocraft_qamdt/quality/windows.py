"""Windows of a track, as predictors score them."""

from __future__ import annotations

import math

from torch import Tensor


def cut_windows(audio: Tensor, sample_rate: int, window: float, hop: float) -> list[Tensor]:
    """Return windows centred on `(i + 0.5) * hop` seconds, for every such centre inside the track.

    A window that would stick out is moved inside, because zeros are not music; a track shorter than the window is
    repeated until it fills one.

    Args:
        audio: [S].
        sample_rate: Hz.
        window: seconds of each window.
        hop: seconds between two.
    Returns:
        Views [round(window · sample_rate)] of the audio, at least one.
    """
    size, samples = round(window * sample_rate), len(audio)
    if samples < size:
        audio = audio.repeat(math.ceil(size / max(samples, 1)))[:size]
    count = max(1, math.floor(samples / sample_rate / hop + 0.5))
    starts = [round((i + 0.5) * hop * sample_rate - size / 2) for i in range(count)]
    inside = (min(max(start, 0), len(audio) - size) for start in starts)
    return [audio[start : start + size] for start in inside]
