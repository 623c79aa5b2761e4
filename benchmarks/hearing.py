"""What can be heard in a clip of the playground without a network: its key and its tempo.

Both are linear: of each candidate (key or tempo) an evidence [D] is measured, and the candidate wins whose evidence has
the largest product with one vector of weights. `benchmarks.fit_hearing` fits the weights in `hearing.json`.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from audiocraft_qamdt.playground.synthesis import KEYS, PITCHES, SCALES

TABLE = Path(__file__).with_name("hearing.json")
CANDIDATE_KEYS = tuple(f"{key} {mode}" for key in KEYS for mode in SCALES)
CANDIDATE_TEMPOS = tuple(range(60, 151))
"""Beats per minute: all that the genres allow."""

LOWEST, HIGHEST, TOP = 33, 91, 108
"""MIDI pitches: notes are sought from the lowest up to the highest, their harmonics up to the top."""
NOTE_SECONDS = 0.512
"""Windows long enough to part the notes of the bass, which are 4 Hz apart."""
HARMONICS, TILT = 8, 1.1
"""Of a note as it is expected: harmonic k has the amplitude k^-tilt, an average over the instruments."""
COMPRESSION = 0.7
"""Power to which magnitudes are raised, so that soft notes count too."""
REGISTERS = ((LOWEST, 54), (54, 64), (64, 76), (76, HIGHEST))
"""Bass, which says most about the tonic; accompaniment; melody. Not finer: the basses of the playground span the seven
degrees from just below the tonic, so that the octave of a bass note alone could give the key away."""

ONSET_SECONDS, FRAME_RATE = 0.064, 100
BANDS = (40, 200, 800, 2500, 8000)
"""Edges in Hz of the bands in which onsets are sought."""
BEATS = torch.arange(1, 33) / 8
"""Lags at which the onsets are compared with themselves, in beats: a bar, and twice as fine as the music's eighths."""


def heard_key(audio: Tensor, sample_rate: int) -> str:
    """Return the key among the playground's 14 that a clip [S] is most likely in, such as "A minor"."""
    return CANDIDATE_KEYS[int((key_evidence(audio, sample_rate) @ _weights("key")).argmax())]


def heard_tempo(audio: Tensor, sample_rate: int) -> float:
    """Return the tempo of a clip [S] in beats per minute, 60 to 150."""
    return float(CANDIDATE_TEMPOS[int((tempo_evidence(audio, sample_rate) @ _weights("tempo")).argmax())])


def same_scale(first: str, second: str) -> bool:
    """Tell whether two keys have the same notes, as "A minor" and "C major" do."""
    return _scale(first) == _scale(second)


def _scale(name: str) -> set[int]:
    key, mode = name.split()
    return {(PITCHES[key] + step) % 12 for step in SCALES[mode]}


@functools.lru_cache
def _weights(name: str) -> Tensor:
    return torch.tensor(json.loads(TABLE.read_text())[name]).flatten()


def key_evidence(audio: Tensor, sample_rate: int) -> Tensor:
    """Pitch classes of a clip [S] as seen from each candidate's tonic: [14, 2 modes x 4 registers x 3 views x 12]."""
    sounding = notes(audio, sample_rate)
    registers = [(sounding[low - LOWEST : high - LOWEST], low) for low, high in REGISTERS]
    views = torch.stack([view for register in registers for view in _views(*register)])  # [12, 12 pitch classes]
    evidence = torch.zeros(len(CANDIDATE_KEYS), len(SCALES), views.numel())
    for candidate, name in enumerate(CANDIDATE_KEYS):
        key, mode = name.split()
        # each mode has its own half, so that one product compares all candidates
        evidence[candidate, list(SCALES).index(mode)] = views.roll(-PITCHES[key], 1).flatten()
    return evidence.flatten(1)


