"""Shared set-up: one thread per test process, and everything that a test writes under its own folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from audiocraft_qamdt.compat import prepare

from .helpers.audio_folder import make_folder
from .helpers.clap import write_clap
from .helpers.hub_server import hub_server as hub_server  # a fixture of all tests

GOLDEN = Path(__file__).resolve().parent / "golden"

torch.set_num_threads(1)
os.environ.setdefault("AUDIOCRAFT_DORA_DIR", "/nonexistent-dora-dir")  # a test that runs Dora names its own
os.environ["HF_HUB_OFFLINE"] = "1"
prepare()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with slow tests first, so that no worker ends long after the other."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tracks with descriptions and scores; a module that needs others has a `folder` of its own."""
    return make_folder(tmp_path_factory.mktemp("audio"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1234)


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory) -> str:
    """A T5 of width 16 and its tokenizer, made here and saved as `from_pretrained` expects them."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    folder = tmp_path_factory.mktemp("t5")
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁warm", "▁piano", "▁high", "▁quality", ",", "a", "o"]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(index)) for index, piece in enumerate(pieces)], extra_ids=0)
    tokenizer.save_pretrained(folder)
    config = T5Config(vocab_size=len(pieces), d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    torch.manual_seed(0)
    T5EncoderModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory) -> Iterator[Path]:
    """A real SLURM on this machine for the session: its configuration, which `SLURM_CONF` names to whoever uses it."""
    missing = [name for name in ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd") if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        needed = "root and Debian's slurm-wlm slurmdbd munge mariadb-server"
        pytest.skip(f"a real SLURM needs {needed} (missing: {', '.join(missing) or 'root'})")
    script, folder = Path(__file__).parent / "slurm" / "single-node.sh", tmp_path_factory.mktemp("slurm")
    try:
        subprocess.run([script, "up", folder], check=True, timeout=180)
        yield folder / "slurm.conf"
    finally:
        subprocess.run([script, "down", folder], check=True, timeout=60)


@pytest.fixture
def slurm(slurm_cluster, monkeypatch) -> Path:
    """The SLURM of `slurm_cluster`, reached by whatever this test runs."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster))
    return slurm_cluster


@pytest.fixture
def team(tmp_path, monkeypatch) -> Iterator[Callable[[str], None]]:
    """Writes a team's file; AudioCraft reads it anew."""
    from audiocraft.environment import AudioCraftEnvironment

    def write(text: str) -> None:
        (tmp_path / "team.yaml").write_text(f"here:\n  dora_dir: {tmp_path}\n{text}")
        AudioCraftEnvironment.reset()

    monkeypatch.setenv("AUDIOCRAFT_CONFIG", str(tmp_path / "team.yaml"))
    monkeypatch.setenv("AUDIOCRAFT_CLUSTER", "here")
    yield write
    AudioCraftEnvironment.reset()


@pytest.fixture(scope="session")
def tiny_clap(tmp_path_factory) -> str:
    return write_clap(tmp_path_factory.mktemp("clap"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> SimpleNamespace:
    """A model trained for four steps, with every granularity: its experiment, export, and what its solver generates."""
    from audiocraft_qamdt.checkpoints import loading, store
    from audiocraft_qamdt.generation.export import CHECK_PROMPTS, CHECK_STEPS

    from .helpers.audio_folder import make_folder
    from .helpers.runs import TINY, solver_in

    root = tmp_path_factory.mktemp("trained")
    overrides = {
        "folder": make_folder(root / "audio"),
        "optim.epochs": 1,
        "optim.updates_per_epoch": 4,
        "conditioner": "qamdt/all",
        "diffusion.schedule.prediction": "v",  # keeps an untrained model's audio within bounds
        "optim.lr": 1e-2,
        "generate.lm.gen_duration": 1.0,
        "generate.lm.prompted_samples": True,
    }
    with solver_in(root / "outputs", *TINY, *(f"{key}={value}" for key, value in overrides.items())) as solver:
        solver.run()
        store.export(root / "export", loading.load(solver.folder))
        with solver.swap_best_state():  # as AudioCraft's generate and evaluate stages do
            solver.qamdt.set_generation_params(steps=CHECK_STEPS, duration=2.56)
            audio = torch.cat([solver.qamdt.generate(CHECK_PROMPTS, quality=level) for level in (1, 5)])
    return SimpleNamespace(experiment=solver.folder, export=root / "export", audio=audio)


@pytest.fixture
def model(trained):
    """That model, with few steps."""
    from audiocraft_qamdt.generation.qamdt import QAMDT

    model = QAMDT.get_pretrained(str(trained.export), "cpu")
    model.set_generation_params(steps=4)
    return model
