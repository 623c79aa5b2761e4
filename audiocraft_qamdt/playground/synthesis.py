"""Synthetic music whose instruments, chords, tempo and mood are known, with captions from a small vocabulary.

A piece is drawn from (seed, index) and nothing else, so that any track can be made again anywhere.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Note = tuple[float, float, int, float]  # start and length in beats, MIDI pitch, gain

BEATS_PER_BAR = 4
OCTAVE = 7
"""Steps of a scale from a note to the same note above."""
SEMITONES = 12
"""Semitones in an octave."""
TRIAD = (0, 2, 4)
"""Steps of a scale from a chord's root to its notes."""
CONCERT_PITCH, A4 = 440, 69
"""Frequency in Hz of the A above middle C, and its MIDI pitch."""

PEAK = 0.7
"""Peak of a rendered piece."""
FADE = 1 / 50
"""Seconds in which a piece fades out."""
VIBRATO_RATE = 5.5
"""Rate of a vibrato in Hz."""
BREATH_DECAY = 0.12
"""Seconds until the noise in a note's attack has lost 60 dB."""
HIGHEST = 0.48
"""Highest harmonic, as a share of the sample rate: just under what it can carry."""
ROUNDNESS = 2.4
"""Phase of harmonic k over k²: quadratic phases keep the waveform round, and a clean sound must not look clipped."""
LEGATO = 0.9
"""Share of a melody note's length that it sounds."""


@dataclass(frozen=True)
class Timbre:
    """Sound of an instrument: harmonics under an envelope, the upper ones decaying sooner than the lower.

    Args:
        tilt: amplitude of harmonic k is k^-tilt.
        even: gain of the even harmonics.
        attack: seconds until the note is at full gain.
        decay: seconds until a held note has lost 60 dB; inf = it does not decay.
        brightness_decay: the same for the part of the sound above the first harmonics.
        release: seconds until a released note has lost 60 dB.
        vibrato: deviation of the pitch, in semitones.
        breath: gain of the noise in the attack.
    """

    tilt: float
    even: float = 1.0
    attack: float = 0.004
    decay: float = math.inf
    brightness_decay: float = math.inf
    release: float = 0.15
    vibrato: float = 0.0
    breath: float = 0.05


INSTRUMENTS: dict[str, Timbre] = {
    "piano": Timbre(tilt=1.3, decay=2.5, brightness_decay=0.6, breath=0.1),
    "guitar": Timbre(tilt=1.0, even=0.8, decay=1.6, brightness_decay=0.5, breath=0.15),
    "harp": Timbre(tilt=1.2, decay=2.0, brightness_decay=0.8, breath=0.15),
    "marimba": Timbre(tilt=1.3, even=0.1, decay=0.9, brightness_decay=0.5, breath=0.3),
    "organ": Timbre(tilt=1.2, even=1.2, attack=0.015, release=0.08),
    "flute": Timbre(tilt=2.0, even=0.6, attack=0.05, vibrato=0.05, breath=0.2),
    "violin": Timbre(tilt=0.9, attack=0.07, vibrato=0.08, breath=0.08),
    "strings": Timbre(tilt=1.1, attack=0.2, release=0.4, vibrato=0.03),
    "synth": Timbre(tilt=0.8, even=0.3, attack=0.01, decay=3.0, brightness_decay=0.8),
    "bass": Timbre(tilt=1.2, decay=2.0, brightness_decay=0.4, breath=0.1),
}

# Sixteen steps of a bar for each drum; a digit is the gain in ninths.
RHYTHMS: dict[str, dict[str, str]] = {
    "drums": {"kick": "9.....6.9.......", "snare": "....9.......9..2", "hat": "7.5.7.5.7.5.7.57"},
    "dance drums": {"kick": "9...9...9...9...", "snare": "....8.......8...", "hat": "3.8.3.8.3.8.3.85"},
    "brushes": {"kick": "5.......4.......", "snare": "..1.3..1..1.3.1.", "hat": "8...7.4.8...7.4."},
    "shaker": {"hat": "7353735373537353"},
    "tambourine": {"snare": "....3.......3...", "hat": "4.3.9.3.4.3.9.35"},
}


@dataclass(frozen=True)
class Genre:
    """Choices that a genre allows.

    Args:
        tempo: range of beats per minute.
        moods, leads, chords, rhythms: words to choose from; the rhythm "" is a piece without percussion.
    """

    tempo: tuple[int, int]
    moods: tuple[str, ...]
    leads: tuple[str, ...]
    chords: tuple[str, ...]
    rhythms: tuple[str, ...]


