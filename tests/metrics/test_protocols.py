"""Protocols against figures computed from the packages' published formulas, on the same files, with the same network.

These packages do not install beside this project's own versions, and their checkpoints are not in the tests: what they
do before and after the network is written out in each test with nothing but NumPy, SciPy, librosa, soxr, resampy and
torchaudio. `test_packages` has the package that does install.
"""

from __future__ import annotations

import io
import json

import librosa
import numpy as np
import pytest
import resampy
import scipy.linalg
import soundfile
import soxr
import torch
import torchaudio

from audiocraft_qamdt.cli import main
from audiocraft_qamdt.metrics.base import Network, Outputs
from audiocraft_qamdt.metrics.folders import evaluate_folders
from audiocraft_qamdt.metrics.networks import NETWORKS, Networks
from audiocraft_qamdt.metrics.protocols import PROTOCOLS, Conventions, Windows, protocol_of
from audiocraft_qamdt.metrics.table import Setup, build_metrics
from audiocraft_qamdt.playground.degradation import degrade
from audiocraft_qamdt.playground.synthesis import compose, render

RATE, COUNT, BANDS = 22050, 12, 4


def ear(audio) -> np.ndarray:
    """Logits [BANDS] of mono audio: log energies of bands, as a share of its own Nyquist frequency."""
    spectrum = np.abs(np.fft.rfft(np.asarray(audio, np.float64))) ** 2 / len(audio)
    energies = np.array([part.sum() for part in np.array_split(spectrum, BANDS)])
    return 0.3 * np.log(energies + 1e-3)  # so that no class has nearly all of the probability


def softmax(logits):
    exp = np.exp(logits - logits.max())
    return exp / exp.sum()


class Ear(Network):
    name, dim, classes, module, sample_rate = "ear", BANDS, BANDS, torch.nn.Identity(), 16000

    def __init__(self, **settings) -> None:
        self.settings = settings

    def __call__(self, audio, sample_rate):
        logits = ear(audio.numpy())
        return Outputs(torch.from_numpy(logits)[None].float(), torch.from_numpy(softmax(logits)).float())


@pytest.fixture(autouse=True)
def ears(monkeypatch):
    for name, rate in (("clap", 48000), ("vggish", 16000), ("passt", 32000), ("panns", 32000), ("openl3", 48000)):
        monkeypatch.setitem(NETWORKS, name, type("Ear", (Ear,), {"sample_rate": rate}))
    monkeypatch.setitem(NETWORKS, "ear", Ear)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Stereo files of 16 bits, of 11.3 s (two windows of 10 s) and 1.2 s by turns, the generated ones noisy."""
    root = tmp_path_factory.mktemp("protocols")
    for name, fault in (("reference", 0.0), ("generated", 0.5)):
        (root / name).mkdir()
        for index in range(COUNT):
            left = render(compose(4, index), 11.3 if index % 2 else 1.2, RATE)
            left = degrade(left, RATE, "noise", fault, np.random.default_rng(index))
            stereo = np.stack([left, 0.4 * np.roll(left, 300) + 0.05], 1)
            soundfile.write(root / name / f"{index:02d}.wav", stereo / 2, RATE, subtype="PCM_16")
    return root / "generated", root / "reference"


def measured(folders, protocol, metrics):
    setup = Setup(Networks({}, protocol=protocol), {"frechet": {"extrapolate": False, "per_clip": False}})
    report = evaluate_folders(*folders, lambda: build_metrics(metrics, setup))
    return {number.key: number.value for number in report.numbers}


def files(folder):
    return [soundfile.read(path)[0].T for path in sorted(folder.iterdir())]


def frechet(first, second):
    """The published formula, with SciPy's square root."""
    (first, second) = (np.concatenate(part).astype(np.float64) for part in (first, second))
    covariances = [np.cov(part, rowvar=False) for part in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    difference = first.mean(0) - second.mean(0)
    return difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root)


def fadtk_file(stereo, rate):
    """Mono, torchaudio's "kaiser_best", and the file of 16 bits that soundfile writes and reads again."""
    filters = {"lowpass_filter_width": 64, "rolloff": 0.9475937167399596, "beta": 14.769656459379492}
    resample = torchaudio.transforms.Resample(RATE, rate, resampling_method="sinc_interp_kaiser", **filters)
    file = io.BytesIO()
    soundfile.write(file, resample(torch.from_numpy(stereo.mean(0)).float()).numpy(), rate, "PCM_16", format="WAV")
    file.seek(0)
    return soundfile.read(file)[0]


