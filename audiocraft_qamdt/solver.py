"""The solver: AudioCraft's stages around the masked diffusion transformer."""

from __future__ import annotations

import typing as tp
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from dora import get_xp
from omegaconf import DictConfig
from torch import Tensor

from audiocraft_qamdt.utils import prepared

from . import builders
from .checkpoints import adapters, store
from .conditioning.attributes import drop_conditions, write_prefix
from .data.cache import LatentBatchLoader, LatentBatchWriter, to_record
from .data.dataset import QualityMusicInfo
from .generation.config import generation_settings
from .generation.params import GenerationParams
from .generation.reranking import load_scorers
from .latents.compression import LatentCompressionModel
from .metrics import table
from .metrics.best import BestMetric
from .metrics.losses import BY_LEVEL, QUARTERS, LossParts
from .models.compiling import compile_blocks, compiled
from .models.layers import Block
from .models.masking import TokenMask, draw_mask
from .training import base_model, setup
from .training.evaluating import Batch, EvaluatingSolver
from .utils.randomness import keyed_generator, seed_libraries

import flashy
from audiocraft.modules.conditioners import ConditioningAttributes, ConditioningProvider
from audiocraft.solvers import builders as audiocraft_builders
from audiocraft.solvers.compression import CompressionSolver
from audiocraft.solvers.musicgen import MusicGenSolver
from audiocraft.utils.utils import get_dataset_from_loader

if tp.TYPE_CHECKING:
    from torch.distributed.fsdp import FullyShardedDataParallel

_VALIDATION = "validation"
"""Key of the noise that every run validates with: losses compare between epochs and runs."""


@dataclass
class Draws:
    """Random draws of one step: noise [B, C, T, F], timesteps [B], the masked tokens (None = none).

    And which item of the batch each timestep is for, [B] (None = each has its own).
    """

    noise: Tensor
    timesteps: Tensor
    mask: TokenMask | None
    items: Tensor | None = None


