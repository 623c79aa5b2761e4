"""Choosing among candidates: by agreement with the text, by predicted quality, by both; what is recorded of it."""

from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.generation.params import GenerationParams, scorer_names
from audiocraft_qamdt.generation.reranking import Candidates, PmosScorer, choose, load_scorers
from audiocraft_qamdt.quality.annotate import score_clip
from audiocraft_qamdt.quality.predictors.base import load_predictor

TONE = 0.3 * torch.sin(torch.arange(32000) * 0.17).expand(1, 1, -1)
HISS = 0.3 * torch.randn(1, 1, 32000, generator=torch.Generator().manual_seed(0))


def no_clap(name: str, device: str):
    raise AssertionError(f"CLAP {name} was loaded")


@pytest.mark.parametrize(
    "rerank, names",
    [
        ("clap", ("clap",)),
        ("pmos", ("pmos:acoustic",)),
        ("pmos:playground", ("pmos:playground",)),
        ("pmos:constant/2.5", ("pmos:constant/2.5",)),
        ("clap+pmos", ("clap", "pmos:acoustic")),
        ("clap+pmos:audiobox/PQ", ("clap", "pmos:audiobox/PQ")),
    ],
)
def test_what_chooses_is_named(rerank, names):
    assert scorer_names(rerank) == names


@pytest.mark.parametrize("rerank", ["", "clop", "clap:acoustic", "pmos:", "pmos:os.path:join", "pmos+clap"])
def test_something_else_is_refused_and_so_is_code_by_import_path(rerank):
    with pytest.raises(ValueError, match="rerank=.* is unknown: give clap, pmos"):
        GenerationParams(rerank=rerank)


def test_the_best_of_each_text_is_taken():
    candidates = [torch.tensor([[[1.0]], [[5.0]]]), torch.tensor([[[2.0]], [[4.0]]])]
    made = choose(candidates, 16000, ["a", "b"], {"clap": lambda audio, sample_rate, texts: audio[:, 0, 0]})
    assert made.best.flatten().tolist() == [2.0, 5.0]
    assert made.record(1) == {"chosen": 0, "scores": {"clap": [5.0, 4.0]}}


def test_a_score_that_is_no_number_never_wins():
    candidates = [torch.full((1, 1, 1), value) for value in (1.0, float("nan"), 5.0)]
    made = choose(candidates, 16000, ["a"], {"pmos:x": lambda audio, sample_rate, texts: audio[:, 0, 0]})
    assert made.chosen == [2]


def test_a_single_candidate_is_kept_unscored_and_nothing_is_recorded():
    assert load_scorers(GenerationParams(rerank="pmos"), "cpu", no_clap) == {}
    made = Candidates([TONE], {})
    assert torch.equal(made.best, TONE)
    assert made.record(0) == {}


@pytest.mark.parametrize("candidates", [[TONE, HISS], [HISS, TONE]], ids=["first", "last"])
def test_predicted_quality_prefers_a_tone_to_hiss_whatever_their_order(candidates):
    scorers = load_scorers(GenerationParams(candidates=2, rerank="pmos:acoustic"), "cpu", no_clap)
    assert torch.equal(choose(candidates, 16000, [""], scorers).best, TONE)


def test_its_score_is_the_mean_that_annotation_gives():
    predictor = load_predictor("acoustic")
    score = PmosScorer(predictor)(torch.cat([TONE, HISS]), 16000, ["", ""])
    assert score[1] == score_clip(predictor, HISS[0], 16000).mean()
    assert score.shape == (2,)


def test_both_together_weigh_p_mos_from_0_to_1_beside_clap():
    """The first agrees better by 0.3; the second sounds better by 1 (a quarter of the scale), the third by 2."""
    scores = {"clap": torch.tensor([[0.5], [0.2], [0.2]]), "pmos:acoustic": torch.tensor([[2.0], [3.0], [4.0]])}
    audio = [torch.full((1, 1, 1), float(index)) for index in range(3)]
    assert Candidates(audio, scores).total[:, 0].tolist() == pytest.approx([0.75, 0.7, 0.95])
    assert Candidates(audio, scores).chosen == [2]
    assert Candidates(audio[:2], {name: values[:2] for name, values in scores.items()}).chosen == [0]


def test_a_text_does_not_depend_on_the_others_of_its_batch():
    scores = {"clap": torch.rand(4, 3), "pmos:acoustic": 1 + 4 * torch.rand(4, 3)}
    audio = [torch.zeros(3, 1, 1)] * 4
    for item in range(3):
        alone = {name: values[:, item : item + 1] for name, values in scores.items()}
        assert Candidates([clip[:1] for clip in audio], alone).chosen == [Candidates(audio, scores).chosen[item]]
