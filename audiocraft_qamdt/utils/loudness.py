"""Integrated loudness (ITU-R BS.1770-4) as AudioCraft normalises to it, in memory that does not grow with the clip."""

from __future__ import annotations

import math

import torch
import torchaudio
from torch import Tensor

_GATE, _OVERLAP = 0.4, 0.75
"""Seconds of a block, and the part of it that the next one shares."""
_ABSOLUTE, _RELATIVE, _OFFSET = -70.0, -10.0, -0.691
_SURROUND = (1.0, 1.0, 1.0, 1.41, 1.41)
_ROOM = 1.0
"""Seconds before a part that the filters start at: what they remember of earlier audio is then below 1e-12."""
_PART = 10.0
SHORTEST = 0.5
"""Seconds that a loudness can be measured of."""


def measure_loudness(audio: Tensor, sample_rate: int) -> float:
    """Return the integrated loudness in LUFS, equal to `torchaudio.functional.loudness`, which holds a clip 15 times.

    Args:
        audio: [channels, S], at most five channels and at least 0.4 s.
        sample_rate: in Hz.
    Returns:
        Loudness; NaN of audio whose blocks are all below -70 LUFS.
    Raises:
        ValueError: too many channels, or audio that is shorter than a block.
    """
    channels, samples = audio.shape
    gate = round(_GATE * sample_rate)
    step = round(gate * (1 - _OVERLAP))
    if channels > len(_SURROUND) or samples < gate:
        raise ValueError(f"audio [{channels}, {samples}]: a loudness needs at most five channels and 0.4 s")
    count = (samples - gate) // step + 1
    at_once = max(1, round(_PART * sample_rate / step))
    parts = [
        _block_energies(audio, sample_rate, first, min(first + at_once, count), gate, step)
        for first in range(0, count, at_once)
    ]
    return _gated(torch.cat(parts, dim=-1))


def normalize_loudness(audio: Tensor, sample_rate: int, headroom: float = 14.0, energy_floor: float = 2e-3) -> Tensor:
    """Scale to a loudness and limit softly, as AudioCraft's `normalize_loudness` with its compressor does.

    Args:
        audio: [channels, S].
        sample_rate: in Hz.
        headroom: in LUFS below full scale (AudioCraft's default).
        energy_floor: audio with a lower root mean square stays as it is (AudioCraft's default), and so does audio
            whose loudness cannot be measured.
    Returns:
        [channels, S] within ±1, but for what stays as it is.
    """
    if audio.square().mean().sqrt() < energy_floor:
        return audio
    loudness = measure_loudness(audio, sample_rate)
    if not math.isfinite(loudness):  # all sound is after the last whole block
        return audio
    return (audio * 10 ** ((-headroom - loudness) / 20)).tanh_()


def _block_energies(audio: Tensor, sample_rate: int, first: int, stop: int, gate: int, step: int) -> Tensor:
    """Return the mean squares [channels, stop - first] of K-weighted blocks."""
    start = first * step
    room = min(start, round(_ROOM * sample_rate))
    part = audio[:, start - room : (stop - 1) * step + gate]
    part = torchaudio.functional.treble_biquad(part, sample_rate, 4.0, 1500.0, 1 / math.sqrt(2))
    part = torchaudio.functional.highpass_biquad(part, sample_rate, 38.0, 0.5)
    return part[:, room:].square().unfold(-1, gate, step).mean(-1)


def _gated(energies: Tensor) -> float:
    """Return the loudness of blocks [channels, N] above both gates."""
    weights = torch.tensor(_SURROUND[: len(energies)], device=energies.device)[:, None]
    weighted = (weights * energies).sum(0)
    loudness = _OFFSET + 10 * weighted.log10()
    kept = loudness > _ABSOLUTE
    kept &= loudness > _OFFSET + 10 * weighted[kept].mean().log10() + _RELATIVE
    return (_OFFSET + 10 * weighted[kept].mean().log10()).item()
