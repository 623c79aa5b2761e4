"""The recipes: each composes, sizes are what they say, presets differ exactly where paper and code differ."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from audiocraft_qamdt.builders import get_conditioner_provider, get_fuser
from audiocraft_qamdt.compat import CONFIG_ROOT
from audiocraft_qamdt.data.attributes import GRANULARITIES

from .helpers.runs import main_in

RECIPES = ["qamdt", *(f"qamdt/{path.stem}" for path in sorted((CONFIG_ROOT / "solver" / "qamdt").glob("*.yaml")))]
CONDITIONERS = sorted(path.stem for path in (CONFIG_ROOT / "conditioner" / "qamdt").glob("*.yaml"))


def config(*overrides: str):
    with initialize_config_dir(str(CONFIG_ROOT), version_base="1.3"):
        return compose("config", list(overrides))


def flat(node, prefix="") -> dict:
    if isinstance(node, dict):
        return {key: value for name, child in node.items() for key, value in flat(child, f"{prefix}{name}.").items()}
    return {prefix[:-1]: node}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_compose_into_the_same_keys(recipe):
    cfg = config(f"solver={recipe}")
    assert cfg.solver == "qamdt"
    recipes = flat(OmegaConf.to_container(config("solver=qamdt/default")))
    assert set(flat(OmegaConf.to_container(cfg))) == set(recipes)


@pytest.mark.parametrize("name", CONDITIONERS)
def test_conditioners_switch_on_what_they_are_named_after(name):
    cfg = config("solver=qamdt/playground", f"conditioner=qamdt/{name}")
    sets = {"none": set(), "all": {"prefix", *GRANULARITIES}}
    on = sets.get(name, set(name.split("_")))
    assert (cfg.quality.noise_range == "measured") == ("noise" in on)
    on -= {"noise"}
    assert set(get_fuser(cfg.fuser).quality_granularities()) == on - {"prefix"}
    assert cfg.quality.prefix == ("prefix" in on)
    built = set(get_conditioner_provider(cfg.mdt.context_dim, cfg).conditioners)
    assert built == {"description"} | {f"quality_{granularity}" for granularity in on - {"prefix"}}


def test_every_subset_of_granularities_is_a_command_line():
    cfg = config(
        "solver=qamdt/playground",
        "conditioner=qamdt/clip",
        "fuser.adaln=[quality_adaln]",
    )
    assert get_fuser(cfg.fuser).quality_granularities() == ("clip", "adaln")


def test_every_conditioner_is_an_experiment_of_its_own(tmp_path):
    """Dora compares a run's config with the recipe's key by key, and takes no run that lacks one."""
    signatures = {
        main_in(tmp_path).get_xp(["solver=qamdt/debug", f"conditioner=qamdt/{name}"]).sig for name in CONDITIONERS
    }
    assert len(signatures) == len(CONDITIONERS)


def test_the_two_published_presets_differ_only_where_paper_and_code_do():
    official, paper = (
        flat(OmegaConf.to_container(config("solver=qamdt", f"qamdt={name}"))) for name in ("official", "paper")
    )
    assert {key for key in official if official[key] != paper[key]} == {
        "quality.rule",
        "quality.null_level",
        "quality.null_prefix",
        "classifier_free_guidance.inference_coef",
        "mdt.positions",
        "mdt.ffn",
        "masking.spread",
    }


def test_published_values():
    cfg = config("solver=qamdt")
    assert (cfg.mdt.dim, cfg.mdt.depth, cfg.mdt.decoder_depth, cfg.mdt.num_heads) == (1152, 28, 8, 16)
    assert (cfg.generate.sampler, cfg.generate.steps, cfg.classifier_free_guidance.inference_coef) == ("ddim", 200, 3.5)
    assert (cfg.generate.eta, cfg.optim.max_norm, cfg.optim.adam.weight_decay) == (1.0, 2.0, 0.01)
    assert cfg.generate.clap.endswith("music_speech_audioset_epoch_15_esc_89.98.pt")
    assert (cfg.diffusion.schedule.beta_start, cfg.diffusion.schedule.beta_end, cfg.diffusion.snr_gamma) == (
        0.0015,
        0.0195,
        5,
    )
    assert (cfg.sample_rate, cfg.dataset.segment_duration) == (16000, 10.24)
    assert (cfg.diffusion.schedule.num_steps, tuple(cfg.mdt.patch), tuple(cfg.mdt.overlap)) == (1000, (4, 1), (0, 0))
    assert (cfg.optim.optimizer, cfg.optim.lr, cfg.schedule.linear_warmup.warmup) == ("adamw", 8e-5, 2000)
    assert (cfg.optim.ema.decay, cfg.condition_dropout.description, cfg.condition_dropout.quality) == (0.9999, 0.1, 0.0)
    assert (cfg.masking.ratio, cfg.masking.spread, cfg.generate.candidates) == (0.3, 0.2, 3)
    text = cfg.conditioners.description.qamdt_t5
    assert (text.name, text.max_length) == ("google/flan-t5-large", 128)


@pytest.mark.parametrize("recipe, solver", [("compression/debug", "compression"), ("musicgen/debug", "musicgen")])
def test_audiocrafts_own_recipes_are_on_the_search_path(recipe, solver):
    assert config(f"solver={recipe}").solver == solver


def test_a_recipe_does_not_hide_the_size_that_the_user_picks():
    assert config("solver=qamdt/playground", "model=qamdt/small").mdt.dim == 384
