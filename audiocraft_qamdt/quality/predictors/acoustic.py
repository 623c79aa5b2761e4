"""A p-MOS predictor without weights: eight measurements of what goes wrong with a recording.

It detects technical faults (lost treble or bass, holes, noise, clipping, hum, coarse steps, held samples), not whether
music is well made. It detects faults of another nature badly or not at all: gating, crossover distortion, crackle, ring
modulation, pitch that wavers. Where music itself is noisy, a fault that removes the noise can raise the score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...playground.dataset import degraded_examples

MAINS = (50, 60)  # Hz
LOWEST, HIGHEST = 200, 16000  # Hz between which the spectrum is judged
TOP_OCTAVE = 0.15
FRAME = 0.032  # seconds of a short-time Fourier frame
HUM_FLOOR = -70  # dB below which hum is not looked for
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
        """Return the largest magnitude [B]."""
        return self.audio.abs().amax(1)

    @cached_property
    def spectrogram(self) -> Tensor:
        """Return the power [B, bins, frames] in cells of about 31 Hz and 32 ms; a sine gives 1/2 at most."""
        size = 2 * round(FRAME * self.sample_rate / 2)
        window = torch.hann_window(size, device=self.audio.device)
        frames = torch.stft(self.audio, size, size // 2, window=window, center=False, return_complex=True)
        return (frames.abs() / window.sum()).square()

    @cached_property
    def frequencies(self) -> Tensor:
        """Return the frequency of each bin in Hz, [bins]."""
        return torch.linspace(0, self.sample_rate / 2, self.spectrogram.shape[1], device=self.audio.device)

    @cached_property
    def audible(self) -> Tensor:
        """Mark the judged cells [B, bins, frames] that lie within 95 dB of the total."""
        judged = (self.frequencies > LOWEST) & (self.frequencies <= HIGHEST)
        return (self.spectrogram > 10**-9.5) & judged[:, None]


def _decibels(power: Tensor) -> Tensor:
    return 10 * torch.log10(power + 1e-12)


def missing_octaves(windows: Windows) -> Tensor:
    """Return octaves [B] that are not audible, on average over time: lost treble, holes in the spectrum, gaps.

    The octave above 8 kHz counts for `TOP_OCTAVE`: much music has little there.
    """
    octaves = windows.frequencies[1] / windows.frequencies[1:] / math.log(2)  # that each bin covers
    octaves = torch.where(windows.frequencies[1:] > HIGHEST / 2, TOP_OCTAVE * octaves, octaves)
    return math.log2(HIGHEST / 2 / LOWEST) + TOP_OCTAVE - windows.audible[:, 1:].float().mean(2) @ octaves


def noise_floor(windows: Windows) -> Tensor:
    """Return the level [B] in dB that a twentieth of the cells stay under, in the octave where that is lowest.

    Noise lies under all octaves, dense music seldom does. Of noise, half of the cells stay 11.3 dB above that level
    or more (their power is distributed exponentially); where it is much more, the octave holds music, not noise.
    """
    frequencies, cells = windows.frequencies, _decibels(windows.spectrogram)
    floors, spreads = [], []
    for octave in range(round(math.log2(min(HIGHEST, windows.sample_rate / 2) / LOWEST))):
        inside = (frequencies > LOWEST * 2**octave) & (frequencies <= LOWEST * 2 ** (octave + 1))
        low, half = cells[:, inside].flatten(1).quantile(torch.tensor([0.05, 0.5], device=cells.device), dim=1)
        floors.append(low)
        spreads.append(half - low)
    floor, quietest = torch.stack(floors).min(0)
    spread = torch.stack(spreads).gather(0, quietest[None])[0]
    return floor - 8 * (spread - 12.5).clamp(min=0)


def clipped_share(windows: Windows) -> Tensor:
    """Return the share [B] of samples within 2 % of the peak, as a decimal logarithm."""
    return torch.log10((windows.audio.abs() >= 0.98 * windows.peak[:, None]).float().mean(1))


def hum_level(windows: Windows) -> Tensor:
    """Return the level [B] in dB under which harmonics of the mains never fall, averaged over five.

    Only what sticks out of what lies half a harmonic beside counts, so that bass notes count less.
    """
    size = windows.sample_rate // 4
    window = torch.hann_window(size, device=windows.audio.device)
    frames = windows.audio.unfold(1, size, size // 2) * (window / window.sum())  # [B, frames, size]
    time = torch.arange(size, device=window.device) / windows.sample_rate
    levels = []
    for mains in MAINS:
        angles = torch.pi * mains * torch.arange(1, 12, device=window.device) * time[:, None]  # [size, 11], in halves
        lowest = ((frames @ angles.cos()).square() + (frames @ angles.sin()).square()).amin(1)  # [B, 11]
        beside = torch.maximum(lowest[:, 0:10:2], lowest[:, 2:11:2])
        levels.append(_decibels((lowest[:, 1:10:2] - 2 * beside).clamp(min=10 ** (HUM_FLOOR / 10))).mean(1))
    return torch.stack(levels).amax(0)


def quantisation_step(windows: Windows) -> Tensor:
    """Return the usual distance [B] between neighbouring sample values, in octaves under the peak."""
    steps = (windows.audio / windows.peak[:, None]).sort(1).values.diff(dim=1)
    return steps.masked_fill(steps < 1e-6, torch.nan).nanmedian(1).values.nan_to_num(1).log2()


def lost_dynamics(windows: Windows) -> Tensor:
    """Return the power [B] in dB relative to the peak: 0 where no dynamic range is left."""
    return -_decibels(windows.peak.square())


def lost_bass(windows: Windows) -> Tensor:
    """Return by how many dB [B] the power below 200 Hz lies under the total."""
    bass = (windows.frequencies > 30) & (windows.frequencies <= LOWEST)
    return -_decibels(windows.spectrogram[:, bass].mean(2).sum(1)).clamp(min=-80)


def held_samples(windows: Windows) -> Tensor:
    """Return the share [B] of samples that differ from the one before, as a negative decimal logarithm."""
    return -torch.log10((windows.audio.diff(dim=1).abs() > 1e-7).float().mean(1) + 1e-4)


MEASUREMENTS: dict[str, Callable[[Windows], Tensor]] = {
    function.__name__: function
    for function in (
        missing_octaves,
        noise_floor,
        clipped_share,
        hum_level,
        quantisation_step,
        lost_dynamics,
        lost_bass,
        held_samples,
    )
}


@dataclass(frozen=True)
class Calibration:
    """Calibration of a measurement.

    Args:
        kind: degradation of the playground that it is calibrated on.
        share: share of the windows at a severity that measure less than what is taken to mean that severity.
        clean: share of the undegraded windows that measure less than what is taken to mean severity 0.
        start: severity that undegraded audio of the playground stands for.
    """

    kind: str
    share: float = 0.5
    clean: float = 0.9
    start: float = 0.0


CALIBRATIONS = {
    "missing_octaves": Calibration("bandlimit", clean=0.5, start=0.05),  # its 16 kHz audio has no top octave
    "noise_floor": Calibration("noise"),
    "clipped_share": Calibration("clipping"),
    "hum_level": Calibration("hum"),
    "quantisation_step": Calibration("bit_depth"),
    "lost_dynamics": Calibration("clipping", share=0.9, clean=0.95),  # a loud clean mix is short of dynamics too
    "lost_bass": Calibration("highpass", share=0.97, clean=0.97),  # a melody alone has little bass
    "held_samples": Calibration("decimation"),
}

# Measurement → (value, severity) between which severity is linear. Printed by
#   python -c "from audiocraft_qamdt.quality.predictors.acoustic import calibrate, calibration_examples
#   print(calibrate(calibration_examples(), sample_rate=16000))"
KNOTS: dict[str, list[tuple[float, float]]] = {
    "missing_octaves": [
        (0, 0),
        (0.28, 0.05),
        (0.64, 0.145),
        (1.05, 0.24),
        (1.45, 0.335),
        (1.85, 0.43),
        (2.24, 0.525),
        (2.59, 0.62),
        (2.92, 0.715),
        (3.13, 0.81),
        (3.33, 0.905),
        (3.53, 1),
    ],
    "noise_floor": [
        (-227.91, 0),
        (-121.11, 0.1),
        (-95.91, 0.2),
        (-81.73, 0.3),
        (-71.82, 0.4),
        (-64.41, 0.5),
        (-59.69, 0.6),
        (-55.94, 0.7),
        (-51.7, 0.8),
        (-48.19, 0.9),
        (-45.15, 1),
    ],
    "clipped_share": [
        (-3.99, 0),
        (-2.82, 0.1),
        (-1.92, 0.2),
        (-1.35, 0.3),
        (-0.92, 0.4),
        (-0.62, 0.5),
        (-0.43, 0.6),
        (-0.3, 0.7),
        (-0.21, 0.8),
        (-0.15, 0.9),
        (-0.12, 1),
    ],
    "hum_level": [
        (-55.6, 0),
        (-46.29, 0.1),
        (-44.35, 0.2),
        (-39.16, 0.3),
        (-33.78, 0.4),
        (-30.37, 0.5),
        (-26.03, 0.6),
        (-22.51, 0.7),
        (-19.28, 0.8),
        (-16.54, 0.9),
        (-14.92, 1),
    ],
    "quantisation_step": [
        (-14.14, 0),
        (-10, 0.1),
        (-8.98, 0.2),
        (-7.98, 0.3),
        (-6.98, 0.4),
        (-5.99, 0.5),
        (-5.47, 0.6),
        (-4.49, 0.7),
        (-3.46, 0.8),
        (-2.58, 0.9),
        (-1.59, 1),
    ],
    "lost_dynamics": [
        (-11.71, 0),
        (-10.3, 0.1),
        (-7.97, 0.2),
        (-5.89, 0.3),
        (-4.24, 0.4),
        (-3.05, 0.5),
        (-2.23, 0.6),
        (-1.63, 0.7),
        (-1.2, 0.8),
        (-0.86, 0.9),
        (-0.63, 1),
    ],
    "lost_bass": [
        (11.89, 0),
        (13.03, 0.3),
        (39.68, 0.4),
        (78.78, 0.5),
        (80, 1),
    ],
    "held_samples": [
        (0, 0),
        (0.12, 0.1),
        (0.24, 0.2),
        (0.36, 0.3),
        (0.48, 0.4),
        (0.6, 0.5),
        (0.72, 0.6),
        (0.84, 0.7),
        (0.96, 0.8),
        (1.08, 0.9),
        (1.2, 1),
    ],
}


def measure(audio: Tensor, sample_rate: int) -> dict[str, Tensor]:
    """Return every measurement [B] of windows [B, S]."""
    power = audio.square().mean(1, keepdim=True).clamp(min=SILENCE**2)
    windows = Windows(audio / power.sqrt(), sample_rate)
    return {name: function(windows) for name, function in MEASUREMENTS.items()}


def calibration_examples() -> Iterator[tuple[str, float, Tensor]]:
    """Make the examples that `KNOTS` was fitted to: see `playground.dataset.degraded_examples`."""
    kinds = dict.fromkeys(how.kind for how in CALIBRATIONS.values())
    return degraded_examples(seed=1, tracks=12, kinds=kinds)


def calibrate(
    examples: Iterable[tuple[str, float, Tensor]],
    sample_rate: int,
) -> dict[str, list[tuple[float, float]]]:
    """Return the table `KNOTS`, from audio degraded by known severities.

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
    for name, how in CALIBRATIONS.items():
        points = [torch.cat(values[name, how.kind, severity]) for severity in severities]
        shares = [how.clean] + [how.share] * (len(severities) - 1)
        at = [point.quantile(share).item() for point, share in zip(points, shares, strict=True)]
        scaled = [round(how.start + (1 - how.start) * severity, 3) for severity in severities]
        knots[name] = _rising(at, scaled)
        if how.start > 0:
            knots[name].insert(0, (0.0, 0.0))
    return knots


def _rising(values: list[float], severities: list[float]) -> list[tuple[float, float]]:
    """Return the points whose value exceeds all before; the last has the highest severity."""
    points: list[tuple[float, float]] = []
    for value, severity in zip((round(value, 2) for value in values), severities, strict=True):
        if not points or value > points[-1][0]:
            points.append((value, severity))
    return [*points[:-1], (points[-1][0], severities[-1])]


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
    version = "2"
    sample_rate = None
    window = 1.0
    hop = 1.0

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @torch.no_grad()
    def score(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Return p-MOS of each window, 5 minus 4 times its severity; 1 where there is silence.

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
