"""The published networks' loading code, on small checkpoints of the same layout, and what happens without weights."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from audiocraft_qamdt.builders import MissingWeights
from audiocraft_qamdt.compat import CONFIG_ROOT
from audiocraft_qamdt.metrics.base import AudioCraftBatch, Batch, Clip
from audiocraft_qamdt.metrics.clap import ClapNetwork, TextAgreement
from audiocraft_qamdt.metrics.networks import EncodecNetwork, Networks, PlaygroundNetwork
from audiocraft_qamdt.metrics.passt import VARIANTS, PasstNetwork
from audiocraft_qamdt.metrics.table import Evaluation, Setup, build_metrics
from audiocraft_qamdt.metrics.vggish import VGGish, VGGishNetwork, log_mel_examples, mel_matrix
from audiocraft_qamdt.utils import prepared

from ..helpers.payload import Payload


def audio(seconds: float, sample_rate: int = 16000, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(round(seconds * sample_rate), generator=torch.Generator().manual_seed(seed))
    return 0.1 * noise + 0.3 * torch.sin(torch.arange(len(noise)) * 440 * 2 * math.pi / sample_rate)


# ---- VGGish


def test_published_vggish_has_the_layout_of_its_file():
    """Keys and sizes of vggish-10086976.pth."""
    with torch.device("meta"):
        state = VGGish().state_dict()
    sizes = {key: tuple(value.shape) for key, value in state.items() if key.endswith("weight")}
    convolutions = {0: (64, 1), 3: (128, 64), 6: (256, 128), 8: (256, 256), 11: (512, 256), 13: (512, 512)}
    assert sizes == {
        **{f"features.{index}.weight": (*shape, 3, 3) for index, shape in convolutions.items()},
        "embeddings.0.weight": (4096, 12288),
        "embeddings.2.weight": (4096, 4096),
        "embeddings.4.weight": (128, 4096),
    }
    assert sum(value.numel() for value in state.values()) == 72141184


def test_vggish_input_is_the_tensorflow_releases():
    """The definition in NumPy, written from its documentation: frames of 25 ms, triangles that are linear in mel."""
    samples = audio(2.0).numpy().astype(np.float64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([samples[start : start + 400] for start in range(0, len(samples) - 399, 160)])
    magnitudes = np.abs(np.fft.rfft(frames * window, 512))
    mels = 1127 * np.log(1 + np.linspace(0, 8000, 257) / 700)
    edges = np.linspace(*(1127 * np.log(1 + np.array([125, 7500]) / 700)), 66)
    weights = np.stack([np.interp(mels, edges[band : band + 3], [0, 1, 0]) for band in range(64)], axis=1)
    weights[0] = 0
    expected = np.log(magnitudes @ weights + 0.01)
    found = log_mel_examples(audio(2.0), mel_matrix())
    assert found.shape == (2, 96, 64)
    assert np.allclose(found.flatten(0, 1).numpy(), expected[:192], atol=1e-4)


def test_small_vggish_loads_and_embeds_each_0_96_s(tmp_path):
    torch.manual_seed(0)
    network = VGGish((4, "M", 4, "M", 8, 8, "M", 8, 8, "M"), hidden=16, dim=12)
    torch.save(network.state_dict(), tmp_path / "small.pth")
    loaded = VGGishNetwork(str(tmp_path / "small.pth"))
    assert (loaded.name, loaded.dim, loaded.classes) == ("vggish-small", 12, None)
    found = loaded(audio(3.0), 16000).embeddings
    assert found.shape == (3, 12)
    assert torch.allclose(found, network(log_mel_examples(audio(3.0), mel_matrix())), atol=1e-5)
    assert loaded(audio(0.3), 16000).embeddings.shape == (1, 12)


# ---- PaSST


@pytest.fixture(scope="module")
def small_passt(tmp_path_factory):
    passt = pytest.importorskip("hear21passt.models.passt")
    torch.manual_seed(0)
    network = passt.PaSST(img_size=(128, 998), stride=10, embed_dim=64, depth=1, num_heads=1, distilled=True)
    with torch.no_grad():
        network.head[1].weight.normal_()
    path = tmp_path_factory.mktemp("passt") / "small.pt"
    torch.save(network.state_dict(), path)
    return str(path)


def test_small_passt_gives_audiocrafts_probabilities(small_passt):
    from audiocraft_qamdt.metrics.passt import safe_passt

    from audiocraft.metrics.kld import PasstKLDivergenceMetric

    network = PasstNetwork(10, small_passt)
    assert (network.name, network.dim, network.classes) == ("passt-10s-small", 64, 527)
    outputs = network(audio(3.0, 32000), 32000)
    assert outputs.embeddings.shape == (1, 64)
    assert outputs.probabilities.sum().item() == pytest.approx(1)
    with safe_passt(10, small_passt):
        theirs = PasstKLDivergenceMetric(10)
    expected = theirs._get_label_distribution(
        audio(3.0, 32000)[None, None], torch.tensor([96000]), torch.tensor([32000])
    )
    assert torch.allclose(outputs.probabilities, expected[0], atol=1e-6)
    assert network(audio(25.0), 16000).embeddings.shape == (3, 64)
    assert network(audio(0.1), 16000).embeddings.shape == (1, 64)


def test_audiocrafts_kld_flag_and_ours_are_one_number(tmp_path, monkeypatch):
    """Also: a published file that was put into torch's hub cache by hand is used without a download."""
    passt = pytest.importorskip("hear21passt.models.passt")
    torch.manual_seed(0)
    network = passt.PaSST(img_size=(128, 2000), stride=10, embed_dim=64, depth=1, num_heads=1, distilled=True)
    with torch.no_grad():
        network.head[1].weight.normal_()
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(network.state_dict(), tmp_path / "checkpoints" / VARIANTS[20].url.rsplit("/", 1)[1])
    options = {"kld": {"use_gt": False, "model": "passt", "passt": {"pretrained_length": 20}}}
    setup = Setup(Networks({}), options, compress=lambda audio: audio)
    metrics = build_metrics({"kld": True, "kl": "passt"}, setup)
    generated, reference = (torch.stack([audio(3.0, 32000, seed + i)[None] for i in range(2)]) for seed in (0, 5))
    clips = [[Clip(str(i), item[0], 32000) for i, item in enumerate(side)] for side in (generated, reference)]
    batch = Batch(*clips, audiocraft=AudioCraftBatch(generated, reference, torch.tensor([96000] * 2), ["a", "b"]))
    evaluation = Evaluation(metrics)
    evaluation.update(batch)
    found = {number.metric: number for number in evaluation.numbers(reference="set")}
    assert found["audiocraft_kld"].value == pytest.approx(found["kl"].value, rel=1e-4)
    assert found["kl"].value > 0
    assert found["audiocraft_kld_qp"].value == pytest.approx(found["kl_reverse"].value, rel=1e-4)
    assert (found["audiocraft_kld"].key, found["kl"].key) == ("audiocraft_kld_passt-20/set_n2", "kl_passt-20s/set_n2")


