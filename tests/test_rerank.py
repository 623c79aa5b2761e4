"""Choosing among candidates, with a real CLAP model of a small size."""

from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.rerank import ClapScorer, best_of


@pytest.fixture(scope="module")
def tiny_clap(tmp_path_factory) -> str:
    """A CLAP model with its processor, made here and saved as `from_pretrained` expects them."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor, RobertaTokenizer

    folder = tmp_path_factory.mktemp("clap")
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "\u0120", *"abcdefghijklmnopqrstuvwxyz"]  # U+0120 is a space
    text = RobertaTokenizer(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[])
    ClapProcessor(ClapFeatureExtractor(max_length_s=2), text).save_pretrained(folder)
    torch.manual_seed(0)
    config = ClapConfig(
        text_config={
            "vocab_size": 32,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 80,
            "pad_token_id": 1,
        },
        audio_config={
            "patch_embeds_hidden_size": 16,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "hidden_size": 32,
            "window_size": 8,
            "spec_size": 256,
        },
        projection_dim=8,
    )
    model = ClapModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)  # as initialised, all texts are nearly the same to it
    model.save_pretrained(folder)
    return str(folder)


def test_scores_are_cosines_of_each_pair_and_do_not_depend_on_the_batch(tiny_clap):
    scorer = ClapScorer(tiny_clap)
    audio = torch.randn(2, 1, 16000, generator=torch.Generator().manual_seed(0))
    together = scorer(audio, 16000, ["slow piano", "drums"])
    alone = torch.cat([scorer(audio[:1], 16000, ["slow piano"]), scorer(audio[1:], 16000, ["drums"])])
    assert together.shape == (2,) and together.abs().max() <= 1
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(scorer(audio, 16000, ["drums", "drums"])[0], together[0], atol=1e-4)


def test_the_best_of_each_text_is_taken():
    candidates = [torch.tensor([[[1.0]], [[5.0]]]), torch.tensor([[[2.0]], [[4.0]]])]
    best = best_of(candidates, 16000, ["a", "b"], lambda audio, sample_rate, texts: audio[:, 0, 0])
    assert best.flatten().tolist() == [2.0, 5.0]
