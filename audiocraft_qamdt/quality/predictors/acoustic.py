"""A p-MOS predictor without weights: six measurements of what goes wrong with a recording.

It hears technical faults (lost treble, holes, noise, clipping, hum, coarse steps), not whether music is well made.
Faults of another nature it hears badly or not at all: lost bass, pitch that wavers, ring modulation, crackle,
sample-rate decimation. Where music itself is noisy, a fault that removes the noise can raise the score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from functools import cached_property

import torch
from torch import Tensor

MAINS = (50, 60)  # Hz
LOWEST, HIGHEST = 200, 16000  # Hz between which the spectrum is judged
TOP_OCTAVE = 0.15
FRAME = 0.032  # seconds of a short-time Fourier frame
SILENCE = 1e-4  # peak below which there is nothing to judge


@dataclass
class Windows:
    """Windows of audio and the views of them that several measurements share.

    Args:
        audio: samples [B, S] of power 1, so that every level is relative to the whole window.
        sample_rate: Hz.
    """

    audio: Tensor
    sample_rate: int

    @cached_property
    def peak(self) -> Tensor:
        """Largest magnitude [B]."""
        return self.audio.abs().amax(1)

    @cached_property
    def spectrogram(self) -> Tensor:
        """Power [B, bins, frames] in cells of about 31 Hz and 32 ms; a sine gives 1/2 at most."""
        size = 2 * round(FRAME * self.sample_rate / 2)
        window = torch.hann_window(size, device=self.audio.device)
        frames = torch.stft(self.audio, size, size // 2, window=window, center=False, return_complex=True)
        return (frames.abs() / window.sum()).square()

    @cached_property
    def frequencies(self) -> Tensor:
        """Hz of each bin [bins]."""
        return torch.linspace(0, self.sample_rate / 2, self.spectrogram.shape[1], device=self.audio.device)

    @cached_property
    def audible(self) -> Tensor:
        """Which cells [B, bins, frames] of those that are judged lie within 95 dB of the whole."""
        judged = (self.frequencies > LOWEST) & (self.frequencies <= HIGHEST)
        return (self.spectrogram > 10**-9.5) & judged[:, None]


def _decibels(power: Tensor) -> Tensor:
    return 10 * torch.log10(power + 1e-12)


def missing_octaves(windows: Windows) -> Tensor:
    """Octaves [B] that are not audible, on average over time: lost treble, holes in the spectrum, gaps.

    The octave above 8 kHz counts for `TOP_OCTAVE`: much music has little there.
    """
    octaves = windows.frequencies[1] / windows.frequencies[1:] / math.log(2)  # that each bin covers
    octaves = torch.where(windows.frequencies[1:] > HIGHEST / 2, TOP_OCTAVE * octaves, octaves)
    return math.log2(HIGHEST / 2 / LOWEST) + TOP_OCTAVE - windows.audible[:, 1:].float().mean(2) @ octaves


def noise_floor(windows: Windows) -> Tensor:
    """Level [B] in dB that a twentieth of the audible cells below 8 kHz stay under."""
    cells = windows.spectrogram.masked_fill(~windows.audible, torch.nan)[:, windows.frequencies < 8000]
    return _decibels(cells.flatten(1).nanquantile(0.05, dim=1).nan_to_num(0))


def clipped_share(windows: Windows) -> Tensor:
    """Share [B] of samples within 2 % of the peak, as a decimal logarithm."""
    return torch.log10((windows.audio.abs() >= 0.98 * windows.peak[:, None]).float().mean(1))


def hum_level(windows: Windows) -> Tensor:
    """Level [B] in dB, averaged over five harmonics of the mains, under which they never fall."""
    size = windows.sample_rate // 4
    window = torch.hann_window(size, device=windows.audio.device)
    frames = windows.audio.unfold(1, size, size // 2) * (window / window.sum())  # [B, frames, size]
    time = torch.arange(size, device=window.device) / windows.sample_rate
    levels = []
    for mains in MAINS:
        angles = 2 * torch.pi * mains * torch.arange(1, 6, device=window.device) * time[:, None]  # [size, 5]
        power = (frames @ angles.cos()).square() + (frames @ angles.sin()).square()  # [B, frames, 5]
        levels.append(_decibels(power.amin(1)).mean(1))
    return torch.stack(levels).amax(0)


def quantisation_step(windows: Windows) -> Tensor:
    """Usual distance [B] between neighbouring sample values, in octaves under the peak."""
    steps = (windows.audio / windows.peak[:, None]).sort(1).values.diff(dim=1)
    return steps.masked_fill(steps < 1e-6, torch.nan).nanmedian(1).values.nan_to_num(1).log2()


def lost_dynamics(windows: Windows) -> Tensor:
    """Power [B] in dB relative to the peak: 0 where no dynamic range is left."""
    return -_decibels(windows.peak.square())


MEASUREMENTS: dict[str, Callable[[Windows], Tensor]] = {
    function.__name__: function
    for function in (missing_octaves, noise_floor, clipped_share, hum_level, quantisation_step, lost_dynamics)
}


@dataclass(frozen=True)
class Calibration:
    """How a measurement is calibrated.

    Args:
        kind: degradation of the playground that it is calibrated on.
        share: share of the windows at a severity that measure less than what is taken to mean that severity.
        start: severity that undegraded audio of the playground stands for.
    """

    kind: str
    share: float = 0.5
    start: float = 0.0


CALIBRATIONS = {
    "missing_octaves": Calibration("bandlimit", start=0.05),  # its 16 kHz audio has no top octave
    "noise_floor": Calibration("noise"),
    "clipped_share": Calibration("clipping"),
    "hum_level": Calibration("hum"),
    "quantisation_step": Calibration("bit_depth"),
    "lost_dynamics": Calibration("clipping", share=0.9),  # a loud clean mix is short of dynamics too
}

# Measurement → (value, severity) between which severity is linear. Printed by
#   python -c "from audiocraft_qamdt.playground.dataset import degraded_examples
#   from audiocraft_qamdt.quality.predictors.acoustic import calibrate
#   print(calibrate(degraded_examples(seed=1), sample_rate=16000))"
KNOTS: dict[str, list[tuple[float, float]]] = {
    "missing_octaves": [
        (0.0, 0.0),
        (0.28, 0.05),
        (0.64, 0.145),
        (1.05, 0.24),
        (1.45, 0.335),
        (1.85, 0.43),
        (2.25, 0.525),
        (2.59, 0.62),
        (2.93, 0.715),
        (3.12, 0.81),
        (3.28, 0.905),
        (3.47, 1.0),
    ],
    "noise_floor": [
        (-88.16, 0.0),
        (-76.37, 0.1),
        (-73.01, 0.2),
        (-69.6, 0.3),
        (-65.95, 0.4),
        (-62.46, 0.5),
        (-58.7, 0.6),
        (-55.16, 0.7),
        (-51.39, 0.8),
        (-47.76, 0.9),
        (-44.5, 1.0),
    ],
    "clipped_share": [
        (-4.2, 0.0),
        (-2.84, 0.1),
        (-2.03, 0.2),
        (-1.38, 0.3),
        (-0.96, 0.4),
        (-0.65, 0.5),
        (-0.44, 0.6),
        (-0.3, 0.7),
        (-0.22, 0.8),
        (-0.15, 0.9),
        (-0.12, 1.0),
    ],
    "hum_level": [
        (-73.26, 0.0),
        (-45.0, 0.1),
        (-41.16, 0.2),
        (-38.03, 0.3),
        (-33.71, 0.4),
        (-29.81, 0.5),
        (-25.44, 0.6),
        (-22.07, 0.7),
        (-18.87, 0.8),
        (-16.41, 0.9),
        (-14.8, 1.0),
    ],
    "quantisation_step": [
        (-14.4, 0.0),
        (-10.0, 0.1),
        (-8.98, 0.2),
        (-7.98, 0.3),
        (-6.98, 0.4),
        (-5.99, 0.5),
        (-5.47, 0.6),
        (-4.49, 0.7),
        (-3.46, 0.8),
        (-2.58, 0.9),
        (-1.59, 1.0),
    ],
    "lost_dynamics": [
        (-12.19, 0.0),
        (-10.37, 0.1),
        (-8.05, 0.2),
        (-5.99, 0.3),
        (-4.26, 0.4),
        (-3.13, 0.5),
        (-2.27, 0.6),
        (-1.65, 0.7),
        (-1.21, 0.8),
        (-0.88, 0.9),
        (-0.62, 1.0),
    ],
}


def measure(audio: Tensor, sample_rate: int) -> dict[str, Tensor]:
    """Every measurement [B] of windows [B, S]."""
    power = audio.square().mean(1, keepdim=True).clamp(min=SILENCE**2)
    windows = Windows(audio / power.sqrt(), sample_rate)
    return {name: function(windows) for name, function in MEASUREMENTS.items()}


def calibrate(
    examples: Iterable[tuple[str, float, Tensor]],
    sample_rate: int,
) -> dict[str, list[tuple[float, float]]]:
    """The table `KNOTS`, from audio degraded by known severities.

    Args:
        examples: kind, severity and windows [B, S] of degraded audio; every kind at the same severities.
        sample_rate: Hz.
    """
    values: dict[tuple[str, str, float], list[Tensor]] = {}
    for kind, severity, audio in examples:
        for name, value in measure(audio, sample_rate).items():
            values.setdefault((name, kind, severity), []).append(value)
    severities = sorted({severity for _, _, severity in values})
    knots = {}
    for name, (kind, share, start) in ((name, astuple(how)) for name, how in CALIBRATIONS.items()):
        at = torch.stack([torch.cat(values[name, kind, severity]).quantile(share) for severity in severities])
        scaled = [round(start + (1 - start) * severity, 4) for severity in severities]
        pairs = zip((round(value, 2) for value in at.cummax(0).values.tolist()), scaled, strict=True)
        knots[name] = [(0.0, 0.0)] * (start > 0) + list(pairs)
    return knots


def _interpolate(values: Tensor, knots: list[tuple[float, float]]) -> Tensor:
    at, severities = torch.tensor(knots, device=values.device).T.contiguous()
    right = torch.searchsorted(at, values).clamp(1, len(knots) - 1)
    share = (values - at[right - 1]) / (at[right] - at[right - 1]).clamp(min=1e-6)
    return torch.lerp(severities[right - 1], severities[right], share.clamp(0, 1))


class Acoustic:
    """p-MOS from measurements of technical faults, calibrated on the playground's degradations.

    Args:
        device: where windows are measured.
    """

    name = "acoustic"
    version = "1"
    sample_rate = None
    window = 1.0
    hop = 1.0

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @torch.no_grad()
    def score(self, audio: Tensor, sample_rate: int) -> Tensor:
        """p-MOS of each window, 5 minus 4 times its severity; 1 where there is silence.

        Args:
            audio: mono windows [B, S], full scale ±1.
            sample_rate: Hz, of the recording itself: a resampled one has lost what its bandwidth would tell.
        Returns:
            p-MOS [B], on the device of the predictor.
        """
        audio = audio.to(self.device, torch.float32)
        measured = measure(audio, sample_rate)
        faults = torch.stack([_interpolate(measured[name], knots) for name, knots in KNOTS.items()])
        # One fault alone gives its own severity; the smaller of several add little.
        severity = (1 - (1 - faults**3).prod(0)) ** (1 / 3)
        return torch.where(audio.abs().amax(1) < SILENCE, 1.0, 5 - 4 * severity)