# ---- CLAP


def test_clap_of_transformers(tiny_clap):
    network = ClapNetwork(tiny_clap)
    metric = TextAgreement(network, network.embedder)
    metric.update(Batch([Clip("a", audio(2.0), 16000, "slow piano"), Clip("b", audio(2.0, seed=1), 16000, None)]))
    expected = network.embedder(audio(2.0)[None, None], 16000, ["slow piano"]).item()
    assert metric.compute()["clap"] == pytest.approx(expected, abs=1e-6)
    assert list(metric.scores["clap"]) == ["a"]


LAION = """
import os, sys, torch
from pathlib import Path
from transformers import BertConfig, RobertaConfig, RobertaModel

folder = Path(sys.argv[1])
symbols = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "\\u0120", *"abcdefghijklmnopqrstuvwxyz"]
def publish(name, save):
    repository = Path(os.environ["HF_HUB_CACHE"]) / ("models--" + name.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    save(repository / "snapshots" / ("0" * 40))
def roberta(target):
    from transformers import RobertaTokenizer
    RobertaTokenizer(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]).save_pretrained(target)
    sizes = {"vocab_size": 32, "num_hidden_layers": 1, "intermediate_size": 16, "max_position_embeddings": 80}
    RobertaModel(RobertaConfig(**sizes, pad_token_id=1)).save_pretrained(target)
def bert(target):
    target.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    (target / "vocab.txt").write_text("\\n".join(words))
    BertConfig(vocab_size=31).save_pretrained(target)
torch.manual_seed(0)
publish("roberta-base", roberta)
publish("facebook/bart-base", roberta)
publish("bert-base-uncased", bert)

import laion_clap
import numpy as np
module = laion_clap.CLAP_Module(enable_fusion=False, amodel="HTSAT-tiny", device="cpu")
state = {f"module.{key}": value for key, value in module.model.state_dict().items()}
state["module.text_branch.embeddings.position_ids"] = torch.arange(80)[None]
torch.save({"epoch": 15, "state_dict": state, "best": np.float64(90.14)}, folder / "music.pt")

from audiocraft_qamdt.metrics.base import AudioCraftBatch, Batch, Clip
from audiocraft_qamdt.metrics.clap import ClapNetwork, TextAgreement
network = ClapNetwork(str(folder / "music.pt"), arch="HTSAT-tiny")
expected = module.model.state_dict()
assert all(torch.equal(value, expected[key]) for key, value in network.embedder.model.state_dict().items())
audio = torch.randn(48000 * 3, generator=torch.Generator().manual_seed(0)) * 0.1
embeddings = network(audio, 48000).embeddings
assert embeddings.shape == (1, 512) and abs(embeddings.norm().item() - 1) < 1e-4
long = torch.cat([audio] * 7)  # 21 s: two windows of ten, and a third of one second
first, second = network(long, 48000).embeddings, network(long, 48000).embeddings
assert torch.equal(first, second) and len(first) == 3
metric = TextAgreement(network, network.embedder)
metric.update(Batch([Clip("a", audio, 48000, "slow piano")]))
assert -1 <= metric.compute()["clap"] <= 1

import soundfile
from frechet_audio_distance import FrechetAudioDistance
from frechet_audio_distance.utils import load_audio_task
from audiocraft_qamdt.metrics.folders import read_clip
from audiocraft_qamdt.metrics.networks import Networks
from audiocraft_qamdt.utils.randomness import numpy_seeded
import hashlib
torch.save({"state_dict": state}, folder / "630k-audioset-best.pt")
soundfile.write(folder / "a.wav", np.stack([audio.numpy(), 0.3 * audio.numpy()], 1), 44100, subtype="PCM_16")
theirs = FrechetAudioDistance(ckpt_dir=str(folder), model_name="clap", sample_rate=48000)
expected = theirs.get_embeddings([load_audio_task(str(folder / "a.wav"), 48000, 1)], 48000)
settings = {"clap": {"checkpoint": str(folder / "630k-audioset-best.pt")}}
heard = Networks(settings, protocol="frechet-audio-distance").get("clap")
found = read_clip(folder / "a.wav").outputs(heard).embeddings
assert np.abs(found.numpy() - expected).max() < 1e-4, np.abs(found.numpy() - expected).max()

fusion = laion_clap.CLAP_Module(enable_fusion=True, amodel="HTSAT-tiny", device="cpu")
torch.save({"state_dict": {f"module.{k}": v for k, v in fusion.model.state_dict().items()}}, folder / "fusion.pt")
whole = ClapNetwork(str(folder / "fusion.pt"), whole=True)
with numpy_seeded("clap", hashlib.sha256(long.numpy().tobytes()).hexdigest()), torch.no_grad():
    expected = fusion.get_audio_embedding_from_data(x=long[None], use_tensor=True)
found = whole(long, 48000).embeddings
assert found.shape == (1, 512) and torch.allclose(found, expected, atol=1e-5)
assert torch.equal(found, whole(long, 48000).embeddings)

from tests.helpers.payload import Payload
torch.save({"state_dict": Payload(folder / "ran")}, folder / "evil.pt")
try:
    ClapNetwork(str(folder / "evil.pt"), arch="HTSAT-tiny")
except ValueError as error:
    assert "evil.pt: refused" in str(error), error
assert not (folder / "ran").exists()
print(network.name)
"""


