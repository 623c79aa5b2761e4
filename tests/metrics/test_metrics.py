"""Inception score, KL, CLAP, p-MOS, shares and speed, and the table that makes them."""

from __future__ import annotations

import math
import re

import pytest
import torch

from audiocraft_qamdt.metrics.base import Batch, Clip, Network, Number, Outputs
from audiocraft_qamdt.metrics.networks import Networks, PlaygroundNetwork
from audiocraft_qamdt.metrics.probabilities import ClassAgreement, InceptionScore, KLDivergence
from audiocraft_qamdt.metrics.signal import LevelShares, PredictedMOS, RealTimeFactor, normalize
from audiocraft_qamdt.metrics.table import METRICS, Evaluation, Setup, build_metrics
from audiocraft_qamdt.playground.synthesis import compose, render
from audiocraft_qamdt.quality.predictors.base import load_predictor


class Given(Network):
    """A classifier whose probabilities are the audio."""

    name, dim, classes, module = "given", 1, 4, torch.nn.Identity()

    def __call__(self, audio: torch.Tensor, sample_rate: int) -> Outputs:
        return Outputs(torch.zeros(1, 1), audio)


class Embedding(Given):
    """A network that gives no probabilities."""

    name, classes = "embedding", None


def given(*rows: list[float]) -> list[Clip]:
    return [Clip(f"clip{index}", torch.tensor(row), 16000) for index, row in enumerate(rows)]


def values(metric, *batches: Batch) -> dict[str, float]:
    evaluation = Evaluation([metric])
    for batch in batches:
        evaluation.update(batch)
    return {number.metric: number.value for number in evaluation.numbers()}


ONE_HOT = torch.eye(4).tolist()


def test_inception_score_goes_from_one_to_the_number_of_classes():
    assert values(InceptionScore(Given()), Batch(given(*ONE_HOT)))["inception"] == pytest.approx(4)
    assert values(InceptionScore(Given()), Batch(given(*ONE_HOT[:1] * 5)))["inception"] == pytest.approx(1)
    assert values(InceptionScore(Given()), Batch(given(*[[0.25] * 4] * 3)))["inception"] == pytest.approx(1)


def test_inception_score_is_torchmetrics_in_one_split():
    from torchmetrics.image.inception import InceptionScore as Theirs

    logits = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    theirs = Theirs(feature=torch.nn.Flatten(), splits=1)
    theirs.update(logits[:, :, None, None])
    found = values(InceptionScore(Given()), Batch(given(*logits.softmax(1).tolist())))
    assert found["inception"] == pytest.approx(theirs.compute()[0].item(), rel=1e-5)


def test_agreement_is_the_share_whose_most_likely_class_is_the_references():
    generated = given([0.4, 0.3, 0.3, 0.0], [0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 0.0, 0.0], [0.7, 0.1, 0.1, 0.1])
    reference = given([0.9, 0.1, 0.0, 0.0], [0.4, 0.3, 0.2, 0.1], [0.2, 0.3, 0.3, 0.2], [0.1, 0.1, 0.1, 0.7])
    assert values(ClassAgreement(Given()), Batch(generated, reference)) == {"agreement": 0.5}
    with pytest.raises(ValueError, match="no class probabilities"):
        ClassAgreement(Embedding())


def test_kl_both_ways_with_audiocrafts_clipping():
    reference, generated = [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.5, 0.0]
    found = values(KLDivergence(Given()), Batch(given(generated), given(reference)))
    assert found["kl"] == pytest.approx(math.log(2), abs=1e-4)  # KL(reference ‖ generated)
    clipped = 0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 1e-6)  # a class that the reference rules out costs log 1e6
    assert found["kl_reverse"] == pytest.approx(clipped, rel=1e-4)
    assert found["kl_both"] == pytest.approx(found["kl"] + found["kl_reverse"])


def test_silent_and_clipped_are_measured_before_the_level_is_normalised():
    loud = torch.sin(torch.arange(16000) / 20) * 2
    silent, normal = torch.full((16000,), 1e-4), 0.5 * torch.sin(torch.arange(16000) / 20)
    clips = [
        Clip(name, normal, 16000, raw=raw) for name, raw in zip("abcd", (loud, silent, normal, normal), strict=True)
    ]
    assert values(LevelShares(), Batch(clips)) == {"silent": 0.25, "clipped": 0.25}


def test_real_time_factor_is_over_all_clips():
    clip = Clip("a", torch.zeros(16000), 16000)
    assert values(RealTimeFactor(), Batch([clip] * 3, seconds=6), Batch([clip], seconds=6))["rtf"] == pytest.approx(3)


