"""Agreement of audio and text, with a real CLAP model of a small size."""

from __future__ import annotations

import torch

from audiocraft_qamdt.clap.scorer import ClapScorer, windows


def test_scores_are_cosines_of_each_pair_and_do_not_depend_on_the_batch(tiny_clap):
    scorer = ClapScorer(tiny_clap)
    audio = torch.randn(2, 1, 16000, generator=torch.Generator().manual_seed(0))
    together = scorer(audio, 16000, ["slow piano", "drums"])
    alone = torch.cat([scorer(audio[:1], 16000, ["slow piano"]), scorer(audio[1:], 16000, ["drums"])])
    assert together.shape == (2,)
    assert together.abs().max() <= 1
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(scorer(audio, 16000, ["drums", "drums"])[0], together[0], atol=1e-4)


def test_long_audio_is_cut_not_cropped_at_random(tiny_clap):
    """Its window is 2 s: 5 s are three windows, 4.5 s two, because half a second says nothing."""
    scorer = ClapScorer(tiny_clap)
    audio = torch.randn(5 * 16000, generator=torch.Generator().manual_seed(0))
    embedded = scorer.embed_audio(audio, 16000)
    assert embedded.shape == (3, scorer.dim)
    assert torch.equal(embedded, scorer.embed_audio(audio, 16000))
    assert torch.allclose(embedded[0], scorer.embed_audio(audio[: 2 * 16000], 16000)[0], atol=1e-3)
    assert len(scorer.embed_audio(audio[:72000], 16000)) == 2
    assert scorer(audio[None, None], 16000, ["piano"]).shape == (1,)


def test_windows_keep_all_but_a_short_rest():
    audio = torch.arange(10)
    assert [len(part) for part in windows(audio, 4, 2)] == [4, 4, 2]
    assert [len(part) for part in windows(audio, 4, 3)] == [4, 4]
    assert [len(part) for part in windows(audio[:1], 4, 3)] == [1]


def test_texts_beyond_the_model_are_cut(tiny_clap):
    scorer = ClapScorer(tiny_clap)
    assert scorer.embed_texts(["a" * 10000]).isfinite().all()
    assert scorer.embed_texts(["", "\U0001f3b9 \u30d4\u30a2\u30ce"]).isfinite().all()
