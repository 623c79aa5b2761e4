"""On the playground, where true captions are known: wrong ones are found out, and refinement puts them right."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from audiocraft_qamdt.captions.refine import refine
from audiocraft_qamdt.captions.settings import get_matcher, load_settings
from audiocraft_qamdt.playground.dataset import make_dataset
from audiocraft_qamdt.playground.synthesis import INSTRUMENTS, RHYTHMS, compose
from audiocraft_qamdt.utils.files import write_json

TRACKS, SEED = 240, 3  # the thresholds of the configuration were chosen on seed 0
NAMES = sorted({*INSTRUMENTS, *RHYTHMS}, key=len, reverse=True)  # "dance drums" before "drums"

pytestmark = pytest.mark.slow  # the matcher is trained on 900 pieces


def named(text: str) -> set[str]:
    return set(re.findall("|".join(map(re.escape, NAMES)), text))


def right_words(descriptions: list[str]) -> float:
    """Share of the instrument words that name what is heard."""
    shares = [
        len(named(text) & set(compose(SEED, i).instruments)) / len(named(text)) for i, text in enumerate(descriptions)
    ]
    return float(np.mean(shares))


def corrupted(seed: int = 0) -> list[str]:
    """The descriptions, every other one replaced by that of a track with other instruments."""
    rng, pieces = np.random.default_rng(seed), [compose(SEED, index) for index in range(TRACKS)]
    found = [piece.description for piece in pieces]
    for index in range(0, TRACKS, 2):
        others = [piece for piece in pieces if set(piece.instruments) != set(pieces[index].instruments)]
        found[index] = others[rng.integers(len(others))].description
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The data set with half of its descriptions corrupted, undegraded, and nothing else that tells the truth."""
    folder = make_dataset(
        tmp_path_factory.mktemp("playground"), tracks=TRACKS, duration=6.0, seed=SEED, degraded=0.0, splits={"all": 1.0}
    )["all"]
    for index, text in enumerate(corrupted()):
        write_json(folder / f"track_{index:05d}.json", {"description": text})
    return folder


def sidecars(folder) -> list[dict]:
    return [json.loads((folder / f"track_{index:05d}.json").read_text()) for index in range(TRACKS)]


def test_corrupted_captions_are_found_and_put_right(folder):
    before = right_words([entry["description"] for entry in sidecars(folder)])
    report = refine(folder, load_settings("playground"))
    refined = sidecars(folder)
    scores = np.array([entry["captions"][0]["score"] for entry in refined])
    wrong, true = scores[0::2], scores[1::2]
    assert (true[:, None] > wrong[None]).mean() > 0.95  # area under the ROC curve
    threshold = load_settings("playground")["match"]["threshold"]
    assert (wrong < threshold).mean() > 0.8
    assert (true >= threshold).mean() > 0.9

    after = right_words([entry["description"] for entry in refined])
    assert before < 0.75 and after >= 0.9  # of a clean level of 1
    assert right_words([compose(SEED, index).description for index in range(TRACKS)]) == 1
    assert report.scores.quantile("mismatched", 0.5) < threshold < report.scores.quantile("original", 0.7)


def test_unknown_words_say_nothing():
    matcher = get_matcher(load_settings("playground")["match"])
    audio = torch.randn(32000, generator=torch.Generator().manual_seed(0))
    assert matcher.embed_audio(audio, 16000).shape == (1, 64)
    plain, with_others = (
        matcher.embed_texts(["slow piano", "A zither? Slow PIANO!"]),
        matcher.embed_texts(["slow a piano"]),
    )
    torch.testing.assert_close(plain[1], with_others[0])
