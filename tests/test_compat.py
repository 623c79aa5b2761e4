"""AudioCraft on a current PyTorch: what `compat` makes work, and that it stays quiet."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections import defaultdict

import numpy as np
import omegaconf
import pytest
import soundfile
import torch

from audiocraft_qamdt import compat

from .helpers.payload import Payload


def run(code: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=compat.CONFIG_ROOT.parent, **kwargs
    )


def test_importing_the_package_patches_nothing():
    code = (
        "import audiocraft_qamdt, audiocraft_qamdt.compat, sys, os;"
        "sys.exit('xformers' in sys.modules or 'audiocraft' in sys.modules or 'AUDIOCRAFT_CONFIG' in os.environ)"
    )
    environment = {"PATH": "/usr/bin:/bin"}
    assert run(code, env=environment).returncode == 0


def test_audiocraft_and_our_entry_point_import_without_network():
    """laion-clap fetches tokenizers while it is imported: any attempt to open a connection fails the test.

    What takes a second to import and is seldom used is left, too.
    """
    code = """
import socket, sys
def refuse(*args, **kwargs): raise SystemExit(f"network: {args}")
socket.socket.connect = socket.getaddrinfo = refuse
import audiocraft_qamdt.train
assert not {"laion_clap.hook", "spacy.language", "wandb.sdk", "numba"} & set(sys.modules)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_was_left_is_imported_on_use():
    """By an attribute, and by the import of a submodule."""
    code = """
import audiocraft_qamdt.train
from audiocraft.modules import chroma, conditioners
import spacy.tokens
assert chroma.filters.chroma(sr=16000, n_fft=64).shape == (12, 33)
assert conditioners.spacy.blank("en")("two words")[1].text == "words"
"""
    done = run(code)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(compat.has_xformers(), reason="xformers is installed")
def test_xformers_backend_is_refused_with_the_way_out():
    with pytest.raises(ImportError, match="efficient_attention_backend=torch"):
        compat.check_attention_backend("xformers")
    import xformers.ops

    with pytest.raises(ImportError, match="xformers is not installed"):
        xformers.ops.memory_efficient_attention(None, None, None)
    compat.check_attention_backend("torch")


def test_checkpoints_with_a_config_load_as_data_only(tmp_path):
    cfg = omegaconf.OmegaConf.create({"a": [1, {"b": None}], "c": "${a}", "d": 1.5, "e": True})
    ema = defaultdict(dict, {"model": {"weight": torch.zeros(2)}})  # as audiocraft.optim.ModuleDictEMA holds its state
    torch.save({"xp.cfg": cfg, "weight": torch.ones(2), "ema": {"state": ema}}, tmp_path / "checkpoint.th")
    state = torch.load(tmp_path / "checkpoint.th", weights_only=True)
    assert state["xp.cfg"] == cfg
    assert state["xp.cfg"].c[0] == 1
    assert torch.equal(state["ema"]["state"]["model"]["weight"], torch.zeros(2))


def test_checkpoints_with_code_are_refused(tmp_path):
    flag = tmp_path / "ran"
    torch.save({"model": Payload(flag)}, tmp_path / "checkpoint.th")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "checkpoint.th", weights_only=True)
    assert not flag.exists()


@pytest.mark.parametrize("audio_format", ["wav", "flac", "ogg", "mp3"])
def test_audio_is_written_whatever_ffmpeg_does(audio_format, tmp_path, tmp_path_factory, monkeypatch):
    compat.prepare()
    import audiocraft.data.audio as audio

    broken = tmp_path_factory.mktemp("bin") / "ffmpeg"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(broken.parent))
    tone = 0.5 * torch.sin(torch.arange(16000) * 2 * torch.pi * 440 / 16000)[None]
    path = audio.audio_write(tmp_path / "tone", tone, 16000, format=audio_format, strategy="clip")
    read, sample_rate = soundfile.read(path)
    assert sample_rate == 16000
    assert abs(len(read) - 16000) <= 2400
    assert np.abs(read).max() == pytest.approx(0.5, abs=0.03)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(path, *args, **kwargs):
        open(path, "wb").write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(soundfile, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        compat._write_with_soundfile(tmp_path / "x.wav", torch.zeros(1, 8), 8000, ["-f", "wav"])
    assert list(tmp_path.iterdir()) == []


def test_a_user_without_a_name_is_given_one():
    other = [
        "unshare",
        "--user",
        "--map-user=4242",
        "env",
        "-u",
        "USER",
        "-u",
        "LOGNAME",
        "-u",
        "LNAME",
        "-u",
        "USERNAME",
    ]
    if not shutil.which("unshare") or subprocess.run([*other, "true"], capture_output=True).returncode:
        pytest.skip("user namespaces cannot be made here")
    code = "import audiocraft_qamdt.compat as c; c.prepare(); import getpass; print(getpass.getuser())"
    done = subprocess.run([*other, sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "uid4242", done.stderr[-2000:]
