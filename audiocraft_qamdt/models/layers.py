"""Parts of the masked diffusion transformer: attention, blocks, embeddings of timesteps and levels."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import cpu_kernels
from .cpu_kernels import FoldedKeys
from .linear import Linear, apply_gelu, linear, weights_of
from .modulation import modulate
from .positions import Rotary, rotate, take_rotary


def take(x: Tensor, rows: Tensor) -> Tensor:
    """Take the tokens `rows` [B, N] of x [B, P, D], as [B, N, D]."""
    return x.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


# ---- attention


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute scaled dot-product attention of q [B, heads, N, d] over k, v [B, heads, L, d]."""
    if cpu_kernels.takes_attention(q):
        return cpu_kernels.attend(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Args:
        dim: width D.
        num_heads: number of heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, rotary: Rotary | None = None, rows: Tensor | None = None) -> Tensor:
        """Attend from every token of x [B, N, D], or only from the tokens `rows` [B, M]; returns [B, N or M, D]."""
        if rows is None:
            q, k, v = self._heads(self.qkv(x), 3)  # [B, heads, N, d] each
            query_rotary = rotary
        else:
            dim = x.shape[-1]
            weight, bias = weights_of(self.qkv)
            (q,) = self._heads(linear(take(x, rows), weight[:dim], bias[:dim]), 1)  # [B, heads, M, d]
            k, v = self._heads(linear(x, weight[dim:], bias[dim:]), 2)  # [B, heads, N, d] each
            query_rotary = take_rotary(rotary, rows)
        out = attend(rotate(q, query_rotary), rotate(k, rotary), v)
        return self.proj(out.transpose(1, 2).flatten(2))  # [B, N or M, D]

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        split = x.unflatten(-1, (parts, self.num_heads, -1)).unbind(2)  # its gradient is written where x's lies
        return tuple(part.transpose(1, 2) for part in split)


class TextKeys(NamedTuple):
    """Texts as cross-attention takes them: keys, values [B, heads, L, d]."""

    keys: Tensor
    values: Tensor


class Text(NamedTuple):
    """A batch of texts.

    Attributes:
        tokens: [B, L, D].
        mask: bool [B, L], True = a token, False = padding; None = no padding.
        keys: what one block's cross-attention makes of the tokens (`CrossAttention.project`); None = it does so inside.
    """

    tokens: Tensor
    mask: Tensor | None = None
    keys: TextKeys | FoldedKeys | None = None


class CrossAttention(nn.Module):
    """Attention over the text. Padding is never attended; a text that is all padding contributes exactly zero.

    Args:
        dim: width D.
        num_heads: number of heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = Linear(dim, dim)
        self.kv_linear = Linear(dim, 2 * dim)
        self.proj = Linear(dim, dim)

    def project(self, text: Text) -> Text:
        """Return the same text with its keys and values, which do not depend on what attends to it."""
        kv = self.kv_linear(text.tokens).unflatten(-1, (2, self.num_heads, -1))  # [B, L, 2, heads, d]
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, L, d] each
        if cpu_kernels.takes_text(k):
            return text._replace(
                keys=cpu_kernels.fold(k, v, text.mask, weights_of(self.q_linear), weights_of(self.proj))
            )
        return text._replace(keys=TextKeys(k, v))

    def forward(self, x: Tensor, text: Text) -> Tensor:
        """Return what the text adds to the tokens x [B, N, D], as [B, N, D]."""
        keys = self.project(text).keys if text.keys is None else text.keys
        if isinstance(keys, FoldedKeys):
            return cpu_kernels.attend_folded(x, keys, self.num_heads)
        k, v = cast(TextKeys, keys)
        q = self.q_linear(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, N, d]
        if text.mask is None:
            return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))  # [B, N, D]
        # Not -inf: a softmax over padding alone must stay finite, forwards and backwards.
        never = torch.finfo(q.dtype).min / 2
        bias = torch.zeros_like(text.mask, dtype=q.dtype).masked_fill(~text.mask, never)[:, None, None]
        out = attend(q, k, v, bias)  # [B, heads, N, d]
        present = text.mask.any(dim=1)[:, None, None]  # [B, 1, 1]
        return self.proj(out.transpose(1, 2).flatten(2)) * present  # [B, N, D]


# ---- blocks


class Mlp(nn.Module):
    """Two layers with a GELU (tanh approximation) between them.

    Args:
        dim: width D.
        hidden: width between the layers.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to x [..., D]."""
        return self.fc2(apply_gelu(self.fc1, x))


class SwiGLU(nn.Module):
    """Gated feed-forward layer without biases (Shazeer, arXiv 2002.05202), with about the parameters of an `Mlp`.

    Args:
        dim: width D.
        hidden: width that an `Mlp` would have between its layers; two thirds, rounded up to a multiple of 8, are used.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        hidden = 8 * math.ceil(2 * hidden / 3 / 8)
        self.gate_up = Linear(dim, 2 * hidden, bias=False)
        self.down = Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to x [..., D]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


FEED_FORWARD: dict[str, type[Mlp] | type[SwiGLU]] = {"gelu": Mlp, "swiglu": SwiGLU}