GENRES: dict[str, Genre] = {
    "rock": Genre((96, 150), ("bold", "happy"), ("guitar", "organ"), ("guitar", "piano"), ("drums",)),
    "jazz": Genre((84, 140), ("relaxed", "playful"), ("piano", "flute", "marimba"), ("piano", "guitar"), ("brushes",)),
    "folk": Genre((76, 120), ("gentle", "happy"), ("flute", "violin"), ("guitar", "harp"), ("tambourine", "shaker")),
    "techno": Genre((118, 140), ("bold", "dark"), ("synth", "organ"), ("synth", "strings"), ("dance drums",)),
    "classical": Genre((64, 110), ("gentle", "sad"), ("violin", "piano", "flute"), ("strings", "harp"), ("",)),
    "reggae": Genre((70, 96), ("relaxed", "playful"), ("organ", "marimba"), ("guitar", "organ"), ("drums", "shaker")),
}

KEYS = ("C", "D", "E", "F", "G", "A", "B")
PITCHES = dict(zip(KEYS, (0, 2, 4, 5, 7, 9, 11), strict=True))
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
# Degrees of the scale on which the triads stand, a bar each.
PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 3), (1, 4, 0, 5)),
    "minor": ((0, 5, 2, 6), (0, 3, 6, 2), (0, 6, 5, 6), (0, 2, 3, 4)),
}
TEMPO_WORDS = ((90, "slow"), (115, "steady"), (math.inf, "fast"))
ACCOMPANIMENTS = ("held", "broken", "offbeat")
TEMPLATES = (
    "a {mood} {tempo} {genre} piece in {key} with {parts}",
    "{tempo} {mood} {genre} music with {parts}, in {key}",
    "{genre} music in {key}, {mood} and {tempo}, with {parts}",
    "{mood} and {tempo} {genre} with {parts}",
    "{tempo} {mood} {lead} in {key}",
    "{mood} {genre} with {lead}",
)
"""Captions: most name all that is known, the last ones only what a user in a hurry would."""


@dataclass(frozen=True)
class Piece:
    """A piece of music before it is rendered; every field is a label.

    Args:
        seed, index: what it was drawn from.
        lead, chords: instruments of the melody and of the accompaniment.
        rhythm: key of `RHYTHMS`; "" = no percussion.
        accompaniment: how the chords are played, one of `ACCOMPANIMENTS`.
        progression: degree of the scale (0 = tonic) of each bar's triad, repeated to the end.
        description: the caption.
    """

    seed: int
    index: int
    genre: str
    mood: str
    bpm: int
    key: str
    mode: str
    lead: str
    chords: str
    rhythm: str
    accompaniment: str
    progression: tuple[int, ...]
    description: str

    @property
    def instruments(self) -> list[str]:
        """Return the names of all instruments that are heard, the lead first, each once."""
        return list(dict.fromkeys(name for name in (self.lead, self.chords, "bass", self.rhythm) if name))


def tempo_word(bpm: float) -> str:
    """Return "slow", "steady" or "fast"."""
    return next(word for limit, word in TEMPO_WORDS if bpm < limit)


def vocabulary(keys: bool = True) -> list[str]:
    """Return every word that a caption can hold, sorted; without `keys`, those that name no key."""
    texts = [*GENRES, *INSTRUMENTS, *RHYTHMS, *TEMPLATES, *(mood for genre in GENRES.values() for mood in genre.moods)]
    words = {word for text in texts for word in text.replace(",", "").split() if not word.startswith("{")}
    names = {*map(str.lower, KEYS), *SCALES} if keys else set()
    return sorted(words | {word for _, word in TEMPO_WORDS} | {"and"} | names)


def compose(seed: int, index: int) -> Piece:
    """Draw a piece; the same (seed, index) gives the same piece."""
    rng = np.random.default_rng((seed, index, 0))

    def pick(options):
        return options[rng.integers(len(options))]

    genre = pick(list(GENRES))
    style, mode = GENRES[genre], pick(list(SCALES))
    lead = pick(style.leads)
    fields = {
        "genre": genre,
        "mood": pick(style.moods),
        "bpm": int(rng.integers(*style.tempo)),
        "lead": lead,
        "chords": pick([name for name in style.chords if name != lead]),
        "rhythm": pick(style.rhythms),
    }
    key, accompaniment, progression = pick(KEYS), pick(ACCOMPANIMENTS), pick(PROGRESSIONS[mode])
    return Piece(
        seed,
        index,
        key=key,
        mode=mode,
        accompaniment=accompaniment,
        progression=progression,
        description=_describe(pick(TEMPLATES), {**fields, "key": f"{key} {mode}"}),
        **fields,
    )


