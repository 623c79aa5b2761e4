"""The solver's stages that generate: samples for listening, and clips to measure."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from audiocraft_qamdt.utils import prepared

from ..conditioning.attributes import write_prefix
from ..data.dataset import QualityMusicInfo
from ..data.manifest import find_manifest
from ..metrics import base, stage, table
from ..utils.randomness import keyed_seed
from .restoring import RestoringSolver

import flashy
from audiocraft.modules.conditioners import ConditioningAttributes
from audiocraft.utils.utils import dict_from_config

Batch = tuple[Tensor, list[QualityMusicInfo]]


class EvaluatingSolver(RestoringSolver):
    """Generates for the conditions of a batch, and measures what it generated."""

    def run_generate_step(  # type: ignore[override]
        self,
        batch: Batch,
        gen_duration: float,
        prompt_duration: float | None = None,
        remove_prompt: bool = False,
        remove_text_conditioning: bool = False,
        **generation_params: object,
    ) -> dict:
        """Generate for the conditions of a batch: the step that AudioCraft's generate and evaluate stages are made of.

        Args:
            batch: reference audio [B, channels, S] and infos.
            gen_duration: seconds.
            prompt_duration: seconds of the reference audio to continue; None = generate from the conditions alone.
            remove_prompt: leave those seconds out of what is returned.
            remove_text_conditioning: generate without the description.
        Returns:
            AudioCraft's dict: `gen_audio` [B, channels, S], `ref_audio`, `rtf` (seconds of work per second of audio),
            and Nones where this solver has nothing.
        """
        begin = time.time()
        audio, infos = batch
        attributes = [self._request(info, remove_text_conditioning) for info in infos]
        seeds = [keyed_seed(self.cfg.generate.seed, info.meta.path, str(info.seek_time)) for info in infos]
        params = replace(self.qamdt.params, duration=gen_duration)
        prompt = None
        if prompt_duration is not None:
            # AudioCraft hashes its memory, which is not in one piece where a batch or a second channel is cut.
            prompt = audio[..., : round(prompt_duration * self.cfg.sample_rate)].cpu().contiguous()
        if prompt is None:
            gen_audio = self.qamdt.generate_from(attributes, seeds, params)
        else:
            start, samples = prompt.shape[-1], round(gen_duration * self.cfg.sample_rate)
            silence = torch.nn.functional.pad(prompt, (0, samples - start))
            gen_audio = self.qamdt.fill_from(attributes, seeds, params, silence, start, samples)
            gen_audio = gen_audio[..., start:] if remove_prompt else gen_audio
        return {
            "rtf": (time.time() - begin) / gen_duration / len(infos),
            "ref_audio": audio,
            "gen_audio": gen_audio,
            "gen_tokens": None,
            "prompt_audio": prompt,
            "prompt_tokens": None,
        }

    def evaluate_audio_generation(self) -> dict:
        """Generate once for the evaluation set, and measure all that `evaluate.metrics` switches on (`metrics.table`).

        Numbers with what they depend on, and single clips' scores, go to `evaluation/<epoch>.json` too.
        """
        metrics = self._build_metrics()
        if not metrics:
            return {}
        evaluation, loader = table.Evaluation(metrics), self.dataloaders["evaluate"]
        for batch in self.log_progress("evaluate_generation", loader, total=len(loader), updates=self.log_updates):
            evaluation.update(self._generate_to_evaluate(batch))
        numbers = evaluation.numbers(
            table.sum_over_ranks(self.device),
            reference=find_manifest(self.cfg.datasource.evaluate).parent.name,
            best_of=self.cfg.generate.candidates,
            seed=self.cfg.generate.seed,
        )
        scores = table.gather_scores(evaluation.scores())
        if flashy.distrib.is_rank_zero():
            stage.write_evaluation(self.folder, self.epoch, numbers, scores)
        return stage.logged(numbers)

    def _build_metrics(self) -> list[base.Metric]:
        switches, options = dict_from_config(self.cfg.evaluate.metrics), dict_from_config(self.cfg.metrics)
        level, protocol = stage.Level(self.cfg.generate.audio), self.cfg.evaluate.protocol
        return stage.stage_metrics(switches, options, str(self.device), self.compression_model, level, protocol)

    def _generate_to_evaluate(self, batch: Batch) -> base.Batch:
        audio, infos = batch
        duration = self.cfg.evaluate.fixed_generation_duration or audio.shape[-1] / self.cfg.sample_rate
        outputs = self.run_generate_step(batch, gen_duration=duration)
        seconds = outputs["rtf"] * duration * len(infos)
        level = stage.Level(self.cfg.generate.audio)
        return stage.generated_batch(outputs["gen_audio"], audio, infos, seconds, level)

    def _request(self, info: QualityMusicInfo, without_text: bool) -> ConditioningAttributes:
        description = None if without_text else info.description
        params = self.qamdt.params
        if params.quality is not None or params.pmos is not None:
            return self.qamdt.request(description, params.quality, params.pmos)
        attributes = replace(info, description=description, rule=self.qamdt.rule).to_condition_attributes()
        return write_prefix(attributes) if self.cfg.quality.prefix else attributes
