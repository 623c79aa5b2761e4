"""Degradations of audio by a known severity: 0 is untouched, 1 is ruined, and it may change along the track.

`CALIBRATION_KINDS` make the playground data and calibrate the acoustic predictor. `FURTHER_KINDS` calibrate it too,
`HELD_OUT_KINDS` test it and fit none of its numbers. Codec, dropouts and overdrive were held out from the start. The
other further and held-out kinds were divided before any of them was scored: in alphabetical order, the first, third, …
calibrate and the second, fourth, … are held out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Degradation = Callable[[np.ndarray, int, np.ndarray, np.random.Generator], np.ndarray]


def degrade(
    audio: np.ndarray,
    sample_rate: int,
    kind: str,
    severity: float | np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Degrade audio, such that equal severities of different kinds hurt about as much.

    Args:
        audio: float samples [S], full scale ±1.
        sample_rate: Hz.
        kind: key of `KINDS`.
        severity: 0 (returns the audio as it is) to 1; a number, or one per sample [S].
        generator: draws whatever the kind needs (noise, phases, places).
    Returns:
        float32 samples [S], within ±1.
    Raises:
        ValueError: for an unknown kind or a severity outside 0 to 1.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown degradation {kind!r}: choose one of {', '.join(KINDS)}")
    curve = np.broadcast_to(np.asarray(severity, np.float32), audio.shape)
    if not ((curve >= 0) & (curve <= 1)).all():
        raise ValueError(f"severity must be between 0 and 1, got {np.min(severity)} to {np.max(severity)}")
    degraded = np.where(curve > 0, KINDS[kind](audio, sample_rate, curve, generator), audio)
    return (degraded / max(1.0, np.abs(degraded).max(initial=0))).astype(np.float32)


def _level(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio)) + 1e-12))


def _gain(decibels: np.ndarray, severity: np.ndarray) -> np.ndarray:
    """Return the gain of dB, faded in over the first twentieth of the severities: severity 0 adds nothing."""
    return 10 ** (decibels / 20) * np.minimum(severity / 0.05, 1)


def _noise(audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Add white noise, 48 to 6 dB below the music."""
    noise = generator.standard_normal(len(audio), np.float32)
    return audio + _level(audio) * _gain(42 * severity - 48, severity) * noise


