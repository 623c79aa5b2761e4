"""Choose among candidates: by agreement with the text (CLAP), by predicted quality (p-MOS), or by both."""

from __future__ import annotations

import functools
import typing as tp
from dataclasses import dataclass

import torch
from torch import Tensor

from ..clap.scorer import Scorer
from ..quality.annotate import score_clip
from ..quality.predictors.base import Predictor, load_predictor
from ..utils.reading import JsonObject
from .params import CLAP, GenerationParams, scorer_names


class PmosScorer:
    """Score clips by a predictor, whatever their texts: the mean p-MOS of a clip's windows."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def __call__(self, audio: Tensor, sample_rate: int, texts: list[str]) -> Tensor:
        return torch.stack([score_clip(self.predictor, clip, sample_rate).mean() for clip in audio])


@dataclass(frozen=True)
class Candidates:
    """Alternatives for the same texts, and what each scored.

    Args:
        audio: N batches [B, channels, S].
        scores: scorer's name (`clap`, `pmos:PREDICTOR`) → its scores [N, B]; empty = the first candidate is kept.
    """

    audio: list[Tensor]
    scores: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """Sum of the scores [N, B], with p-MOS on a scale of 0 to 1 beside CLAP's cosine similarity.

        A candidate whose score is no number has the lowest there is.
        """
        if not self.scores:
            return torch.zeros(len(self.audio), len(self.audio[0]))
        scaled = [values if name == CLAP else (values - 1) / 4 for name, values in self.scores.items()]
        return torch.stack(scaled).sum(0).nan_to_num(nan=-torch.inf)

    @property
    def chosen(self) -> list[int]:
        """Index of each text's best candidate [B]."""
        return self.total.argmax(dim=0).tolist()

    @property
    def best(self) -> Tensor:
        """Return the audio [B, channels, S] of the best candidates."""
        return torch.stack([self.audio[choice][item] for item, choice in enumerate(self.chosen)])

    def record(self, item: int) -> JsonObject:
        """Return what is written beside a clip: which candidate was chosen, and the scores of all; {} = none chose."""
        if not self.scores:
            return {}
        scores = {name: values[:, item].tolist() for name, values in self.scores.items()}
        return {"chosen": self.chosen[item], "scores": scores}


def load_scorers(
    params: GenerationParams, device: str, load_clap: tp.Callable[[str, str], Scorer]
) -> dict[str, Scorer]:
    """Load what chooses among candidates, by name; {} = there is one candidate.

    Args:
        load_clap: from the name of a CLAP model and a device to its scorer.
    Raises:
        ValueError: CLAP is to choose, but none is named; an unknown predictor.
    """
    if params.candidates == 1:
        return {}
    scorers: dict[str, Scorer] = {}
    for name in scorer_names(params.rerank):
        if name != CLAP:
            scorers[name] = PmosScorer(_predictor(name.partition(":")[2], device))
        elif params.clap is None:
            raise ValueError(
                f"candidates={params.candidates}, but clap names no model to choose with: set clap, or rerank=pmos"
            )
        else:
            scorers[name] = load_clap(params.clap, device)
    return scorers


def choose(candidates: list[Tensor], sample_rate: int, texts: list[str], scorers: dict[str, Scorer]) -> Candidates:
    """Score candidates.

    Args:
        candidates: batches [B, channels, S] of alternatives for the same texts.
        texts: B descriptions.
    """
    scores = {
        name: torch.stack([scorer(audio, sample_rate, texts).cpu() for audio in candidates])
        for name, scorer in scorers.items()
    }
    return Candidates(candidates, scores)


@functools.lru_cache(maxsize=1)
def _predictor(name: str, device: str) -> Predictor:
    return load_predictor(name, device)
