"""Conditioners: quality levels, hashed words, T5 states."""

from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.conditioning.conditioners import QualityConditioner, T5StatesConditioner, WordsConditioner


def test_quality_conditioner_hands_levels_over():
    conditioner = QualityConditioner("frame")
    levels, mask = conditioner(conditioner.tokenize([[1, 2, 3], None, 4.5]))
    assert levels.tolist() == [[1, 2, 3], [0, 0, 0], [4.5, 4.5, 4.5]]
    assert mask.shape == levels.shape
    assert not list(conditioner.parameters())


def test_words_depend_on_the_text_and_nothing_else():
    words = WordsConditioner(n_bins=64, dim=8, output_dim=12)
    states, mask = words(words.tokenize(["Warm piano, slow", None, "warm"]))
    assert states.shape == (3, 3, 12)
    assert mask.tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert torch.equal(states[0, 0], states[2, 0])
    assert states[1].abs().max() == 0


def test_unknown_granularity_is_named():
    with pytest.raises(ValueError, match="quality.granularity='bar' is unknown"):
        QualityConditioner("bar")


def test_t5_states_are_the_encoders_own(tiny_t5):
    from transformers import AutoTokenizer, T5EncoderModel

    conditioner = T5StatesConditioner(tiny_t5, output_dim=16, device="cpu")
    states, mask = conditioner(conditioner.tokenize(["warm piano", "warm"]))
    inputs = AutoTokenizer.from_pretrained(tiny_t5)(["warm piano", "warm"], return_tensors="pt", padding=True)
    expected = T5EncoderModel.from_pretrained(tiny_t5).eval()(**inputs).last_hidden_state
    assert mask.tolist() == inputs["attention_mask"].tolist()
    assert mask[1].sum() < mask[0].sum()
    assert torch.allclose(states, expected * mask.unsqueeze(-1), atol=1e-6)
    assert not [key for key in conditioner.state_dict() if "t5" in key], "a frozen T5 is not part of the checkpoint"


def test_t5_null_is_the_encoding_of_the_empty_string(tiny_t5):
    conditioner = T5StatesConditioner(tiny_t5, output_dim=16, device="cpu")
    states, mask = conditioner(conditioner.tokenize([None, "warm piano"]))
    alone, _ = conditioner(conditioner.tokenize([""]))
    assert mask[0].tolist()[:2] == [1, 0]
    assert states[0, 0].abs().max() > 0
    assert torch.allclose(states[0, :1], alone[0], atol=1e-6)
    zeros = T5StatesConditioner(tiny_t5, output_dim=16, device="cpu", no_text="zeros")
    assert zeros(zeros.tokenize([None]))[1].sum() == 0


def test_t5_of_another_width_names_the_key(tiny_t5):
    with pytest.raises(ValueError, match="set mdt.context_dim=16"):
        T5StatesConditioner(tiny_t5, output_dim=1024, device="cpu")


def test_t5_cuts_long_descriptions(tiny_t5):
    conditioner = T5StatesConditioner(tiny_t5, output_dim=16, device="cpu", max_length=4)
    assert conditioner.tokenize(["warm piano " * 50])["input_ids"].shape == (1, 4)
