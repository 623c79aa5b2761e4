from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from audiocraft_qamdt.models.masking import mask_from_noise
from audiocraft_qamdt.models.mdt import MaskedDiffusionTransformer
from audiocraft_qamdt.models.official import CONFIG_KEYS, build, from_official, to_official

NAMES = ["patch_4x1", "patch_4x4_overlap_2x2", "patch_4x4_overlap_1x0"]
PUBLISHED_SIZE = {
    "input_size": [256, 16],
    "patch_size": [4, 1],
    "overlap": [0, 0],
    "in_channels": 8,
    "hidden_size": 1152,
    "depth": 28,
    "num_heads": 16,
    "mlp_ratio": 4.0,
    "cond_dim": 1024,
    "mask_ratio": 0.3,
    "decode_layer": 8,
    "lewei_scale": 1.0,
}
Golden = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict]


def read(folder: Path, name: str) -> Golden:
    """State dict, other tensors, and config of a golden file."""
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    state = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    return state, tensors, config


@pytest.fixture
def small(golden) -> Golden:
    return read(golden, "patch_4x1")


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("projected", [False, True])
@torch.no_grad()
def test_the_published_outputs_are_reproduced(name, projected, golden):
    state, tensors, config = read(golden, name)
    model = from_official(state, config)
    inputs: dict[str, Any] = {"x": tensors["in.x"], "t": tensors["in.t"], "quality": tensors["in.quality"]}
    context, context_mask = tensors["in.context"], tensors["in.context_mask"]
    if projected:
        inputs["context"] = model.project_context(context, context_mask)
    else:
        inputs |= {"context": context, "context_mask": context_mask}
    mask = mask_from_noise(tensors["mask.noise"], tensors["mask.ratio"])
    assert relative_error(model(**inputs), tensors["out.eval"]) <= 1e-5
    assert relative_error(model(**inputs, mask=mask), tensors["out.masked"]) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_position_table_is_the_published_one(name, golden):
    state, _, config = read(golden, name)
    assert torch.equal(build(config).get_buffer("pos_embed"), state["pos_embed"])


def test_the_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = build(PUBLISHED_SIZE)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 676_245_920


def test_there_and_back_is_exact(small):
    state, tensors, config = small
    model = from_official(state, config)
    back = to_official(model)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    again = from_official(to_official(from_official(back, config)), config)
    inputs = {"x": tensors["in.x"], "t": tensors["in.t"], "quality": tensors["in.quality"]}
    assert torch.equal(again(**inputs), model(**inputs))


def test_a_fresh_model_has_the_published_keys_and_zero_output(small):
    state, tensors, config = small
    model = build(config)
    assert {key: value.shape for key, value in to_official(model).items()} == {k: v.shape for k, v in state.items()}
    assert not model(tensors["in.x"], tensors["in.t"], quality=tensors["in.quality"]).any()


def test_an_imported_model_trains(small):
    state, tensors, config = small
    model = from_official({key: value.clone() for key, value in state.items()}, config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        out = model(tensors["in.x"], tensors["in.t"], context=tensors["in.context"], quality=tensors["in.quality"])
        losses.append(out.square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("mask_ratio, trained", [(0.3, True), (None, False)])
def test_the_mask_token_is_trained_where_there_is_a_mask_ratio(mask_ratio, trained, small):
    state, _, config = small
    config = {**config, "mask_ratio": mask_ratio}
    assert build(config).mask_token.requires_grad is trained
    assert from_official(state, config).mask_token.requires_grad is trained


def test_keys_that_are_missing_extra_or_misshapen_are_all_named(small):
    state, _, config = small
    renamed = {key.replace("mos_embed", "moss_embed").replace("mask_token", "masktoken"): v for key, v in state.items()}
    with pytest.raises(ValueError) as error:
        from_official(renamed, config)
    for name in ("mos_embed.weight", "mask_token", "moss_embed.weight", "masktoken"):
        assert name in str(error.value)
    reshaped = {**state, "mos_embed.weight": torch.zeros(6, 32), "t_block.1.bias": torch.zeros(3)}
    with pytest.raises(ValueError, match="misshapen") as error:
        from_official(reshaped, config)
    for problem in ("mos_embed.weight is [6, 32] instead of [5, 32]", "t_block.1.bias is [3] instead of [192]"):
        assert problem in str(error.value)


def test_our_own_keys_are_not_taken_for_published_ones(small):
    state, _, config = small
    with pytest.raises(ValueError, match="missing state dict keys: .*unknown state dict keys"):
        from_official(from_official(state, config).state_dict(), config)


@pytest.mark.parametrize("key", CONFIG_KEYS)
def test_every_config_key_is_needed(key, small):
    config = {name: value for name, value in small[2].items() if name != key}
    with pytest.raises(ValueError, match=f"missing config key: {key}"):
        build(config)


def test_unknown_config_keys_are_named(small):
    with pytest.raises(ValueError, match="unknown config keys: drop_path, window_size"):
        build({**small[2], "drop_path": 0.0, "window_size": 0})


@pytest.mark.parametrize(
    "change",
    [
        {"positions": "rope"},
        {"ffn": "swiglu"},
        {"quality": ("clip", "frame")},
        {"unknown_level": True},
        {"side_prefix": False},
    ],
)
def test_a_model_that_the_published_class_cannot_hold_is_refused(change):
    arguments = {"unknown_level": False, "side_prefix": True, **change}
    model = MaskedDiffusionTransformer(
        latent_channels=2, latent_bins=2, latent_frames=8, dim=16, depth=3, decoder_depth=1, num_heads=2, **arguments
    )
    with pytest.raises(ValueError, match=next(iter(change))):
        to_official(model)
