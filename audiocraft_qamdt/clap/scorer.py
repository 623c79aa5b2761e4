"""How well audio and text agree, in the space of a CLAP model (published QA-MDT keeps the best of 3 by it)."""

from __future__ import annotations

import typing as tp
from pathlib import Path

import julius
import torch
from torch import Tensor

from .laion import load_laion_clap

if tp.TYPE_CHECKING:
    from transformers import ClapProcessor

Scorer = tp.Callable[[Tensor, int, list[str]], Tensor]
"""scorer(audio [B, channels, S], sample_rate, texts) -> score [B], higher is better."""


TEXT_TOKENS = 77  # what CLAP was trained with; longer texts are cut, as AudioCraft's metric does
SHORTEST = 1.0  # seconds of a last window that counts, where it is not the only one


def windows(audio: Tensor, size: int, shortest: int) -> list[Tensor]:
    """Return consecutive windows of at most `size` samples of audio [S]; a remainder below `shortest` is left out."""
    whole, *rest = audio.split(size)
    return [whole, *(window for window in rest if len(window) >= shortest)]


class ClapScorer:
    """Cosine similarity of audio and text in the space of a CLAP model (arXiv 2211.06687).

    Audio longer than the model's window, of which the model's own preparation takes a random part, is cut into
    windows whose embeddings are averaged; shorter audio is repeated until it fills one, as in training.

    Args:
        name: hub id or folder of a transformers `ClapModel` and its processor, or a checkpoint file of laion-clap, on
            this machine or on the hub (`owner/name/file.pt`).
        device: where it computes.
        tokenizer: hub id or folder of the tokenizer for a laion-clap file, which holds none.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu", tokenizer: str = "roberta-base") -> None:
        from transformers import ClapModel, ClapProcessor

        self.model: tp.Any  # a ClapModel, whose methods transformers decorates to what no type checker can follow
        self.processor: ClapProcessor
        file = _checkpoint_file(name)
        if file is not None:
            self.model, self.processor = load_laion_clap(file, tokenizer)
        else:
            self.model, self.processor = ClapModel.from_pretrained(name).eval(), ClapProcessor.from_pretrained(name)
        self.model.to(device)
        self.name, self.device = name, device
        self.key = {"tokenizer": tokenizer if file is not None else None}
        text = self.model.config.text_config
        self._text_tokens = min(TEXT_TOKENS, text.max_position_embeddings - text.pad_token_id - 1)
        self.dim = self.model.config.projection_dim

    @torch.no_grad()
    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Return embeddings [n, D] of unit length, one for each window of a clip [S]."""
        prepare = self.processor.feature_extractor
        audio = julius.resample_frac(audio.float().cpu(), sample_rate, prepare.sampling_rate)
        clips = windows(audio, prepare.nb_max_samples, round(SHORTEST * prepare.sampling_rate))
        fusion = self.model.config.audio_config.enable_fusion
        inputs = prepare(
            [clip.numpy() for clip in clips],
            sampling_rate=prepare.sampling_rate,
            truncation="fusion" if fusion else "rand_trunc",
            return_tensors="pt",
        )
        # The extractor calls one at random longer than it is, so that training has one in each batch.
        longer = torch.zeros(len(clips), 1, dtype=torch.bool, device=self.device)
        output = self.model.get_audio_features(inputs["input_features"].to(self.device), is_longer=longer)
        return _pooled(output).cpu()

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Return embeddings [B, D] of unit length."""
        inputs = self.processor.tokenizer(
            texts, padding=True, truncation=True, max_length=self._text_tokens, return_tensors="pt"
        ).to(self.device)
        return _pooled(self.model.get_text_features(**inputs)).cpu()

    def __call__(self, audio: Tensor, sample_rate: int, texts: list[str]) -> Tensor:
        embedded = torch.stack([self.embed_audio(clip.mean(0), sample_rate).mean(0) for clip in audio])
        return torch.cosine_similarity(embedded, self.embed_texts(texts))


def _checkpoint_file(name: str) -> Path | None:
    """Return the laion-clap file that `name` means, downloaded where it lies on the hub; None = a `ClapModel`."""
    if Path(name).is_file():
        return Path(name)
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not (owner and repository and file.endswith(".pt")):
        return None
    from huggingface_hub import HfApi

    return Path(HfApi().hf_hub_download(f"{owner}/{repository}", file))


def _pooled(output: object) -> Tensor:
    # A tensor until transformers 5, which gives the whole output.
    return torch.nn.functional.normalize(tp.cast(Tensor, getattr(output, "pooler_output", output)), dim=-1)
