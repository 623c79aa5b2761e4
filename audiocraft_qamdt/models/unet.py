"""A U-Net behind the same interface as the masked transformer: the paper's other backbone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, cast

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from .backbone import Backbone, QualityLevels, check_text, resample_levels
from .layers import GuidanceEmbedding, LevelEmbedding
from .masking import TokenMask

GROUPS = 32
"""Of the group norms; numbers of channels are multiples of it."""


class ProjectedText(NamedTuple):
    """States [B, L, context_dim], their padding mask [B, L] and their projected mean [B, D]."""

    states: Tensor
    mask: Tensor | None
    pooled: Tensor | None


class _Prediction(Protocol):
    sample: Tensor


class _DiffusersUNet(Protocol):
    """`UNet2DConditionModel`, as it is called here."""

    conv_out: nn.Conv2d

    def enable_gradient_checkpointing(self) -> None: ...

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        *,
        class_labels: Tensor,
        encoder_attention_mask: Tensor | None,
    ) -> _Prediction: ...


class UNet(Backbone):
    """Diffusers' U-Net with cross-attention, as latent diffusion models of audio use it.

    Quality enters as in `MaskedDiffusionTransformer`, by the ways that a U-Net has: `clip`, one more state beside those
    of the text, that all attention layers see; `global` and `adaln`, embeddings added to that of the timestep; `frame`,
    a curve over time, one more channel of the input. All embeddings but those of `clip` start at zero. There are no
    tokens to hide.

    Args:
        latent_channels, latent_bins, latent_frames: C, F and T of the latents; it takes any T.
        channels: of each resolution, from the finest; each halves frames and bins.
        layers: residual blocks of a resolution.
        head_dim: width of an attention head.
        context_dim: width of the text's states.
        quality, num_levels, unknown_level: as for `MaskedDiffusionTransformer`.
        checkpointing: recompute each block in the backward pass instead of keeping its activations.
        pooled_text: add the projected mean of the text's states to the timestep's embedding.
        guidance_inputs: take guidance's weights, whose effect training puts into the network.
    Raises:
        ValueError: for arguments that do not fit together, named in the message.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        latent_bins: int,
        latent_frames: int,
        channels: Sequence[int],
        layers: int = 2,
        head_dim: int = 64,
        context_dim: int = 1024,
        quality: Iterable[str] = ("clip",),
        num_levels: int = 5,
        unknown_level: bool = True,
        checkpointing: bool = False,
        pooled_text: bool = False,
        guidance_inputs: bool = False,
    ) -> None:
        super().__init__(latent_channels, latent_bins, latent_frames, quality, num_levels, unknown_level)
        if wrong := [width for width in channels if width % GROUPS or width % head_dim]:
            raise ValueError(f"unet.channels={wrong} must be multiples of {GROUPS} and of unet.head_dim={head_dim}")
        time_dim = 4 * channels[0]
        dims = {"global": time_dim, "adaln": time_dim, "clip": context_dim, "frame": 1}
        self.context_dim, self.time_dim = context_dim, time_dim
        self.quality_embed = nn.ModuleDict(
            {name: LevelEmbedding(num_levels, dims[name], unknown_level) for name in self.quality}
        )
        self.pooled_embed = nn.Linear(context_dim, time_dim, bias=False) if pooled_text else None
        self.no_text = nn.Parameter(torch.zeros(1, 1, context_dim))  # what is attended to without text
        network = UNet2DConditionModel(
            in_channels=latent_channels + int("frame" in self.quality),
            out_channels=latent_channels,
            down_block_types=("CrossAttnDownBlock2D",) * (len(channels) - 1) + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(channels) - 1),
            block_out_channels=tuple(channels),
            layers_per_block=layers,
            attention_head_dim=tuple(width // head_dim for width in channels),  # diffusers' name for their number
            cross_attention_dim=context_dim,
            class_embed_type="identity",
            norm_num_groups=GROUPS,
        )
        self.network = cast(_DiffusersUNet, network)
        if checkpointing:
            self.network.enable_gradient_checkpointing()
        self.initialize_weights()
        self.guidance_embed = GuidanceEmbedding(time_dim) if guidance_inputs else None

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Let levels and output start as the transformer's do; the rest is PyTorch's default."""
        for name, embedding in self.quality_embed.items():
            if name == "clip":
                cast(LevelEmbedding, embedding).draw_in_order()
            else:
                nn.init.zeros_(cast(LevelEmbedding, embedding).weight)
        for parameter in self.network.conv_out.parameters():
            nn.init.zeros_(parameter)

    @property
    def any_length(self) -> bool:
        """Tell whether it takes latents of other lengths than `latent_frames`: yes."""
        return True

    def grid(self, frames: int) -> None:
        """Return no tokens: `masking` has nothing to hide."""

    def project_context(self, context: Tensor, context_mask: Tensor | None = None) -> ProjectedText:
        """Project the text's mean; see `MaskedDiffusionTransformer.project_context`."""
        check_text(context, context_mask, self.context_dim)
        return ProjectedText(context, context_mask, self.pool_text(context, context_mask))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor | ProjectedText | None = None,
        context_mask: Tensor | None = None,
        quality: QualityLevels = None,
        mask: TokenMask | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Predict the diffusion target [B, C, T, F]; arguments as of `MaskedDiffusionTransformer.forward`.

        Raises:
            ValueError: for shapes, levels or granularities that do not fit the model, or a mask.
        """
        if mask is not None:
            raise ValueError("a U-Net has no tokens to hide: give no mask")
        self.check_latents(x)
        levels = self.levels(quality, x)
        if isinstance(context, Tensor):
            context = self.project_context(context, context_mask)
        none = torch.zeros(len(x), self.time_dim, device=x.device, dtype=x.dtype)  # the network adds the timestep's
        pooled = None if context is None else context.pooled
        time = self.add_to_time(none, ("global", "adaln"), levels, pooled, guidance)  # [B, D]
        states, attended = self._states(context, levels, len(x))
        return self.network(
            self._with_curve(x, levels), t, states, class_labels=time, encoder_attention_mask=attended
        ).sample

    def _states(
        self, text: ProjectedText | None, levels: dict[str, Tensor], batch: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return what is attended to [B, N, context_dim] and its mask: no text, the quality, the text."""
        states = [self.no_text.expand(batch, -1, -1)]  # [B, 1, context_dim]
        if "clip" in levels:
            states.append(self.quality_embed["clip"](levels["clip"]).unsqueeze(1))  # [B, 1, context_dim]
        before = len(states)
        if text is not None:
            states.append(text.states.to(self.no_text.dtype))
        together = torch.cat(states, dim=1)
        if text is None or text.mask is None:
            return together, None
        return together, nn.functional.pad(text.mask != 0, (before, 0), value=True)

    def _with_curve(self, x: Tensor, levels: dict[str, Tensor]) -> Tensor:
        if "frame" not in levels:
            return x
        curve = self.quality_embed["frame"](resample_levels(levels["frame"], x.shape[2]))  # [B, T, 1]
        curve = curve.transpose(1, 2).unsqueeze(-1).expand(-1, -1, -1, x.shape[3])  # [B, 1, T, F]
        return torch.cat([x, curve.to(x.dtype)], dim=1)  # [B, C + 1, T, F]
