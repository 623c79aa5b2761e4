"""Conditioners that AudioCraft lacks: quality levels, a T5 whose states the network projects, hashed words."""

from __future__ import annotations

import itertools
import logging
import re
import typing as tp

import torch
from torch import Tensor, nn

from audiocraft_qamdt.utils import prepared

from ..data.attributes import GRANULARITIES

from audiocraft.modules.conditioners import (
    ConditionType,
    T5Conditioner,
    TextConditioner,
)
from audiocraft.utils.utils import hash_trick, length_to_mask

UNKNOWN_LEVEL = 0.0

Level = float | list[float] | None
"""Quality of an item: a level from 1 to 5, a curve of levels, or None = unknown."""

logger = logging.getLogger(__name__)


class QualityConditioner(TextConditioner):
    """Hands a batch of quality levels to the network, which owns the embeddings.

    Args:
        granularity: one of `GRANULARITIES`.
        device: where the levels go.
    """

    def __init__(self, granularity: str, device: torch.device | str = "cpu") -> None:
        if granularity not in GRANULARITIES:
            raise ValueError(
                f"quality.granularity={granularity!r} is unknown: choose one of {', '.join(GRANULARITIES)}"
            )
        super().__init__(dim=1, output_dim=1)
        self.output_proj = nn.Identity()  # type: ignore[assignment]
        self.granularity = granularity
        self.device = device

    def tokenize(self, x: list[Level]) -> Tensor:
        """Return the levels of the items (0 = unknown) as [B, N]; N = 1 except for the curves of `frame`."""
        curves = [_as_curve(item) for item in x]
        length = max(len(curve) for curve in curves)
        rows = [curve + curve[-1:] * (length - len(curve)) for curve in curves]
        return torch.tensor(rows, dtype=torch.float32, device=self.device)

    def forward(self, inputs: Tensor) -> ConditionType:
        return inputs, torch.ones_like(inputs, dtype=torch.int)


def _as_curve(item: Level) -> list[float]:
    if item is None:
        return [UNKNOWN_LEVEL]
    return [float(level) for level in item] if isinstance(item, list) else [float(item)]


class T5StatesConditioner(T5Conditioner):
    """AudioCraft's `T5Conditioner` giving the encoder's states themselves: the network projects and masks them.

    Args:
        name: one of AudioCraft's T5 names, any T5 on the hub, or a local folder with a T5 and its tokenizer.
        output_dim: must be the T5's width.
        no_text: what stands for it. "empty" = the encoding of the empty string (published QA-MDT, whose tokenizer
            gives one end token); "zeros" = nothing to attend to (AudioCraft).
        max_length: tokens kept of a description (published: 128).
    """

    def __init__(
        self,
        name: str,
        output_dim: int,
        device: str,
        no_text: str = "empty",
        max_length: int = 128,
        finetune: bool = False,
        **kwargs: tp.Any,
    ) -> None:
        if no_text not in ("empty", "zeros"):
            raise ValueError(f"qamdt_t5.no_text={no_text!r} is unknown: choose empty or zeros")
        from transformers import AutoConfig

        width = AutoConfig.from_pretrained(name).d_model
        if width != output_dim:
            raise ValueError(
                f"T5 {name!r} has width {width} but mdt.context_dim={output_dim}: set mdt.context_dim={width}"
            )
        # AudioCraft knows a fixed list of names; the instance's own table admits any.
        self.MODELS, self.MODELS_DIMS = [name], {name: width}
        super().__init__(name, output_dim, finetune=finetune, device=device, **kwargs)
        self.output_proj = nn.Identity()  # type: ignore[assignment]
        self.no_text, self.max_length = no_text, max_length
        self.t5_tokenizer.model_max_length = max_length

    def tokenize(self, x: list[str | None]) -> dict[str, Tensor]:
        inputs = super().tokenize(x)
        for key in inputs:
            inputs[key] = inputs[key][:, : self.max_length]
        if self.no_text == "empty":
            # AudioCraft zeroes the mask of an empty description: its one token is the null encoding here.
            inputs["attention_mask"][:, 0] = 1
        return inputs

    def forward(self, inputs: dict[str, Tensor]) -> ConditionType:
        mask = inputs["attention_mask"]
        with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()), self.autocast:
            states = self.t5(**inputs).last_hidden_state
        return states.float() * mask.unsqueeze(-1), mask


class WordsConditioner(TextConditioner):
    """Learned embedding of each word's hash: text conditioning with nothing to download.

    It counts the words of training. In evaluation mode words that training never had are left out, and a warning names
    them: their embeddings would be random.

    Args:
        n_bins: size of the table; words are hashed into it (AudioCraft's `hash_trick`).
        dim: width of the table.
        output_dim: width of the output.
        ngrams: 2 = pairs of neighbouring words have embeddings, too ("a minor" is more than "a" and "minor").
    """

    counts: Tensor

    def __init__(
        self, n_bins: int, dim: int, output_dim: int, device: torch.device | str = "cpu", ngrams: int = 1
    ) -> None:
        if ngrams not in (1, 2):
            raise ValueError(f"conditioners.description.words.ngrams={ngrams}: choose 1 or 2")
        super().__init__(dim, output_dim)
        self.embed = nn.Embedding(n_bins, dim)
        # Floating point, since AudioCraft's moving average keeps nothing else.
        self.register_buffer("counts", torch.zeros(n_bins))
        self.ngrams = ngrams
        self.device = device
        self._warned: set[str] = set()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        # Models from before words were counted know all of them.
        counts = {f"{prefix}counts": torch.ones_like(self.counts)}
        super()._load_from_state_dict({**counts, **state_dict}, prefix, *args)

    def tokenize(self, x: list[str | None]) -> tuple[Tensor, Tensor]:
        """Return the bins of descriptions [B, L] and their mask [B, L]."""
        rows = [self._bins(text) for text in x]
        mask = length_to_mask(torch.tensor([len(row) for row in rows])).int()
        tokens = torch.zeros(mask.shape, dtype=torch.long)
        for row, bins in zip(tokens, rows, strict=True):
            row[: len(bins)] = torch.tensor(bins, dtype=torch.long)
        return tokens.to(self.device), mask.to(self.device)

    def _bins(self, text: str | None) -> list[int]:
        words = re.findall(r"\w+", (text or "").lower())
        pairs = [" ".join(pair) for pair in itertools.pairwise(words)] if self.ngrams == 2 else []
        if self.training:
            return [hash_trick(term, self.embed.num_embeddings) for term in words + pairs]
        known = self.counts.cpu() > 0
        if not known.any():  # not trained yet
            known = torch.ones_like(known)
        bins = {term: hash_trick(term, len(known)) for term in words + pairs}
        self._warn([word for word in dict.fromkeys(words) if not known[bins[word]]])
        return [bins[term] for term in words + pairs if known[bins[term]]]

    def _warn(self, unknown: list[str]) -> None:
        if new := [word for word in unknown if word not in self._warned]:
            self._warned.update(new)
            logger.warning("Words that the model was not trained on are left out: %s", ", ".join(new))

    def forward(self, inputs: tuple[Tensor, Tensor]) -> ConditionType:
        tokens, mask = inputs
        if self.training:
            with torch.no_grad():
                self.counts += torch.bincount(tokens[mask.bool()], minlength=len(self.counts)).to(self.counts)
        return self.output_proj(self.embed(tokens)) * mask.unsqueeze(-1), mask
