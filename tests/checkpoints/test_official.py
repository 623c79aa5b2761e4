"""The published checkpoint's layout to an export, at a small size, and what must not be imported."""

from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.checkpoints import store
from audiocraft_qamdt.checkpoints.official import EMA, NETWORK, import_official, infer_config
from audiocraft_qamdt.generation.qamdt import QAMDT
from audiocraft_qamdt.models.official import build, to_official
from audiocraft_qamdt.quality.levels import QualityStatistics, level_rule

from ..helpers.audio_folder import make_folder
from ..helpers.runs import history, solver_in

CONFIG = {
    "input_size": [160, 16],
    "patch_size": [4, 4],
    "overlap": [0, 0],
    "in_channels": 16,
    "hidden_size": 32,
    "depth": 6,
    "num_heads": 4,
    "mlp_ratio": 2.0,
    "cond_dim": 16,
    "mask_ratio": 0.3,
    "decode_layer": 2,
    "lewei_scale": 1.0,
}


@pytest.fixture
def state():
    """A Lightning checkpoint of the published layout: network, its average, and the scale of the latents."""
    torch.manual_seed(0)
    model = build(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    network = {key: value.detach().clone() for key, value in to_official(model).items()}
    averaged = {
        EMA + f"diffusion_model.{key}".replace(".", ""): value * 0.5
        for key, value in network.items()
        if key != "pos_embed"
    }
    return {
        **{NETWORK + key: value for key, value in network.items()},
        **averaged,
        EMA + "decay": torch.tensor(0.9999),
        "scale_factor": torch.tensor(0.5),
    }


@pytest.fixture
def overrides(tiny_t5):
    """What the recipe needs of its surroundings, small and local: a T5 and a codec without weights."""
    return [
        f"conditioners.description.qamdt_t5.name={tiny_t5}",
        "latents.codec=mdct",
        "dataset.segment_duration=2.56",
        "device=cpu",
        "autocast=false",
        "generate.steps=4",
        "generate.candidates=1",
    ]


def save(tmp_path, state, name="published.ckpt"):
    torch.save({"state_dict": state, "epoch": 3, "global_step": 100}, tmp_path / name)
    return tmp_path / name


def test_shapes_tell_the_configuration(state):
    network = {key.removeprefix(NETWORK): value for key, value in state.items() if key.startswith(NETWORK)}
    assert infer_config(network, num_heads=4) == CONFIG


@pytest.mark.parametrize("ema", [True, False])
def test_weights_scale_and_thresholds_arrive(tmp_path, state, overrides, ema):
    out = import_official(save(tmp_path, state), tmp_path / "export", ema=ema, num_heads=4, overrides=overrides)
    trained = store.load(out)
    key = "in_blocks.0.mlp.fc1.weight"
    expected = state[NETWORK + "en_inblocks.0.mlp.fc1.weight"] * (0.5 if ema else 1)
    assert torch.equal(trained.model[f"backbone.{key}"], expected)
    assert torch.equal(trained.model["backbone.pos_embed"], state[NETWORK + "pos_embed"])
    assert torch.equal(trained.codec_statistics["std"], torch.full((16, 16), 2.0))
    rule = level_rule("official", QualityStatistics.from_dict(trained.quality_statistics, "test"))
    assert rule.word_boundaries == pytest.approx((3.55, 4.05))


def test_the_export_generates_and_equals_the_published_network(tmp_path, state, overrides):
    out = import_official(save(tmp_path, state), tmp_path / "export", num_heads=4, overrides=overrides)
    model = QAMDT.get_pretrained(str(out), "cpu")
    assert (
        model.params.null_level == 3 and model.params.sampler == "ddim" and model.params.guidance.guidance_scale == 3.5
    )
    audio = model.generate(["warm piano"], quality=5)
    assert audio.shape == (1, 1, 40960) and audio.isfinite().all() and audio.std() > 0


@pytest.mark.slow
def test_fine_tuning_the_import_lowers_the_loss(tmp_path, state, overrides):
    folder = make_folder(tmp_path / "audio", tracks=2)
    out = import_official(save(tmp_path, state), tmp_path / "export", num_heads=4, overrides=overrides)
    mdt = [
        "mdt.patch=[4,4]",
        "mdt.dim=32",
        "mdt.depth=6",
        "mdt.decoder_depth=2",
        "mdt.num_heads=4",
        "mdt.ffn_ratio=2.0",
        "mdt.context_dim=16",
    ]
    argv = [
        "solver=qamdt",
        "dset=folder",
        f"folder={folder}",
        f"continue_from={out}",
        *overrides,
        *mdt,
        "num_threads=1",
        "dataset.batch_size=4",
        "dataset.num_workers=0",
        "dataset.valid.num_samples=8",
        "optim.epochs=2",
        "optim.updates_per_epoch=40",
        "optim.lr=3e-3",
        "schedule.lr_scheduler=null",
        "optim.ema.decay=0.9",
        "evaluate.metrics.base=false",
        "dataset.generate.num_samples=1",
    ]
    with solver_in(tmp_path / "outputs", *argv) as solver:
        solver.restore()
        with torch.no_grad():
            before = solver.run_stage("valid", solver.valid)["loss"]
        solver._start_epoch()
        solver.run()
        assert history(solver.folder)[-1]["valid"]["loss"] < 0.9 * before


def broken(state, kind, tmp_path):
    key = NETWORK + "en_inblocks.0.mlp.fc1.weight"
    if kind == "wrong key":
        state[NETWORK + "en_inblocks.0.mlp.fc9.weight"] = state.pop(key)
    elif kind == "misshapen":
        state[NETWORK + "final_layer.linear.bias"] = torch.zeros(7)
    elif kind == "nan":
        state[key] = state[key] * torch.nan
    elif kind == "other model":
        state = {"encoder.weight": torch.zeros(3)}
    path = save(tmp_path, state)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    "kind, message",
    [
        ("truncated", "published.ckpt: damaged"),
        ("wrong key", "published.ckpt: .*en_inblocks.0.mlp.fc9.weight"),
        ("misshapen", "published.ckpt: misshapen.*final_layer.linear.bias"),
        ("nan", "NaN or infinite.*in_blocks.0.mlp.fc1.weight"),
        ("other model", "not the published checkpoint"),
    ],
)
def test_broken_checkpoints_end_with_a_message_and_leave_nothing(tmp_path, state, overrides, kind, message):
    path = broken(state, kind, tmp_path)
    with pytest.raises(ValueError, match=message):
        import_official(path, tmp_path / "export", ema=False, num_heads=4, overrides=overrides)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["published.ckpt"]


def test_a_pickle_payload_is_refused_not_run(tmp_path, overrides):
    flag = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return open, (str(flag), "w")

    torch.save({"state_dict": {}, "callbacks": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="evil.ckpt: refused"):
        import_official(tmp_path / "evil.ckpt", tmp_path / "export", overrides=overrides)
    assert not flag.exists() and not (tmp_path / "export").exists()
