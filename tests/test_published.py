"""Network, guidance and sampler together against the numbers of the authors' code."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from audiocraft_qamdt.diffusion.guidance import Guidance, guided
from audiocraft_qamdt.diffusion.objective import NoiseSchedule
from audiocraft_qamdt.diffusion.samplers import make_scheduler, sample
from audiocraft_qamdt.models.official import from_official


def read(path) -> tuple[dict[str, torch.Tensor], dict]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()


@pytest.fixture(scope="module")
def published(golden):
    """The golden DDIM run and the network that it ran on."""
    run, metadata = read(golden / "ddim_10_steps.safetensors")
    network, configuration = read(golden / "patch_4x1.safetensors")
    weights = {key.removeprefix("model."): value for key, value in network.items() if key.startswith("model.")}
    model = from_official(weights, json.loads(configuration["config"])).eval()
    return run, {key: json.loads(value) for key, value in metadata.items() if key != "model_file"}, model, network


@pytest.mark.parametrize("project", [False, True])
def test_ddim_with_guidance_gives_the_published_latents(published, project):
    run, config, model, network = published
    noise = run["in.noise"]
    conditional = {
        "context": network["in.context"],
        "context_mask": network["in.context_mask"],
        "quality": {"clip": run["in.quality"]},
    }
    null = run["in.null_context"].expand(len(noise), -1, -1)
    unconditional = {
        "context": null,
        "context_mask": torch.ones(null.shape[:2]),
        "quality": {"clip": torch.full((len(noise),), config["null_quality"])},
    }

    def predict(x, t, **conditions):
        return config["output_scale"] * model(x, t, **conditions)

    def prepare(conditions):
        projected = model.project_context(conditions["context"], conditions["context_mask"])
        return {**conditions, "context": projected, "context_mask": None}

    denoise = guided(
        predict,
        conditional,
        unconditional,
        Guidance(guidance_scale=config["guidance_scale"]),
        prepare if project else dict,
    )
    latents = sample(denoise, noise, NoiseSchedule(), sampler="ddim", steps=config["steps"])
    assert (latents - run["out.latents"]).norm() / run["out.latents"].norm() < 1e-4


def test_timesteps_are_the_published_ones(published):
    run, config, *_ = published
    scheduler = make_scheduler("ddim", NoiseSchedule(), config["steps"])
    scheduler.set_timesteps(config["steps"])
    assert sorted(scheduler.timesteps.tolist()) == run["schedule.timesteps"].tolist()