def _bandlimit(audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Apply a low-pass filter, from half the sample rate down to 400 Hz."""

    def keep(magnitudes: np.ndarray, severities: np.ndarray) -> np.ndarray:
        frequencies = np.linspace(0, sample_rate / 2, magnitudes.shape[1])
        cutoffs = sample_rate / 2 * (800 / sample_rate) ** severities
        return frequencies <= cutoffs[:, None]

    return _filter(audio, severity, keep)


def _clipping(audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Clip hard, from the peak down to 12 dB below the mean level, brought back to the peak."""
    peak = np.abs(audio).max(initial=1e-9)
    return np.clip(audio * _drive(audio, severity, -12), -peak, peak)


def _drive(audio: np.ndarray, severity: np.ndarray, decibels: float) -> np.ndarray:
    """Return the gain that lifts so many dB relative to the mean level to the peak at severity 1."""
    return (np.abs(audio).max(initial=1e-9) / _level(audio) / 10 ** (decibels / 20)) ** severity


def _hum(audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Add mains hum of 50 or 60 Hz with harmonics, 34 dB below the music to 6 dB above it."""
    time = np.arange(len(audio)) / sample_rate
    mains, hum = generator.choice((50, 60)), np.zeros(len(audio))
    for harmonic in range(1, 8):
        phase = generator.uniform(0, 2 * np.pi)
        hum += np.sin(2 * np.pi * mains * harmonic * time + phase) / harmonic
    return audio + _level(audio) / _level(hum) * _gain(40 * severity - 34, severity) * hum


def _bit_depth(audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Quantise to 12 down to 2.5 bits, by half bits: a step holds for a while where the severity changes."""
    step = 2 ** (np.round(19 * severity) / 2 - 11) * np.abs(audio).max(initial=1e-9)
    return np.round(audio / step) * step


def _codec(audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Imitate a starved codec: each frame keeps its strongest bins, from a quarter of them down to one in a hundred."""

    def keep(magnitudes: np.ndarray, severities: np.ndarray) -> np.ndarray:
        # Codecs save bits in the treble first: a bin counts less the higher it is.
        importance = magnitudes / np.maximum(np.linspace(0, sample_rate / 2, magnitudes.shape[1]), 200)
        rank = np.argsort(np.argsort(-importance, axis=1), axis=1)
        return rank < magnitudes.shape[1] / 4 * 25 ** -severities[:, None]

    return _filter(audio, severity, keep)


def _dropouts(audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Drop packets of 60 ms, up to nine in ten."""
    packet = np.arange(len(audio)) // max(sample_rate * 6 // 100, 1)
    lost = generator.uniform(size=packet.max(initial=0) + 1)[packet] < 0.9 * severity
    return np.where(lost, 0, audio)


def _overdrive(audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Overdrive softly, with the knee from the peak down to 20 dB below the mean level."""
    peak, drive = np.abs(audio).max(initial=1e-9), _drive(audio, severity, -20)
    return peak * np.tanh(drive * audio / peak) / np.tanh(drive)


def _crackle(audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Add clicks of a millisecond, from 1 to 100 a second, from a twentieth of the peak up to the peak."""
    clicks = (generator.uniform(size=len(audio)) < 100**severity / sample_rate) * generator.choice((-1, 1), len(audio))
    decay = np.exp(-np.arange(sample_rate // 500) / (sample_rate / 2000)) * np.cos(np.arange(sample_rate // 500))
    return audio + np.convolve(clicks * 20 ** (severity - 1), decay)[: len(audio)] * np.abs(audio).max(initial=1e-9)


def _crossover(audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Cut a dead zone around zero, from 40 dB below the mean level up to the mean level."""
    dead = _level(audio) * _gain(40 * severity - 40, severity)
    return np.sign(audio) * np.maximum(np.abs(audio) - dead, 0)


def _decimation(
    audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Hold samples without a filter, as at sample rates from the own one down to 1 kHz."""
    clock = np.floor(np.cumsum((1000 / sample_rate) ** severity.astype(np.float64)))
    ticks = np.flatnonzero(np.diff(clock, prepend=-1))
    return audio[ticks[np.searchsorted(ticks, np.arange(len(audio)), side="right") - 1]]


def _gating(audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Cut off and on again 4 to 12 times a second, from not at all down to silence."""
    time = np.arange(len(audio)) / sample_rate
    return audio * np.where((time * generator.uniform(4, 12)) % 1 < 0.5, 1, 1 - severity)


def _highpass(audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Remove everything below a frequency, from 30 Hz up to 3 kHz."""

    def keep(magnitudes: np.ndarray, severities: np.ndarray) -> np.ndarray:
        return np.linspace(0, sample_rate / 2, magnitudes.shape[1]) >= 30 * 100 ** severities[:, None]

    return _filter(audio, severity, keep)


def _pink_noise(
    audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Add noise that falls 3 dB an octave, 48 to 6 dB below the music."""
    spectrum = np.fft.rfft(generator.standard_normal(len(audio)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(audio))
    return audio + _level(audio) / _level(noise) * _gain(42 * severity - 48, severity) * noise


def _ring_modulation(
    audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Multiply with a sine of 30 to 300 Hz, mixed from nothing to all."""
    sine = np.sin(2 * np.pi * generator.uniform(30, 300) * np.arange(len(audio)) / sample_rate)
    return audio * (1 - severity + severity * np.sqrt(2) * sine)


def _telephone(audio: np.ndarray, sample_rate: int, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Keep a band around 1 kHz, from 30 Hz to half the sample rate down to 800 to 1250 Hz."""

    def keep(magnitudes: np.ndarray, severities: np.ndarray) -> np.ndarray:
        frequencies, severities = np.linspace(0, sample_rate / 2, magnitudes.shape[1]), severities[:, None]
        lowest = 30 * (800 / 30) ** severities
        return (frequencies >= lowest) & (frequencies <= sample_rate / 2 * (2500 / sample_rate) ** severities)

    return _filter(audio, severity, keep)


def _filter(
    audio: np.ndarray,
    severity: np.ndarray,
    keep: Callable[[np.ndarray, np.ndarray], np.ndarray],
    size: int = 1024,
) -> np.ndarray:
    """Drop short-time Fourier bins, but for those that `keep(magnitudes [frames, bins], severities [frames])` marks."""
    hop, window = size // 4, np.hanning(size + 1)[:-1]
    padded = np.pad(audio, (size, size + -len(audio) % hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window
    spectra = np.fft.rfft(frames)
    middles = np.clip(np.arange(len(frames)) * hop - size // 2, 0, len(audio) - 1)
    kept = np.fft.irfft(spectra * keep(np.abs(spectra), severity[middles])) * window
    filtered = np.zeros(len(padded))
    for i, frame in enumerate(kept):
        filtered[i * hop : i * hop + size] += frame
    return filtered[size : size + len(audio)] / 1.5  # a squared Hann window at a hop of a quarter sums to 3/2


CALIBRATION_KINDS: dict[str, Degradation] = {
    "noise": _noise,
    "bandlimit": _bandlimit,
    "clipping": _clipping,
    "hum": _hum,
    "bit_depth": _bit_depth,
}
FURTHER_KINDS: dict[str, Degradation] = {
    "crackle": _crackle,
    "decimation": _decimation,
    "highpass": _highpass,
    "ring_modulation": _ring_modulation,
}
HELD_OUT_KINDS: dict[str, Degradation] = {
    "codec": _codec,
    "dropouts": _dropouts,
    "overdrive": _overdrive,
    "crossover": _crossover,
    "gating": _gating,
    "pink_noise": _pink_noise,
    "telephone": _telephone,
}
KINDS = CALIBRATION_KINDS | FURTHER_KINDS | HELD_OUT_KINDS
