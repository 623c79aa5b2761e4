"""The solver of `solver=qamdt/distill`: a student of few steps learns from a trained model with guidance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from audiocraft_qamdt.utils import prepared

from . import builders
from .checkpoints import store
from .conditioning.attributes import without_curve
from .data.dataset import QualityMusicInfo
from .diffusion import few_steps
from .diffusion.guidance import guided
from .diffusion.samplers import Denoise
from .diffusion.settings import FEW_STEPS
from .generation.params import GenerationParams
from .generation.qamdt import QAMDT
from .solver import QAMDTSolver
from .utils.randomness import keyed_generator

from audiocraft.modules.conditioners import ConditioningAttributes

_ADDED = "backbone.guidance_embed."
"""Beginning of the names of the parameters that a student has and its teacher has not."""


@dataclass
class Jumps:
    """What one update teaches: for each item a step, from where on noise it starts, and how it is guided.

    Args:
        noise: [B, C, T, F].
        way: angles [teacher_steps + 1, B] at which the teacher's steps begin and end.
        weights: of text and quality [B, 2].
    """

    noise: Tensor
    way: Tensor
    weights: Tensor


class DistillationSolver(QAMDTSolver):
    """Trains a model to take few steps, one evaluation each, where its teacher takes many with guidance.

    The teacher is the model of `continue_from`: frozen, and in no checkpoint.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        assert self.qamdt.distilled is not None
        self.qamdt.distilled.check(self.qamdt.params)  # the recipe's own weights lie within the ranges
        _check_sampling(cfg, self.qamdt.params)

    def _start_from(self, base: store.TrainedModel) -> torch.nn.Module:
        own = self.model.state_dict()
        shared = {key: value for key, value in own.items() if key in base.model or not key.startswith(_ADDED)}
        store.check_fits(self.cfg.continue_from, base.model, base.cfg, shared, base.cfg)
        self.model.load_state_dict({**own, **base.model})
        self.codec.statistics.load_state_dict(base.codec_statistics)
        self.teacher = self._make_teacher(base)
        self.base = None
        return self.model

    def _make_teacher(self, base: store.TrainedModel) -> QAMDT:
        cfg, few = self.cfg.copy(), bool(OmegaConf.select(base.cfg, "distill.use"))
        cfg.distill.use = cfg.mdt.guidance_inputs = few
        # Its steps lead where many smaller ones would: they are taken as they are.
        self.straight = few and base.cfg.distill.teacher_steps > 1
        model = builders.get_model(cfg, self.codec)
        model.load_state_dict(base.model)
        teacher = QAMDT.from_config(cfg, model.eval().requires_grad_(False), self.codec, base.quality_statistics)
        guidance = teacher.params.guidance
        if tuple(guidance.guidance_interval) != (0.0, 1.0) or guidance.apg_momentum:
            raise ValueError(
                f"guidance_interval={list(guidance.guidance_interval)}, apg_momentum={guidance.apg_momentum}: guidance "
                "inside a network acts everywhere and has no memory: set classifier_free_guidance.start=0, stop=1 and "
                "apg_momentum=0"
            )
        return teacher

    def _losses(
        self, idx: int, latents: Tensor, infos: list[QualityMusicInfo]
    ) -> tuple[Tensor, Tensor, list[QualityMusicInfo]]:
        attributes = self._attributes(idx, infos)
        jumps = self._draw_jumps(idx, latents) if self.is_training else self._fixed_jumps(idx, latents)
        schedule = self.objective.schedule
        start, end = (few_steps.point(schedule, angle) for angle in (jumps.way[0], jumps.way[-1]))
        noisy = start.alpha * latents + start.sigma * jumps.noise
        target = few_steps.landing(self._reached(attributes, noisy, jumps), noisy, start, end)
        with self.autocast:
            conditions = self.model.encode_conditions(attributes)
            prediction = self.predict(noisy, start.timesteps, guidance=jumps.weights, **conditions)
        return few_steps.loss(schedule, prediction.float(), target, noisy, start), start.timesteps, infos

    @torch.no_grad()
    def _reached(self, attributes: list[ConditioningAttributes], noisy: Tensor, jumps: Jumps) -> Tensor:
        """Return where the teacher's steps lead from noisy latents, [B, C, T, F]."""
        with self.autocast:
            denoise = self._guided_teacher(attributes, jumps.weights)
            return few_steps.integrate(denoise, noisy, self.objective.schedule, jumps.way, self.straight)

    def _guided_teacher(self, attributes: list[ConditioningAttributes], weights: Tensor) -> Denoise:
        teacher = self.teacher
        if "frame" not in teacher.model.backbone.quality:  # each level by itself is not what the student can ask for
            attributes = [without_curve(item) for item in attributes]
        guidance = replace(teacher.params.guidance, guidance_scale=1.0, quality_scale=None)
        if teacher.distilled is None:  # the branch with the text alone, too: each item has two weights of its own
            guidance = replace(guidance, quality_scale=2.0)
        params = replace(teacher.params, guidance=guidance)
        branches = teacher.branches(attributes, teacher.layout(params), params)
        outside: Tensor | None = weights
        if teacher.distilled is not None:
            branches["conditional"]["guidance"], outside = weights, None
        prepare = teacher.model.project_context
        return guided(teacher.predict, guidance=guidance, prepare=prepare, weights=outside, **branches)

    def _draw_jumps(self, idx: int, latents: Tensor) -> Jumps:
        generator = keyed_generator(*self._step_key(idx), "distillation")
        batch = len(latents)
        steps = torch.randint(self.cfg.distill.steps, (batch,), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        low, high = self._ranges()
        weights = low + (high - low) * torch.rand(batch, 2, generator=generator)
        own = torch.rand(batch, 1, generator=generator) < self.cfg.distill.own_share
        return self._jumps(steps, noise, torch.where(own, self._own_weights(), weights))

    def _fixed_jumps(self, idx: int, latents: Tensor) -> Jumps:
        first, batch = self._first_item(idx), len(latents)
        steps = torch.arange(first, first + batch) % self.cfg.distill.steps
        return self._jumps(steps, self._fixed_noise(first, latents), self._own_weights().expand(batch, 2))

    def _jumps(self, steps: Tensor, noise: Tensor, weights: Tensor) -> Jumps:
        bounds = few_steps.angles(self.objective.schedule, self.cfg.distill.steps)
        share = torch.linspace(0, 1, self.cfg.distill.teacher_steps + 1, dtype=bounds.dtype)[:, None]
        way = torch.lerp(bounds[steps], bounds[steps + 1], share)  # [teacher_steps + 1, B]
        return Jumps(*(value.to(self.device) for value in (noise, way, weights)))

    def _ranges(self) -> Tensor:
        """Return the least and the largest weights of text and quality, [2, 2]."""
        assert self.qamdt.distilled is not None
        return torch.tensor([self.qamdt.distilled.text_scale, self.qamdt.distilled.quality_scale]).T

    def _own_weights(self) -> Tensor:
        """Return the weights of text and quality that clips are generated with where none are given, [2]."""
        assert self.qamdt.distilled is not None
        return torch.tensor(self.qamdt.distilled.weights(self.qamdt.params))


def _check_sampling(cfg: DictConfig, params: GenerationParams) -> None:
    """Refuse other steps or another sampler of generation than those that are trained: they go into the model."""
    if (params.steps, params.sampler) != (cfg.distill.steps, FEW_STEPS):
        raise ValueError(
            f"generate.steps={params.steps}, generate.sampler={params.sampler}: a model of few steps makes clips with "
            f"the steps that it learns, distill.steps={cfg.distill.steps} with {FEW_STEPS}: set distill.steps alone"
        )
