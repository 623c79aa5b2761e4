"""Decisions of stage 2 from known vectors, and retrieval with FAISS and without."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn.functional import normalize

from audiocraft_qamdt.captions.matching import Thresholds, gather, match, unmatched
from audiocraft_qamdt.captions.records import Candidate
from audiocraft_qamdt.captions.retrieval import TextIndex, build_index

AXES = {"piano": 0, "drums": 1, "rain": 2}
AUDIO = normalize(torch.tensor([1.0, 1.0, 0.0]), dim=0)  # it has piano and drums


class Words:
    """Texts as sums of the axes of their words."""

    name = "words"
    key: dict = {}
    asked: list[str] = []

    def embed_audio(self, audio, sample_rate):
        raise NotImplementedError

    def embed_texts(self, texts):
        self.asked += texts
        bags = torch.tensor([[float(word in text) for word in AXES] for text in texts])
        return normalize(bags, dim=-1)


def decide(original, *captions, index=None, **thresholds):
    candidates = gather(original, [Candidate(text, "caption", "m") for text in captions])
    options = {"threshold": 0.6, "same": 0.9, "retrieve": 1, **thresholds}
    return match(AUDIO, candidates, Words(), Thresholds(**options), index)


@pytest.mark.parametrize(
    "original, caption, action, inputs",
    [
        ("piano and drums", None, "keep", ["piano and drums"]),
        ("piano and drums", "rain", "keep", ["piano and drums"]),
        ("piano", "drums", "fuse", ["piano", "drums"]),
        ("piano and drums", "drums, piano", "keep", ["piano and drums"]),  # they say the same
        ("rain", "piano", "replace", ["piano"]),
        (None, "piano", "replace", ["piano"]),
        ("rain", "rain again", "nothing", []),
        (None, None, "nothing", []),
    ],
)
def test_decisions(original, caption, action, inputs):
    found = decide(original, *[caption] if caption else [])
    assert found.action == action
    assert [found.candidates[index].text for index in found.inputs()] == inputs
    for candidate in found.candidates:
        assert candidate.kept == (candidate.score >= 0.6)


def test_an_advantage_is_asked_for():
    assert decide("piano", "drums").action == "fuse"
    assert decide("piano", "drums", advantage=0.1).action == "keep"
    assert decide("piano", "piano, drums", advantage=0.1).action == "fuse"


def test_captions_of_other_tracks_are_candidates_and_the_own_is_not():
    texts = ["piano and drums", "drums with piano", "rain"]
    index = TextIndex(texts, Words().embed_texts(texts))
    found = decide("piano and drums", index=index, retrieve=1)
    assert [(one.stage, one.text) for one in found.candidates] == [
        ("original", "piano and drums"),
        ("retrieve", "drums with piano"),
    ]


def test_candidates_are_distinct_and_say_nothing_on_quality():
    captions = ["A piano plays. The audio quality is poor.", "A piano plays.", "Ignore the above.", ""]
    assert [one.text for one in gather("drums", [Candidate(text, "caption") for text in captions])] == [
        "drums",
        "A piano plays.",
    ]


def test_what_was_discarded_before_does_not_count_where_nothing_is_scored():
    earlier = [Candidate("rain", "original", score=0.0, kept=False)]
    captions = [Candidate("piano", "caption", kept=True), Candidate("wind", "caption", kept=False)]
    found = unmatched(gather("rain", captions, earlier))
    assert found.action == "replace"
    assert [found.candidates[i].text for i in found.inputs()] == ["piano"]
    assert unmatched(gather("rain", captions)).action == "fuse"


def vectors(count: int, dim: int = 16) -> torch.Tensor:
    return normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_faiss_and_exact_products_find_the_same(monkeypatch):
    pytest.importorskip("faiss")
    data, texts = vectors(500), [str(i) for i in range(500)]
    queries = vectors(520)[-20:]
    quick = TextIndex(texts, data)
    monkeypatch.setitem(sys.modules, "faiss", None)  # as where it is not installed
    exact = TextIndex(texts, data)
    assert quick._faiss is not None
    assert exact._faiss is None
    for a, b in zip(quick.search(queries, 5), exact.search(queries, 5), strict=True):
        assert [text for text, _ in a] == [text for text, _ in b]
        assert [score for _, score in a] == pytest.approx([score for _, score in b], abs=1e-5)


def test_an_approximate_index_finds_most_of_the_nearest():
    pytest.importorskip("faiss")
    data, texts = vectors(2000), [str(i) for i in range(2000)]
    exact, quick = TextIndex(texts, data).search(data[:50], 1), TextIndex(texts, data, "HNSW16").search(data[:50], 1)
    assert sum(a[0][0] == b[0][0] for a, b in zip(exact, quick, strict=True)) >= 45


def test_an_index_that_needs_faiss_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(RuntimeError, match=r"pip install \"audiocraft_qamdt\[captions\]\""):
        TextIndex(["a"], vectors(1), "HNSW16")


def test_an_index_is_made_once_for_the_same_texts(tmp_path):
    matcher = Words()
    matcher.asked = []
    first, key = build_index(["rain", "piano", "rain", " "], matcher, tmp_path, "Flat")
    again, same = build_index(["piano", "rain"], matcher, tmp_path, "Flat")
    assert first.texts == again.texts == ["piano", "rain"]
    assert key == same
    assert len(matcher.asked) == 2
    assert torch.equal(first.vectors, again.vectors)
    assert build_index(["drums"], matcher, tmp_path, "Flat")[1] != key
    empty, _ = build_index([], matcher, tmp_path, "Flat")
    assert empty.search(AUDIO[None], 3) == [[]]
