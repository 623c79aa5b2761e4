"""Best of several candidates by how well audio and text agree (published QA-MDT: the best of 3 by CLAP)."""

from __future__ import annotations

import typing as tp

import julius
import torch
from torch import Tensor

Scorer = tp.Callable[[Tensor, int, list[str]], Tensor]
"""scorer(audio [B, 1, S], sample_rate, texts) -> agreement [B], higher is better."""


class ClapScorer:
    """Cosine similarity of audio and text in the space of a CLAP model (arXiv 2211.06687).

    Args:
        name: hub id or local folder of a transformers `ClapModel` and its processor.
        device: where it computes.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        from transformers import ClapModel, ClapProcessor

        self.model: tp.Any = ClapModel.from_pretrained(name).eval()
        self.model.to(device)
        self.processor = ClapProcessor.from_pretrained(name)
        self.device = device

    @torch.no_grad()
    def __call__(self, audio: Tensor, sample_rate: int, texts: list[str]) -> Tensor:
        wanted = self.processor.feature_extractor.sampling_rate
        clips = [clip.mean(0).numpy() for clip in julius.resample_frac(audio.float().cpu(), sample_rate, wanted)]
        inputs = self.processor(
            text=texts, audio=clips, sampling_rate=wanted, padding=True, truncation=True, return_tensors="pt"
        ).to(self.device)
        output = self.model(**inputs)
        return torch.cosine_similarity(output.audio_embeds, output.text_embeds).cpu()


def best_of(candidates: list[Tensor], sample_rate: int, texts: list[str], scorer: Scorer) -> Tensor:
    """For each text the candidate that agrees with it best.

    Args:
        candidates: batches [B, 1, S] of alternatives for the same texts.
        texts: B descriptions.
    Returns:
        [B, 1, S].
    """
    scores = torch.stack([scorer(audio, sample_rate, texts) for audio in candidates])  # [N, B]
    best = scores.argmax(dim=0)
    return torch.stack([candidates[choice][item] for item, choice in enumerate(best.tolist())])