class QAMDTSolver(EvaluatingSolver):
    """Trains, validates, evaluates and generates with QA-MDT (arXiv 2405.15863).

    From AudioCraft's `MusicGenSolver` come the loop, loaders, sample and metric stages, checkpoints and caches.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.base = self._read_base(cfg) if self._starts_from_base(cfg) else None
        # Not MusicGenSolver's own constructor: it reads language-model sampling settings and AudioCraft's token cache.
        super(MusicGenSolver, self).__init__(cfg)
        # AudioCraft's own rule, the validation loss; None = `update_best_state_from_stage` decides
        self._best_metric_name: str | None = "loss" if self.best_metric is None else None
        # What AudioCraft writes beside each sample; `generate.*` is what generation reads.
        self.generation_params = {key: cfg.generate[key] for key in ("steps", "sampler", "eta", "seed", "quality")}
        self._use_statistics()
        self._cached_batch_writer = None
        self._cached_batch_loader = None
        if cfg.cache.path and "train" in self.dataloaders:
            self._open_cache(cfg.cache)

    # ---- set-up

    def build_dataloaders(self) -> None:
        self.dataloaders = setup.get_audio_datasets(self.cfg)
        statistics = builders.get_quality_statistics(self.cfg)
        self.quality_statistics = statistics.to_dict() if statistics else {}

    def build_model(self) -> None:
        self.codec = builders.get_codec(self.cfg.latents, self.device)
        builders.check_codec(self.cfg, self.codec)
        self.compression_model = LatentCompressionModel(self.codec)
        self.objective = builders.get_objective(self.cfg.diffusion).to(self.device)
        self.loss_parts = LossParts(self.objective.schedule.num_steps, self.device)
        self.lowest_timesteps = setup.get_lowest_timesteps(self.cfg, self.objective.schedule)
        self.model = builders.get_model(self.cfg, self.codec)
        self.trained: torch.nn.Module = self.model if self.base is None else self._start_from(self.base)
        if self.cfg.generate.candidates > 1 and (self.cfg.generate.clap or self.cfg.generate.rerank):
            params = GenerationParams().with_recipe(generation_settings(self.cfg))
            load_scorers(
                params, str(self.device), builders.get_clap
            )  # fail now if weights are missing, not epochs later
        self.best_metric: BestMetric | None = None
        if self.cfg.execute_only is None and (self.cfg.evaluate.every or self.cfg.checkpoint.best_metric):
            metrics = self._build_metrics()  # fail now if weights are missing
            if self.cfg.checkpoint.best_metric:
                base_on = bool(self.cfg.evaluate.metrics.base)
                self.best_metric = BestMetric(self.cfg.checkpoint.best_metric, metrics, base_on)
        self.initialize_optimization()
        self.register_stateful("codec.statistics", "quality_statistics")
        self.register_stateful("codec.probe", write_only=True)
        # Another run's checkpoint brings the statistics that its weights go with; levels are those of our own data set
        # where it has any.
        self._continue_best_source_keys.append("codec.statistics")
        if not self.quality_statistics:
            self._continue_best_source_keys.append("quality_statistics")
        if self.lowest_timesteps is not None:
            self.register_stateful("lowest_timesteps")

    @staticmethod
    def _read_base(cfg: DictConfig) -> store.TrainedModel:
        """Read the model that an adapter is for, or that a student learns from, and give the config its shape."""
        if cfg.fsdp.use:
            recipe = base_model.recipe_from_base(cfg)
            raise ValueError(f"fsdp.use=true does not go with {recipe}: the frozen weights are not sharded")
        xp = get_xp()
        return base_model.adopt_base(cfg, xp.cfg, xp.argv)

    def _start_from(self, base: store.TrainedModel) -> torch.nn.Module:
        """Give the network the weights of the model that it starts from; return what is trained."""
        self._check_fits(self.cfg.continue_from, base.model, base.cfg)
        self.model.load_state_dict(base.model)
        self.codec.statistics.load_state_dict(base.codec_statistics)
        self.adapter_base = adapters.base_of(base.model)
        self.register_stateful(store.ADAPTER_BASE, write_only=True)
        trained, self.adapter_config = base_model.get_lora(self.model, self.cfg)
        self.base = None  # its weights are in the model now
        return trained

    def initialize_optimization(self) -> None:
        """Set up FSDP, EMA, optimiser, schedule and gradient scaler, as `MusicGenSolver.build_model` does."""
        if self.cfg.fsdp.use:
            if self.cfg.autocast:
                raise ValueError("fsdp.use=true has its own precision (fsdp.param_dtype): set autocast=false")
            if self.cfg.compile.generate:
                raise ValueError(
                    "fsdp.use=true compiles each block, for all stages: set compile.train, and compile.generate to null"
                )
            if self.cfg.compile.train:
                compile_blocks(self.model, Block, self.cfg.compile.train)
            self.model = self.trained = self.wrap_with_fsdp(self.model)  # type: ignore[assignment]
        self.predict = compiled(self.model, None if self.cfg.fsdp.use else self.cfg.compile.train)
        # `model` is what trains: of an adapter alone, the rest is in `continue_from`.
        self._ema_sources["model"] = self.trained
        self.optimizer = setup.get_optimizer(self.trained, self.cfg.optim)
        schedule = self.cfg.schedule
        warmup = schedule[schedule.lr_scheduler].get("warmup") if schedule.lr_scheduler else None
        # AudioCraft's cosine and polynomial schedules divide by the number of updates after the warm-up.
        total_updates = max(self.total_updates, (warmup or 0) + 1)
        self.lr_scheduler = audiocraft_builders.get_lr_scheduler(self.optimizer, schedule, total_updates)
        self.stateful.register("model", self.trained)
        self.register_stateful("optimizer", "lr_scheduler")
        self.register_best_state("model")
        self.autocast_dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}[self.cfg.autocast_dtype]
        precision = self.cfg.fsdp.param_dtype if self.cfg.fsdp.use else self.cfg.autocast and self.cfg.autocast_dtype
        self.scaler: torch.amp.GradScaler | None = None  # type: ignore[assignment]
        if precision == "float16":
            self.scaler = self._make_scaler()
            self.register_stateful("scaler")

    def _make_scaler(self) -> torch.amp.GradScaler:
        device = torch.device(self.device).type
        if not self.cfg.fsdp.use:
            return torch.amp.GradScaler(device)
        from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler  # half a second to import

        return ShardedGradScaler(device)  # gradients are sharded

    def wrap_with_fsdp(self, model: torch.nn.Module, *args: object, **kwargs: object) -> torch.nn.Module:
        if torch.device(self.device).type != "cuda":
            raise ValueError(f"fsdp.use=true needs GPUs, and this is device={self.device}: leave it false")
        return super().wrap_with_fsdp(model, *args, block_classes={Block, ConditioningProvider}, **kwargs)

    def _open_cache(self, cfg: DictConfig) -> None:
        if cfg.write:
            shard = cfg.write_shard, cfg.write_num_shards
            self._cached_batch_writer = LatentBatchWriter(Path(cfg.path), shard)
            if shard[1] > 1:  # epochs of other shards have no loss to compare
                self._best_metric_name = None
            return
        self._cached_batch_loader = LatentBatchLoader(
            Path(cfg.path),
            self.cfg.dataset.batch_size,
            max(1, self.cfg.dataset.num_workers),  # threads: AudioCraft's loader reads with no fewer than one
            min_length=self.cfg.optim.updates_per_epoch or 1,
            tracks=self._kept_tracks(),
        )
        self.dataloaders["original_train"] = self.dataloaders["train"]
        self.dataloaders["train"] = self._cached_batch_loader  # type: ignore[assignment]

    def _kept_tracks(self) -> set[str] | None:
        """Return the paths that filtering left over; None = nothing is filtered."""
        train = self.cfg.dataset.train
        if train.get("share") is None and train.get("filter_below") is None:
            return None
        return {meta.path for meta in get_dataset_from_loader(self.dataloaders["train"]).meta}

    def show(self) -> None:
        """Log codec and network."""
        self.logger.info(
            "Codec: %s, latents [%d, %d, %d] per segment, %.2f frames per second",
            self.cfg.latents.codec,
            self.codec.latent_channels,
            builders.latent_frames(self.cfg, self.codec),
            self.codec.latent_bins,
            self.codec.frame_rate,
        )
        self.log_model_summary(self.model)

    def get_formatter(self, stage_name: str) -> flashy.Formatter:
        return flashy.Formatter(
            {"lr": ".2E", "loss": ".4f", "grad_norm": ".3E", "rtf": ".3f", "padded": ".1%", "unscored": ".1%"},
            exclude_keys=[*QUARTERS, *BY_LEVEL],  # for the history and the report
        )

    # ---- training and validation

    def run_stage(self, stage_name: str, method: tp.Callable, *args: object, **kwargs: object) -> dict:
        seed_libraries(self.cfg.seed, flashy.distrib.rank(), self.epoch, stage_name)
        return super().run_stage(stage_name, method, *args, **kwargs)

    def common_train_valid(self, dataset_split: str, **kwargs: object) -> dict:
        """Train or validate as AudioCraft does, and add the loss by timestep and by level."""
        self.loss_parts = LossParts(self.objective.schedule.num_steps, self.device)
        metrics = super().common_train_valid(dataset_split, **kwargs)
        return (
            metrics | self.loss_parts.means(table.sum_over_ranks(self.device))
            if dataset_split != "evaluate"
            else metrics
        )

    def update_best_state_from_stage(self, stage_name: str = "valid") -> None:
        """Keep the weights if they are the best by `checkpoint.best_metric`, which is measured of them first."""
        if self.best_metric is not None:
            if self.should_run_stage("evaluate"):
                self.run_stage("evaluate", self.evaluate)
            self._new_best_state = self.best_metric.improves(self.history, self._pending_metrics)
            if not self._new_best_state:
                return
        super().update_best_state_from_stage(stage_name)

    def should_run_stage(self, stage_name: str) -> bool:
        return stage_name not in self._pending_metrics and super().should_run_stage(stage_name)

    def run_step(self, idx: int, batch: Batch, metrics: dict) -> dict:  # type: ignore[override]
        """Run one training or validation step."""
        latents, infos = self._latents_and_infos(batch)
        losses, timesteps, trained = self._losses(idx, latents, infos)
        self.loss_parts.add(losses, timesteps, self._levels(trained))
        loss = losses.mean()
        self.deadlock_detect.update("loss")
        if self.is_training:
            self._optimizer_step(loss, metrics)
        metrics["loss"] = loss.detach()
        metrics["padded"] = sum(info.n_frames < info.total_frames for info in infos) / len(infos)
        metrics["unscored"] = sum(info.pmos is None for info in infos) / len(infos)
        return metrics

    def _losses(
        self, idx: int, latents: Tensor, infos: list[QualityMusicInfo]
    ) -> tuple[Tensor, Tensor, list[QualityMusicInfo]]:
        """Return the losses [B], and the timestep [B] and item that each is of."""
        draws = self._draw(idx, latents, infos) if self.is_training else self._draw_fixed(idx, latents)
        if draws.items is not None:
            latents, infos = latents[draws.items], [infos[item] for item in draws.items.tolist()]
        with self.autocast:
            conditions = self.model.encode_conditions(self._attributes(idx, infos))
        noisy = self.objective.add_noise(latents, draws.noise, draws.timesteps)
        with self.autocast:
            prediction = self.predict(noisy, draws.timesteps, mask=draws.mask, **conditions)
        return self.objective.loss(prediction, latents, draws.noise, draws.timesteps), draws.timesteps, infos

    @torch.no_grad()
    def _latents_and_infos(self, batch: Batch) -> tuple[Tensor, list[QualityMusicInfo]]:
        if self._cached_batch_loader is not None and self.is_training:
            raw, infos = batch
            return self.codec.statistics.normalize(raw.to(self.device).float()), infos
        audio, infos = batch
        latents = self.codec.encode(audio.to(self.device))
        if self._cached_batch_writer is not None and self.is_training:
            raw = self.codec.statistics.denormalize(latents)
            self._cached_batch_writer.save([to_record(info, item) for info, item in zip(infos, raw, strict=True)])
        return latents, infos

    def _attributes(self, idx: int, infos: list[QualityMusicInfo]) -> list[ConditioningAttributes]:
        """Return what conditions the items, in levels; in training some of it is forgotten."""
        attributes = [replace(info, rule=self.qamdt.rule).to_condition_attributes() for info in infos]
        if self.is_training:
            generator = keyed_generator(*self._step_key(idx), "dropout")
            attributes = drop_conditions(attributes, dict(self.cfg.condition_dropout), generator)
        return [write_prefix(item) for item in attributes] if self.cfg.quality.prefix else attributes

    def _step_key(self, idx: int) -> tuple[int, int, int]:
        step = (self.epoch - 1) * self.train_updates_per_epoch + idx
        return self.cfg.seed, flashy.distrib.rank(), step

    def _draw(self, idx: int, latents: Tensor, infos: list[QualityMusicInfo]) -> Draws:
        generator = keyed_generator(*self._step_key(idx), "diffusion", device=self.device)
        timesteps = self.objective.draw_timesteps(len(latents), generator, latents[0, 0].numel())
        timesteps, items = self._allowed(idx, timesteps, latents[0, 0].numel(), infos)
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        grid = self.model.backbone.grid(latents.shape[2])
        mask = None
        if grid is not None:  # a U-Net has no tokens to hide
            low, high = self.cfg.masking.ratio, self.cfg.masking.ratio + self.cfg.masking.spread
            mask = draw_mask(self.cfg.masking.kind, len(latents), grid, (low, high), generator, self.device)
        return Draws(noise, timesteps, mask, items)

    def _allowed(
        self, idx: int, timesteps: Tensor, positions: int, infos: list[QualityMusicInfo]
    ) -> tuple[Tensor, Tensor | None]:
        """Give timesteps below the noise range of an item's level to other items; draw those again that none takes."""
        if self.lowest_timesteps is None:
            return timesteps, None
        lowest = torch.tensor([self.lowest_timesteps[level] for level in self._levels(infos)], device=self.device)
        # A generator of its own: noise and masks stay those of the same run without a noise range.
        generator = keyed_generator(*self._step_key(idx), "noise range", device=self.device)
        items = self.objective.allowed_items(timesteps, lowest, generator)
        return self.objective.raise_timesteps(timesteps, lowest[items], generator, positions), items

    def _levels(self, infos: list[QualityMusicInfo]) -> list[int]:
        """Return the quality level of each item; 0 = unknown."""
        rule = self.qamdt.rule
        return [0 if info.pmos is None or rule is None else rule.level(info.pmos) for info in infos]

    def _draw_fixed(self, idx: int, latents: Tensor) -> Draws:
        first = self._first_item(idx)
        return Draws(self._fixed_noise(first, latents), self.objective.fixed_timesteps(len(latents), first), mask=None)

    def _first_item(self, idx: int) -> int:
        """Return the number, in the whole set, of a validation batch's first item."""
        return (idx * flashy.distrib.world_size() + flashy.distrib.rank()) * self.cfg.dataset.batch_size

    def _fixed_noise(self, first: int, latents: Tensor) -> Tensor:
        return torch.randn(latents.shape, generator=keyed_generator(_VALIDATION, first)).to(self.device)

    def _optimizer_step(self, loss: Tensor, metrics: dict) -> None:
        if not loss.isfinite():
            raise RuntimeError(
                f"loss is {loss.item()} at epoch {self.epoch}: the model diverged; lower optim.lr, or set "
                "autocast_dtype=bfloat16 if it is float16"
            )
        metrics["lr"] = self.optimizer.param_groups[0]["lr"]
        self._backward(loss if self.scaler is None else self.scaler.scale(loss))
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.cfg.optim.max_norm:
            metrics["grad_norm"] = self._clip_gradients(self.cfg.optim.max_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            metrics["grad_scale"] = self.scaler.get_scale()
        if self.lr_scheduler:
            self.lr_scheduler.step()
        self.optimizer.zero_grad()
        self.deadlock_detect.update("optim")

    def _clip_gradients(self, max_norm: float) -> Tensor:
        if self.cfg.fsdp.use:
            sharded = tp.cast("FullyShardedDataParallel", self.model)
            return sharded.clip_grad_norm_(max_norm)  # over the shards of all ranks
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)

    def _backward(self, loss: Tensor) -> None:
        if self.cfg.fsdp.use:
            loss.backward()
            flashy.distrib.average_tensors(self.model.buffers())
        elif self.cfg.optim.eager_sync:
            with flashy.distrib.eager_sync_model(self.model):
                loss.backward()
        else:
            loss.backward()
            flashy.distrib.sync_model(self.model)


class CodecSolver(CompressionSolver):
    """AudioCraft's compression solver, for the codecs that it learns from us.

    Its stages start from a seed of their own, so that a resumed training equals the one that never stopped.
    """

    def run_stage(self, stage_name: str, method: tp.Callable, *args: object, **kwargs: object) -> dict:
        seed_libraries(self.cfg.seed, flashy.distrib.rank(), self.epoch, stage_name)
        return super().run_stage(stage_name, method, *args, **kwargs)
