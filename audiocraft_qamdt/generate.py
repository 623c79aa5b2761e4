"""Generation: the one class behind the solver's `generate` and `evaluate` stages and the Python API."""

from __future__ import annotations

import typing as tp
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from omegaconf import DictConfig
from torch import Tensor

from . import builders, checkpoints
from .conditioners import null_attributes
from .data.dataset import CURVE_RATE
from .diffusion.guidance import Guidance, guided
from .diffusion.objective import NoiseSchedule
from .diffusion.samplers import Denoise, sample
from .latents.codec import LatentCodec
from .model import QAMDTModel
from .quality.attributes import QUALITY, quality_attributes
from .quality.levels import LevelRule, QualityStatistics, prefixed
from .randomness import keyed_seed, noise_like_items
from .rerank import Scorer, best_of

from audiocraft.modules.conditioners import ConditioningAttributes  # isort: skip

Progress = tp.Callable[[int, int], None]
LevelCurve = list[tuple[float, float]]
"""Quality along a clip: (seconds, level) points, linear between them, held before the first and after the last."""


@dataclass(frozen=True)
class GenerationParams:
    """Settings of generation.

    Args:
        duration: seconds.
        steps, sampler: see `diffusion.samplers.sample`.
        guidance: see `diffusion.guidance.Guidance`.
        null_level: quality level of the unconditional branch; 0 = unknown (published sampler: 3, paper: 1).
        seed: item i of a call draws its noise from (seed, i), whatever the batch it is in.
        num_candidates: clips made for each description, of which the one that CLAP prefers is kept (published: 3).
    """

    duration: float
    steps: int = 25
    sampler: str = "dpmsolver++"
    guidance: Guidance = Guidance()
    null_level: float = 0.0
    seed: int = 0
    num_candidates: int = 1