@pytest.mark.slow
def test_laion_clap_checkpoint_is_read_as_data_only(tmp_path):
    """A checkpoint of laion-clap's smallest model, and what it wants from the hub, in a process of its own."""
    pytest.importorskip("h5py", reason="laion-clap's dependencies are not installed")
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LAION, str(tmp_path)]
    done = subprocess.run(command, cwd=CONFIG_ROOT.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "clap-music"


# ---- EnCodec and the playground


def test_encodec_embeds_each_latent_frame():
    network = EncodecNetwork("//pretrained/debug_compression_model")
    assert network.name == "encodec-debug_compression_model"
    clip = audio(1.0, network.codec.sample_rate)
    found = network(clip, network.codec.sample_rate).embeddings
    latents = network.codec.encode(clip[None, None])  # [1, D, T, 1]
    assert found.shape == (latents.shape[2], network.dim)
    assert torch.equal(found, latents[0, :, :, 0].T)
    assert network(audio(1.0), 16000).embeddings.shape == found.shape


def test_playground_network_is_loaded_once_and_named_with_its_version():
    networks = Networks({})
    assert networks.get("playground") is networks.get("playground")
    outputs = networks.get("playground")(audio(2.56), 16000)
    assert outputs.embeddings.shape == (4, 64)
    assert outputs.probabilities.sum().item() == pytest.approx(1)
    assert PlaygroundNetwork().name == "playground-1"


# ---- without weights


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: VGGishNetwork("/nowhere/vggish.pth"), r"no file /nowhere/vggish.pth.*torchvggish.*metrics.vggish"),
        (lambda: PasstNetwork(20, "/nowhere/passt.pt"), r"no file /nowhere/passt.pt.*PaSST/releases.*metrics.passt"),
        (lambda: ClapNetwork("/nowhere/clap.pt"), r"no file /nowhere/clap.pt.*lukewys/laion_clap.*metrics.clap"),
        (lambda: ClapNetwork("nobody/none"), r"CLAP 'nobody/none'.*laion/larger_clap_music.*metrics.clap"),
        (lambda: EncodecNetwork("//pretrained/nobody/none"), r"EnCodec.*facebook/encodec_32khz.*metrics.encodec"),
    ],
    ids=["vggish", "passt", "laion-clap", "clap", "encodec"],
)
def test_missing_weights_say_where_to_get_them_and_where_to_put_them(build, message):
    with pytest.raises(MissingWeights, match=f"(?s){message}.*evaluation=playground"):
        build()


def test_the_text_encoder_without_weights_says_the_same(tmp_path):
    from audiocraft_qamdt.builders import _conditioner

    message = "(?s)text encoder 'nobody/flan' of https://huggingface.co/nobody/flan.*description.qamdt_t5.name"
    with pytest.raises(MissingWeights, match=message):
        _conditioner("description", {"model": "qamdt_t5", "qamdt_t5": {"name": "nobody/flan"}}, 16, "cpu")


def test_weights_that_are_code_are_refused(tmp_path):
    torch.save({"features.0.weight": Payload(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="evil.pth: refused"):
        VGGishNetwork(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()
