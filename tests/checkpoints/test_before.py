"""What was trained and exported before the package's modules were moved loads as before.

`before/` was made at commit aa1bb80 by a run of `OVERRIDES` on six tones, its export, and 0.25 s of audio at 3 steps.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audiocraft_qamdt import QAMDT
from audiocraft_qamdt.checkpoints import store

from ..helpers.audio_folder import make_folder
from ..helpers.runs import TINY, main_in, solver_in

BEFORE = Path(__file__).parent / "before"
SIGNATURE = "95216de4"
OVERRIDES = [
    *TINY,
    "optim.epochs=1",
    "optim.updates_per_epoch=2",
    "mdt.dim=8",
    "mdt.depth=3",
    "mdt.decoder_depth=1",
    "mdt.patch=[1,4]",
    "conditioner=qamdt/all",
    "conditioners.description.words.n_bins=16",
    "conditioners.description.words.dim=8",
    "mdt.context_dim=8",
    "latents.mdct.hop=128",
    "latents.mdct.split=false",
    "dataset.segment_duration=0.512",
    "diffusion.schedule.prediction=v",
    "optim.lr=0.01",
    "generate.lm.gen_duration=0.5",
    "optim.ema.use=false",
    "generate.every=1",
    "evaluate.every=5",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("before") / "checkpoint.th"
    path.write_bytes(gzip.decompress((BEFORE / "checkpoint.th.gz").read_bytes()))
    return path


def audio_of(name: Path) -> torch.Tensor:
    model = QAMDT.get_pretrained(str(name), "cpu")
    model.set_generation_params(steps=3, duration=0.25)
    return torch.cat([model.generate(["slow piano", ""], quality=level) for level in (1, 5)])


def optimiser_steps(path: Path) -> set[int]:
    return {int(state["step"]) for state in store.load_safely(path)["optimizer"]["state"].values()}


def test_an_export_generates_the_same_audio():
    expected = load_file(BEFORE / "audio.safetensors")["audio"].float()
    torch.testing.assert_close(audio_of(BEFORE / "export"), expected, atol=5e-3, rtol=5e-3)  # stored with 11 bits


def test_a_checkpoint_generates_what_its_export_does(checkpoint):
    assert torch.equal(audio_of(checkpoint), audio_of(BEFORE / "export"))


def test_a_checkpoint_is_resumed(checkpoint, tmp_path):
    folder = make_folder(tmp_path / "audio")
    with solver_in(tmp_path / "outputs", *OVERRIDES, f"folder={folder}", "optim.epochs=2") as solver:
        (solver.folder / checkpoint.name).write_bytes(checkpoint.read_bytes())
        solver.restore()
        assert solver.epoch == 2
        solver.run()
    assert optimiser_steps(checkpoint) == {2}
    assert optimiser_steps(solver.folder / checkpoint.name) == {4}


def test_the_signature_is_the_same(tmp_path):
    assert main_in(tmp_path).get_xp([*OVERRIDES, "folder=/tmp/qamdt-before/audio"]).sig == SIGNATURE