class Block(nn.Module):
    """Self-attention, cross-attention over the text, feed-forward; adaLN-single (PixArt-α, arXiv 2310.00426).

    Args:
        dim: width D.
        num_heads: number of heads.
        ffn_ratio: width of the feed-forward layer over D.
        ffn: a name in `FEED_FORWARD`.
        skip: whether the block takes a skip connection.
    """

    def __init__(self, dim: int, num_heads: int, ffn_ratio: float, ffn: str, skip: bool = False) -> None:
        super().__init__()
        self.attn = SelfAttention(dim, num_heads)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.mlp = FEED_FORWARD[ffn](dim, int(dim * ffn_ratio))
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.skip_linear = Linear(2 * dim, dim) if skip else None

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        text: Text | None = None,
        skip: Tensor | None = None,
        rotary: Rotary | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Apply the block.

        Args:
            x: tokens [B, N, D].
            modulation: [B, 6, D].
            text: None = no cross-attention.
            skip: tokens [B, N, D] for a block with a skip connection.
            rotary: angles of the tokens' positions, None = no rotation.
            rows: tokens [B, M] to compute, None = all; the others are only attended to.
        Returns:
            [B, N or M, D].
        """
        if self.skip_linear is not None:
            if skip is None:
                raise ValueError("this block has a skip connection: it needs skip")
            x = self.skip_linear(torch.cat([x, skip], dim=-1))  # [B, N, D]
        table = (self.scale_shift_table + modulation).unsqueeze(2)  # [B, 6, 1, D]
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = table.unbind(1)
        attended = self.attn(modulate(x, shift_attn, scale_attn), rotary, rows)  # [B, N or M, D]
        x = x if rows is None else take(x, rows)  # [B, N or M, D]
        x = torch.addcmul(x, gate_attn, attended)  # x + gate * attended, in one pass
        if text is not None:
            x = x + self.cross_attn(x, text)
        return torch.addcmul(x, gate_mlp, self.mlp(modulate(x, shift_mlp, scale_mlp)))


class FinalLayer(nn.Module):
    """Modulated norm and projection to the values of a patch.

    Args:
        dim: width D.
        out: values per token.
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.linear = Linear(dim, out)
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Project tokens [B, N, D], modulated by embedded timesteps [B, D], to values [B, N, out]."""
        shift, scale = (self.scale_shift_table + time.unsqueeze(1)).unsqueeze(2).unbind(1)  # [B, 1, D] each
        return self.linear(modulate(x, shift, scale))


# ---- conditions


class TimestepEmbedding(nn.Module):
    """Sinusoidal features of a timestep (DDPM, arXiv 2006.11239) through two layers.

    Args:
        dim: width D.
        features: number of sinusoidal features.
    """

    def __init__(self, dim: int, features: int = 256) -> None:
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """Embed timesteps t [B], which may be fractional, as [B, D]."""
        half = self.features // 2
        steps = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t.float().unsqueeze(1) * torch.exp(-math.log(10000) * steps / half)  # [B, features / 2]
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1).to(next(self.parameters()).dtype))


class GuidanceEmbedding(nn.Module):
    """Weights of guidance through two layers, the second of which starts at zero; weights of 1 are no guidance.

    Args:
        dim: width D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.initialize_weights()

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Let weights change nothing at first."""
        for parameter in self.mlp[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, weights: Tensor) -> Tensor:
        """Embed weights of text and quality [B, 2] as [B, D]."""
        return self.mlp((weights - 1).to(next(self.parameters()).dtype))


class LevelEmbedding(nn.Embedding):
    """Embeddings of the quality levels 1…num_levels; between two integers they are interpolated linearly.

    A level outside the range is a ValueError where the tensor lies on the CPU. Reading it elsewhere would make the host
    wait, so there (and under torch.compile) it is clamped: above to the highest level, below 1 or NaN to unknown, or to
    level 1 where there is no row for unknown.

    Args:
        num_levels: number of levels.
        dim: width D.
        unknown: whether level 0, "unknown", has a row of its own, the first.
    """

    def __init__(self, num_levels: int, dim: int, unknown: bool) -> None:
        super().__init__(num_levels + unknown, dim)
        self.num_levels, self.unknown = num_levels, unknown

    @torch.no_grad()
    def draw_in_order(self) -> None:
        """Draw new embeddings on a line: the middle of the levels, and unknown, at a random point, the others around.

        What a network learns of one level, it then knows of its neighbours. With a point of its own for each, as
        published, small networks need about twice the updates before the loss depends on the level as much.
        """
        middle, step = torch.randn(2, self.embedding_dim).to(self.weight)
        levels = torch.arange(1, self.num_levels + 1).to(self.weight) - (self.num_levels + 1) / 2
        places = levels / max(1.0, (self.num_levels - 1) / 2)  # -1 to 1
        self.weight.copy_(middle + F.pad(places, (int(self.unknown), 0))[:, None] * step)

    def forward(self, levels: Tensor) -> Tensor:
        """Embed levels of any shape [...] as [..., D]."""
        self._check(levels)
        lowest = 0 if self.unknown else 1
        row = torch.where(levels >= 1, levels.clamp(max=self.num_levels), lowest) - (1 - int(self.unknown))
        if not levels.is_floating_point():
            return super().forward(row.long())
        lower, upper = super().forward(row.floor().long()), super().forward(row.ceil().long())
        return torch.lerp(lower, upper, row.frac().unsqueeze(-1).to(lower.dtype))

    def _check(self, levels: Tensor) -> None:
        if levels.device.type != "cpu" or torch.compiler.is_compiling():
            return
        known = (levels >= 1) & (levels <= self.num_levels)
        if not bool((known | (levels == 0) if self.unknown else known).all()):
            unknown = " or 0 (unknown)" if self.unknown else " (this model has no row for unknown, 0)"
            got = levels.flatten().tolist()[:8]
            raise ValueError(f"quality levels must be 1 to {self.num_levels}{unknown}, got {got}")
