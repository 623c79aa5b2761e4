"""From conditions to audio: branches of guidance, windows, candidates, sampling and decoding."""

from __future__ import annotations

import functools
import math
import typing as tp
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from audiocraft_qamdt.utils import prepared

from ..clap.scorer import ClapScorer, Scorer
from ..conditioning.attributes import at_level, curve_of, null_attributes, text_attributes
from ..conditioning.conditioners import QualityConditioner
from ..conditioning.model import QAMDTModel, window_conditions
from ..data.attributes import QUALITY
from ..diffusion.guidance import Branches, Conditions, guided
from ..diffusion.inpainting import keeping
from ..diffusion.objective import Schedule
from ..diffusion.samplers import Denoise, check_sampling, sample
from ..diffusion.settings import Guidance
from ..diffusion.windows import plan_windows, windowed
from ..latents.chunks import decode_long
from ..latents.codec import LatentCodec
from ..models.backbone import resample_levels
from ..models.compiling import compiled
from ..quality.levels import LevelRule, prefixed
from ..utils.randomness import keyed_seed, noise_like_items, step_noise_like_items
from .distilled import Distilled
from .params import GenerationParams
from .reranking import Candidates, choose, load_scorers

from audiocraft.modules.conditioners import ConditioningAttributes

Progress = tp.Callable[[int, int], None]
"""progress(steps done, steps in all)."""


@dataclass(frozen=True)
class Layout:
    """Division of a clip of `samples` into windows: all `frames`, in `windows` (one, where the network takes all)."""

    samples: int
    frames: int
    windows: list[tuple[int, int]]

    @property
    def long(self) -> bool:
        return len(self.windows) > 1


@dataclass(frozen=True)
class Known:
    """Latents [B, C, T, F] that a clip has to keep at the frames where `kept` [T] is true."""

    latents: Tensor
    kept: Tensor

    def put_back(self, latents: Tensor) -> Tensor:
        """Put the kept latents back into [B, C, T, F] exactly: a sampler returns them rounded."""
        return torch.where(self.kept.to(latents.device)[:, None], self.latents, latents)


class PipelineOptions(tp.TypedDict, total=False):
    """Options of `Pipeline` that are no settings of a config."""

    autocast: tp.Callable[[], AbstractContextManager]
    project_context: bool
    compile: str | None


