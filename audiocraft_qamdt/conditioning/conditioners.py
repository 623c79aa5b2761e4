"""Conditioners that AudioCraft lacks, and the step from a segment's metadata to what the network is given.

The way: `SegmentWithAttributes.to_condition_attributes()` holds the description and p-MOS values of the segment
(`quality_<granularity>`); `drop_conditions` forgets some of it in training; `to_levels` turns p-MOS into levels and the
text prefix; AudioCraft's `ConditioningProvider` encodes; `ModelFuser` names the network's arguments.
"""

from __future__ import annotations

import re
import typing as tp
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..compat import prepare
from ..data.attributes import GRANULARITIES, QUALITY, level_names
from ..quality.levels import LevelRule, prefixed, unprefixed

prepare()

from audiocraft.modules.conditioners import (  # noqa: E402
    ConditionFuser,
    ConditioningAttributes,
    ConditionType,
    T5Conditioner,
    TextConditioner,
)
from audiocraft.utils.utils import hash_trick, length_to_mask  # noqa: E402

UNKNOWN_LEVEL = 0.0

_FUSED_AS = {"sum": "global", "prepend": "clip", "input_interpolate": "frame", "adaln": "adaln"}


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

    def tokenize(self, x: list[float | list[float] | None]) -> Tensor:
        """Levels 1–5 of each item (a curve for `frame`), None = unknown, to a tensor [B, N]; N = 1 but for `frame`."""
        curves = [_as_curve(item) for item in x]
        length = max(len(curve) for curve in curves)
        rows = [curve + curve[-1:] * (length - len(curve)) for curve in curves]
        return torch.tensor(rows, dtype=torch.float32, device=self.device)

    def forward(self, inputs: Tensor) -> ConditionType:
        return inputs, torch.ones_like(inputs, dtype=torch.int)


