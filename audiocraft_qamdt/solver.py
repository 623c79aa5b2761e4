"""The solver: AudioCraft's stages around the masked diffusion transformer."""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
import typing as tp
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from dora import get_xp
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from audiocraft_qamdt.utils import prepared

from . import builders
from .checkpoints import adapters, hub, loading, store
from .conditioning.attributes import drop_conditions, write_prefix
from .conditioning.model import QAMDTModel
from .data import cache
from .data.cache import LatentBatchLoader, LatentBatchWriter, to_record
from .data.dataset import QualityMusicInfo
from .data.manifest import find_manifest
from .generation.config import generation_settings
from .generation.params import GenerationParams
from .generation.qamdt import QAMDT
from .generation.reranking import load_scorers
from .latents.compression import LatentCompressionModel
from .metrics import base, stage, table
from .metrics.best import BestMetric
from .metrics.losses import BY_LEVEL, QUARTERS, LossParts
from .models.compiling import compile_blocks, compiled
from .models.layers import Block
from .models.masking import TokenMask, draw_mask
from .utils.files import replacing_durably
from .utils.patching import replaced
from .utils.randomness import keyed_generator, keyed_seed, seed_libraries
from .utils.reading import JsonObject

import flashy
from audiocraft.modules.conditioners import ConditioningAttributes, ConditioningProvider
from audiocraft.solvers import builders as audiocraft_builders
from audiocraft.solvers.compression import CompressionSolver
from audiocraft.solvers.musicgen import MusicGenSolver
from audiocraft.utils import checkpoint
from audiocraft.utils.utils import dict_from_config, get_dataset_from_loader

Batch = tuple[Tensor, list[QualityMusicInfo]]

LITTLE_ROOM = 64  # MiB; with less, a checkpoint fails for want of room whatever the error says
_VALIDATION = "validation"
"""Key of the noise that every run validates with: losses compare between epochs and runs."""


@dataclass
class Draws:
    """Random draws of one step: noise [B, C, T, F], timesteps [B], and the masked tokens (None = none)."""

    noise: Tensor
    timesteps: Tensor
    mask: TokenMask | None


