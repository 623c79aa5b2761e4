"""Measure how far a trained model's samplers are from the DDIM solution of all its steps, and what they cost.

python -m benchmarks.sampler_error //sig/<signature> --data <manifest>
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from audiocraft_qamdt.commands.output import say
from audiocraft_qamdt.data.manifest import read_descriptions
from audiocraft_qamdt.diffusion.samplers import make_scheduler, sample
from audiocraft_qamdt.generation.pipeline import item_seeds
from audiocraft_qamdt.generation.qamdt import QAMDT
from audiocraft_qamdt.utils.randomness import noise_like_items

HEADER = ("sampler", "steps", "guidance acts from", "evaluations", "error")
TRIED = (
    *(("dpmsolver++", steps, 0.0) for steps in (10, 25, 50, 100)),
    *(("dpmsolver++", 25, start) for start in (0.05, 0.1, 0.2)),
    ("unipc", 25, 0.0),
    ("heun", 13, 0.0),
    ("ddim", 200, 0.0),
)
"""Sampler, steps, and the share of the schedule below which there is no guidance."""


class Measured:
    """Latents of the same clips from the same noise by any sampler.

    Args:
        model: its guidance is used, and its quality where none is given.
        prompts: one for each clip.
        quality: level asked for.
    """

    def __init__(self, model: QAMDT, prompts: list[str], quality: float | None) -> None:
        self.model = model
        self.layout = model.layout(model.params)
        self.attributes = [model.request(prompt, quality, None, model.params.duration) for prompt in prompts]
        shape = (model.codec.latent_channels, self.layout.frames, model.codec.latent_bins)
        self.noise = noise_like_items(shape, item_seeds(prompts, model.params.seed), model.device)
        self.evaluations = 0
        predict = model.predict

        def counted(x: Tensor, *args: Tensor, **conditions: Tensor) -> Tensor:
            self.evaluations += len(x)
            return predict(x, *args, **conditions)

        model.predict = counted

    @torch.no_grad()
    def latents(self, sampler: str, steps: int, start: float = 0.0) -> tuple[Tensor, float]:
        """Latents [B, C, T, F] without noise, and how often the network was evaluated for each clip.

        The published DDIM stops at the noise of the schedule's first step, the others at the network's clean estimate
        from there: that step is made for DDIM, too.
        """
        params = self.model.params.changed(guidance_interval=(start, 1.0))
        denoise = self.model.denoiser(self.model.branches(self.attributes, self.layout, params), self.layout, params)
        self.evaluations = 0
        made = sample(denoise, self.noise, self.model.schedule, sampler=sampler, steps=steps)
        if sampler == "ddim":
            scheduler = make_scheduler("ddim", self.model.schedule, self.model.schedule.num_steps)
            scheduler.set_timesteps(self.model.schedule.num_steps)
            prediction = denoise(made, torch.zeros(len(made), dtype=torch.long, device=made.device))
            made = scheduler.step(prediction, 0, made, return_dict=False)[1]  # the network's clean estimate
        return made, self.evaluations / len(made)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampler_error", description=__doc__)
    parser.add_argument("model", help="export, checkpoint, experiment's folder or //sig/<signature>")
    parser.add_argument("--data", type=Path, required=True, help="manifest whose descriptions are the prompts")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--quality", type=float, default=5.0)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    model = QAMDT.get_pretrained(options.model, options.device)
    measured = Measured(model, read_descriptions(options.data)[: options.clips], options.quality)
    reference, evaluations = measured.latents("ddim", model.schedule.num_steps)
    guidance = model.params.guidance
    quality_scale = guidance.guidance_scale if guidance.quality_scale is None else guidance.quality_scale
    weights = f"{guidance.guidance_scale:g} and {quality_scale:g}"
    solution = f"DDIM at {model.schedule.num_steps} steps ({evaluations:g} evaluations)"
    say([f"{len(reference)} clips, weights of text and quality {weights}", f"error: of latents, from {solution}", ""])
    say([f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"])
    for sampler, steps, start in TRIED:
        made, evaluations = measured.latents(sampler, steps, start)
        error = (made - reference).norm() / reference.norm()
        say([f"| {sampler} | {steps} | {start:g} | {evaluations:g} | {error:.2%} |"])


if __name__ == "__main__":
    main()