def test_pmos_does_not_hear_the_level():
    music = torch.from_numpy(render(compose(3, 0), 3.0, 16000))
    predictor = load_predictor("acoustic")
    found = [
        values(PredictedMOS(predictor), Batch([Clip("a", music * gain, 16000)]))["pmos"] for gain in (1.0, 0.5, 0.1)
    ]
    assert found == pytest.approx(found[:1] * 3, abs=1e-3)
    assert found[0] > 4
    noisy = music + 0.1 * torch.randn(music.shape, generator=torch.Generator().manual_seed(0))
    assert values(PredictedMOS(predictor), Batch([Clip("a", noisy, 16000)]))["pmos"] < found[0] - 1


def test_loudness_becomes_minus_23_lufs():
    from torchaudio.transforms import Loudness

    music = torch.from_numpy(render(compose(3, 0), 3.0, 16000))
    assert Loudness(16000)(normalize(music, 16000)[None]).item() == pytest.approx(-23, abs=0.01)
    assert torch.equal(normalize(music[:1000], 16000), music[:1000])


@pytest.mark.parametrize("audio, problem", [(torch.zeros(0), "empty"), (torch.tensor([0.0, math.nan]), "NaN")])
def test_audio_that_cannot_be_measured_names_its_file(audio, problem):
    with pytest.raises(ValueError, match=f"song.wav: the audio.*{problem}"):
        Clip("song.wav", audio, 16000)


def test_keys_say_what_they_depend_on_and_survive_tensorboard():
    number = Number("frechet", "playground-1", 1.0, "evaluate", 64, best_of=3, seed=7)
    assert number.key == "frechet_playground-1/evaluate_n64/best3_seed7"
    assert re.fullmatch(r"[-/\w.]+", number.key), "TensorBoard replaces anything else"
    assert Number("pmos", "acoustic-1", 1.0, "", 8).key == "pmos_acoustic-1/n8"


def test_table_is_switched_by_name():
    setup = Setup(Networks({}))
    switches = {"frechet": ["playground"], "kl": "playground", "silence": True, "rtf": False, "fad": False, "pmos": []}
    metrics = build_metrics(switches, setup)
    assert [type(metric).__name__ for metric in metrics] == ["FrechetMetric", "KLDivergence", "LevelShares"]
    assert metrics[0].network is metrics[1].network, "a network is loaded once"


@pytest.mark.parametrize(
    "switches, message",
    [
        ({"frechet": True}, "frechet: name the network"),
        ({"inception": ["vggist"]}, "unknown network 'vggist'.*playground"),
        ({"fid": True}, "unknown metric fid.*frechet"),
        ({"pmos": True}, "pmos: name the predictor"),
        ({"kld": True}, "kld is AudioCraft's own metric, which runs in a solver only.*ask for kl"),
    ],
)
def test_bad_switches_name_what_is_wrong(switches, message):
    with pytest.raises(ValueError, match=message):
        build_metrics(switches, Setup(Networks({})))


def test_no_clip_at_all_is_an_error():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        Evaluation([LevelShares()]).numbers()


def test_every_number_of_the_playground_ignores_order_and_batches():
    """All metrics that need no download, on real audio: the same to 1e-6 in any order and batch size."""
    network = {name: ["playground"] for name in ("frechet", "inception", "kl")}
    switches = {**network, "pmos": ["acoustic"], "silence": True}
    setup = Setup(Networks({}))
    audio = [torch.from_numpy(render(compose(4, index), 2.0 + index % 3, 16000)) for index in range(10)]
    generated = [(f"{index}", part + 0.01 * part.roll(500)) for index, part in enumerate(audio)]

    def measure(order: list[int], batch: int) -> dict[str, float]:
        evaluation = Evaluation(build_metrics(switches, setup))
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch]
            evaluation.update(
                Batch(
                    [Clip(*generated[index], 16000) for index in chosen],
                    [Clip(str(index), audio[index], 16000) for index in chosen],
                )
            )
        return {number.key: number.value for number in evaluation.numbers(reference="clean")}

    base = measure(list(range(10)), 10)
    assert len(base) == 8
    assert all(map(math.isfinite, base.values()))
    assert measure([3, 8, 0, 9, 1, 7, 2, 6, 4, 5], 3) == pytest.approx(base, rel=1e-6, abs=1e-6)


def test_networks_without_classes_are_refused():
    class Embedding(PlaygroundNetwork):
        classes = None

    with pytest.raises(ValueError, match="no class probabilities"):
        InceptionScore(Embedding())
    assert set(METRICS) >= {"fad", "kld", "text_consistency", "chroma_cosine", "frechet", "inception", "kl", "clap"}