def _views(sounding: Tensor, lowest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pitch classes [12] of notes [P, frames]: their mean, its logarithm and their maximum over the frames."""
    classes = torch.zeros(12, sounding.shape[1])
    classes.index_add_(0, torch.arange(lowest, lowest + len(sounding)) % 12, sounding)
    mean, loudest = (normalize(values, p=torch.inf, dim=0) for values in (classes.mean(1), classes.amax(1)))
    return mean, (mean + 0.02).log() / 4 + 1, loudest  # the logarithm tells a soft note from none


def notes(audio: Tensor, sample_rate: int, passes: int = 40) -> Tensor:
    """How loud each note from `LOWEST` on sounds [P, frames], apart from the harmonics of the others.

    The spectrum is approximated by a sum of notes without negative gains (Lee and Seung's multiplicative updates).
    """
    bank, spectra = _note_spectra(sample_rate)
    window = torch.hann_window(round(NOTE_SECONDS * sample_rate))
    magnitude = torch.stft(audio, len(window), len(window) // 4, window=window, return_complex=True).abs()
    pitches = bank @ magnitude  # [B, frames]
    target = spectra.T @ (pitches / pitches.max().clamp(min=1e-9)) ** COMPRESSION  # [P, frames]
    mixing, gains = spectra.T @ spectra, target
    for _ in range(passes):
        gains = gains * target / (mixing @ gains + 1e-6)
    return gains


@functools.lru_cache
def _note_spectra(sample_rate: int) -> tuple[Tensor, Tensor]:
    """Map from frequencies to thirds of a semitone [B, F], and the spectrum of each note on that scale [B, P]."""
    samples = round(NOTE_SECONDS * sample_rate)
    centres = _hertz(torch.arange(3 * (LOWEST - 1), 3 * (TOP + 1)) / 3)[:, None]
    widths = (centres * (2 ** (1 / 36) - 1)).clamp(min=sample_rate / samples)
    frequencies = torch.arange(samples // 2 + 1) * sample_rate / samples
    bank = (1 - (frequencies - centres).abs() / widths).clamp(min=0)
    spectra = []
    for frequency in _hertz(torch.arange(LOWEST, HIGHEST)).tolist():
        harmonics = torch.arange(1, min(HARMONICS, int(0.48 * sample_rate / frequency)) + 1)[:, None]
        phases = 2 * torch.pi * harmonics * frequency * torch.arange(samples) / sample_rate + 2.4 * harmonics**2
        tone = (harmonics**-TILT * phases.cos()).sum(0)
        spectra.append(torch.fft.rfft(tone * torch.hann_window(samples)).abs())
    return bank, normalize((bank @ torch.stack(spectra, 1)) ** COMPRESSION, dim=0)


def _hertz(pitch: Tensor) -> Tensor:
    return 440 * 2 ** ((pitch - 69) / 12)


def tempo_evidence(audio: Tensor, sample_rate: int) -> Tensor:
    """How alike the onsets of a clip [S] are at lags in beats of each candidate tempo: [91, 4 bands x 32 lags]."""
    onsets = _onsets(audio, sample_rate)
    onsets = onsets - onsets.mean(1, keepdim=True)
    frames = onsets.shape[1]
    # Wiener-Khinchin: the autocorrelation from the power spectrum, padded against wrapping round.
    alike = torch.fft.irfft(torch.fft.rfft(onsets, 2 * frames).abs().square())[:, : frames + 1]  # [4, lags]
    alike = alike / alike[:, :1].clamp(min=1e-9)
    lags = (60 * FRAME_RATE / torch.tensor(CANDIDATE_TEMPOS)[:, None] * BEATS).clamp(max=frames - 1)  # [91, 32]
    before = lags.long()
    between = alike[:, before].lerp(alike[:, before + 1], lags - before)  # [4, 91, 32]
    return between.transpose(0, 1).flatten(1)


def _onsets(audio: Tensor, sample_rate: int) -> Tensor:
    """Rise of the loudness in each band [4, frames] of a clip [S], whatever its level."""
    window = torch.hann_window(round(ONSET_SECONDS * sample_rate))
    level = audio / audio.square().mean().sqrt().clamp(min=1e-6)
    magnitude = torch.stft(level, len(window), sample_rate // FRAME_RATE, window=window, return_complex=True).abs()
    rise = (1 + 20 * magnitude / window.sum()).log().diff(dim=1).clamp(min=0)
    edges = [round(edge * ONSET_SECONDS) for edge in BANDS]
    return torch.stack([rise[low:high].mean(0) for low, high in zip(edges, edges[1:], strict=False)])