class QAMDTSolver(MusicGenSolver):
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
        self._cached_batch_writer: LatentBatchWriter | None = None
        self._cached_batch_loader: LatentBatchLoader | None = None
        if cfg.cache.path and "train" in self.dataloaders:
            self._open_cache(cfg.cache)

    # ---- set-up

    def build_dataloaders(self) -> None:
        self.dataloaders = builders.get_audio_datasets(self.cfg)
        statistics = builders.get_quality_statistics(self.cfg)
        self.quality_statistics: JsonObject = statistics.to_dict() if statistics else {}

    def build_model(self) -> None:
        self.codec = builders.get_codec(self.cfg.latents, self.device)
        builders.check_codec(self.cfg, self.codec)
        self.compression_model = LatentCompressionModel(self.codec)
        self.objective = builders.get_objective(self.cfg.diffusion).to(self.device)
        self.loss_parts = LossParts(self.objective.schedule.num_steps, self.device)
        self.lowest_timesteps = builders.get_lowest_timesteps(self.cfg, self.objective.schedule)
        self.model: QAMDTModel = builders.get_model(self.cfg, self.codec)  # type: ignore[assignment]
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
    def _starts_from_base(cfg: DictConfig) -> bool:
        return cfg.lora.use or cfg.distill.use

    @staticmethod
    def _read_base(cfg: DictConfig) -> store.TrainedModel:
        """Read the model that an adapter is for, or that a student learns from, and give the config its shape."""
        if cfg.fsdp.use:
            recipe = builders.recipe_from_base(cfg)
            raise ValueError(f"fsdp.use=true does not go with {recipe}: the frozen weights are not sharded")
        xp = get_xp()
        return builders.adopt_base(cfg, xp.cfg, xp.argv)

    def _start_from(self, base: store.TrainedModel) -> torch.nn.Module:
        """Give the network the weights of the model that it starts from; return what is trained."""
        self._check_fits(self.cfg.continue_from, base.model, base.cfg)
        self.model.load_state_dict(base.model)
        self.codec.statistics.load_state_dict(base.codec_statistics)
        self.adapter_base = adapters.base_of(base.model)
        self.register_stateful(store.ADAPTER_BASE, write_only=True)
        trained, self.adapter_config = builders.get_lora(self.model, self.cfg)
        self.base = None  # its weights are in the model now
        return trained

    def initialize_optimization(self) -> None:
        """FSDP, EMA, optimiser, schedule and gradient scaler, as `MusicGenSolver.build_model` sets them up."""
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
        self.optimizer = builders.get_optimizer(self.trained, self.cfg.optim)
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

    def wrap_with_fsdp(self, model: torch.nn.Module, *args: tp.Any, **kwargs: tp.Any) -> torch.nn.Module:
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

    # ---- restoring and saving

    def run(self) -> None:
        """Train to the last epoch, and complete a history that a killed run left without its last epoch."""
        with self.checked_cache():
            super().run()
            self._check_written()
        if flashy.distrib.is_rank_zero():
            self.xp.link.update_history(self.history)

    def run_epoch(self) -> None:
        """Train one epoch, after a look whether the latents of those before are still there."""
        self._check_written()
        super().run_epoch()

    def _check_written(self) -> None:
        if self._cached_batch_writer is not None:
            self._cached_batch_writer.check_written(self.epoch)

    @contextlib.contextmanager
    def checked_cache(self) -> tp.Iterator[None]:
        """Refuse latents in `cache.path` of another codec, data or settings; as a writer, hold its share of them."""
        if not self.cfg.cache.path:
            yield
            return
        folder, description = Path(self.cfg.cache.path), self._describe_latents()
        with contextlib.ExitStack() as stack:
            if self._cached_batch_writer is not None and flashy.distrib.is_rank_zero():
                stack.enter_context(self._cached_batch_writer.open(description))
            self._check_cache(folder, description)
            yield

    def _check_cache(self, folder: Path, description: cache.Description) -> None:
        known = cache.read_description(folder)
        if known is None:
            if self._cached_batch_loader is not None and folder.is_dir():
                self.logger.warning(
                    "cache.path=%s has no %s: that its latents are of this codec and these data is not checked",
                    folder,
                    cache.DESCRIPTION,
                )
            return
        codec = OmegaConf.create({"latents": known.codec})
        if changed := store.other_codec(torch.tensor(known.probe), codec, self.codec.probe, self.cfg):
            raise ValueError(
                f"cache.path={folder}: its latents are of another codec than latents.{self.cfg.latents.codec} gives "
                f"here: {changed}. Name that codec, or another cache.path"
            )
        cache.check_same(folder, known.settings, description.settings)

    def _describe_latents(self) -> cache.Description:
        train = get_dataset_from_loader(self.dataloaders.get("original_train", self.dataloaders["train"]))
        codec, section = self.cfg.latents.codec, self.cfg.latents.get(self.cfg.latents.codec)
        return cache.Description(
            settings={
                **{key: OmegaConf.select(self.cfg, key) for key in cache.SETTINGS},
                **cache.data_settings(self.cfg.datasource.train, [meta.path for meta in train.meta]),
            },
            written_with={
                "dataset.batch_size": self.cfg.dataset.batch_size * flashy.distrib.world_size(),
                "dataset.train.shuffle_seed": self.cfg.dataset.train.shuffle_seed,
                cache.UPDATES: self.train_updates_per_epoch,
            },
            codec={"codec": codec, codec: dict_from_config(section) if section else {}},
            probe=cache.short_probe(self.codec.probe),
        )

    def restore(self, *args: tp.Any, **kwargs: tp.Any) -> bool:
        found, lowest = dict(self.quality_statistics), self.lowest_timesteps and list(self.lowest_timesteps)
        restored = super().restore(*args, **kwargs)
        self._settle_statistics(found)
        self._check_noise_range(lowest)
        self._use_statistics()
        self._log_quality_statistics()
        if int(self.codec.statistics.count) == 0 and "train" in self.dataloaders:
            self._estimate_statistics()
        return restored

    def _settle_statistics(self, found: JsonObject) -> None:
        """Keep the statistics on disk, unless the weights were trained with others.

        Raises:
            ValueError: both are there and give other levels.
        """
        trained, levels = self.quality_statistics, ("predictor", "version", "mean", "std", "quantiles")
        if found and trained and any(found[key] != trained[key] for key in levels):
            raise ValueError(
                f"quality.json (mean {found['mean']:.3f}, {found['predictor']}) differs from the statistics that the "
                f"weights in {self.folder} were trained with (mean {trained['mean']:.3f}, {trained['predictor']}): put "
                "that quality.json back to go on, or start a new experiment (label=NAME) for the new one"
            )
        self.quality_statistics = found or trained

    def _check_noise_range(self, found: list[float] | None) -> None:
        """Refuse to go on with another noise range than the training began with.

        Raises:
            ValueError: giving both.
        """
        if found != self.lowest_timesteps:
            raise ValueError(
                f"quality.noise_range in quality.json gives the lowest timesteps {found}, but the training in "
                f"{self.folder} began with {self.lowest_timesteps}: put that quality.json back to go on, or start a "
                "new experiment (label=NAME) for the new one"
            )
        if found is not None:
            timesteps = ", ".join(f"{lowest:.0f}" for lowest in found[1:])
            self.logger.info(
                "Levels 1 to 5 train at timesteps from %s on, unknown quality from %.0f on", timesteps, found[0]
            )

    def _use_statistics(self) -> None:
        params = {
            "autocast": lambda: self.autocast,
            "project_context": not self.cfg.fsdp.use,
            "compile": self.cfg.compile.generate,
        }
        self.qamdt = QAMDT.from_config(self.cfg, self.model, self.codec, self.quality_statistics, **params)
        if "generate" in self.dataloaders:  # AudioCraft writes the levels beside each sample
            dataset: tp.Any = get_dataset_from_loader(self.dataloaders["generate"])
            dataset.rule = self.qamdt.rule

    def _log_quality_statistics(self) -> None:
        if not self.quality_statistics:
            self.logger.warning(
                "No quality statistics (quality.json beside the training manifest, see `qamdt annotate`): "
                "all quality is unknown"
            )
            return
        self.logger.info(
            "p-MOS by %s %s: mean %.2f, standard deviation %.2f, %d tracks, %d without a score",
            *(self.quality_statistics[key] for key in ("predictor", "version", "mean", "std", "count", "unscored")),
        )

    def _estimate_statistics(self) -> None:
        loader = self.dataloaders.get("original_train", self.dataloaders["train"])
        get_dataset_from_loader(loader).start_epoch(0)
        seed_libraries(self.cfg.seed, "statistics")
        batches = self.cfg.latents.statistics_batches
        audio = (batch[0].to(self.device) for _, batch in zip(range(batches), loader, strict=False))
        self.codec.estimate_statistics(audio)
        flashy.distrib.broadcast_tensors(self.codec.statistics.buffers())
        statistics = self.codec.statistics
        self.logger.info(
            "Latent statistics from %d batches: mean %.4f, standard deviation %.4f to %.4f",
            batches,
            statistics.mean.mean(),
            statistics.std.min(),
            statistics.std.max(),
        )

    def load_checkpoints(self, *args: tp.Any, **kwargs: tp.Any) -> dict | None:
        if self._starts_from_base(self.cfg):  # `continue_from` is in the model already
            return self._load_own(*args, **kwargs)
        source = self._settle_source()
        resumed = self.checkpoint_path()
        path = resumed if resumed.is_file() else self._checkpoint_of(source)
        if path is not None:  # a clear error for a damaged or malicious file, or one of another model
            state = store.load_safely(path, mmap=True)
            if path != resumed and "best_state" in state:
                self._check_fits(str(source), state["best_state"]["model"], state.get("xp.cfg"))
            where = str(path) if path == resumed else f"continue_from={source}"
            store.check_codec(where, state.get("codec.probe"), state.get("xp.cfg"), self.codec.probe, self.cfg)
        return super().load_checkpoints(*args, **kwargs)

    def _load_own(self, *args: tp.Any, **kwargs: tp.Any) -> dict | None:
        path = self.checkpoint_path()
        if not path.is_file():
            return None
        if self.cfg.lora.use:
            base = store.load_safely(path, mmap=True).get(store.ADAPTER_BASE)
            adapters.check_base(str(path), base, self.cfg.continue_from, self.adapter_base)
        return super().load_checkpoints(*args, **kwargs)

    def _settle_source(self) -> str | None:
        """Return `continue_from`, with the prefix by which AudioCraft asks `load_from_pretrained` for it where it must.

        That is an export, or a name on the hub.
        """
        source = self.cfg.continue_from
        if source and (store.is_export(source) or hub.is_model_name(source)):
            self.cfg.continue_from = source = f"//pretrained/{source}"
        return source

    def load_from_pretrained(self, name: str) -> dict:
        trained = loading.load(name)
        self._check_fits(name, trained.model, trained.cfg)
        store.check_codec(f"continue_from={name}", trained.codec_probe, trained.cfg, self.codec.probe, self.cfg)
        return trained.solver_state()

    def _checkpoint_of(self, source: str | None) -> Path | None:
        if not source or source.startswith("//pretrained/"):
            return None
        path = checkpoint.resolve_checkpoint_path(source, use_fsdp=False)
        if path is None:
            raise FileNotFoundError(f"continue_from={source}: there is no such checkpoint, export or experiment")
        return path

    def _check_fits(self, source: str, weights: dict[str, Tensor], cfg: DictConfig | None) -> None:
        if not self.cfg.fsdp.use:
            store.check_fits(source, weights, cfg, self.model.state_dict(), self.cfg)

    def save_checkpoints(self) -> None:
        """Save as AudioCraft does, safe from a power failure; with a full disk the previous checkpoint stays alone."""
        try:
            with replaced(flashy.utils, "write_and_rename", replacing_durably):
                super().save_checkpoints()
            if self.cfg.lora.use and flashy.distrib.is_rank_zero():
                best = adapters.from_state(self.best_state.states["model"])
                adapters.write(self.folder / adapters.FOLDER, self.adapter_config, best, self.adapter_base)
        except (OSError, RuntimeError) as error:
            free = shutil.disk_usage(self.folder).free / 2**20
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or free < LITTLE_ROOM
            remedy = f"make room ({free:.0f} MiB are free) and start again" if full else "start again"
            raise OSError(
                f"checkpoint of epoch {self.epoch - 1} could not be saved in {self.folder}: {error}. "
                f"The previous checkpoint is untouched; {remedy} to resume"
            ) from error

    # ---- training and validation

    def run_stage(self, stage_name: str, method: tp.Callable, *args: tp.Any, **kwargs: tp.Any) -> dict:
        seed_libraries(self.cfg.seed, flashy.distrib.rank(), self.epoch, stage_name)
        return super().run_stage(stage_name, method, *args, **kwargs)

    def common_train_valid(self, dataset_split: str, **kwargs: tp.Any) -> dict:
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
        """One training or validation step."""
        latents, infos = self._latents_and_infos(batch)
        losses, timesteps = self._losses(idx, latents, infos)
        self.loss_parts.add(losses, timesteps, self._levels(infos))
        loss = losses.mean()
        self.deadlock_detect.update("loss")
        if self.is_training:
            self._optimizer_step(loss, metrics)
        metrics["loss"] = loss.detach()
        metrics["padded"] = sum(info.n_frames < info.total_frames for info in infos) / len(infos)
        metrics["unscored"] = sum(info.pmos is None for info in infos) / len(infos)
        return metrics

    def _losses(self, idx: int, latents: Tensor, infos: list[QualityMusicInfo]) -> tuple[Tensor, Tensor]:
        """Return the loss of each item and its timestep, [B] each."""
        with self.autocast:
            conditions = self.model.encode_conditions(self._attributes(idx, infos))
        draws = self._draw(idx, latents, infos) if self.is_training else self._draw_fixed(idx, latents)
        noisy = self.objective.add_noise(latents, draws.noise, draws.timesteps)
        with self.autocast:
            prediction = self.predict(noisy, draws.timesteps, mask=draws.mask, **conditions)
        return self.objective.loss(prediction, latents, draws.noise, draws.timesteps), draws.timesteps

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
        timesteps = self._raised(idx, timesteps, latents[0, 0].numel(), infos)
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        grid = self.model.backbone.grid(latents.shape[2])
        mask = None
        if grid is not None:  # a U-Net has no tokens to hide
            low, high = self.cfg.masking.ratio, self.cfg.masking.ratio + self.cfg.masking.spread
            mask = draw_mask(self.cfg.masking.kind, len(latents), grid, (low, high), generator, self.device)
        return Draws(noise, timesteps, mask)

    def _raised(self, idx: int, timesteps: Tensor, positions: int, infos: list[QualityMusicInfo]) -> Tensor:
        """Draw timesteps again that are below the noise range of an item's level."""
        if self.lowest_timesteps is None:
            return timesteps
        lowest = torch.tensor([self.lowest_timesteps[level] for level in self._levels(infos)], device=self.device)
        # A generator of its own: noise and masks stay those of the same run without a noise range.
        generator = keyed_generator(*self._step_key(idx), "noise range", device=self.device)
        return self.objective.raise_timesteps(timesteps, lowest, generator, positions)

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
            return tp.cast(tp.Any, self.model).clip_grad_norm_(max_norm)  # over the shards of all ranks
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

    # ---- generation and evaluation

    def run_generate_step(  # type: ignore[override]
        self,
        batch: Batch,
        gen_duration: float,
        prompt_duration: float | None = None,
        remove_prompt: bool = False,
        remove_text_conditioning: bool = False,
        **generation_params: tp.Any,
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
        """One pass over generated audio, which feeds all metrics that `evaluate.metrics` switches on (`metrics.table`).

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

    def _request(self, info: QualityMusicInfo, without_text: bool) -> tp.Any:
        description = None if without_text else info.description
        params = self.qamdt.params
        if params.quality is not None or params.pmos is not None:
            return self.qamdt.request(description, params.quality, params.pmos)
        attributes = replace(info, description=description, rule=self.qamdt.rule).to_condition_attributes()
        return write_prefix(attributes) if self.cfg.quality.prefix else attributes


class CodecSolver(CompressionSolver):
    """AudioCraft's compression solver, for the codecs that it learns from us.

    Its stages start from a seed of their own, so that a resumed training equals the one that never stopped.
    """

    def run_stage(self, stage_name: str, method: tp.Callable, *args: tp.Any, **kwargs: tp.Any) -> dict:
        seed_libraries(self.cfg.seed, flashy.distrib.rank(), self.epoch, stage_name)
        return super().run_stage(stage_name, method, *args, **kwargs)