class Pipeline:
    """Conditions in, audio out.

    Args:
        model: network and conditioners, trained.
        codec: with the latent statistics that the model was trained with.
        schedule: noise schedule of the training.
        rule: levels of the training data, which the text prefix is derived from; None if unknown.
        text_prefix: whether the model was trained with the quality prefix in its text.
        autocast: context in which the network is evaluated.
        project_context: compute the text's keys and values once per generation (not under FSDP, which shards them).
        load_scorer: from the name of a CLAP model and a device to the scorer that it is.
        compile: mode in which the network is compiled (see `models.compiling`); None = it is not.
        distilled: what a network with guidance inside was trained for; None = guidance is applied to its predictions.
    """

    def __init__(
        self,
        model: QAMDTModel,
        codec: LatentCodec,
        schedule: Schedule,
        *,
        rule: LevelRule | None = None,
        text_prefix: bool = False,
        autocast: tp.Callable[[], AbstractContextManager] = nullcontext,
        project_context: bool = True,
        load_scorer: tp.Callable[[str, str], Scorer] = ClapScorer,
        compile: str | None = None,
        distilled: Distilled | None = None,
    ) -> None:
        self.model = model
        self.predict = compiled(model, compile)
        self.codec = codec
        self.schedule = schedule
        self.rule = rule
        self.text_prefix = text_prefix
        self.autocast = autocast
        self.project_context = project_context
        self.load_scorer = load_scorer
        self.distilled = distilled

    @property
    def sample_rate(self) -> int:
        return self.codec.sample_rate

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def generate_from(
        self,
        attributes: list[ConditioningAttributes],
        seeds: list[int],
        params: GenerationParams,
        progress: Progress | None = None,
        known: Known | None = None,
    ) -> Tensor:
        """Generate audio [B, channels, S], on the CPU, for attributes in levels.

        Args:
            attributes: of the clips; their quality is here, not in `params`.
            seeds: what the noise of each clip is drawn from.
            params: settings of all of them.
            progress: called after every step.
            known: latents that the clips have to keep.
        Raises:
            ValueError: settings that this model cannot follow.
        """
        return self.candidates_from(attributes, seeds, params, progress, known).best

    @torch.no_grad()
    def candidates_from(
        self,
        attributes: list[ConditioningAttributes],
        seeds: list[int],
        params: GenerationParams,
        progress: Progress | None = None,
        known: Known | None = None,
    ) -> Candidates:
        """Generate all candidates of clips, and score them; arguments as in `generate_from`."""
        scorers = self.check(params)
        layout = self.layout(params)
        texts = [item.text["description"] or "" for item in attributes]
        candidates = []
        with self.autocast():
            branches = self.branches([self._fit_curve(item, layout) for item in attributes], layout, params)
            for candidate in range(params.candidates):
                chosen = [keyed_seed(seed, candidate) if candidate else seed for seed in seeds]
                denoise = self.denoiser(branches, layout, params)
                if known is not None:
                    denoise = keeping(denoise, known.latents, known.kept, self.schedule)
                report = _share(progress, candidate, params.candidates)
                candidates.append(self._sample(denoise, chosen, layout, params, report, known))
        return choose(candidates, self.sample_rate, texts, scorers)

    def check(self, params: GenerationParams) -> dict[str, Scorer]:
        """Refuse settings that this model cannot follow, before any work.

        Returns:
            What chooses among candidates, see `load_scorers`.
        Raises:
            ValueError: naming the setting.
            RuntimeError: what chooses among candidates cannot be loaded.
        """
        if self.distilled is not None:
            self.distilled.check(params)
        self.layout(params)
        check_sampling(self.schedule, params.sampler, params.steps, params.used_eta)
        return load_scorers(params, str(self.device), self.load_scorer)

    def layout(self, params: GenerationParams) -> Layout:
        """Divide a clip into frames and windows.

        Raises:
            ValueError: the clip is shorter than a sample, or longer than the model takes at once where it should.
        """
        samples = round(params.duration * self.sample_rate)
        if samples < 1:
            raise ValueError(f"duration={params.duration}: shorter than a sample")
        needed, trained = self.codec.num_frames(samples), self.model.backbone.latent_frames
        any_length, least = self.model.backbone.any_length, self.model.backbone.least_frames
        if needed <= trained:  # what is more than needed is generated and cut off; sincos positions are fixed
            frames = max(needed, least) if any_length else trained
            return Layout(samples, frames, [(0, frames)])
        if params.extend == "windows":
            seconds = params.extend_stride
            stride = trained // 2 if seconds is None else round(seconds * self.codec.frame_rate)
            if stride > trained:
                window = trained / self.codec.frame_rate
                raise ValueError(f"extend_stride={seconds}: windows last {window:.2f} s and must not leave gaps")
            return Layout(samples, needed, plan_windows(needed, trained, max(1, stride)))
        if not any_length:
            raise ValueError(
                f"duration={params.duration:.2f} s is longer than the "
                f"{trained / self.codec.frame_rate:.2f} s that the model's positions cover: set extend=windows, or "
                "train with mdt.positions=rope"
            )
        return Layout(samples, needed, [(0, needed)])

    def _sample(
        self,
        denoise: Denoise,
        seeds: list[int],
        layout: Layout,
        params: GenerationParams,
        progress: Progress | None,
        known: Known | None,
    ) -> Tensor:
        shape = (self.codec.latent_channels, layout.frames, self.codec.latent_bins)
        latents = sample(
            denoise,
            noise_like_items(shape, seeds, self.device),
            self.schedule,
            sampler=params.sampler,
            steps=params.steps,
            eta=params.used_eta,
            step_noise=step_noise_like_items(shape, seeds, self.device),
            progress=progress,
        )
        latents = latents if known is None else known.put_back(latents)
        return decode_long(self.codec, latents, layout.samples, **self.chunks)

    @property
    def chunks(self) -> dict[str, int]:
        """Frames that the codec encodes or decodes at once, and those that neighbouring chunks share."""
        window = self.model.backbone.latent_frames
        return {"window": window, "overlap": max(1, window // 4)}

    def branches(self, attributes: list[ConditioningAttributes], layout: Layout, params: GenerationParams) -> Branches:
        """Encode the conditions of guidance's branches, under the names of `guided`'s arguments."""
        encode = self.model.encode_conditions
        if layout.long:
            encode = functools.partial(self.model.encode_long, frames=layout.frames)
        shares, conditional = self._along(attributes, layout)
        if self.distilled is not None:
            weights = torch.tensor([self.distilled.weights(params)] * len(conditional), device=self.device)  # [B, 2]
            found: dict[str, Conditions] = {
                "conditional": {**encode(conditional), "guidance": weights},
                "unconditional": {},
            }
        else:
            items = {**self._branches(attributes, params), "conditional": conditional}
            found = {name: encode(those) for name, those in items.items()}
        return tp.cast(Branches, found if shares is None else {**found, "shares": shares})

    def _along(
        self, attributes: list[ConditioningAttributes], layout: Layout
    ) -> tuple[Tensor | None, list[ConditioningAttributes]]:
        """Divide clips whose level changes among branches of one level each, where the network takes none along a clip.

        Returns:
            The branches' shares of the frames [K, B, T] and their attributes, K batches; None where one will do.
        """
        curves = [curve_of(item) for item in attributes]
        asked = [level for curve in curves if curve is not None for level in curve]
        if not asked or layout.long or "frame" in self.model.backbone.quality:
            return None, attributes
        levels = list(range(math.floor(min(asked)), math.ceil(max(asked)) + 1))
        # A clip of one level is the same in all branches, so that any level divides it.
        held: list[float | list[float] | None] = [float(levels[0]) if curve is None else curve for curve in curves]
        rows = QualityConditioner("frame", device=self.device).tokenize(held)
        along = resample_levels(rows, layout.frames)  # [B, T]
        shares = torch.stack([(1 - (along - level).abs()).clamp(min=0) for level in levels])
        words = [None if self.rule is None else self.rule.level_word(level) for level in levels]
        return shares, [
            at_level(item, level, word if self.text_prefix else None, self._has_prefix(item))
            for level, word in zip(levels, words, strict=True)
            for item in attributes
        ]

    def _branches(
        self, attributes: list[ConditioningAttributes], params: GenerationParams
    ) -> dict[str, list[ConditioningAttributes]]:
        level, word = params.null_level, params.null_prefix if self.text_prefix else None
        null_text = prefixed(params.negative_prompt, word)
        branches = {
            "conditional": attributes,
            "unconditional": [null_attributes(item, level, null_text) for item in attributes],
        }
        if params.guidance.separate:
            branches["text"] = [text_attributes(item, level, self._has_prefix(item), word) for item in attributes]
        return branches

    def _has_prefix(self, item: ConditioningAttributes) -> bool:
        return self.text_prefix and item.text[f"{QUALITY}_prefix"] is not None

    def denoiser(self, branches: Branches, layout: Layout, params: GenerationParams) -> Denoise:
        """Make the guided function that `sample` integrates; a new one for each batch, because APG keeps a state."""
        predict = windowed(self.predict, layout.windows, window_conditions) if layout.long else self.predict
        prepare = self.model.project_context if self.project_context else None
        steps = self.schedule.num_steps
        guidance = params.guidance if self.distilled is None else Guidance(guidance_scale=1.0)
        return guided(predict, guidance=guidance, prepare=prepare, num_steps=steps, **branches)

    def _fit_curve(self, item: ConditioningAttributes, layout: Layout) -> ConditioningAttributes:
        # The network stretches a curve over all frames; where more frames are generated than asked for, hold its end.
        curve = item.text[f"{QUALITY}_frame"]
        if isinstance(curve, list):
            wanted = round(len(curve) * layout.frames / max(1, self.codec.num_frames(layout.samples)))
            item.text[f"{QUALITY}_frame"] = curve + curve[-1:] * (wanted - len(curve))
        return item


def item_seeds(descriptions: tp.Sequence[str | None], seed: int) -> list[int]:
    """Return the seed of each clip's noise: from its description, so that its place in a batch does not matter.

    The second clip of the same description is the one that `seed + 1` would give, and so on.
    """
    seen: Counter[str] = Counter()
    seeds = []
    for description in descriptions:
        text = description or ""
        seeds.append(keyed_seed(seed + seen[text], text))
        seen[text] += 1
    return seeds


def _share(progress: Progress | None, part: int, parts: int) -> Progress | None:
    """Report the progress of one of several equal parts as that of the whole."""
    return None if progress is None else lambda done, total: progress(part * total + done, parts * total)
