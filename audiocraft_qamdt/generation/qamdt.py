"""Generation: the one class behind the solver's `generate` and `evaluate` stages and the Python API."""

from __future__ import annotations

import functools
import typing as tp
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from audiocraft_qamdt.utils import prepared

from .. import builders
from ..checkpoints import loading, store
from ..conditioning.attributes import attributes_for
from ..conditioning.model import QAMDTModel
from ..data.attributes import Curve
from ..latents.chunks import encode_long
from ..latents.codec import LatentCodec
from ..quality.levels import QualityStatistics
from ..utils.reading import JsonObject
from .config import generation_settings
from .distilled import Distilled
from .params import GenerationParams
from .pipeline import Known, Pipeline, PipelineOptions, Progress, item_seeds
from .reranking import Candidates

from audiocraft.data.audio_utils import convert_audio
from audiocraft.modules.conditioners import ConditioningAttributes

if tp.TYPE_CHECKING:
    from typing_extensions import Unpack

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KEPT_MARGIN = 2
"""Latent frames beside a border that are generated again: they depend on the audio beyond it."""
FADE = 0.02
"""Seconds of crossfade, inside the audio that is kept."""


class QAMDT(Pipeline):
    """Text and quality in, audio out: the habits of AudioCraft's `MusicGen` over a `Pipeline`."""

    params = GenerationParams()
    progress_callback: Progress | None = None

    @classmethod
    def get_pretrained(
        cls,
        name: str | None = None,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        compile: str | None = None,
        *,
        adapters: tp.Sequence[str] = (),
    ) -> QAMDT:
        """Load an export folder, a hub id, a checkpoint, an experiment's folder or a Dora signature (`//sig/<sig>`).

        Args:
            name: what to load (see `loading.load`); None = the embedded model.
            device: cpu, cuda or mps; None or "auto" = cuda, else mps, else cpu.
            dtype: precision that the network computes in: float32, bfloat16 or float16; None = float32. Codecs always
                compute in float32.
            compile: mode of torch.compile, such as "reduce-overhead", which records CUDA graphs; the first clip of each
                length then takes longer. None = not compiled.
            adapters: folders of adapters (LoRA) to merge into the weights, each `DIR` or `DIR:weight`.
        """
        return cls.from_trained(loading.load(name or store.EMBEDDED, adapters), device, dtype, compile)

    @classmethod
    def from_trained(
        cls,
        trained: store.TrainedModel,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        compile: str | None = None,
    ) -> QAMDT:
        """Build the model that `get_pretrained` gives from what was read already."""
        precision = _dtype(dtype)
        cfg = trained.cfg
        cfg.device = builders.resolve_device(device or "auto")
        codec = builders.get_codec(cfg.latents, cfg.device)
        codec.statistics.load_state_dict(trained.codec_statistics)
        model = builders.get_model(cfg, codec)
        model.load_state_dict(trained.model)
        autocast: tp.Callable[[], AbstractContextManager] = nullcontext
        if precision != torch.float32:
            autocast = functools.partial(torch.autocast, torch.device(cfg.device).type, precision)
        options: PipelineOptions = {"autocast": autocast, "compile": compile}
        return cls.from_config(cfg, model.eval(), codec, trained.quality_statistics, **options)

    @classmethod
    def from_config(
        cls,
        cfg: DictConfig,
        model: QAMDTModel,
        codec: LatentCodec,
        quality_statistics: JsonObject,
        **kwargs: Unpack[PipelineOptions],
    ) -> QAMDT:
        """Build a model with the settings of a solver's config.

        Args:
            quality_statistics: fields of `QualityStatistics`, empty if unknown.
            kwargs: of the constructor.
        """
        schedule = builders.get_objective(cfg.diffusion).schedule
        statistics = (
            QualityStatistics.from_dict(quality_statistics, "quality statistics") if quality_statistics else None
        )
        params = GenerationParams().with_recipe(generation_settings(cfg))
        inside = builders.get_guidance_ranges(cfg)
        pipeline = cls(
            model,
            codec,
            schedule,
            rule=builders.get_level_rule(cfg.quality, statistics),
            text_prefix=cfg.quality.prefix,
            load_scorer=lambda name, device: builders.get_clap(name, device),
            distilled=None if inside is None else Distilled(*inside, recipe=params),
            **kwargs,
        )
        pipeline.params = params
        return pipeline

    def set_generation_params(self, **settings: object) -> None:
        """Change settings; what is not named stays.

        Args:
            settings: any of `params.KNOBS`: the fields of `GenerationParams` and of its `Guidance`.
        Raises:
            TypeError: a setting that does not exist.
            ValueError: an impossible value.
        """
        self.params = self.params.changed(**settings)

    def set_custom_progress_callback(self, progress_callback: Progress | None = None) -> None:
        """Set a function to call with (steps done, steps in all) when `progress=True`; None = draw a bar."""
        self.progress_callback = progress_callback

    # ---- what can be made

    def generate(
        self,
        descriptions: tp.Sequence[str | None],
        quality: float | Curve | None = None,
        progress: bool = False,
        *,
        pmos: float | Curve | None = None,
    ) -> Tensor:
        """Generate music for each description.

        Args:
            descriptions: what to play; None or "" = unconditional.
            quality: level 1–5, fractions interpolate; or a curve along the clip, [(seconds, level), ...];
                None = that of `set_generation_params`, where None = unknown.
            progress: show it (see `set_custom_progress_callback`).
            pmos: quality as a p-MOS 1–5 or a curve of it instead, made to levels as those of the training data were.
        Returns:
            Audio [B, channels, S] at `sample_rate`, on the CPU.
        """
        with self._report(progress) as report:
            return self.generate_with(descriptions, self._asked(quality, pmos), report)

    def generate_with(
        self, descriptions: tp.Sequence[str | None], params: GenerationParams, progress: Progress | None = None
    ) -> Tensor:
        """Generate as `generate` does, with these settings instead of those of `set_generation_params`."""
        return self.candidates_with(descriptions, params, progress).best

    def candidates_with(
        self, descriptions: tp.Sequence[str | None], params: GenerationParams, progress: Progress | None = None
    ) -> Candidates:
        """Generate as `generate_with` does, and return all candidates with their scores."""
        seeds = item_seeds(descriptions, params.seed)
        return self.candidates_from(self._requests(descriptions, params), seeds, params, progress)

    def generate_unconditional(self, num_samples: int, progress: bool = False) -> Tensor:
        """Generate `num_samples` clips without a description, [B, channels, S]."""
        return self.generate([None] * num_samples, progress=progress)

    def generate_with_quality_curve(
        self, descriptions: tp.Sequence[str | None], curve: Curve, progress: bool = False
    ) -> Tensor:
        """Generate music whose quality changes along the clip, [B, channels, S].

        The text's prefix states the mean; the other granularities follow the curve, those of a clip in each window.

        Args:
            curve: [(seconds, level), ...], linear between the points.
        """
        return self.generate(descriptions, quality=curve, progress=progress)

    def generate_continuation(
        self,
        prompt: Tensor,
        prompt_sample_rate: int,
        descriptions: tp.Sequence[str | None] | None = None,
        progress: bool = False,
        *,
        quality: float | Curve | None = None,
    ) -> Tensor:
        """Go on from audio.

        Args:
            prompt: [B, channels, S], or [channels, S] for one clip.
            prompt_sample_rate: its sample rate.
            descriptions: as in `generate`, one for each prompt; None = unconditional.
        Returns:
            Audio [B, channels, S] of `duration` seconds, which begins with the prompt.
        Raises:
            ValueError: a prompt that is not shorter than `duration`.
        """
        params = self._asked(quality)
        audio = self._audio(prompt, prompt_sample_rate)
        start, samples = audio.shape[-1], self.layout(params).samples
        if start >= samples:
            raise ValueError(
                f"the prompt lasts {start / self.sample_rate:.2f} s, duration={params.duration}: set a longer one"
            )
        audio = F.pad(audio, (0, samples - start))
        return self._fill(audio, start, samples, descriptions, params, progress)

    def inpaint(
        self,
        audio: Tensor,
        start: float,
        end: float,
        descriptions: tp.Sequence[str | None] | None = None,
        progress: bool = False,
        *,
        sample_rate: int | None = None,
        quality: float | Curve | None = None,
    ) -> Tensor:
        """Inpaint a part of audio.

        Args:
            audio: [B, channels, S], or [channels, S] for one clip.
            start, end: the part, in seconds.
            descriptions: as in `generate`, one for each clip; None = unconditional.
            sample_rate: of `audio`; None = the model's.
        Returns:
            Audio [B, channels, S], equal to what was given but for the part and a crossfade of 20 ms beside it.
        Raises:
            ValueError: a part that is not inside the audio.
        """
        audio = self._audio(audio, sample_rate or self.sample_rate)
        first, last = round(start * self.sample_rate), round(end * self.sample_rate)
        if not 0 <= first < last <= audio.shape[-1]:
            seconds = audio.shape[-1] / self.sample_rate
            raise ValueError(f"start={start}, end={end}: give 0 <= start < end <= {seconds:.2f} s, the audio's length")
        return self._fill(audio, first, last, descriptions, self._asked(quality), progress)

    def request(
        self,
        description: str | None,
        quality: float | Curve | None,
        pmos: float | Curve | None = None,
        duration: float | None = None,
    ) -> ConditioningAttributes:
        """Return the attributes, in levels, of one clip (see `conditioning.attributes.attributes_for`)."""
        item = attributes_for(
            description,
            quality,
            pmos,
            rule=self.rule,
            prefix=self.text_prefix,
            duration=duration or self.params.duration,
        )
        item.text = {**dict.fromkeys(self.model.condition_provider.text_conditions), **item.text}
        return item

    # ---- how

    @contextmanager
    def _report(self, progress: bool) -> tp.Iterator[Progress | None]:
        """Choose how progress is reported: not at all, by the callback that was set, or by a bar."""
        if not progress or self.progress_callback is not None:
            yield self.progress_callback if progress else None
            return
        with tqdm(unit="step") as bar:
            yield functools.partial(_advance, bar)

    def _asked(self, quality: float | Curve | None, pmos: float | Curve | None = None) -> GenerationParams:
        """Return the settings, with this quality where one is given."""
        if quality is None and pmos is None:
            return self.params
        return self.params.changed(quality=quality, pmos=pmos)

    def _requests(
        self, descriptions: tp.Sequence[str | None], params: GenerationParams
    ) -> list[ConditioningAttributes]:
        if isinstance(descriptions, str) or not descriptions:
            raise ValueError(f"descriptions={descriptions!r}: give a list of texts, with at least one")
        return [self.request(text, params.quality, params.pmos, params.duration) for text in descriptions]

    def _fill(
        self,
        audio: Tensor,
        start: int,
        stop: int,
        descriptions: tp.Sequence[str | None] | None,
        params: GenerationParams,
        progress: bool,
    ) -> Tensor:
        """Inpaint audio [B, channels, S] from sample `start` to `stop`."""
        descriptions = [None] * len(audio) if descriptions is None else descriptions
        if len(descriptions) != len(audio):
            raise ValueError(f"{len(descriptions)} descriptions for {len(audio)} clips of audio: give one for each")
        params = replace(params, duration=audio.shape[-1] / self.sample_rate)
        attributes, seeds = self._requests(descriptions, params), item_seeds(descriptions, params.seed)
        with self._report(progress) as report:
            return self.fill_from(attributes, seeds, params, audio, start, stop, report)

    def fill_from(
        self,
        attributes: list[ConditioningAttributes],
        seeds: list[int],
        params: GenerationParams,
        audio: Tensor,
        start: int,
        stop: int,
        progress: Progress | None = None,
    ) -> Tensor:
        """Inpaint the samples of `audio` [B, channels, S] from `start` to `stop`; see `generate_from`."""
        params = replace(params, duration=audio.shape[-1] / self.sample_rate)
        made = self.generate_from(attributes, seeds, params, progress, self._known(audio, start, stop, params))
        return blend(audio, made, start, stop, round(FADE * self.sample_rate))

    def _known(self, audio: Tensor, start: int, stop: int, params: GenerationParams) -> Known:
        frames = self.layout(params).frames
        latents = encode_long(self.codec, audio, **self.chunks)
        latents = F.pad(latents, (0, 0, 0, frames - latents.shape[2]))
        index = torch.arange(frames)
        hop = self.codec.hop_length
        before = (index + 1 + KEPT_MARGIN) * hop <= start
        after = ((index - KEPT_MARGIN) * hop >= stop) & ((index + 1) * hop <= audio.shape[-1])
        return Known(latents, before | after)

    def _audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        audio = torch.as_tensor(audio)  # NumPy arrays too
        audio = audio[None] if audio.dim() == 2 else audio
        if audio.dim() != 3 or 0 in audio.shape or not audio.isfinite().all():
            raise ValueError(f"audio of shape {list(audio.shape)}: give finite samples [B, channels, S]")
        return convert_audio(audio.float().cpu(), sample_rate, self.sample_rate, self.codec.channels)


def blend(audio: Tensor, made: Tensor, start: int, stop: int, fade: int) -> Tensor:
    """Replace the samples of `audio` [B, channels, S] from `start` to `stop` by `made`, crossfaded in what is kept.

    Args:
        fade: samples of linear crossfade before `start` and after `stop`.
    """
    index = torch.arange(audio.shape[-1])
    distance = torch.maximum(start - index, index - (stop - 1)).clamp(min=0)  # 0 in the part
    share = (1 - distance / (fade + 1)).clamp(min=0)
    return torch.where(share == 0, audio, audio + share * (made - audio))


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype or torch.float32
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown: choose one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _advance(bar: tqdm, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)
