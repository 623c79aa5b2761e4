"""The playground's matcher: training repeats, and leaves the global generators alone."""

from __future__ import annotations

import torch

from audiocraft_qamdt.captions.two_tower import CROP, PlaygroundMatcher, train

SMALL = {"tracks": 6, "seconds": 2.5, "epochs": 2, "batch_size": 3}


def test_the_same_arguments_train_the_same_matcher():
    state = torch.get_rng_state()
    first = train.__wrapped__(**SMALL)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(9)
    second = train.__wrapped__(**SMALL)
    other = train.__wrapped__(**SMALL, seed=1001)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not torch.equal(first.word_vectors.weight, other.word_vectors.weight)


def test_vectors_have_unit_length_at_any_rate_and_length():
    matcher = PlaygroundMatcher(train.__wrapped__(**SMALL))
    for samples, rate in ((100, 16000), (44100, 44100), (80000, 16000)):
        audio = torch.randn(samples, generator=torch.Generator().manual_seed(0))
        vectors = matcher.embed_audio(audio, rate)
        assert vectors.shape == (1, 64)
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(1), atol=1e-5)
    assert matcher.embed_texts(["slow piano", "zither", ""]).isfinite().all()
    assert matcher.model.log_mel(torch.randn(1, 32000)).shape[-1] == CROP  # 2 s
