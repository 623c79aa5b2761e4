"""The music is what its labels say, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from audiocraft_qamdt.playground.synthesis import (
    GENRES,
    INSTRUMENTS,
    PITCHES,
    RHYTHMS,
    SCALES,
    compose,
    render,
    tempo_word,
    vocabulary,
)

RATE = 16000
QUALITY_WORDS = {
    "quality",
    "low",
    "medium",
    "high",
    "clean",
    "clear",
    "noisy",
    "noise",
    "distorted",
    "muffled",
    "lo-fi",
    "hi-fi",
    "good",
    "bad",
    "poor",
}


def spectrum(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) ** 2, np.fft.rfftfreq(len(audio), 1 / RATE)


def test_the_same_seed_and_index_give_the_same_piece():
    assert compose(3, 7) == compose(3, 7)
    assert np.array_equal(render(compose(3, 7), 1.5, RATE), render(compose(3, 7), 1.5, RATE))
    assert len({compose(seed, index).description for seed in range(2) for index in range(20)}) > 30


def test_pieces_are_varied():
    pieces = [compose(0, index) for index in range(300)]
    assert {piece.genre for piece in pieces} == set(GENRES)
    assert {name for piece in pieces for name in piece.instruments} == {*INSTRUMENTS, *RHYTHMS}
    assert len({(piece.key, piece.mode) for piece in pieces}) == 14
    assert {tempo_word(piece.bpm) for piece in pieces} == {"slow", "steady", "fast"}


def test_captions_use_a_small_vocabulary_without_quality():
    words = set(vocabulary())
    assert len(words) < 70
    assert not words & QUALITY_WORDS
    for index in range(300):
        assert set(compose(1, index).description.lower().replace(",", "").split()) <= words


def test_captions_say_what_is_heard():
    said_all, said_key = [], []
    for index in range(300):
        piece = compose(1, index)
        assert piece.lead in piece.description
        heard = (*piece.instruments, piece.genre, piece.mood, tempo_word(piece.bpm))
        said_all.append(all(name in piece.description for name in heard))
        said_key.append(f"in {piece.key} {piece.mode}" in piece.description)
    assert sum(said_all) > 180  # four templates of six
    assert sum(said_key) > 180


@pytest.mark.parametrize("index", range(12))
def test_a_piece_is_audible_throughout_and_not_clipped(index):
    audio = render(compose(5, index), 4.0, RATE)
    assert audio.dtype == np.float32
    assert audio.shape == (4 * RATE,)
    assert np.abs(audio).max() == pytest.approx(0.7, abs=1e-6)
    levels = np.sqrt(np.mean(audio.reshape(-1, RATE // 2) ** 2, axis=1))
    assert levels.min() > 0.005
    power, frequencies = spectrum(audio)
    assert power[frequencies > RATE * 0.45].max() > 1e-8 * power.max()  # it reaches up to half the sample rate
    assert np.mean(np.abs(audio) > 0.98 * 0.7) < 1e-3


def test_the_key_is_heard():
    """Bins near notes of the scale hold nearly all of what pitched instruments play below 1 kHz."""
    for index in range(60):
        piece = compose(9, index)
        if piece.rhythm:
            continue
        power, frequencies = spectrum(render(piece, 6.0, RATE))
        band = (frequencies > 100) & (frequencies < 1000)
        pitch = np.round(12 * np.log2(frequencies[band] / 440) + 69).astype(int) % 12
        scale = {(PITCHES[piece.key] + step) % 12 for step in SCALES[piece.mode]}
        inside = np.isin(pitch, list(scale))
        assert power[band][inside].sum() > 0.9 * power[band].sum(), piece


def test_the_tempo_is_heard():
    """Dance drums kick on every beat: the bass-drum band repeats after a beat better than after three quarters."""
    pieces = [piece for piece in (compose(2, index) for index in range(60)) if piece.rhythm == "dance drums"]
    assert len(pieces) > 3
    for piece in pieces:
        audio = render(piece, 6.0, RATE)
        spectra = np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(audio, 1024)[::160]))[:, 1:6].sum(1)
        onsets = np.maximum(np.diff(spectra), 0) - np.maximum(np.diff(spectra), 0).mean()
        lag = 60 / piece.bpm * RATE / 160
        alike = [np.dot(onsets[round(step) :], onsets[: len(onsets) - round(step)]) for step in (lag, 0.75 * lag)]
        assert alike[0] > alike[1]


@pytest.mark.parametrize("sample_rate", [8000, 44100])
def test_the_sample_rate_changes_the_treble_alone(sample_rate):
    piece = compose(9, 1)
    one, other = render(piece, 2.0, RATE), render(piece, 2.0, sample_rate)
    assert len(other) == 2 * sample_rate
    shapes = []
    for audio, rate in ((one, RATE), (other, sample_rate)):
        power, frequencies = np.abs(np.fft.rfft(audio)) ** 2, np.fft.rfftfreq(len(audio), 1 / rate)
        band = np.array([power[(frequencies >= low) & (frequencies < low + 50)].sum() for low in range(50, 800, 50)])
        shapes.append(10 * np.log10(band / band.sum()))
    assert np.corrcoef(*shapes)[0, 1] > 0.95