def fadtk_clap(stereo):
    """laion-clap's rounding; ten seconds from every second on, zeros behind; float16."""
    audio = fadtk_file(stereo, 48000)
    audio = (audio.clip(-1, 1) * 32767).astype(np.int16) / 32767
    chunks = [audio[start : start + 480000] for start in range(0, len(audio), 48000)]
    return np.stack([ear(np.pad(chunk, (0, 480000 - len(chunk))).astype(np.float32)) for chunk in chunks], 0).astype(
        np.float16
    )


def fadtk_vggish(stereo):
    return ear(fadtk_file(stereo, 16000).astype(np.float32))[None].astype(np.float16)


def audioldm_vggish(stereo):
    """16 bits as read, the mean of channels, resampy."""
    return ear(resampy.resample(stereo.mean(0), RATE, 16000).astype(np.float32))[None]


def audioldm_logits(stereo, rate=16000):
    """The first channel without its mean, torchaudio's resampling, at least 32,000 samples."""
    audio = torch.from_numpy(stereo[0] - stereo[0].mean()).float()
    audio = torchaudio.functional.resample(audio, RATE, rate).numpy()
    return ear(np.pad(audio, (0, max(0, 32000 - len(audio)))))


def audioldm_cnn14(stereo):
    return audioldm_logits(stereo, 32000)[None]


def stable_openl3(stereo):
    """Peak at -1 dB, soxr to the bandwidth of 44.1 kHz, then resampy to the rate of OpenL3."""
    audio = stereo.mean(0) / np.abs(stereo.mean(0)).max() * 10 ** (-1 / 20)
    return ear(resampy.resample(soxr.resample(audio, RATE, 44100), 44100, 48000).astype(np.float32))[None]


def stable_probabilities(path):
    """librosa's mono at 32 kHz, peak at -1 dB, windows of 10 s every 5 s, the mean of logits."""
    audio, _ = librosa.load(path, sr=32000, mono=True)
    audio = audio / np.abs(audio).max() * 10 ** (-1 / 20)
    logits = []
    for start in range(0, max(160000, len(audio) - 160000), 160000):
        window = audio[start : start + 320000]
        logits.append(ear(np.pad(window, (0, 320000 - len(window)))))
    return softmax(np.mean(logits, 0))


def captions(folder):
    file = folder.parent / "captions.json"
    file.write_text(json.dumps({path.name: "slow piano" for path in folder.iterdir()}), encoding="utf-8")
    return file


def kl(target, prediction):
    return float((target * (np.log(target) - np.log(prediction + 1e-6))).sum())


@pytest.mark.parametrize(
    "protocol, network, embed",
    [
        ("fadtk", "clap", fadtk_clap),
        ("fadtk", "vggish", fadtk_vggish),
        ("audioldm_eval", "vggish", audioldm_vggish),
        ("audioldm_eval", "panns", audioldm_cnn14),
        ("stable-audio", "openl3", stable_openl3),
    ],
    ids=["fadtk clap", "fadtk vggish", "audioldm_eval vggish", "audioldm_eval Cnn14", "stable-audio OpenL3"],
)
def test_frechet_distance_is_that_of_the_package(folders, protocol, network, embed):
    expected = frechet(*([embed(audio) for audio in files(folder)] for folder in folders))
    found = measured(folders, protocol, {"frechet": [network]})
    assert found == {f"frechet_ear.{protocol}/reference_n12": pytest.approx(expected, rel=1e-3)}
    assert measured(folders, "ours", {"frechet": [network]}).popitem()[1] != pytest.approx(expected, rel=0.01)


