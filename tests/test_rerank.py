"""Choosing among candidates, with a real CLAP model of a small size."""

from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.rerank import ClapScorer, best_of, cut_windows

from .clap import write_clap


@pytest.fixture(scope="module")
def tiny_clap(tmp_path_factory) -> str:
    return write_clap(tmp_path_factory.mktemp("clap"))


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


def test_embeddings_are_those_of_transformers_for_what_fits(tiny_clap):
    scorer = ClapScorer(tiny_clap)
    audio = torch.randn(1, 1, 48000, generator=torch.Generator().manual_seed(0))
    given = {"text": ["warm piano"], "audio": [audio[0, 0].numpy()]}
    inputs = scorer.processor(**given, sampling_rate=48000, return_tensors="pt")
    inputs["is_longer"] = torch.zeros(1, 1, dtype=torch.bool)
    with torch.no_grad():
        expected = scorer.model(**inputs)
    assert torch.allclose(scorer.embed_audio(audio, 48000), expected.audio_embeds, atol=1e-5)
    assert torch.allclose(scorer.embed_text(["warm piano"]), expected.text_embeds, atol=1e-5)


def test_long_audio_is_the_mean_of_its_windows_and_draws_nothing(tiny_clap):
    scorer = ClapScorer(tiny_clap)
    audio = torch.randn(1, 1, 5 * 48000, generator=torch.Generator().manual_seed(0))
    windows = cut_windows(audio[0], 2 * 48000)
    assert windows.shape == (1, 3, 96000) and torch.equal(windows[0, 2], audio[0, 0, -96000:])
    mean = scorer.embed_audio(windows[0][:, None], 48000).mean(0)
    whole = scorer.embed_audio(audio, 48000)
    assert torch.allclose(whole[0], mean / mean.norm(), atol=1e-4)
    assert torch.equal(whole, scorer.embed_audio(audio, 48000))


def test_texts_beyond_the_model_are_cut(tiny_clap):
    scorer = ClapScorer(tiny_clap)
    assert scorer.embed_text(["a" * 10000]).isfinite().all()
    assert scorer.embed_text(["", "\U0001f3b9 \u30d4\u30a2\u30ce"]).isfinite().all()
