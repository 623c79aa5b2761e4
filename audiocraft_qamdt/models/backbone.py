"""What every network offers the solver and the pipeline, whatever it is made of, and how it takes quality and text."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRANULARITIES = ("global", "clip", "frame", "adaln")
"""The ways in which a network can take quality."""

QualityLevels = Tensor | dict[str, Tensor] | None


class Backbone(nn.Module):
    """A network that predicts the diffusion target of latents.

    Args:
        latent_channels, latent_bins, latent_frames: C, F and T of the latents [B, C, T, F] that it is trained with.
        quality: granularities in which it takes quality, any of `GRANULARITIES`.
        num_levels: number of quality levels.
        unknown_level: whether level 0, "unknown", has an embedding.
    Raises:
        ValueError: unknown granularities, or one given twice.
    """

    pooled_embed: nn.Module | None
    guidance_embed: nn.Module | None
    quality_embed: nn.ModuleDict

    def __init__(
        self,
        latent_channels: int,
        latent_bins: int,
        latent_frames: int,
        quality: Iterable[str],
        num_levels: int,
        unknown_level: bool,
    ) -> None:
        super().__init__()
        self.latent_channels, self.latent_bins, self.latent_frames = latent_channels, latent_bins, latent_frames
        self.quality, self.num_levels, self.unknown_level = tuple(quality), num_levels, unknown_level
        if not set(self.quality) <= set(GRANULARITIES) or len(set(self.quality)) < len(self.quality):
            raise ValueError(f"quality={self.quality} must name some of {', '.join(GRANULARITIES)}, each once")

    @property
    def any_length(self) -> bool:
        """Tell whether it takes latents of other lengths than `latent_frames`."""
        raise NotImplementedError

    @property
    def least_frames(self) -> int:
        """Return the fewest frames that it takes."""
        return 1

    def grid(self, frames: int) -> tuple[int, int] | None:
        """Return the rows (time) and columns (bins) of tokens for latents with this many frames; None = no tokens."""
        raise NotImplementedError

    def project_context(self, context: Tensor, context_mask: Tensor | None = None) -> object:
        """Compute what depends on the text alone; `forward` takes it as its context."""
        raise NotImplementedError

    def levels(self, quality: QualityLevels, x: Tensor) -> dict[str, Tensor]:
        """Return levels for every granularity of the network: [B], for `frame` [B, N].

        Raises:
            ValueError: granularities or shapes that do not fit the network.
        """
        given = dict.fromkeys(self.quality, quality) if isinstance(quality, Tensor) else dict(quality or {})
        if unknown := [name for name in given if name not in self.quality]:
            raise ValueError(f"quality for {', '.join(unknown)}, but the model takes quality={self.quality}")
        for name in self.quality:
            if given.get(name) is None:
                if not self.unknown_level:
                    raise ValueError(f"quality for {name!r} is missing, and the model has unknown_level=False")
                given[name] = torch.zeros(len(x), dtype=torch.long, device=x.device)
            shape = tuple(given[name].shape)
            if shape != (len(x),) and not (name == "frame" and len(shape) == 2 and shape[0] == len(x)):
                raise ValueError(f"quality for {name!r} has shape {shape}; [B] = [{len(x)}] is expected")
        return given

    def check_latents(self, x: Tensor) -> None:
        """Refuse latents that are not [B, C, T, F].

        Raises:
            ValueError: with the shape that is expected.
        """
        if x.ndim != 4 or x.shape[1] != self.latent_channels or x.shape[3] != self.latent_bins:
            raise ValueError(
                f"latents of shape {tuple(x.shape)} do not fit a model of latent_channels={self.latent_channels} and "
                f"latent_bins={self.latent_bins}: [B, {self.latent_channels}, T, {self.latent_bins}] is expected"
            )

    def add_to_time(
        self,
        time: Tensor,
        names: Iterable[str],
        levels: dict[str, Tensor],
        pooled: Tensor | None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Add the embeddings of the named granularities' levels, the pooled text and guidance to the timestep's [B, D].

        Args:
            guidance: weights of text and quality [B, 2]; needed by a network that has guidance inside.
        Raises:
            ValueError: weights that the network does not take, or that it needs and were not given.
        """
        if (guidance is None) != (self.guidance_embed is None):
            wanted = "weights [B, 2] are expected" if self.guidance_embed is not None else "the network takes none"
            raise ValueError(f"guidance={'none' if guidance is None else list(guidance.shape)}: {wanted}")
        if self.guidance_embed is not None and guidance is not None:
            time = time + self.guidance_embed(guidance)  # [B, D]
        for name in names:
            if name in levels:
                time = time + self.quality_embed[name](levels[name])  # [B, D]
        return time if pooled is None else time + pooled

    def pool_text(self, context: Tensor, context_mask: Tensor | None) -> Tensor | None:
        """Project the mean of the states that are no padding, [B, D]; zero where there is no text."""
        if self.pooled_embed is None:
            return None
        mask = torch.ones(context.shape[:2], device=context.device) if context_mask is None else context_mask != 0
        share = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)  # [B, L]
        return self.pooled_embed(torch.einsum("bl,bld->bd", share.to(context.dtype), context))


def check_text(context: Tensor, context_mask: Tensor | None, width: int) -> None:
    """Refuse states [B, L, width] and masks [B, L] of other shapes.

    Raises:
        ValueError: with the shape that is expected.
    """
    shape = tuple(context.shape)
    if len(shape) != 3 or shape[2] != width:
        raise ValueError(f"context of shape {shape} does not fit [B, L, context_dim={width}]")
    if context_mask is not None and context_mask.shape != shape[:2]:
        raise ValueError(f"context_mask of shape {tuple(context_mask.shape)} does not fit context of shape {shape}")


def resample_levels(levels: Tensor, length: int) -> Tensor:
    """Resample a curve of levels to another number of time steps, linearly.

    Unknown stretches (0) stay out of the interpolation: a step is unknown where less than half of what it is made from
    is known.

    Args:
        levels: [B, N], or [B] for a constant.
        length: number of time steps H.
    Returns:
        [B, H] in float32.
    """
    levels = levels.float().unsqueeze(-1) if levels.ndim == 1 else levels.float()
    known = (levels >= 1).float()
    both = F.interpolate(torch.stack([levels * known, known], dim=1), size=length, mode="linear")  # [B, 2, H]
    total, share = both.unbind(1)
    return torch.where(share >= 0.5, (total / share.clamp(min=0.5)).clamp(min=1), 0.0)