def test_audioldm_eval_has_kl_of_softmaxes_and_the_inception_score_of_ten_parts(folders):
    generated, reference = ([softmax(audioldm_logits(audio)) for audio in files(folder)] for folder in folders)
    rows = np.stack(generated)[np.random.RandomState(2020).permutation(COUNT)]
    parts = [rows[part * COUNT // 10 : (part + 1) * COUNT // 10] for part in range(10)]
    scores = [np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()) for part in parts]
    found = measured(folders, "audioldm_eval", {"kl": ["ear"], "inception": ["ear"]})
    expected = np.mean([kl(*pair) for pair in zip(reference, generated, strict=True)])
    assert found == {
        "kl_ear.audioldm_eval/reference_n12": pytest.approx(expected, rel=1e-4),
        "inception_ear.audioldm_eval/n12": pytest.approx(np.mean(scores), rel=1e-5),
    }


def test_stable_audio_has_the_other_kl_of_mean_logits(folders):
    generated, reference = ([stable_probabilities(path) for path in sorted(folder.iterdir())] for folder in folders)
    expected = np.mean([kl(*pair) for pair in zip(generated, reference, strict=True)])
    found = measured(folders, "stable-audio", {"kl": ["passt"]})
    assert found == {"kl_reverse_ear.stable-audio/reference_n12": pytest.approx(expected, rel=1e-3)}


def test_stable_audio_asks_for_passt_of_ten_seconds():
    assert Networks({"passt": {"length": 20}}, protocol="stable-audio").plain("passt").settings["length"] == 10


@pytest.mark.parametrize("protocol", ["fadtk", "frechet-audio-distance", "audioldm_eval"])
def test_packages_give_cnn14_the_whole_clip(protocol):
    assert Networks({"panns": {"length": 5.0}}, protocol=protocol).plain("panns").settings["length"] is None


def test_stable_audios_clap_score_is_of_the_whole_clip_at_its_peak(folders, monkeypatch):
    """librosa's mono at 48 kHz, peak at -1 dB, cut to 16 bits; laion-clap then takes the clip in one piece."""
    heard: list[torch.Tensor] = []

    class Clap(Ear):
        sample_rate = 48000

        def __init__(self, **settings) -> None:
            super().__init__(**settings)
            self.embedder = self

        def embed_texts(self, texts):
            return torch.ones(len(texts), BANDS)

        def __call__(self, audio, sample_rate):
            heard.append(audio)
            return super().__call__(audio, sample_rate)

    monkeypatch.setitem(NETWORKS, "clap", Clap)
    networks = Networks({}, protocol="stable-audio")
    path = sorted(folders[0].iterdir())[1]
    report = evaluate_folders(
        path.parent, None, lambda: build_metrics({"clap": True}, Setup(networks)), captions=captions(path.parent)
    )
    audio, _ = librosa.load(path, sr=48000, mono=True)
    audio = audio / np.abs(audio).max() * 10 ** (-1 / 20)
    expected = (audio.clip(-1, 1) * 32767).astype(np.int16) / 32767
    assert [len(one) > 500000 for one in heard] == [False, True] * (COUNT // 2)
    assert np.abs(heard[1].numpy() - expected).max() < 1e-3
    assert networks.plain("clap").settings["whole"] is True
    cosines = [torch.cosine_similarity(torch.from_numpy(ear(one.numpy())), torch.ones(BANDS), 0) for one in heard]
    assert report.numbers[0].key == "clap_ear.stable-audio/n12"
    assert report.numbers[0].value == pytest.approx(np.mean(cosines), abs=1e-5)


def test_audiocraft_leaves_networks_as_they_are_and_says_so_in_the_key(folders):
    ours, theirs = (measured(folders, protocol, {"kl": ["ear"]}) for protocol in ("ours", "audiocraft"))
    assert list(theirs.values()) == pytest.approx(list(ours.values()))
    assert [key.replace(".audiocraft", "") for key in theirs] == list(ours) != list(theirs)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_clips_12_db_apart_are_treated_alike_on_both_sides(folders, tmp_path, name):
    """What a protocol does to levels it does to both: the distance from A to B is that from B to A."""
    generated, _ = folders
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    for path in generated.iterdir():
        audio, rate = soundfile.read(path)
        soundfile.write(quiet / path.name, audio / 4, rate, subtype="PCM_16")
    one, other = (measured(pair, name, {"frechet": ["ear"]}) for pair in ((generated, quiet), (quiet, generated)))
    assert list(one.values()) == pytest.approx(list(other.values()), rel=1e-6)
    if name == "stable-audio":
        assert list(one.values()) == pytest.approx([0], abs=1e-3)


def test_windows_hold_all_of_the_audio():
    audio = np.arange(1, 24)
    assert [len(window) for window in Windows(10, 1).cut(audio, 1)] == [10] * 23
    assert [window[0] for window in Windows(10, 5, inside=True).cut(audio, 1)] == [1, 6, 11, 16]
    assert [list(window) for window in Windows(3, 1, inside=True).cut(audio[:1], 1)] == [[1, 0, 0]]


def test_silence_has_no_peak_to_scale():
    assert not Conventions(peak=1.0).prepare(np.zeros((1, 10)), 16000, None)[0].any()


def test_an_unknown_protocol_is_named(folders, tmp_path, caplog):
    with pytest.raises(ValueError, match="--protocol fad: there is none, choose from ours, audiocraft, fadtk, "):
        protocol_of("fad")
    argv = ["evaluate", "--generated", str(folders[0]), "--protocol", "fad", "--out", str(tmp_path / "o.json")]
    assert main(argv) == 2
    assert "--protocol fad: there is none" in caplog.text
