"""Audiobox Aesthetics through its own package, with a small network in the published layouts."""

from __future__ import annotations

import pytest
import soundfile
import torch

from audiocraft_qamdt.metrics.folders import evaluate_folders
from audiocraft_qamdt.metrics.networks import Networks
from audiocraft_qamdt.metrics.table import MORE_IS_BETTER, Setup, build_metrics
from audiocraft_qamdt.quality.predictors.base import load_predictor

aes = pytest.importorskip("audiobox_aesthetics.model.aes")
infer = pytest.importorskip("audiobox_aesthetics.infer")

SIZE = {
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 2,
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "conv_pos": 16,
    "conv_pos_groups": 2,
}
MODEL = {
    "proj_num_layer": 2,
    "proj_ln": True,
    "proj_act_fn": "gelu",
    "proj_dropout": 0,
    "nth_layer": 3,
    "use_weighted_layer_sum": True,
    "precision": "32",
    "normalize_embed": True,
    "output_dim": 1,
}
TARGET = {axis: {"mean": 5.0 + i / 2, "std": 1.0 + i / 4} for i, axis in enumerate(("CE", "CU", "PC", "PQ"))}


@pytest.fixture
def small(monkeypatch):
    """The published network, but small: its size is a constant of the package."""
    monkeypatch.setattr(aes, "DEFAULT_AUDIO_CFG", aes.WavLMConfig({**vars(aes.DEFAULT_AUDIO_CFG), **SIZE}))
    torch.manual_seed(0)
    return aes.AesMultiOutput(**MODEL, target_transform=TARGET).eval()


@pytest.fixture
def checkpoint(small, tmp_path) -> str:
    """The published `checkpoint.pt`."""
    weights = {f"model.{name}": value for name, value in small.state_dict().items()}
    path = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": weights, "model_cfg": MODEL, "target_transform": TARGET}, path)
    return str(path)


@pytest.fixture
def windows(generator):
    return 0.1 * torch.randn(3, 160000, generator=generator)


def test_scores_are_the_packages_own_on_our_scale(checkpoint, windows):
    theirs = infer.AesPredictor(checkpoint_pth=checkpoint)
    rows = theirs.forward([{"path": window[None], "sample_rate": 16000} for window in windows])
    for axis in ("PQ", "CE"):
        predictor = load_predictor(f"audiobox/{axis}@{checkpoint}", "cpu")
        assert predictor.name == f"audiobox-aesthetics/{axis}"
        expected = [1 + 4 * (row[axis] - 1) / 9 for row in rows]
        assert predictor.score(windows, 16000).tolist() == pytest.approx(expected, abs=1e-4)
    assert len(set(expected)) == 3


def test_a_folder_in_the_hubs_layout_gives_the_same(checkpoint, small, windows, tmp_path):
    small.save_pretrained(tmp_path / "hub")
    again = load_predictor(f"audiobox/PQ@{tmp_path / 'hub'}", "cpu")
    first = load_predictor(f"audiobox/PQ@{checkpoint}", "cpu")
    assert again.score(windows, 16000).tolist() == pytest.approx(first.score(windows, 16000).tolist(), abs=1e-5)
    assert again.version != first.version  # other files
    assert first.version.startswith("0.0.")


def test_raw_axes_of_files_are_the_packages_own(checkpoint, tmp_path, generator):
    """Mixed rates and channels, 12 s and 3 s: two windows, of which the last one counts for 2 s, and one."""
    folder = tmp_path / "clips"
    folder.mkdir()
    clips = [("a.wav", 22050, 12.0, 2), ("b.wav", 16000, 3.0, 1)]
    for name, rate, seconds, channels in clips:
        audio = 0.1 * torch.randn(round(rate * seconds), channels, generator=generator)
        soundfile.write(folder / name, audio.numpy(), rate, subtype="FLOAT")
    read = [soundfile.read(folder / name, dtype="float32", always_2d=True) for name, *_ in clips]
    batch = [{"path": torch.from_numpy(audio.T), "sample_rate": rate} for audio, rate in read]
    rows = infer.AesPredictor(checkpoint_pth=checkpoint).forward(batch)
    metrics = build_metrics({"aesthetics": checkpoint}, Setup(Networks({})))
    assert set(metrics[0].quantities) - {"pc"} < MORE_IS_BETTER.keys()
    report = evaluate_folders(folder, None, lambda: metrics)
    found = {number.metric: number.value for number in report.numbers}
    assert found == {axis.lower(): pytest.approx(sum(row[axis] for row in rows) / 2, abs=1e-4) for axis in rows[0]}
    assert all(abs(rows[0][axis] - rows[1][axis]) > 1e-3 for axis in rows[0])


def test_an_axis_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="audiobox/MOS: choose an axis of PQ, PC, CE, CU"):
        load_predictor("audiobox/MOS", "cpu")
