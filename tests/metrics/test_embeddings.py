"""Cnn14, MERT and OpenL3 on small weights of the published layouts, against what they compute written out here."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import librosa
import numpy as np
import pytest
import torch
from torch.nn import functional

from audiocraft_qamdt.builders import MissingWeights
from audiocraft_qamdt.metrics import networks
from audiocraft_qamdt.metrics.mert import MertNetwork
from audiocraft_qamdt.metrics.networks import Networks, PlaygroundNetwork, load_network, network_names
from audiocraft_qamdt.metrics.openl3 import OpenL3, OpenL3Network
from audiocraft_qamdt.metrics.panns import Cnn14, PannsNetwork

WIDTHS = (4, 4, 6, 6, 8, 8)


@pytest.fixture
def audio(generator):
    return 0.1 * torch.randn(70000, generator=generator)


def randomised(network):
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.is_floating_point():
                value.normal_(0, 0.5)
    return network.eval()


def transform(fft: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and minus sines [bins, 1, fft] under a Hann window, as the published files hold them."""
    angles = 2 * np.pi * np.outer(np.arange(fft // 2 + 1), np.arange(fft)) / fft
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(fft) / fft)
    return tuple(torch.tensor(part * window)[:, None].float() for part in (np.cos(angles), -np.sin(angles)))


# ---- Cnn14


@pytest.fixture(params=[16000, 32000])
def panns(request, tmp_path):
    """Rate, the file in the published layout, and the network in it."""
    fft = request.param * 512 // 16000
    network = randomised(Cnn14(fft, 64, WIDTHS, hidden=6, classes=5))
    state = network.state_dict()
    for part, value in zip(("conv_real", "conv_imag"), transform(fft), strict=True):
        state[f"spectrogram_extractor.stft.{part}.weight"].copy_(value)
    mel = librosa.filters.mel(sr=request.param, n_fft=fft, n_mels=64, fmin=50, fmax=request.param / 2)
    state["logmel_extractor.melW"].copy_(torch.from_numpy(mel.T))
    torch.save({"iteration": 600000, "model": state}, tmp_path / "small.pth")
    return request.param, str(tmp_path / "small.pth"), state


def test_the_published_cnn14_has_the_layout_of_its_file():
    with torch.device("meta"):
        state = Cnn14().state_dict()
    assert len(state) == 84
    assert sum(value.numel() for key, value in state.items() if "num_batches" not in key) > 8e7
    assert state["spectrogram_extractor.stft.conv_imag.weight"].shape == (257, 1, 512)
    assert state["logmel_extractor.melW"].shape == (257, 64)
    assert state["conv_block6.conv2.weight"].shape == (2048, 2048, 3, 3)
    assert state["fc1.weight"].shape == (2048, 2048)
    assert state["fc_audioset.weight"].shape == (527, 2048)
    assert {"bn0.running_var", "conv_block1.bn2.running_mean"} < state.keys()


def test_cnn14_hears_decibels_of_mel_bands_as_librosa_has_them(panns, audio):
    rate, file, _ = panns
    fft, hop = rate * 512 // 16000, rate // 100
    samples = audio[: 2 * rate]
    power = librosa.feature.melspectrogram(
        y=samples.numpy(), sr=rate, n_fft=fft, hop_length=hop, n_mels=64, fmin=50, fmax=rate / 2, pad_mode="reflect"
    )
    found = PannsNetwork(file).module.log_mel(samples[None])[0, 0]
    assert found.shape == (201, 64)
    assert np.allclose(found.numpy(), librosa.power_to_db(power, top_db=None).T, atol=1e-2)


def test_cnn14_is_what_its_paper_says(panns, audio):
    """Six blocks of two convolutions, the mean over bands, maximum and mean over time, a layer with ReLU, classes."""
    rate, file, state = panns
    network = PannsNetwork(file, length=None)
    features = network.module.log_mel(audio[None])

    def normal(values, name):
        shape = (1, -1, 1, 1)
        mean, variance, scale, shift = (
            state[f"{name}.{part}"].reshape(shape) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (values - mean) / (variance + 1e-5).sqrt() * scale + shift

    features = normal(features.transpose(1, 3), "bn0").transpose(1, 3)
    for block in range(1, 7):
        for layer in (1, 2):
            weights = state[f"conv_block{block}.conv{layer}.weight"]
            values = functional.conv2d(features, weights, padding=1)
            features = normal(values, f"conv_block{block}.bn{layer}").relu()
        features = functional.avg_pool2d(features, 2 if block < 6 else 1)
    pooled = features.mean(3)
    pooled = pooled.max(2).values + pooled.mean(2)
    embedding = (pooled @ state["fc1.weight"].T + state["fc1.bias"]).relu()
    logits = embedding @ state["fc_audioset.weight"].T + state["fc_audioset.bias"]
    found = network(audio, rate)
    assert (network.name, network.dim, network.classes) == (f"cnn14-{rate // 1000}k-small", 6, 5)
    assert torch.allclose(found.embeddings, embedding, rtol=1e-4, atol=1e-3 * embedding.max().item())
    assert torch.allclose(found.probabilities, logits.softmax(1)[0], atol=1e-4)


def test_cnn14_hears_long_clips_in_windows_and_repeats_short_ones(panns, audio):
    rate, file, _ = panns
    network = PannsNetwork(file, length=1.0)
    long, whole = network(audio, rate), PannsNetwork(file, length=None)
    assert len(long.embeddings) == len(audio) // rate
    assert len(whole(audio, rate).embeddings) == 1
    assert torch.allclose(long.embeddings[:1], whole(audio[:rate], rate).embeddings, atol=1e-4)
    assert long.probabilities.sum().item() == pytest.approx(1)
    short = audio[: rate // 10]
    assert torch.equal(network(short, rate).embeddings, network(short.repeat(4), rate).embeddings)


# ---- MERT


@pytest.fixture(scope="module")
def mert(tmp_path_factory):
    """A folder in the layout of m-a-p/MERT-v1-95M, and the network in it."""
    from transformers import HubertConfig, HubertModel

    folder = tmp_path_factory.mktemp("mert") / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    network = HubertModel(config).eval()
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = network.state_dict()
    for ours, published in names.items():
        state = {key.replace(ours, published): value for key, value in state.items()}
    torch.save(state, folder / "pytorch_model.bin")
    write_config(folder, config.to_dict())
    extractor = {"do_normalize": True, "feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 24000}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor), encoding="utf-8")
    return folder, network


def write_config(folder, content, **changes):
    own = {
        "model_type": "mert_model",
        "architectures": ["MERTModel"],
        "auto_map": {"AutoConfig": "configuration_MERT.MERTConfig", "AutoModel": "modeling_MERT.MERTModel"},
        "feature_extractor_cqt": False,
        "deepnorm": False,
        "attention_relax": -1.0,
    }
    (folder / "config.json").write_text(json.dumps({**content, **own, **changes}), encoding="utf-8")


@pytest.mark.parametrize("layer", [None, 0, 2])
def test_mert_gives_the_hidden_states_of_a_layer(mert, audio, layer):
    folder, hubert = mert
    network = MertNetwork(str(folder), layer=layer)
    normal = (audio - audio.mean()) / (audio.var(unbiased=False) + 1e-7).sqrt()
    with torch.no_grad():
        expected = hubert(normal[None], output_hidden_states=True).hidden_states[3 if layer is None else layer][0]
    found = network(audio, 24000).embeddings
    assert (network.name, network.dim, network.classes) == (f"mert-tiny-{3 if layer is None else layer}", 16, None)
    assert found.shape == expected.shape == (218, 16)
    assert torch.allclose(found, expected, atol=1e-4)


def test_mert_hears_windows_and_repeats_what_is_below_a_frame(mert, audio):
    folder, _ = mert
    network = MertNetwork(str(folder), length=1.0)
    first = MertNetwork(str(folder))(audio[:24000], 24000).embeddings
    assert torch.allclose(network(audio[:48000], 24000).embeddings[: len(first)], first, atol=1e-5)
    assert network(audio[:100], 24000).embeddings.shape == (1, 16)


def test_mert_without_its_own_code_is_refused_where_that_would_be_another_network(mert, tmp_path):
    folder, hubert = mert
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_config(tmp_path, hubert.config.to_dict(), feature_extractor_cqt=True)
    with pytest.raises(ValueError, match="feature_extractor_cqt.*MERT's own code, which is not run"):
        MertNetwork(str(tmp_path))
    with pytest.raises(ValueError, match="metrics.mert.layer=4: .* has layers 0 to 3"):
        MertNetwork(str(folder), layer=4)


# ---- OpenL3


@pytest.fixture(params=[256, 128, None], ids=["mel256", "mel128", "linear"])
def openl3(request, tmp_path):
    bands, fft = request.param, 512 if request.param is None else 2048
    network = randomised(OpenL3(fft, bands, (4, 4, 4, 4, 6, 6, 6, 6)))
    state = network.state_dict()
    for part, value in zip(("dft_real_kernels", "dft_imag_kernels"), transform(fft), strict=True):
        state[f"speclayer.{part}"].copy_(value)
    if bands is not None:
        mel = librosa.filters.mel(sr=48000, n_fft=fft, n_mels=bands, fmin=0, fmax=24000, htk=True, norm=1)
        state["speclayer.mel_basis"].copy_(torch.from_numpy(mel))
    torch.save(state, tmp_path / "small.pth.tar")
    return bands, str(tmp_path / "small.pth.tar"), state


@pytest.mark.filterwarnings("ignore:Empty filters")
def test_openl3_is_what_its_release_computes(openl3, audio):
    """Decibels below the maximum by librosa, eight convolutions, ReLU after normalisation, a maximum at the end."""
    bands, file, state = openl3
    window = audio[:48000].numpy()
    if bands is None:
        spectrum = np.abs(librosa.stft(window, n_fft=512, hop_length=242, center=False))
    else:
        padded = np.pad(window, 982)
        power = np.abs(librosa.stft(padded, n_fft=2048, hop_length=242, center=False)) ** 2
        spectrum = np.sqrt(state["speclayer.mel_basis"].numpy() @ power)
    decibels = 10 * np.log10(np.maximum(spectrum, 1e-10))
    features = torch.from_numpy(np.maximum(decibels - decibels.max(), -80))[None, None].float()
    network = OpenL3Network(file)
    assert torch.allclose(network.module.spectrogram(audio[None, :48000]), features, atol=2e-2)

    features = network.module.spectrogram(audio[None, :48000])
    for index in range(1, 9):
        mean, variance, scale, shift = (
            state[f"batch_normalization_{index}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        features = (features - mean) / (variance + 1e-3).sqrt() * scale + shift
        features = features if index == 1 else features.relu()
        if index in (3, 5, 7):
            features = functional.max_pool2d(features, 2)
        name = "audio_embedding_layer" if index == 8 else f"conv2d_{index}"
        features = functional.conv2d(features, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
    with torch.no_grad():
        assert torch.allclose(network.module(audio[None, :48000]), features, rtol=1e-3, atol=1e-3)
    assert torch.allclose(network._embed(audio[None, :48000]), features.amax((2, 3)), rtol=1e-3, atol=1e-3)


def test_openl3_hears_a_second_every_half_second_from_its_middle_on(openl3, audio):
    _, file, _ = openl3
    network = OpenL3Network(file)
    found = network(audio, 48000).embeddings
    assert (network.name, found.shape) == ("openl3-512-small.pth", (3, 6))
    halves = torch.cat([torch.zeros(24000), audio, torch.zeros(48000)])
    for index, embedding in enumerate(found):
        window = halves[24000 * index :][:48000]
        assert torch.allclose(embedding, network._embed(window[None])[0], atol=1e-5)
    assert len(network(audio[:1000], 48000).embeddings) == 1
    large = OpenL3Network(file, size=6144)
    assert large(audio, 48000).embeddings.shape == (3, large.dim) == (3, 72)


# ---- all of them


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: PannsNetwork("/nowhere/Cnn14.pth"), r"no file /nowhere/Cnn14.pth.*zenodo.*metrics.panns"),
        (lambda: MertNetwork("nobody/none"), r"MERT 'nobody/none'.*MERT-v1-95M.*metrics.mert"),
        (lambda: OpenL3Network("/nowhere/l3.pth"), r"no file /nowhere/l3.pth.*torchopenl3-models.*metrics.openl3"),
    ],
    ids=["panns", "mert", "openl3"],
)
def test_missing_weights_say_where_to_get_them(build, message):
    with pytest.raises(MissingWeights, match=f"(?s){message}"):
        build()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: PannsNetwork(sample_rate=8000), "metrics.panns.sample_rate=8000: there are 16000, 32000"),
        (lambda: OpenL3Network(size=100), "metrics.openl3.size=100: there are 512, 6144"),
    ],
    ids=["panns", "openl3"],
)
def test_settings_that_there_are_not_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_other_packages_add_networks_by_an_entry_point(monkeypatch):
    def announce(value):
        point = EntryPoint("theirs", value, networks.ENTRY_POINTS)
        monkeypatch.setattr(networks, "entry_points", lambda group: (point,) if group == networks.ENTRY_POINTS else ())

    announce("audiocraft_qamdt.metrics.networks:PlaygroundNetwork")
    assert network_names()[-1] == "theirs"
    assert isinstance(Networks({"theirs": {"checkpoint": None}}).get("theirs"), PlaygroundNetwork)
    announce("builtins:dict")
    with pytest.raises(ValueError, match="builtins:dict gave dict, which is no Network of audiocraft_qamdt.metrics"):
        load_network("theirs", device="cpu")
    with pytest.raises(ValueError, match="unknown network 'mine': choose one of playground, .*, openl3, theirs"):
        load_network("mine")
