"""Training steps, evaluation forward and sampling of the network, of the sizes in `config/model/qamdt`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from audiocraft_qamdt.diffusion.guidance import Guidance, guided
from audiocraft_qamdt.diffusion.objective import DiffusionObjective, NoiseSchedule
from audiocraft_qamdt.diffusion.samplers import sample
from audiocraft_qamdt.models.compiling import compiled
from audiocraft_qamdt.models.masking import draw_mask
from audiocraft_qamdt.models.mdt import MaskedDiffusionTransformer

from .harness import PRECISIONS, Settings, Work, bench

CONFIG = Path(__file__).parents[1] / "config" / "model" / "qamdt"
LATENTS = (8, 256, 16)  # channels, frames, bins: 10.24 s of the mel VAE
SECONDS = 10.24  # of audio in them
EMBEDDED = "playground"  # size of the model in the package, which has latents of its own
EMBEDDED_LATENTS = (32, 320, 1)  # 10.24 s of the learned codec
SHAPES: dict[str, dict[str, Any]] = {
    "published": {},  # the class's own defaults
    EMBEDDED: {
        **{"patch": (2, 1), "dim": 256, "depth": 6, "decoder_depth": 2, "num_heads": 4, "ffn": "swiglu"},
        **{"positions": "rope", "context_dim": 128, "pooled_text": True},
    },
}
"""Sizes of `config/model/qamdt` that a machine with PyTorch alone can build, too; a test compares them."""
WORDS = 32
BATCH = {"small": 4, "published": 1, "xsmall": 4}  # xsmall is not timed, tests run it
RATIOS = (0.0, 0.3, 0.5)
STEPS = {10: "dpmsolver++", 25: "dpmsolver++", 50: "dpmsolver++", 200: "ddim"}  # 200 is the published recipe


def shape(size: str) -> dict[str, Any]:
    """The network's arguments of a size."""
    if size in SHAPES:
        return SHAPES[size]
    from omegaconf import OmegaConf  # a machine that lends its GPU may have PyTorch alone

    sizes = [OmegaConf.load(CONFIG / f"{name}.yaml") for name in ("default", size)]
    options: Any = OmegaConf.to_container(OmegaConf.merge(*sizes).mdt)
    return options


def latents_of(size: str) -> tuple[int, int, int]:
    """Channels, frames and bins of `SECONDS` of latents."""
    return EMBEDDED_LATENTS if size == EMBEDDED else LATENTS


def network(size: str, settings: Settings) -> MaskedDiffusionTransformer:
    """The network of a size with random weights, none of them zero, on the bench's device."""
    options = {**shape(size), "checkpointing": settings.checkpointing}
    channels, frames, bins = latents_of(size)
    model = MaskedDiffusionTransformer(latent_channels=channels, latent_frames=frames, latent_bins=bins, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return model.to(settings.device)


def conditions(model: MaskedDiffusionTransformer, batch: int, settings: Settings) -> dict[str, Any]:
    """A text of `WORDS` tokens and a level for each item."""
    width = model.context_embed.in_features
    return {
        "context": torch.randn(batch, WORDS, width, device=settings.device),
        "context_mask": torch.ones(batch, WORDS, device=settings.device),
        "quality": torch.full((batch,), 5, device=settings.device),
    }


def autocast(settings: Settings) -> AbstractContextManager:
    """The precision that the network is evaluated in."""
    dtype = PRECISIONS[settings.precision]
    return torch.autocast(settings.device, dtype, enabled=dtype != torch.float32)


def batch_of(size: str, settings: Settings) -> int:
    """Items of a call."""
    return settings.batch or BATCH[size]


def forward(size: str, settings: Settings) -> Work:
    """An evaluation of the network without gradient, nothing masked."""
    model, batch = network(size, settings).eval(), batch_of(size, settings)
    given = conditions(model, batch, settings)
    x = torch.randn(batch, *latents_of(size), device=settings.device)
    t = torch.randint(1000, (batch,), device=settings.device)
    predict = compiled(model, settings.compile)

    def run() -> None:
        with torch.no_grad(), autocast(settings):
            predict(x, t, **given)

    return Work(run, lambda seconds: {"M parameters": sum(p.numel() for p in model.parameters()) / 1e6})


def step(size: str, ratio: float, settings: Settings) -> Work:
    """Forward, backward, clipping and AdamW, with that share of the tokens hidden."""
    model, batch = network(size, settings).train(), batch_of(size, settings)
    given = conditions(model, batch, settings)
    generator = torch.Generator(settings.device).manual_seed(0)
    latents = torch.randn(batch, *latents_of(size), generator=generator, device=settings.device)
    grid = model.grid(latents_of(size)[1])
    mask = draw_mask("random", batch, grid, ratio, generator, settings.device)
    objective = DiffusionObjective(NoiseSchedule()).to(settings.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    predict = compiled(model, settings.compile)

    def run() -> None:
        noise = torch.randn(latents.shape, generator=generator, device=settings.device)
        timesteps = objective.draw_timesteps(batch, generator)
        with autocast(settings):
            prediction = predict(objective.add_noise(latents, noise, timesteps), timesteps, mask=mask, **given)
        objective.loss(prediction, latents, noise, timesteps).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return Work(run)


def sampling(size: str, steps: int, settings: Settings) -> Work:
    """Latents of a clip of `SECONDS` with guidance, from noise."""
    model = network(size, settings).eval()
    conditional, unconditional = conditions(model, 1, settings), conditions(model, 1, settings)
    noise = torch.randn(1, *latents_of(size), device=settings.device)
    predict = compiled(model, settings.compile)

    def prepare(given: dict[str, Any]) -> dict[str, Any]:
        context = model.project_context(given["context"], given["context_mask"])
        return {**given, "context": context, "context_mask": None}

    def run(number: int) -> None:
        with torch.no_grad(), autocast(settings):
            denoise = guided(predict, conditional, unconditional, Guidance(), prepare)
            sample(denoise, noise, NoiseSchedule(), sampler=STEPS[steps], steps=number)

    return Work(
        partial(run, steps),
        lambda seconds: {"times real time": SECONDS / seconds, "ms per evaluation": 1000 * seconds / steps},
        part=partial(run, 1),
        parts=steps,
    )


def register(size: str, on_request: bool) -> None:
    """Add the benches of a size."""
    bench(f"{size}/forward", on_request)(partial(forward, size))
    for ratio in RATIOS:
        bench(f"{size}/step-{ratio:g}", on_request)(partial(step, size, ratio))
    for steps in STEPS:
        bench(f"{size}/sampling-{steps}", on_request)(partial(sampling, size, steps))


register("small", on_request=False)
register("published", on_request=True)
register("xsmall", on_request=True)
