"""How well audio and text agree, by CLAP, and the best of several candidates (published QA-MDT: the best of 3)."""

from __future__ import annotations

import typing as tp
from pathlib import Path

import julius
import torch
from torch import Tensor

from .laion import load_laion_clap

Scorer = tp.Callable[[Tensor, int, list[str]], Tensor]
"""scorer(audio [B, 1, S], sample_rate, texts) -> agreement [B], higher is better."""

TEXT_TOKENS = 77  # what CLAP was trained with; longer texts are cut, as AudioCraft's metric does


class ClapScorer:
    """Cosine similarity of audio and text in the space of a CLAP model (arXiv 2211.06687).

    Args:
        name: hub id or folder of a transformers `ClapModel` and its processor, or a checkpoint file of laion-clap.
        device: where it computes.
        tokenizer: hub id or folder of the tokenizer for a laion-clap file, which holds none.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu", tokenizer: str = "roberta-base") -> None:
        from transformers import ClapModel, ClapProcessor

        self.model: tp.Any
        if Path(name).is_file():
            self.model, self.processor = load_laion_clap(name, tokenizer)
        else:
            self.model, self.processor = ClapModel.from_pretrained(name).eval(), ClapProcessor.from_pretrained(name)
        self.model.to(device)
        self.name, self.device = name, device
        self.key = {"tokenizer": tokenizer if Path(name).is_file() else None}
        text = self.model.config.text_config
        self._text_tokens = min(TEXT_TOKENS, text.max_position_embeddings - text.pad_token_id - 1)

    @torch.no_grad()
    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Unit vectors [B, D] of audio [B, C, S]; of one that is longer than CLAP's window, the mean of its windows."""
        extractor = self.processor.feature_extractor
        mono = julius.resample_frac(audio.float().cpu(), sample_rate, extractor.sampling_rate).mean(1)
        windows = cut_windows(mono, extractor.nb_max_samples)  # [B, W, S]
        inputs = extractor(
            list(windows.flatten(0, 1).numpy()), sampling_rate=extractor.sampling_rate, return_tensors="pt"
        )
        # No window is longer than what the model sees; the extractor declares one so at random for fusion models.
        inputs["is_longer"] = torch.zeros(len(inputs["input_features"]), 1, dtype=torch.bool)
        output = self.model.audio_model(**inputs.to(self.device))
        vectors = self.model.audio_projection(output.pooler_output).cpu()  # [B · W, D]
        vectors = torch.nn.functional.normalize(vectors, dim=-1).view(*windows.shape[:2], -1).mean(1)
        return torch.nn.functional.normalize(vectors, dim=-1)

    @torch.no_grad()
    def embed_text(self, texts: tp.Sequence[str]) -> Tensor:
        """Unit vectors [N, D] of N texts."""
        inputs = self.processor.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._text_tokens, return_tensors="pt"
        ).to(self.device)
        output = self.model.text_model(inputs["input_ids"], inputs["attention_mask"])
        vectors = self.model.text_projection(output.pooler_output).cpu()
        return torch.nn.functional.normalize(vectors, dim=-1)

    def __call__(self, audio: Tensor, sample_rate: int, texts: list[str]) -> Tensor:
        return (self.embed_audio(audio, sample_rate) * self.embed_text(texts)).sum(-1)


def cut_windows(audio: Tensor, size: int) -> Tensor:
    """Windows [B, W, size] that cover audio [B, S], the last one moved inside; [B, 1, S] where it is not longer."""
    samples = audio.shape[-1]
    if samples <= size:
        return audio[:, None]
    starts = [*range(0, samples - size, size), samples - size]
    return torch.stack([audio[:, start : start + size] for start in starts], dim=1)


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
