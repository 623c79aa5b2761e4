"""The knobs of generation: one list, one name each, wherever they are set."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields

import pytest
from omegaconf import OmegaConf

from audiocraft_qamdt.commands import generate
from audiocraft_qamdt.generation.app import Asked
from audiocraft_qamdt.generation.config import ALIASES, generation_settings
from audiocraft_qamdt.generation.params import KNOBS, GenerationParams, parse_rerank
from audiocraft_qamdt.generation.prompts import read_prompts

from .. import test_config

VALUES = {
    "quality": "4",
    "pmos": "1:3,2:4",
    "sampler": "ddim",
    "extend": "rope",
    "guidance_interval": "0.1,0.5",
    "rerank": "pmos",
}


def config(*overrides: str):
    return test_config.config("solver=qamdt/debug", *overrides)


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    generate.add_parsers(parser.add_subparsers())
    return parser


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_is_an_option_of_the_command_line(parser, name):
    typed = VALUES.get(name, "1")
    args = parser.parse_args(["generate", f"--{name.replace('_', '-')}={typed}"])
    assert getattr(args, name) == KNOBS[name].metadata["parse"](typed)


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_is_a_key_of_a_file_of_prompts(tmp_path, name):
    parse = KNOBS[name].metadata["parse"]
    value = "x" if parse in (str, parse_rerank) else [0.1, 0.5] if name == "guidance_interval" else 1
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "piano", name: value}))
    assert read_prompts(tmp_path / "p.jsonl") == [{"prompt": "piano", name: value}]


@pytest.mark.parametrize("typed, value", [("0:1,8:5", [(0.0, 1.0), (8.0, 5.0)]), ("5", 5)])
def test_a_quality_is_read_as_it_is_typed(tmp_path, typed, value):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "piano", "quality": typed}))
    assert read_prompts(tmp_path / "p.jsonl") == [{"prompt": "piano", "quality": value}]


@pytest.mark.parametrize("name", sorted(set(KNOBS) - {"duration"}))
def test_every_knob_is_a_key_of_the_config(name):
    value = [0.1, 0.5] if name == "guidance_interval" else 0.25
    cfg = config(f"generate.{name}={value}")
    assert generation_settings(cfg)[name] == value


def test_the_duration_is_audiocrafts_key_of_the_config():
    assert generation_settings(config("generate.lm.gen_duration=7"))["duration"] == 7


@pytest.mark.parametrize("name", ALIASES)
def test_audiocrafts_keys_are_aliases(name):
    assert generation_settings(config(f"{ALIASES[name]}=0.25"))[name] == 0.25


def test_the_interval_is_audiocrafts_start_and_stop_too():
    cfg = config("classifier_free_guidance.start=0.1", "classifier_free_guidance.stop=0.5")
    assert generation_settings(cfg)["guidance_interval"] == (0.1, 0.5)


def test_the_knobs_own_key_goes_before_its_alias():
    cfg = config("classifier_free_guidance.inference_coef=2", "generate.guidance_scale=4")
    assert generation_settings(cfg)["guidance_scale"] == 4


def test_a_config_from_before_a_key_was_there_is_read():
    cfg = config()
    OmegaConf.set_struct(cfg, False)
    del cfg.generate["guidance_scale"], cfg.generate["extend"], cfg.classifier_free_guidance["apg_eta"]
    settings = generation_settings(cfg)
    assert settings["guidance_scale"] == cfg.classifier_free_guidance.inference_coef
    assert "extend" not in settings and "apg_eta" not in settings


def test_the_page_calls_its_controls_as_the_knobs_are_called():
    own = {"prompt", "changes", "quality_start", "quality_middle", "quality_end"}
    assert {field.name for field in fields(Asked)} - own <= set(KNOBS)


def test_settings_are_changed_by_name_and_the_rest_stays():
    before = GenerationParams(duration=3.0, steps=7)
    after = before.changed(guidance_scale=2.0, seed=4)
    assert after.to_dict() == {**before.to_dict(), "guidance_scale": 2.0, "seed": 4}


def test_the_name_that_a_knob_had_before_still_works():
    assert GenerationParams().changed(num_candidates=3).candidates == 3


@pytest.mark.parametrize("given, other", [("quality", "pmos"), ("pmos", "quality")])
def test_a_quality_takes_the_place_of_a_p_mos_and_the_other_way_round(given, other):
    params = GenerationParams().changed(**{other: 4.0}).changed(**{given: 3.0})
    assert (getattr(params, given), getattr(params, other)) == (3.0, None)


@pytest.mark.parametrize("typed", ["0.2", "0.2,0.4,0.6", "low,high", ""])
def test_an_interval_that_is_none_is_refused_by_the_parser(parser, capsys, typed):
    with pytest.raises(SystemExit):
        parser.parse_args(["generate", f"--guidance-interval={typed}"])
    assert "is no interval like 0.2,0.8" in capsys.readouterr().err