class QAMDT:
    """Text and quality in, audio out.

    Args:
        model: network and conditioners, trained.
        codec: with the latent statistics that the model was trained with.
        schedule: noise schedule of the training.
        params: settings; `set_generation_params` changes them.
        rule: levels of the training data, which the text prefix is derived from; None if unknown.
        prefix: whether the model was trained with the quality prefix in its text.
        autocast: context in which the network is evaluated.
        project_context: compute the text's keys and values once per generation (not under FSDP, which shards them).
        clap: hub id or folder of the CLAP model that candidates are chosen with; loaded when there are several.
    """

    def __init__(
        self,
        model: QAMDTModel,
        codec: LatentCodec,
        schedule: NoiseSchedule,
        params: GenerationParams,
        *,
        rule: LevelRule | None = None,
        prefix: bool = False,
        autocast: tp.Callable[[], AbstractContextManager] = nullcontext,
        project_context: bool = True,
        clap: str | None = None,
    ) -> None:
        self.model = model
        self.codec = codec
        self.schedule = schedule
        self.params = params
        self.rule = rule
        self.prefix = prefix
        self.autocast = autocast
        self.project_context = project_context
        self.clap = clap

    @classmethod
    def get_pretrained(cls, name: str, device: str = "auto") -> QAMDT:
        """Load an export folder, a checkpoint, an experiment's folder or a Dora signature (`//sig/<sig>`).

        Args:
            name: what to load.
            device: auto, cpu, cuda or mps.
        """
        trained = checkpoints.load(name)
        cfg = trained.cfg
        cfg.device = builders.resolve_device(device)
        codec = builders.get_codec(cfg.latents, cfg.device)
        codec.statistics.load_state_dict(trained.codec_statistics)
        model = builders.get_model(cfg, codec)
        model.load_state_dict(trained.model)
        return cls.from_config(cfg, model.eval(), codec, trained.quality_statistics)

    @classmethod
    def from_config(
        cls,
        cfg: DictConfig,
        model: QAMDTModel,
        codec: LatentCodec,
        quality_statistics: dict[str, tp.Any],
        **kwargs: tp.Any,
    ) -> QAMDT:
        """With the settings of a solver's config.

        Args:
            quality_statistics: fields of `QualityStatistics`, empty if unknown.
            kwargs: of the constructor.
        """
        schedule = builders.get_objective(cfg.diffusion).schedule
        params = GenerationParams(
            duration=cfg.generate.lm.gen_duration or cfg.dataset.segment_duration,
            steps=cfg.generate.steps,
            sampler=cfg.generate.sampler,
            guidance=builders.get_guidance(cfg.classifier_free_guidance, schedule),
            null_level=cfg.quality.null_level,
            seed=cfg.generate.seed,
            num_candidates=cfg.generate.candidates,
        )
        statistics = (
            QualityStatistics.from_dict(quality_statistics, "quality statistics") if quality_statistics else None
        )
        return cls(
            model,
            codec,
            schedule,
            params,
            rule=builders.get_level_rule(cfg.quality, statistics),
            prefix=cfg.quality.prefix,
            clap=cfg.generate.clap,
            **kwargs,
        )

    @property
    def sample_rate(self) -> int:
        return self.codec.sample_rate

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def set_generation_params(
        self,
        *,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        **settings: tp.Any,
    ) -> None:
        """Change settings (fields of `GenerationParams`, and those of its guidance); what is not named stays.

        Raises:
            TypeError: a setting that does not exist.
        """
        guidance = self.params.guidance
        guidance = replace(
            guidance,
            scale=guidance.scale if guidance_scale is None else guidance_scale,
            interval=guidance_interval or guidance.interval,
        )
        self.params = replace(self.params, **{"guidance": guidance, **settings})

    def generate(
        self,
        descriptions: list[str | None],
        quality: float | LevelCurve | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Music for each description.

        Args:
            descriptions: what to play; None = unconditional.
            quality: level 1–5, fractions interpolate; or a curve along the clip; None = unknown.
            progress: called with (network evaluations done, in all).
        Returns:
            Audio [B, 1, S] at `sample_rate`, on the CPU.
        """
        attributes = [self.request(description, quality) for description in descriptions]
        seeds = [keyed_seed(self.params.seed, index) for index in range(len(descriptions))]
        return self.generate_from(attributes, seeds, progress)

    def request(self, description: str | None, quality: float | LevelCurve | None) -> ConditioningAttributes:
        """Attributes, in levels, for one clip (see `generate`)."""
        curve = self._sample_curve(quality) if isinstance(quality, list) else None
        level = sum(curve) / len(curve) if curve else tp.cast("float | None", quality)
        for value in curve or ([] if level is None else [level]):
            if not 1 <= value <= 5:
                raise ValueError(f"quality={value}: levels go from 1 to 5")
        if self.prefix and self.rule is not None and level is not None:
            description = prefixed(description, self.rule.level_prefix(round(level)))
        names = {name: None for name in self.model.condition_provider.text_conditions}
        return ConditioningAttributes(
            text={**names, "description": description, **quality_attributes(level, curve, level)}
        )

    @torch.no_grad()
    def generate_from(
        self,
        attributes: list[ConditioningAttributes],
        seeds: list[int],
        progress: Progress | None = None,
        duration: float | None = None,
    ) -> Tensor:
        """Audio [B, 1, S] on the CPU for attributes in levels, the noise of each item drawn from its seed."""
        samples = round((duration or self.params.duration) * self.sample_rate)
        frames = self._frames(samples)
        texts = [item.text["description"] or "" for item in attributes]
        candidates = []
        with self.autocast():
            denoise = self._guided([self._fit_curve(item, samples, frames) for item in attributes])
            for candidate in range(self.params.num_candidates):
                chosen = [keyed_seed(seed, candidate) if candidate else seed for seed in seeds]
                candidates.append(self._sample(denoise, chosen, frames, samples, progress))
        return candidates[0] if len(candidates) == 1 else best_of(candidates, self.sample_rate, texts, self._scorer())

    def _sample(
        self, denoise: Denoise, seeds: list[int], frames: int, samples: int, progress: Progress | None
    ) -> Tensor:
        noise = noise_like_items((self.codec.latent_channels, frames, self.codec.latent_bins), seeds, self.device)
        latents = sample(
            denoise, noise, self.schedule, sampler=self.params.sampler, steps=self.params.steps, progress=progress
        )
        return self.codec.decode(latents, samples).float().cpu()

    def _scorer(self) -> Scorer:
        if self.clap is None:
            raise ValueError(
                f"generate.candidates={self.params.num_candidates}, but generate.clap names no model to choose with"
            )
        return builders.get_clap(self.clap, str(self.device))

    def _guided(self, attributes: list[ConditioningAttributes]) -> Denoise:
        conditional = self.model.encode_conditions(attributes)
        null = [null_attributes(item, self.params.null_level) for item in attributes]
        prepare = self.model.project_context if self.project_context else dict
        return guided(self.model, conditional, self.model.encode_conditions(null), self.params.guidance, prepare)

    def _frames(self, samples: int) -> int:
        needed, trained = self.codec.num_frames(samples), self.model.backbone.latent_frames
        if self.model.backbone.positions == "rope":
            return needed
        if needed > trained:
            raise ValueError(
                f"duration={samples / self.sample_rate:.2f} s is longer than the "
                f"{trained / self.codec.frame_rate:.2f} s that the model's positions cover: ask for less, or train "
                "with mdt.positions=rope"
            )
        return trained  # sincos positions are fixed: the rest is generated and cut off

    def _fit_curve(self, item: ConditioningAttributes, samples: int, frames: int) -> ConditioningAttributes:
        # The network stretches a curve over all frames; where more frames are generated than asked for, hold its end.
        curve = item.text[f"{QUALITY}_frame"]
        if isinstance(curve, list):
            wanted = round(len(curve) * frames / max(1, self.codec.num_frames(samples)))
            item.text[f"{QUALITY}_frame"] = curve + curve[-1:] * (wanted - len(curve))
        return item

    def _sample_curve(self, points: LevelCurve) -> list[float]:
        import numpy as np

        seconds, levels = zip(*sorted(points), strict=True)
        times = (np.arange(max(1, round(self.params.duration * CURVE_RATE))) + 0.5) / CURVE_RATE
        return np.interp(times, seconds, levels).tolist()
