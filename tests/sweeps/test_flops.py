"""The cost of an update: by PyTorch's count, and by a formula where that is short."""

from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.models.mdt import MaskedDiffusionTransformer
from audiocraft_qamdt.sweeps.flops import TEXT_TOKENS, forward_flops, masked_share

from ..test_config import config


def test_the_count_is_that_of_a_formula():
    dim, tokens, blocks = 32, 16, 4
    with torch.device("meta"):
        model = MaskedDiffusionTransformer(
            latent_channels=2, latent_bins=1, latent_frames=64, dim=dim, depth=blocks, decoder_depth=2, num_heads=2,
            context_dim=8, quality=(), positions="rope",
        )  # fmt: skip
    attention = tokens * 4 * dim**2 + 2 * tokens**2 * dim
    cross = tokens * 2 * dim**2 + TEXT_TOKENS * 2 * dim**2 + 2 * tokens * TEXT_TOKENS * dim
    products = blocks * (attention + cross + tokens * 8 * dim**2) + 3 * tokens * 2 * dim**2  # three blocks with skips
    assert forward_flops(model, 64) / 2 == pytest.approx(products, rel=0.1)


def test_more_hidden_tokens_cost_less_and_none_cost_the_same():
    recipes = ["solver=qamdt/playground", "masking.spread=0.0"]
    shares = [masked_share(config(*recipes, f"masking.ratio={ratio}")) for ratio in (0, 0.3, 0.6)]
    assert shares[0] == 1
    assert 1 > shares[1] > shares[2] > 0.4
    spread = masked_share(config("solver=qamdt/playground", "masking.ratio=0.3", "masking.spread=0.2"))
    assert spread == pytest.approx(masked_share(config(*recipes, "masking.ratio=0.4")), rel=0.02)