def _as_curve(item: float | list[float] | None) -> list[float]:
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

    Args:
        n_bins: size of the table; words are hashed into it (AudioCraft's `hash_trick`).
        dim: width of the table.
        output_dim: width of the output.
    """

    def __init__(self, n_bins: int, dim: int, output_dim: int, device: torch.device | str = "cpu") -> None:
        super().__init__(dim, output_dim)
        self.embed = nn.Embedding(n_bins, dim)
        self.device = device

    def tokenize(self, x: list[str | None]) -> tuple[Tensor, Tensor]:
        words = [re.findall(r"\w+", (text or "").lower()) for text in x]
        mask = length_to_mask(torch.tensor([len(item) for item in words])).int()
        tokens = torch.zeros(mask.shape, dtype=torch.long)
        for row, item in zip(tokens, words, strict=True):
            row[: len(item)] = torch.tensor([hash_trick(word, self.embed.num_embeddings) for word in item])
        return tokens.to(self.device), mask.to(self.device)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> ConditionType:
        tokens, mask = inputs
        return self.output_proj(self.embed(tokens)) * mask.unsqueeze(-1), mask


class ModelFuser(ConditionFuser):
    """AudioCraft's fuser configuration, applied as arguments of the network instead of to its input.

    `cross` conditions become the context and its padding mask (AudioCraft's fuser drops the mask); quality conditions
    become levels by granularity: sum = global, prepend = clip, input_interpolate = frame, and our `adaln`.
    """

    FUSING_METHODS = [*ConditionFuser.FUSING_METHODS, "adaln"]

    def quality_granularities(self) -> tuple[str, ...]:
        """Granularities that the network needs embeddings for.

        Raises:
            ValueError: a condition that is not quality is fused in a way that only quality is.
        """
        for name, method in self.cond2fuse.items():
            if method != "cross" and name != f"{QUALITY}_{_FUSED_AS[method]}":
                raise ValueError(
                    f"fuser.{method}=[{name}]: only {QUALITY}_{_FUSED_AS[method]} can be fused by {method}; "
                    "put other conditions under fuser.cross"
                )
        return tuple(g for method, g in _FUSED_AS.items() if self.fuse2cond.get(method))

    def forward(self, conditions: dict[str, ConditionType]) -> dict[str, tp.Any]:  # type: ignore[override]
        """Conditions by name, each (tensor, mask), to `context`, `context_mask` and `quality` of the network."""
        crossed = [conditions[name] for name in self.fuse2cond.get("cross", []) if name in conditions]
        quality = {
            _FUSED_AS[self.cond2fuse[name]]: levels
            for name, (levels, _) in conditions.items()
            if self.cond2fuse[name] != "cross"
        }
        return {
            "context": torch.cat([states for states, _ in crossed], dim=1) if crossed else None,
            "context_mask": torch.cat([mask for _, mask in crossed], dim=1) if crossed else None,
            "quality": {g: levels if g == "frame" else levels[:, 0] for g, levels in quality.items()},
        }


def drop_conditions(
    attributes: list[ConditioningAttributes], probabilities: dict[str, float], generator: torch.Generator
) -> list[ConditioningAttributes]:
    """Forget conditions in training, each item and each condition on its own.

    Args:
        attributes: of a batch; not changed.
        probabilities: by attribute name; "quality" forgets all that is said of quality, the prefix included.
        generator: CPU generator.
    """
    attributes = [_own_text(item) for item in attributes]
    for item in attributes:
        for name, probability in sorted(probabilities.items()):
            if torch.rand((), generator=generator) < probability:
                forget(item, name)
    return attributes


def _own_text(item: ConditioningAttributes) -> ConditioningAttributes:
    # The text alone: the attributes hold the segment's audio too, which nothing here changes.
    return replace(item, text=dict(item.text))


def forget(item: ConditioningAttributes, name: str) -> None:
    """Set the attribute `name` (or, for "quality", all of quality) to unknown, in place.

    Raises:
        ValueError: the item has no such attribute.
    """
    names = [key for key in item.text if key == name or (name == QUALITY and key.startswith(f"{QUALITY}_"))]
    if not names:
        raise ValueError(f"condition_dropout.{name}: there is no such condition, choose among {', '.join(item.text)}")
    item.text.update(dict.fromkeys(names))


def to_levels(item: ConditioningAttributes, rule: LevelRule | None, prefix: bool) -> ConditioningAttributes:
    """Turn the p-MOS in the attributes of one item into levels, and write the quality prefix before its description.

    Args:
        item: attributes with p-MOS values (see `quality.attributes`).
        rule: thresholds; None where no p-MOS is known anywhere.
        prefix: whether the text carries quality.
    """
    item = _own_text(item)
    text: dict[str, tp.Any] = item.text  # AudioCraft's "text" conditions carry anything that a conditioner tokenizes
    pmos = text.get(f"{QUALITY}_prefix")
    text.update({name: _levels(text.get(name), rule) for name in level_names()})
    if prefix and pmos is not None and rule is not None:
        text["description"] = prefixed(text.get("description"), rule.prefix(pmos))
    return item


def _levels(pmos: float | list[float] | None, rule: LevelRule | None) -> tp.Any:
    if pmos is None or rule is None:
        return None
    return rule.levels(pmos) if isinstance(pmos, list) else rule.level(pmos)


def null_attributes(
    item: ConditioningAttributes, null_level: float, negative_prompt: str | None = None
) -> ConditioningAttributes:
    """Attributes of guidance's unconditional branch, in levels.

    Args:
        item: attributes of the conditional branch, in levels.
        null_level: quality; 0 = unknown.
        negative_prompt: what to lead away from, in place of no text.
    """
    item = _own_text(item)
    item.text = {**dict.fromkeys(item.text), "description": negative_prompt, **_null_levels(item, null_level)}
    return item


def text_attributes(item: ConditioningAttributes, null_level: float, prefix: bool) -> ConditioningAttributes:
    """Attributes of the branch that has the text of `item` and the null quality (see `Guidance.quality_scale`).

    Args:
        prefix: whether `item` has a quality prefix before its description.
    """
    description = item.text["description"]
    item = _own_text(item)
    item.text.update(_null_levels(item, null_level))
    item.text["description"] = unprefixed(description) if prefix and description else description
    return item


def _null_levels(item: ConditioningAttributes, null_level: float) -> dict[str, tp.Any]:
    # A curve stays one: branches are stacked, and a shorter one would be filled up with unknown.
    curves = {name: item.text.get(name) for name in level_names()}
    return {
        name: [null_level] * len(curve) if isinstance(curve, list) else null_level for name, curve in curves.items()
    }
