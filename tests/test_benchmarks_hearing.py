"""What is heard in clips of the playground without a network: their key and their tempo."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from audiocraft_qamdt.playground.synthesis import compose
from benchmarks import hearing
from benchmarks.fit_hearing import SAMPLE_RATE, accuracies, fit, main, worn
from benchmarks.follows_words import pieces, real_clips
from benchmarks.hearing import heard_key, heard_tempo, same_scale


@pytest.fixture(scope="module")
def chosen():
    return pieces(2900, 60)  # a seed that neither the fit nor its check has seen


@pytest.fixture(scope="module")
def clips(chosen):
    return real_clips(chosen)


def played_faster(clip: torch.Tensor, ratio: float) -> torch.Tensor:
    """As a tape that runs faster: tempo and pitch rise together."""
    times = np.arange(0, len(clip) - 1, ratio)
    return torch.from_numpy(np.interp(times, np.arange(len(clip)), clip.numpy()).astype(np.float32))


@pytest.mark.parametrize("wear", [None, 0.0, 0.7], ids=["clean", "with noise", "worn"])
def test_keys_and_tempos_are_heard(clips, chosen, wear):
    heard = clips if wear is None else [worn(clip, seed, smear=wear) for seed, clip in enumerate(clips)]
    shares = accuracies(heard, chosen)
    lowest = {"key": 0.8, "scale": 0.88, "tempo": 0.95, "slow before fast": 0.95}
    assert {name: share for name, share in shares.items() if share < lowest[name]} == {}


def test_the_names_of_other_pieces_are_not_heard(clips, chosen):
    shares = accuracies(clips, chosen[1:] + chosen[:1])
    highest = {"key": 0.25, "scale": 0.35, "tempo": 0.3, "slow before fast": 0.7}
    assert {name: share for name, share in shares.items() if share > highest[name]} == {}


def test_a_clip_played_faster_has_a_higher_tempo(clips, chosen):
    ratio = 1.2
    pairs = [(clip, piece.bpm * ratio) for clip, piece in zip(clips, chosen, strict=True) if piece.bpm * ratio < 150]
    right = [abs(heard_tempo(played_faster(clip, ratio), SAMPLE_RATE) / bpm - 1) < 0.04 for clip, bpm in pairs]
    assert np.mean(right) > 0.9


def test_a_clip_played_two_semitones_higher_is_in_another_key(clips, chosen):
    pairs = [(clip, piece) for clip, piece in zip(clips, chosen, strict=True) if piece.key in "CDFGA"]
    above = dict(zip("CDFGA", "DEGAB", strict=True))
    right = [
        heard_key(played_faster(clip, 2 ** (2 / 12)), SAMPLE_RATE) == f"{above[piece.key]} {piece.mode}"
        for clip, piece in pairs
    ]
    assert np.mean(right) > 0.7


@pytest.mark.parametrize("hear", [heard_key, heard_tempo])
def test_the_level_does_not_matter(clips, hear):
    assert [hear(0.1 * clip, SAMPLE_RATE) for clip in clips[:10]] == [hear(clip, SAMPLE_RATE) for clip in clips[:10]]


def test_silence_is_heard_as_some_key_and_tempo():
    silence = torch.zeros(65536)
    assert heard_key(silence, SAMPLE_RATE) in hearing.CANDIDATE_KEYS
    assert heard_tempo(silence, SAMPLE_RATE) in hearing.CANDIDATE_TEMPOS


def test_every_tempo_of_the_playground_is_a_candidate():
    assert {compose(1, index).bpm for index in range(500)} <= set(hearing.CANDIDATE_TEMPOS)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("A minor", "C major", True),
        ("C major", "C major", True),
        ("E minor", "G major", True),
        ("A minor", "A major", False),
        ("C major", "G major", False),
    ],
)
def test_relative_keys_have_the_same_scale(first, second, same):
    assert same_scale(first, second) == same


def test_a_fit_prefers_what_the_evidence_says():
    evidence = torch.randn(200, 5, 3, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.one_hot(evidence[:, :, 1].argmax(1), 5).float()
    weights = fit(evidence, wanted, decay=1e-3)
    assert ((evidence @ weights).argmax(1) == wanted.argmax(1)).float().mean() > 0.95


def test_the_command_writes_a_table_of_the_shape_that_is_there(tmp_path):
    main(["--pieces", "2", "--check-pieces", "0", "--to", str(tmp_path / "table.json")])
    written, there = (json.loads(path.read_text()) for path in (tmp_path / "table.json", hearing.TABLE))
    written_shapes, shapes = ({name: np.shape(rows) for name, rows in table.items()} for table in (written, there))
    assert written_shapes == shapes
