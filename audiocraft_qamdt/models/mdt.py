"""The masked diffusion transformer of QA-MDT (arXiv 2405.15863), one class for all variants."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .backbone import Backbone, QualityLevels, check_text, resample_levels
from .layers import (
    FEED_FORWARD,
    Block,
    FinalLayer,
    GuidanceEmbedding,
    LevelEmbedding,
    Text,
    TimestepEmbedding,
    take,
)
from .linear import Linear
from .masking import TokenMask
from .patching import PatchEmbed, PatchGrid, unpatchify
from .positions import Rotary, cached_rotary_table, rotary_table, sincos_table, take_rotary

POSITIONS = ("sincos", "rope")


class ProjectedContext(NamedTuple):
    """The text as each block takes it; made by `MaskedDiffusionTransformer.project_context`."""

    in_blocks: tuple[Text | None, ...]
    out_blocks: tuple[Text | None, ...]
    decoder_blocks: tuple[Text | None, ...]
    side_blocks: tuple[Text | None, ...]
    pooled: Tensor | None = None


class MaskedDiffusionTransformer(Backbone):
    """Predicts the diffusion target of latents from their noisy version, the timestep, a text and quality levels.

    Quality levels (1…num_levels, fractions interpolate, 0 = unknown) enter as any subset of: `clip`, one token before
    the others, never masked, without position, present in every block (the published quality token); `global`, an
    embedding added to every patch's token; `frame`, a curve over time, an embedding added to the tokens of each time
    step; `adaln`, an embedding added to that of the timestep. All embeddings but those of `clip` start at zero.

    Args:
        latent_channels: channels C of the latents.
        latent_bins: bins F of the latents.
        latent_frames: frames T of the latents; with rope forward takes any length.
        patch: frames and bins of one patch.
        overlap: frames and bins that neighbouring patches share.
        dim: width D.
        depth: number of in-, out- and decoder blocks together; one side interpolator comes on top.
        decoder_depth: number of decoder blocks; the others are half in-, half out-blocks.
        num_heads: attention heads.
        ffn_ratio: width of the feed-forward layers over D.
        context_dim: width of the text's states.
        ffn: "gelu" or "swiglu".
        positions: "sincos" (fixed table and a learned one for the decoder; one length) or "rope" (any length).
        quality: granularities in which the model takes quality, any of `GRANULARITIES`.
        num_levels: number of quality levels.
        unknown_level: whether level 0, "unknown", has an embedding.
        position_scale: positions are divided by it.
        side_prefix: whether the side interpolator replaces the quality token, too, as in the published code. It does so
            in masked steps only: the decoder is then trained with another token than it generates with.
        checkpointing: recompute each block in the backward pass instead of keeping its activations.
        pooled_text: add the mean of the text's states, projected, to the embedding of the timestep (as Stable Diffusion
            XL does, arXiv 2307.01952): a small network follows the text after a fraction of the updates.
        guidance_inputs: take guidance's weights, whose effect training puts into the network (see
            `diffusion.few_steps`).
    Raises:
        ValueError: for arguments that do not fit together, named in the message.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        latent_bins: int,
        latent_frames: int,
        patch: tuple[int, int] = (4, 1),
        overlap: tuple[int, int] = (0, 0),
        dim: int = 1152,
        depth: int = 28,
        decoder_depth: int = 8,
        num_heads: int = 16,
        ffn_ratio: float = 4.0,
        context_dim: int = 1024,
        ffn: str = "gelu",
        positions: str = "sincos",
        quality: Iterable[str] = ("clip",),
        num_levels: int = 5,
        unknown_level: bool = True,
        position_scale: float = 1.0,
        side_prefix: bool = False,
        checkpointing: bool = False,
        pooled_text: bool = False,
        guidance_inputs: bool = False,
    ) -> None:
        super().__init__(latent_channels, latent_bins, latent_frames, quality, num_levels, unknown_level)
        self.head_dim = dim // num_heads
        self.positions, self.position_scale, self.ffn = positions, position_scale, ffn
        self.side_prefix, self.checkpointing = side_prefix, checkpointing
        self.prefix_tokens = 1 if "clip" in self.quality else 0  # tokens before the patches
        self._check_arguments(dim, depth, decoder_depth, num_heads)

        def blocks(number: int, skip: bool) -> nn.ModuleList:
            return nn.ModuleList(Block(dim, num_heads, ffn_ratio, ffn, skip) for _ in range(number))

        self.patch_embed = PatchEmbed(latent_channels, dim, patch, overlap)
        self.time_embed = TimestepEmbedding(dim)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.context_embed = Linear(context_dim, dim)
        self.pooled_embed = nn.Linear(context_dim, dim, bias=False) if pooled_text else None
        self.quality_embed = nn.ModuleDict({n: LevelEmbedding(num_levels, dim, unknown_level) for n in self.quality})
        half = (depth - decoder_depth) // 2
        self.in_blocks = blocks(half, skip=False)
        self.out_blocks = blocks(half, skip=True)
        self.side_blocks = blocks(1, skip=False)
        self.decoder_blocks = blocks(decoder_depth, skip=True)
        self.final_layer = FinalLayer(dim, patch[0] * patch[1] * latent_channels)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self._make_position_tables(dim)
        self.initialize_weights()
        self.guidance_embed = GuidanceEmbedding(dim) if guidance_inputs else None

    def _check_arguments(self, dim: int, depth: int, decoder_depth: int, num_heads: int) -> None:
        multiple = 4 if self.positions == "sincos" else 4 * num_heads
        problems = []
        if self.ffn not in FEED_FORWARD:
            problems.append(f"ffn={self.ffn!r} is not one of {', '.join(FEED_FORWARD)}")
        if self.positions not in POSITIONS:
            problems.append(f"positions={self.positions!r} is not one of {', '.join(POSITIONS)}")
        if dim % num_heads:
            problems.append(f"dim={dim} is not a multiple of num_heads={num_heads}")
        if dim % multiple:
            problems.append(
                f"dim={dim} is not a multiple of {multiple} (positions={self.positions!r}, num_heads={num_heads})"
            )
        if not 0 <= decoder_depth <= depth:
            problems.append(f"decoder_depth={decoder_depth} is not between 0 and depth={depth}")
        if (depth - decoder_depth) % 2:
            problems.append(
                f"depth={depth} minus decoder_depth={decoder_depth} is odd: it is split into as many in- as out-blocks"
            )
        if problems:
            raise ValueError("; ".join(problems))

    def _make_position_tables(self, dim: int) -> None:
        grid = self.patch_embed.grid(self.latent_frames, self.latent_bins)
        if self.positions == "rope":
            return
        base_size = self.latent_frames // grid.patch[0] * 2  # the published code's choice
        table = sincos_table(dim, grid.shape, base_size, self.position_scale)
        self.register_buffer("pos_embed", table.unsqueeze(0))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, grid.tokens, dim))

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Draw new weights as the published code does but for the levels, from PyTorch's default generator."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, LevelEmbedding):
                nn.init.zeros_(module.weight)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        for name in ("time_embed.mlp.0", "time_embed.mlp.2", "modulation.1", "context_embed"):
            nn.init.normal_(self.get_parameter(f"{name}.weight"), std=0.02)
        if "clip" in self.quality:
            cast(LevelEmbedding, self.quality_embed["clip"]).draw_in_order()
        for name, parameter in self.named_parameters():
            if name.endswith("cross_attn.proj.weight") or name == "final_layer.linear.weight":
                nn.init.zeros_(parameter)  # the text's influence and the output start at zero

    # ---- what a caller asks

    @property
    def any_length(self) -> bool:
        """Tell whether it takes latents of other lengths than `latent_frames`: with rope."""
        return self.positions == "rope"

    @property
    def least_frames(self) -> int:
        """Return the fewest frames that it takes: those of a patch."""
        return self.patch_embed.patch[0]

    def grid(self, frames: int) -> tuple[int, int]:
        """Return the rows (time) and columns (bins) of tokens for latents with this many frames."""
        return self.patch_embed.grid(frames, self.latent_bins).shape

    def num_tokens(self, frames: int) -> int:
        """Return the number of tokens for latents with this many frames, without the quality token."""
        return self.patch_embed.grid(frames, self.latent_bins).tokens

    def project_context(self, context: Tensor, context_mask: Tensor | None = None) -> ProjectedContext:
        """Compute what depends on the text alone, for all blocks: once per generation instead of once per step.

        Args:
            context: the text's states [B, L, context_dim].
            context_mask: [B, L], nonzero = a token, zero = padding; None = no padding.
        """
        text = self._embed_text(context, context_mask)
        pooled = self.pool_text(context, context_mask)
        ins, outs, decoders, sides = (
            tuple(cast(Block, block).cross_attn.project(text) for block in group) for group in self._block_groups()
        )
        return ProjectedContext(ins, outs, decoders, sides, pooled)

    # ---- the forward pass

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor | ProjectedContext | None = None,
        context_mask: Tensor | None = None,
        quality: QualityLevels = None,
        mask: TokenMask | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Predict the diffusion target.

        Args:
            x: noisy latents [B, C, T, F].
            t: timesteps [B].
            context: the text's states [B, L, context_dim], or what `project_context` made of them; None = no text.
            context_mask: [B, L], nonzero = a token, zero = padding; None = no padding.
            quality: levels [B] for all granularities of the model, or for each its levels: [B], for `frame` also a
                curve [B, N] over the clip. What is missing is unknown.
            mask: tokens that the encoder does not see; the side interpolator fills them in. None = all are seen, and
                the side interpolator is not used.
            guidance: weights of text and quality [B, 2], for a model with `guidance_inputs`.
        Returns:
            [B, C, T, F].
        Raises:
            ValueError: for shapes, levels or granularities that do not fit the model.
        """
        grid = self._check_latents(x, mask)
        levels = self.levels(quality, x)
        texts = self._texts(context, context_mask)
        time = self.add_to_time(self.time_embed(t), ("adaln",), levels, texts.pooled, guidance)  # [B, D]
        modulation = self.modulation(time).unflatten(1, (6, -1))  # [B, 6, D]
        rotary = self._rotary(grid, x.device)
        tokens = self._tokens(x, levels, grid)  # [B, prefix + P, D]
        if mask is None:
            hidden = self._encode(tokens, modulation, texts, rotary)  # [B, prefix + P, D]
            hidden = self._add_decoder_positions(hidden)
        else:
            hidden = self._encode_masked(tokens, modulation, texts, rotary, mask)  # [B, prefix + P, D]
        for block, text in zip(self.decoder_blocks, texts.decoder_blocks, strict=True):
            hidden = self._run(block, hidden, modulation, text, skip=tokens, rotary=rotary)
        values = self.final_layer(hidden[:, self.prefix_tokens :], time)  # [B, P, p_t * p_f * C]
        return unpatchify(values, grid)  # [B, C, T, F]

    def _tokens(self, x: Tensor, levels: dict[str, Tensor], grid: PatchGrid) -> Tensor:
        tokens = self.patch_embed(x)  # [B, P, D]
        if self.positions == "sincos":
            tokens = tokens + self.pos_embed
        if "global" in levels:
            tokens = tokens + self.quality_embed["global"](levels["global"]).unsqueeze(1)
        if "frame" in levels:
            frame = self.quality_embed["frame"](resample_levels(levels["frame"], grid.shape[0]))  # [B, H, D]
            tokens = tokens + frame.repeat_interleave(grid.shape[1], dim=1)  # [B, P, D]
        if "clip" not in levels:
            return tokens
        clip = self.quality_embed["clip"](levels["clip"])  # [B, D]
        return torch.cat([clip.unsqueeze(1), tokens], dim=1)  # [B, 1 + P, D]

    def _encode(self, x: Tensor, modulation: Tensor, texts: ProjectedContext, rotary: Rotary | None) -> Tensor:
        skips = []
        for block, text in zip(self.in_blocks, texts.in_blocks, strict=True):
            x = self._run(block, x, modulation, text, rotary=rotary)
            skips.append(x)
        for block, text in zip(self.out_blocks, texts.out_blocks, strict=True):
            x = self._run(block, x, modulation, text, skip=skips.pop(), rotary=rotary)
        return x

    def _encode_masked(
        self, tokens: Tensor, modulation: Tensor, texts: ProjectedContext, rotary: Rotary | None, mask: TokenMask
    ) -> Tensor:
        """Encode the visible tokens, and fill in the masked ones with the side interpolator (see `side_prefix`).

        Its output at the visible tokens would be thrown away, so it is not computed there.
        """
        visible, filled = self._rows(mask)  # [B, prefix + K], [B, P - K] or, with `side_prefix`, [B, prefix + P - K]
        encoded = self._encode(take(tokens, visible), modulation, texts, take_rotary(rotary, visible))
        hidden = self.mask_token.to(encoded.dtype).expand(tokens.shape)  # [B, prefix + P, D]
        hidden = self._add_decoder_positions(_put(hidden, visible, encoded))
        if filled.shape[1] == 0:
            return hidden
        for block, text in zip(self.side_blocks, texts.side_blocks, strict=True):
            side = self._run(block, hidden, modulation, text, rotary=rotary, rows=filled)  # as many as `filled`
            hidden = _put(hidden, filled, side)
        return hidden

    def _rows(self, mask: TokenMask) -> tuple[Tensor, Tensor]:
        """Return the rows, among all, of prefix and visible tokens, and of those the side interpolator fills in."""
        number_hidden = mask.hidden.shape[1] - mask.visible.shape[1]
        hidden = mask.hidden.int().argsort(dim=1, descending=True, stable=True)[:, :number_hidden]
        prefix = torch.arange(self.prefix_tokens, device=hidden.device).expand(len(hidden), -1)
        visible, filled = (torch.cat([prefix, rows + self.prefix_tokens], dim=1) for rows in (mask.visible, hidden))
        return visible, filled if self.side_prefix else filled[:, self.prefix_tokens :]

    def _add_decoder_positions(self, x: Tensor) -> Tensor:
        return x + F.pad(self.decoder_pos_embed, (0, 0, self.prefix_tokens, 0)) if self.positions == "sincos" else x

    def _run(
        self, block: nn.Module, x: Tensor, modulation: Tensor, text: Text | None, **options: Tensor | Rotary | None
    ) -> Tensor:
        run = partial(block, **options)
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(run, x, modulation, text, use_reentrant=False, preserve_rng_state=False)
        return run(x, modulation, text)

    # ---- conditions and checks

    def _check_latents(self, x: Tensor, mask: TokenMask | None) -> PatchGrid:
        self.check_latents(x)
        if self.positions == "sincos" and x.shape[2] != self.latent_frames:
            raise ValueError(
                f"latents of {x.shape[2]} frames do not fit positions='sincos', whose tables are made for "
                f"latent_frames={self.latent_frames}; positions='rope' takes any length"
            )
        grid = self.patch_embed.grid(x.shape[2], x.shape[3])
        if mask is not None and mask.hidden.shape != (x.shape[0], grid.tokens):
            wanted = (x.shape[0], grid.tokens)
            raise ValueError(f"mask of shape {tuple(mask.hidden.shape)} does not fit [B, P] = {wanted}")
        return grid

    def _embed_text(self, context: Tensor, context_mask: Tensor | None) -> Text:
        check_text(context, context_mask, self.context_embed.in_features)
        return Text(self.context_embed(context), None if context_mask is None else context_mask != 0)

    def _texts(self, context: Tensor | ProjectedContext | None, context_mask: Tensor | None) -> ProjectedContext:
        if isinstance(context, ProjectedContext):
            if context_mask is not None:
                raise ValueError("context_mask is part of a projected context: give it to project_context")
            return context
        # Each block projects the text itself: its weights are used inside it only, as FSDP and checkpointing need.
        text = None if context is None else self._embed_text(context, context_mask)
        pooled = None if context is None else self.pool_text(context, context_mask)
        ins, outs, decoders, sides = ((text,) * len(group) for group in self._block_groups())
        return ProjectedContext(ins, outs, decoders, sides, pooled)

    def _block_groups(self) -> tuple[nn.ModuleList, ...]:
        return self.in_blocks, self.out_blocks, self.decoder_blocks, self.side_blocks  # the order in ProjectedContext

    def _rotary(self, grid: PatchGrid, device: torch.device) -> Rotary | None:
        if self.positions != "rope":
            return None
        table = rotary_table if torch.compiler.is_compiling() else cached_rotary_table
        return table(grid.shape, self.head_dim, self.prefix_tokens, self.position_scale, device)


def _put(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Return x [B, P, D] with `values` [B, N, D] at the tokens `rows` [B, N]."""
    return x.scatter(1, rows.unsqueeze(-1).expand(values.shape), values.to(x.dtype))
