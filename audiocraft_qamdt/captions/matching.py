"""Stage 2: which texts agree with the audio, and what is to be done with them."""

from __future__ import annotations

import typing as tp
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..utils.reading import JsonObject
from .records import Candidate
from .retrieval import TextIndex
from .text import clean, shorten, without_instructions, without_quality

LONGEST = 1000  # characters of a text that models are shown

KEEP, REPLACE, FUSE, NOTHING = "keep", "replace", "fuse", "nothing"
"""What is to be done: the original stays; another takes its place; both are true and differ; nothing agrees."""


class Matcher(tp.Protocol):
    """Puts audio and texts into one space; `name` goes into the sidecars, `key` (with the name) into the cache."""

    name: str
    key: JsonObject

    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Return unit vectors [n, D] of audio [S], one for each window."""

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Return unit vectors [N, D]."""


def hear(matcher: Matcher, audio: Tensor, sample_rate: int) -> Tensor:
    """Return the unit vector [D] of a whole track [S]."""
    return normalize(matcher.embed_audio(audio, sample_rate).mean(0), dim=-1)


@dataclass(frozen=True)
class Thresholds:
    """Thresholds for texts, as cosines; `qamdt captions` draws where they lie among the scores of a data set.

    Args:
        threshold: the least agreement of a text with the audio.
        same: agreement from which on two texts count as equal.
        retrieve: captions of other tracks that are added to the candidates.
        advantage: how much better than a passing original another text must agree to be used; None = it need not.
    """

    threshold: float = 0.2
    same: float = 0.8
    retrieve: int = 3
    advantage: float | None = None


@dataclass
class Match:
    """Result of stage 2 for a track.

    Args:
        candidates: all texts with their scores, the original first where there is one.
        action: one of `KEEP`, `REPLACE`, `FUSE`, `NOTHING`.
        similarity: cosine of the original and the best other text; None = one of them is missing.
        mismatched: agreement of the audio with a caption of another track, for calibration.
    """

    candidates: list[Candidate] = field(default_factory=list)
    action: str = NOTHING
    similarity: float | None = None
    mismatched: float | None = None

    @classmethod
    def from_dict(cls, fields: JsonObject) -> Match:
        return cls(**{**fields, "candidates": [Candidate.from_dict(entry) for entry in fields["candidates"]]})

    def to_dict(self) -> JsonObject:
        """Return what the cache keeps."""
        return {**vars(self), "candidates": [candidate.to_dict() for candidate in self.candidates]}

    def inputs(self, limit: int = 3) -> list[int]:
        """Return indices of the texts that the description is to be made of, the original first, then the best."""
        others = [index for index, candidate in enumerate(self.candidates) if candidate.stage != "original"]
        passing = [index for index in others if self.candidates[index].kept]
        passing.sort(key=lambda index: -_score(self.candidates[index]))
        first = [index for index in range(len(self.candidates)) if index not in others]
        chosen = {KEEP: first, REPLACE: passing[:limit], FUSE: first + passing[:limit], NOTHING: []}
        return chosen[self.action]

    def best(self) -> int | None:
        """Index of the input that agrees best with the audio; None where there is no input."""
        inputs = self.inputs()
        return max(inputs, key=lambda index: _score(self.candidates[index])) if inputs else None


def _score(candidate: Candidate) -> float:
    return -2.0 if candidate.score is None else candidate.score


def gather(
    original: str | None,
    captions: Sequence[Candidate],
    earlier: Sequence[Candidate] = (),
) -> list[Candidate]:
    """Return the original and distinct captions, as models may see them: no instructions, no words on quality.

    Args:
        earlier: what an earlier run left: the original is as it was judged there, until it is judged again.
    """
    first = shorten(without_instructions(original), LONGEST) if original else ""
    judged = next((entry for entry in earlier if entry.stage == "original"), Candidate(first, "original"))
    found = [Candidate(first, "original", score=judged.score, kept=judged.kept, reason=judged.reason)] if first else []
    for caption in captions:
        text = shorten(without_quality(without_instructions(caption.text)), LONGEST)
        if text and text not in [candidate.text for candidate in found]:
            found.append(replace(caption, text=text, refined=False))
    return found


def match(
    audio: Tensor,
    candidates: list[Candidate],
    matcher: Matcher,
    thresholds: Thresholds,
    index: TextIndex | None = None,
) -> Match:
    """Score all candidates of a track, and captions of other tracks, and decide.

    Args:
        audio: the track's unit vector [D].
        candidates: from `gather`.
        index: captions of the data set; None = nothing is retrieved.
    """
    if index is not None and thresholds.retrieve:
        known = {clean(candidate.text) for candidate in candidates}
        found = index.search(audio[None], thresholds.retrieve + len(known))[0]
        texts = [text for text, _ in found if clean(text) not in known][: thresholds.retrieve]
        retrieved = gather(None, [Candidate(text, "retrieve", matcher.name) for text in texts])
        candidates = [*candidates, *(one for one in retrieved if one.text not in {other.text for other in candidates})]
    if not candidates:
        return Match()
    vectors = matcher.embed_texts([candidate.text for candidate in candidates])
    for candidate, score in zip(candidates, (vectors @ audio).tolist(), strict=True):
        candidate.score = round(score, 4)
        candidate.kept = score >= thresholds.threshold
        candidate.reason = None if candidate.kept else "score"
    return _decide(candidates, vectors, thresholds)


def _decide(candidates: list[Candidate], vectors: Tensor, thresholds: Thresholds) -> Match:
    others = [i for i, candidate in enumerate(candidates) if candidate.stage != "original"]
    best = max(others, key=lambda i: _score(candidates[i]), default=None)
    has_original = candidates[0].stage == "original"
    similarity = round(float(vectors[0] @ vectors[best]), 4) if has_original and best is not None else None
    found = Match(candidates, similarity=similarity)
    passes = best is not None and candidates[best].kept
    if has_original and candidates[0].kept:
        ahead = best is not None and _score(candidates[best]) - _score(candidates[0])
        enough = thresholds.advantage is None or (passes and ahead >= thresholds.advantage)
        differs = passes and enough and (similarity or 0.0) < thresholds.same
        found.action = FUSE if differs else KEEP
    else:
        found.action = REPLACE if passes else NOTHING
    return found


def unmatched(candidates: list[Candidate]) -> Match:
    """Decide without scores: keep every text that no earlier run has discarded."""
    kinds = {candidate.stage == "original" for candidate in candidates if candidate.kept}
    actions = {(): NOTHING, (True,): KEEP, (False,): REPLACE, (False, True): FUSE}
    return Match(candidates, actions[tuple(sorted(kinds))])


def mismatched_score(audio: Tensor, index: TextIndex, own: str | None, row: int) -> float | None:
    """Return the agreement with a caption of the data set that is not this track's: what chance looks like.

    Args:
        audio: the track's unit vector [D].
        own: its own caption.
        row: which caption, modulo their number.
    """
    others = [i for i in (row % max(len(index.texts), 1), (row + 1) % max(len(index.texts), 1)) if index.texts]
    chosen = [i for i in others if index.texts[i] != own]
    return round(float(torch.dot(index.vectors[chosen[0]], audio)), 4) if chosen else None
