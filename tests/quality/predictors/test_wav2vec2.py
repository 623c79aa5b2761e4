"""Checkpoints of Hugging Face's audio classifiers, made here: regressions, and classes that are numbers."""

from __future__ import annotations

import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

from audiocraft_qamdt.quality.predictors.base import load_predictor

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 8),
    "conv_stride": (8, 8),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
}


def save(folder, labels: list[str], bias: list[float]) -> str:
    torch.manual_seed(0)
    names = dict(enumerate(labels))
    config = Wav2Vec2Config(**SIZE, id2label=names, label2id={name: i for i, name in names.items()})
    model = Wav2Vec2ForSequenceClassification(config)
    model.classifier.bias.data = torch.tensor(bias)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def windows(generator):
    return 0.1 * torch.randn(3, 8000, generator=generator)


def logits(folder: str, windows) -> torch.Tensor:
    """As the model's own page would have it: each window alone, of mean 0 and power 1."""
    model = Wav2Vec2ForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        normal = [(window - window.mean()) / (window.var(unbiased=False) + 1e-7).sqrt() for window in windows]
        return torch.stack([model(window[None]).logits[0] for window in normal])


def test_a_regression_is_its_output(tmp_path, windows):
    folder = save(tmp_path / "mos", ["score"], [3.0])
    predictor = load_predictor(f"wav2vec2/{folder}", "cpu")
    assert (predictor.name, predictor.sample_rate) == ("wav2vec2/mos", 8000)
    assert predictor.score(windows, 8000).tolist() == pytest.approx(logits(folder, windows)[:, 0].tolist(), abs=1e-4)


def test_a_regression_on_another_scale_is_mapped(tmp_path, windows):
    folder = save(tmp_path / "mos", ["score"], [60.0])
    predictor = load_predictor(f"wav2vec2/{folder}@0-100", "cpu")
    expected = 1 + 4 * logits(folder, windows)[:, 0] / 100
    assert predictor.score(windows, 8000).tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert predictor.version != load_predictor(f"wav2vec2/{folder}", "cpu").version


def test_a_classifier_is_its_expected_label(tmp_path, windows):
    folder = save(tmp_path / "classes", ["0", "5", "10"], [0.0, 1.0, 0.5])
    predictor = load_predictor(f"wav2vec2/{folder}", "cpu")
    expected = 1 + 4 * (logits(folder, windows).softmax(1) @ torch.tensor([0.0, 5.0, 10.0])) / 10
    assert predictor.score(windows, 8000).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_other_weights_are_another_version(tmp_path):
    versions = {load_predictor(f"wav2vec2/{save(tmp_path / str(b), ['x'], [b])}", "cpu").version for b in (1.0, 2.0)}
    assert len(versions) == 2


def test_scores_beyond_the_scale_are_cut_off(tmp_path, windows):
    folder = save(tmp_path / "far", ["score"], [70.0])
    assert load_predictor(f"wav2vec2/{folder}", "cpu").score(windows, 8000).tolist() == [5.0] * 3


@pytest.mark.parametrize(
    "labels, suffix, message",
    [
        (["dog", "cat"], "", r"its labels \(dog, cat\) must be numbers"),
        (["nan", "1"], "", "must be finite"),
        (["x"], "@5-1", "the scale 5 to 1 is empty"),
    ],
)
def test_what_gives_no_score_is_refused(tmp_path, labels, suffix, message):
    folder = save(tmp_path, labels, [0.0] * len(labels))
    with pytest.raises(ValueError, match=message):
        load_predictor(f"wav2vec2/{folder}{suffix}", "cpu")


def test_without_a_checkpoint_it_says_what_it_needs():
    with pytest.raises(ValueError, match="wav2vec2 needs a checkpoint: wav2vec2/FOLDER"):
        load_predictor("wav2vec2", "cpu")