def _describe(template: str, fields: dict) -> str:
    *parts, last = [name for name in (fields["lead"], fields["chords"], "bass", fields["rhythm"]) if name]
    return template.format(
        genre=fields["genre"],
        mood=fields["mood"],
        tempo=tempo_word(fields["bpm"]),
        lead=fields["lead"],
        key=fields["key"],
        parts=f"{', '.join(parts)} and {last}",
    )


def render(piece: Piece, duration: float, sample_rate: int) -> np.ndarray:
    """Play a piece.

    Args:
        duration: seconds.
        sample_rate: Hz.
    Returns:
        float32 samples [S], with a peak of 0.7, undegraded: nothing but the instruments, up to half the sample rate.
    """
    samples, beat = round(duration * sample_rate), 60 / piece.bpm
    bars = math.ceil(duration / (BEATS_PER_BAR * beat))
    rng = np.random.default_rng((piece.seed, piece.index, 1))
    audio = np.zeros(samples, np.float32)
    step = beat * sample_rate
    parts = {piece.lead: _melody(piece, bars, rng), piece.chords: _harmony(piece, bars), "bass": _bass(piece, bars)}
    for name, notes in parts.items():
        for start, length, pitch, gain in notes:
            _add(audio, start * step, gain, _note(name, pitch, round(length * step), sample_rate))
    for start, drum, gain in _hits(piece, bars):
        _add(audio, start * step, gain, _drum(drum, sample_rate))
    fade = min(samples, int(sample_rate * FADE))
    audio[samples - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return audio * np.float32(PEAK / max(np.abs(audio).max(initial=0), 1e-9))


def _add(audio: np.ndarray, start: float, gain: float, sound: np.ndarray) -> None:
    first = round(start)
    room = max(len(audio) - first, 0)
    audio[first : first + len(sound)] += np.float32(gain) * sound[:room]


def _pitch(piece: Piece, degree: int, octave: int) -> int:
    octaves, step = divmod(degree, OCTAVE)
    return SEMITONES * (octave + 1 + octaves) + PITCHES[piece.key] + SCALES[piece.mode][step]


def _bar_chords(piece: Piece, bars: int) -> Iterator[tuple[int, int]]:
    return zip(range(bars), itertools.cycle(piece.progression), strict=False)


# Rhythms of a bar of melody: start and length of each note, in beats.
MOTIFS = (
    ((0, 1), (1, 1), (2, 1), (3, 1)),
    ((0, 1.5), (1.5, 0.5), (2, 1.5)),
    ((0, 0.5), (0.5, 0.5), (1, 1), (2, 0.5), (2.5, 0.5), (3, 1)),
    ((0.5, 0.5), (1, 1), (2.5, 0.5), (3, 0.5), (3.5, 0.5)),
    ((0, 2), (2, 1), (3, 0.75)),
)


def _melody(piece: Piece, bars: int, rng: np.random.Generator) -> list[Note]:
    """Walk along the scale by two steps at most, in two motifs that take turns, each for two bars."""
    motifs, degree, notes = rng.permutation(len(MOTIFS))[:2], 4, []
    for bar, chord in _bar_chords(piece, bars):
        for start, length in MOTIFS[motifs[bar // 2 % 2]]:
            degree = int(np.clip(degree + rng.integers(-2, 3), 0, 9))
            if start % 2 == 0:  # on strong beats the melody takes the nearest note of the chord
                degree = _nearest_chord_note(chord, degree)
            pitch = _pitch(piece, degree, 4)
            notes.append((BEATS_PER_BAR * bar + start, LEGATO * length, pitch, rng.uniform(0.7, 1.0)))
    return notes


def _nearest_chord_note(chord: int, degree: int) -> int:
    notes = [chord + step + OCTAVE * octave for step in TRIAD for octave in (-1, 0, 1)]
    return min(notes, key=lambda note: abs(note - degree))


# How the chords of a bar are played: start and length of each note, in beats, and its steps above the chord's root.
PATTERNS: dict[str, list[tuple[float, float, int]]] = {
    "held": [(0, 3.8, step) for step in TRIAD],
    "broken": [(i / 2, 0.6, step) for i, step in enumerate((0, 2, 4, 7, 4, 2, 4, 2))],
    "offbeat": [(beat + 0.5, 0.4, step) for beat in range(BEATS_PER_BAR) for step in TRIAD],
}
BASS_PATTERN = ((0, 1.4, 0), (1.5, 0.4, 0), (2, 1.4, 4), (3.5, 0.4, 4))


def _harmony(piece: Piece, bars: int) -> list[Note]:
    gain = 0.6 if piece.accompaniment == "broken" else 0.35
    octave = 3 if piece.accompaniment == "offbeat" else 4
    return [
        (BEATS_PER_BAR * bar + start, length, _pitch(piece, _lowered(chord, 4) + step, octave), gain)
        for bar, chord in _bar_chords(piece, bars)
        for start, length, step in PATTERNS[piece.accompaniment]
    ]


def _bass(piece: Piece, bars: int) -> list[Note]:
    return [
        (BEATS_PER_BAR * bar + start, length, _pitch(piece, _lowered(chord + step, 5), 2), 0.9)
        for bar, chord in _bar_chords(piece, bars)
        for start, length, step in BASS_PATTERN
    ]


def _lowered(degree: int, highest: int) -> int:
    """Return the same note an octave lower where it is above `highest`."""
    return degree - OCTAVE if degree > highest else degree


def _hits(piece: Piece, bars: int) -> Iterator[tuple[float, str, float]]:
    """Yield start in beats, drum and gain of everything that the percussion plays: sixteenth notes."""
    for bar, (drum, steps) in itertools.product(range(bars), RHYTHMS.get(piece.rhythm, {}).items()):
        for i, step in enumerate(steps):
            if step != ".":
                yield BEATS_PER_BAR * bar + i / 4, drum, int(step) / 9


def _fall(time: np.ndarray, seconds: float) -> np.ndarray:
    """Return a decay by 60 dB in so many seconds."""
    return np.exp(np.maximum(time, 0) * np.float32(-math.log(1000) / seconds))


@functools.lru_cache(maxsize=512)
def _note(name: str, pitch: int, samples: int, sample_rate: int) -> np.ndarray:
    timbre, frequency = INSTRUMENTS[name], CONCERT_PITCH * 2 ** ((pitch - A4) / SEMITONES)
    time = np.arange(samples + round(timbre.release * sample_rate), dtype=np.float32) / sample_rate
    swing = frequency * (2 ** (timbre.vibrato / SEMITONES) - 1) / (2 * math.pi * VIBRATO_RATE)
    phase = (frequency * time.astype(np.float64) - swing * np.cos(2 * math.pi * VIBRATO_RATE * time)) % 1
    body, brightness = _wavetables(timbre, frequency, sample_rate)
    sound = _look_up(body, phase) + _look_up(brightness, phase) * _fall(time, timbre.brightness_decay)
    noise = np.random.default_rng(pitch).standard_normal(len(time), np.float32)
    sound = sound * np.minimum(time / timbre.attack, 1) + timbre.breath * noise * _fall(time, BREATH_DECAY)
    return sound * _fall(time, timbre.decay) * _fall(time - samples / sample_rate, timbre.release)


TABLE_SIZE = 4096


def _wavetables(timbre: Timbre, frequency: float, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a period of the first two harmonics, and of those above, up to just under half the sample rate."""
    harmonics = np.arange(1, max(2, int(HIGHEST * sample_rate / frequency) + 1))
    amplitudes = harmonics**-timbre.tilt * np.where(harmonics % 2, 1, timbre.even)
    amplitudes /= np.sqrt(np.sum(amplitudes**2))
    spectrum = np.zeros((2, TABLE_SIZE // 2 + 1), complex)
    spectrum[(harmonics > 2).astype(int), harmonics] = amplitudes * np.exp(1j * ROUNDNESS * harmonics**2)
    tables = np.fft.irfft(spectrum).astype(np.float32) * (TABLE_SIZE / 2)
    return tables[0], tables[1]


def _look_up(table: np.ndarray, phase: np.ndarray) -> np.ndarray:
    position = phase * TABLE_SIZE
    left = position.astype(np.int32)
    share = (position - left).astype(np.float32)
    return table[left] * (1 - share) + table[(left + 1) % TABLE_SIZE] * share


@functools.lru_cache(maxsize=16)
def _drum(name: str, sample_rate: int) -> np.ndarray:
    time = np.arange(sample_rate // 3, dtype=np.float32) / sample_rate
    noise = np.random.default_rng(len(name)).standard_normal(len(time), np.float32)
    if name == "kick":
        pitch = 48 * time + 5 * (1 - _fall(time, 0.2))  # falls to 48 Hz
        return 1.8 * np.sin(2 * np.pi * pitch) * _fall(time, 0.3)
    if name == "snare":
        return (0.6 * noise + 0.5 * np.sin(2 * np.pi * 190 * time)) * _fall(time, 0.2)  # rattle, and a skin of 190 Hz
    return 0.5 * np.diff(noise, prepend=0) * _fall(time, 0.09)  # hat: noise without its bass
