"""A small file in the layout of the released predictor, against its layers written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from audiocraft_qamdt.quality.predictors.base import load_predictor

DIM, CHANNELS, HIDDEN, LAYERS = 128, 8, 48, 2
GROUPS, WIDTH = 4, 8
"""Of the convolution of positions."""


@pytest.fixture
def state(generator) -> dict[str, Tensor]:
    """Random weights under fairseq's names, and the released class's own layers."""
    shapes: dict[str, tuple[int, ...]] = {
        "mask_emb": (DIM,),
        "feature_extractor.conv_layers.0.0.weight": (CHANNELS, 1, 10),
        "feature_extractor.conv_layers.0.2.weight": (CHANNELS,),
        "feature_extractor.conv_layers.0.2.bias": (CHANNELS,),
        "feature_extractor.conv_layers.1.0.weight": (CHANNELS, CHANNELS, 3),
        "layer_norm.weight": (CHANNELS,),
        "layer_norm.bias": (CHANNELS,),
        "post_extract_proj.weight": (DIM, CHANNELS),
        "post_extract_proj.bias": (DIM,),
        "encoder.pos_conv.0.bias": (DIM,),
        "encoder.pos_conv.0.weight_g": (1, 1, WIDTH),
        "encoder.pos_conv.0.weight_v": (DIM, DIM // GROUPS, WIDTH),
        "encoder.layer_norm.weight": (DIM,),
        "encoder.layer_norm.bias": (DIM,),
    }
    for layer in range(LAYERS):
        sizes = {f"self_attn.{name}_proj": (DIM, DIM) for name in ("k", "v", "q", "out")}
        sizes |= {"fc1": (HIDDEN, DIM), "fc2": (DIM, HIDDEN)}
        for name, (rows, columns) in sizes.items():
            shapes |= {f"encoder.layers.{layer}.{name}.weight": (rows, columns)}
            shapes |= {f"encoder.layers.{layer}.{name}.bias": (rows,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"encoder.layers.{layer}.{name}.{kind}": (DIM,) for kind in ("weight", "bias")}
    weights = {f"ssl_model.{name}": 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights = {name: weight + float("norm.weight" in name) for name, weight in weights.items()}
    head = {"output_layer_arch1.weight": 0.1 * torch.randn(1, DIM, generator=generator)}
    unused = {"fc1.weight": torch.zeros(4, DIM), "output_layer_class.bias": torch.zeros(5)}
    return {**weights, **head, "output_layer_arch1.bias": torch.tensor([3.0]), **unused}


def written_out(state: dict[str, Tensor], audio: Tensor) -> Tensor:
    """The score [B] as fairseq's layers give it (wav2vec 2.0 base: normalised after each sum)."""
    w = {key.removeprefix("ssl_model."): value for key, value in state.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    convolution = "feature_extractor.conv_layers"
    x = F.conv1d(audio[:, None], w[f"{convolution}.0.0.weight"], stride=5)
    x = F.gelu(F.group_norm(x, CHANNELS, w[f"{convolution}.0.2.weight"], w[f"{convolution}.0.2.bias"]))
    x = F.gelu(F.conv1d(x, w[f"{convolution}.1.0.weight"], stride=2)).transpose(1, 2)  # [B, T, C]
    x = linear(norm(x, "layer_norm"), "post_extract_proj")
    direction = w["encoder.pos_conv.0.weight_v"]
    kernel = w["encoder.pos_conv.0.weight_g"] * direction / direction.norm(dim=(0, 1), keepdim=True)
    positions = F.conv1d(x.transpose(1, 2), kernel, w["encoder.pos_conv.0.bias"], padding=WIDTH // 2, groups=GROUPS)
    x = norm(x + F.gelu(positions[..., :-1]).transpose(1, 2), "encoder.layer_norm")
    for layer in range(LAYERS):
        name = f"encoder.layers.{layer}"
        q, k, v = (
            linear(x, f"{name}.self_attn.{part}_proj").unflatten(-1, (DIM // 64, 64)).transpose(1, 2) for part in "qkv"
        )
        mixed = ((q @ k.transpose(-1, -2) / 8).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = norm(x + linear(mixed, f"{name}.self_attn.out_proj"), f"{name}.self_attn_layer_norm")
        x = norm(x + linear(F.gelu(linear(x, f"{name}.fc1")), f"{name}.fc2"), f"{name}.final_layer_norm")
    return linear(x.mean(1), "output_layer_arch1")[:, 0]


def test_a_file_of_the_released_layout_scores_as_its_layers_written_out(tmp_path, state, generator):
    audio = 0.1 * torch.randn(3, 1600, generator=generator)
    audio[1, 800:] = 0
    raw = written_out(state, audio)
    spread = 0.5 / raw.std()  # three scores around 3, half a point apart
    state["output_layer_arch1.bias"] = 3 + spread * (state["output_layer_arch1.bias"] - raw.mean())
    state["output_layer_arch1.weight"] = spread * state["output_layer_arch1.weight"]
    torch.save(state, tmp_path / "qama_full.pt")
    predictor = load_predictor(f"qama/{tmp_path / 'qama_full.pt'}", "cpu")
    expected = written_out(state, audio)
    assert ((expected > 1) & (expected < 5)).all()
    assert expected.std() > 0.4
    torch.testing.assert_close(predictor.score(audio, 16000), expected, rtol=0, atol=0.005)
    assert (predictor.name, predictor.sample_rate, predictor.window) == ("qama/qama_full", 16000, 10.0)


def test_scores_beyond_the_scale_are_cut_off(tmp_path, state):
    torch.save({**state, "output_layer_arch1.bias": torch.tensor([40.0])}, tmp_path / "far.pt")
    assert load_predictor(f"qama/{tmp_path / 'far.pt'}", "cpu").score(torch.zeros(2, 1600), 16000).tolist() == [5.0] * 2


def test_another_layout_is_refused_with_what_is_missing(tmp_path, state):
    torch.save({key: value for key, value in state.items() if "fc2" not in key}, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=r"part.pt: not a file of .*output_dense"):
        load_predictor(f"qama/{tmp_path / 'part.pt'}", "cpu")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt: not a file of"):
        load_predictor(f"qama/{tmp_path / 'other.pt'}", "cpu")


def test_a_file_with_code_is_refused(tmp_path):
    torch.save({"weight": print}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil.pt: refused"):
        load_predictor(f"qama/{tmp_path / 'evil.pt'}", "cpu")


def test_the_error_says_where_the_file_is():
    with pytest.raises(ValueError, match="predict.py of .*music-archive-quality-prediction downloads it"):
        load_predictor("qama", "cpu")
    with pytest.raises(FileNotFoundError, match="qama_none.pt: there is no such file"):
        load_predictor("qama/qama_none.pt", "cpu")
