"""Numbers of installed packages and ours, end to end: the same two folders, the same weights of the published layout.

The weights are random, and small where the package's code lets them. What cannot be installed beside this project's
own versions (fadtk, audioldm_eval, stable-audio-metrics) is compared by its formulas in `test_protocols`.
"""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from audiocraft_qamdt.metrics.folders import evaluate_folders
from audiocraft_qamdt.metrics.networks import Networks
from audiocraft_qamdt.metrics.table import Setup, build_metrics
from audiocraft_qamdt.metrics.vggish import VGGish

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("frechet_audio_distance") is None, reason="frechet-audio-distance is not installed"
)

HUBCONF = '''
"""VGGish as torch.hub hands it out: audio in, its log-mel examples by NumPy, and the network with its last ReLU."""

import numpy as np
import torch
from audiocraft_qamdt.metrics.vggish import VGGish

class Hub(torch.nn.Module):
    def __init__(self):
        super().__init__()
        network = VGGish((4, "M", 4, "M", 8, 8, "M", 8, 8, "M"), hidden=16, dim=6)
        network.load_state_dict(torch.load("FILE", weights_only=True))
        self.features = network.features
        self.embeddings = torch.nn.Sequential(*network.embeddings, torch.nn.ReLU())

    def forward(self, audio, rate):
        assert rate == 16000
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
        frames = np.stack([audio[start : start + 400] for start in range(0, len(audio) - 399, 160)])
        mels = 1127 * np.log(1 + np.linspace(0, 8000, 257) / 700)
        edges = np.linspace(*(1127 * np.log(1 + np.array([125, 7500]) / 700)), 66)
        weights = np.stack([np.interp(mels, edges[band : band + 3], [0, 1, 0]) for band in range(64)], axis=1)
        weights[0] = 0
        log_mel = np.log(np.abs(np.fft.rfft(frames * window, 512)) @ weights + 0.01)
        count = len(log_mel) // 96
        examples = torch.from_numpy(log_mel[: 96 * count].reshape(count, 1, 96, 64)).float()
        return self.embeddings(self.features(examples).permute(0, 2, 3, 1).flatten(1))

def vggish():
    return Hub().eval()
'''


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Files of 16 bits, stereo and mono, of several rates and lengths; the generated ones are noisier and lower."""
    root, found = tmp_path_factory.mktemp("packages"), []
    for name, noise, fall in (("generated", 0.3, 0.7), ("reference", 0.1, 1.0)):
        (root / name).mkdir()
        for index in range(16):
            draw = np.random.default_rng(index)
            rate = (16000, 22050, 44100)[index % 3]
            times = np.arange(round(rate * (1.0 + 0.15 * (index % 4)))) / rate
            tone = 0.4 * np.sin(2 * np.pi * 220 * fall * 2 ** (index / 6) * times)
            channels = [tone + noise * draw.normal(size=len(times)) * share for share in (0.3, 0.6)]
            audio = np.stack(channels, 1) if index % 2 else channels[0]
            soundfile.write(root / name / f"{index:02d}.wav", audio.clip(-1, 1), rate, subtype="PCM_16")
        found.append(root / name)
    return found


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's folder, where the package looks for what it would download."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def package(folders, hub, **settings) -> float:
    from frechet_audio_distance import FrechetAudioDistance

    generated, reference = map(str, folders)
    return FrechetAudioDistance(ckpt_dir=str(hub), **settings).score(reference, generated)


def ours(folders, protocol: str, network: str, checkpoint: str) -> float:
    setup = Setup(
        Networks({network: {"checkpoint": checkpoint}}, protocol=protocol),
        {"frechet": {"extrapolate": False, "per_clip": False}},
    )
    report = evaluate_folders(*folders, lambda: build_metrics({"frechet": network}, setup))
    return report.numbers[0].value


def randomised(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5)
    return network.eval()


@pytest.mark.parametrize("rate", [16000, 32000])
def test_cnn14_is_frechet_audio_distances(folders, hub, monkeypatch, rate):
    """The package's own reading, network, file and formula; only the widths are smaller.

    Its `score` fails here: it joins the clips' embeddings to one vector, which this test divides into rows again.
    """
    from frechet_audio_distance import fad
    from frechet_audio_distance.models.pann import ConvBlock

    name = "Cnn14_16k" if rate == 16000 else "Cnn14"
    published = getattr(fad, name)

    class Small(published):
        def __init__(self, **settings) -> None:
            super().__init__(**settings)
            widths = (1, 4, 4, 6, 6, 8, 8)
            for index, (inputs, outputs) in enumerate(itertools.pairwise(widths), 1):
                setattr(self, f"conv_block{index}", ConvBlock(inputs, outputs))
            self.fc1, self.fc_audioset = nn.Linear(8, 6), nn.Linear(6, 5)

    monkeypatch.setattr(fad, name, Small)
    sizes = {16000: (512, 160, 8000), 32000: (1024, 320, 16000)}[rate]
    frames = dict(zip(("window_size", "hop_size", "fmax"), sizes, strict=True))
    network = randomised(Small(sample_rate=rate, mel_bins=64, fmin=50, classes_num=527, **frames))
    nn.init.constant_(network.fc1.bias, 20.0)  # no dimension is always 0, where the package's root of a matrix fails
    file = hub / ("Cnn14_16k_mAP%3D0.438.pth" if rate == 16000 else "Cnn14_mAP%3D0.431.pth")
    torch.save({"iteration": 1, "model": network.state_dict()}, file)
    theirs = fad.FrechetAudioDistance(ckpt_dir=str(hub), model_name="pann", sample_rate=rate)
    read = [theirs._FrechetAudioDistance__load_audio_files(str(folder)) for folder in folders]
    rows = [theirs.get_embeddings(audio, sr=rate).reshape(-1, 6) for audio in read]
    statistics = [theirs.calculate_embd_statistics(part) for part in rows]
    expected = theirs.calculate_frechet_distance(*statistics[0], *statistics[1])
    assert expected > 0.001
    assert ours(folders, "frechet-audio-distance", "panns", str(file)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("protocol", ["frechet-audio-distance", "audioldm_eval"])
def test_vggish_is_frechet_audio_distances(folders, hub, protocol):
    """Also under audioldm_eval, whose Fréchet audio distance is this package's where files have 16 bits."""
    network = randomised(VGGish((4, "M", 4, "M", 8, 8, "M", 8, 8, "M"), hidden=16, dim=6))
    torch.save(network.state_dict(), hub / "vggish.pth")
    (hub / "harritaylor_torchvggish_master").mkdir()
    hubconf = HUBCONF.replace("FILE", str(hub / "vggish.pth"))
    (hub / "harritaylor_torchvggish_master" / "hubconf.py").write_text(hubconf, encoding="utf-8")
    expected = package(folders, hub, model_name="vggish")
    assert expected > 0.01
    assert ours(folders, protocol, "vggish", str(hub / "vggish.pth")) == pytest.approx(expected, rel=1e-4)


def test_encodec_is_frechet_audio_distances(folders, hub):
    """The published size: the package names its file, and builds nothing smaller."""
    import encodec

    torch.manual_seed(0)
    network = encodec.EncodecModel.encodec_model_24khz(pretrained=False)
    torch.save(network.state_dict(), hub / "checkpoints" / "encodec_24khz-d7cc33bc.th")
    expected = package(folders, hub, model_name="encodec", sample_rate=24000)
    found = ours(folders, "frechet-audio-distance", "encodec", "//encodec/encodec_24khz")
    assert expected > 0
    assert found == pytest.approx(expected, rel=1e-3)
