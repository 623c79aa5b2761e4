"""What the solver restores, saves and refuses: checkpoints, exports, statistics, cached latents."""

from __future__ import annotations

import contextlib
import errno
import shutil
import typing as tp
from dataclasses import asdict
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from audiocraft_qamdt.utils import prepared

from ..checkpoints import adapters, hub, loading, store
from ..conditioning.model import QAMDTModel
from ..data import cache
from ..data.cache import LatentBatchLoader, LatentBatchWriter
from ..data.dataset import QualityMusicDataset
from ..diffusion.objective import make_schedule
from ..generation.pipeline import PipelineOptions
from ..generation.qamdt import QAMDT
from ..latents.codec import LatentCodec
from ..utils.files import replacing_durably
from ..utils.patching import replaced
from ..utils.randomness import seed_libraries
from ..utils.reading import JsonObject

import flashy
from audiocraft.solvers.musicgen import MusicGenSolver
from audiocraft.utils import checkpoint
from audiocraft.utils.utils import dict_from_config, get_dataset_from_loader

LITTLE_ROOM = 64  # MiB; with less, a checkpoint fails for want of room whatever the error says


class RestoringSolver(MusicGenSolver):
    """AudioCraft's solver with our checkpoints: it refuses other models, codecs, statistics and cached latents.

    Attributes:
        model, codec: what the subclass builds.
        quality_statistics: fields of `QualityStatistics`; empty = all quality is unknown.
        lowest_timesteps: from which on each level trains, see `setup.get_lowest_timesteps`; None = from 0.
        qamdt: the model as it generates, with the statistics.
        adapter_config: of an adapter that trains (LoRA).
        adapter_base: `adapters.base_of` the weights that it is trained on.
    """

    model: QAMDTModel  # type: ignore[assignment]
    codec: LatentCodec
    quality_statistics: JsonObject
    lowest_timesteps: list[float] | None
    qamdt: QAMDT
    adapter_config: JsonObject
    adapter_base: str
    _cached_batch_writer: LatentBatchWriter | None
    _cached_batch_loader: LatentBatchLoader | None

    @staticmethod
    def _starts_from_base(cfg: DictConfig) -> bool:
        return cfg.lora.use or cfg.distill.use

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

    def restore(
        self, load_best: bool = False, replay_metrics: bool = False, ignore_state_keys: tp.Sequence[str] = ()
    ) -> bool:
        found, lowest = dict(self.quality_statistics), self.lowest_timesteps and list(self.lowest_timesteps)
        restored = super().restore(load_best, replay_metrics, list(ignore_state_keys))
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
        params: PipelineOptions = {
            "autocast": lambda: self.autocast,
            "project_context": not self.cfg.fsdp.use,
            "compile": self.cfg.compile.generate,
        }
        self.qamdt = QAMDT.from_config(self.cfg, self.model, self.codec, self.quality_statistics, **params)
        if "generate" in self.dataloaders:  # AudioCraft writes the levels beside each sample
            dataset = tp.cast(QualityMusicDataset, get_dataset_from_loader(self.dataloaders["generate"]))
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

    def load_checkpoints(self, load_best: bool = False, ignore_state_keys: tp.Sequence[str] = ()) -> dict | None:
        if self._starts_from_base(self.cfg):  # `continue_from` is in the model already
            return self._load_own(load_best, ignore_state_keys)
        source = self._settle_source()
        resumed = self.checkpoint_path()
        path = resumed if resumed.is_file() else self._checkpoint_of(source)
        if path is not None:  # a clear error for a damaged or malicious file, or one of another model
            state = store.load_safely(path, mmap=True)
            if path != resumed and "best_state" in state:
                self._check_fits(str(source), state["best_state"]["model"], state.get("xp.cfg"))
            where = str(path) if path == resumed else f"continue_from={source}"
            store.check_codec(where, state.get("codec.probe"), state.get("xp.cfg"), self.codec.probe, self.cfg)
        return super().load_checkpoints(load_best, list(ignore_state_keys))

    def _load_own(self, load_best: bool, ignore_state_keys: tp.Sequence[str]) -> dict | None:
        path = self.checkpoint_path()
        if not path.is_file():
            return None
        if self.cfg.lora.use:
            base = store.load_safely(path, mmap=True).get(store.ADAPTER_BASE)
            adapters.check_base(str(path), base, self.cfg.continue_from, self.adapter_base)
        return super().load_checkpoints(load_best, list(ignore_state_keys))

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
        if cfg is not None:
            self._check_schedule(source, cfg)

    def _check_schedule(self, source: str, cfg: DictConfig) -> None:
        """Refuse to measure weights with another schedule than theirs; to train them on is what somebody may want."""
        there, here = (_schedule_of(each) for each in (cfg, self.cfg))
        different = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
        if not different:
            return
        keys = ", ".join(f"{key}={here.get(key)} (there: {there.get(key)})" for key in different)
        message = f"continue_from={source} was trained with another schedule: diffusion.schedule.{keys}"
        if self.cfg.execute_only in ("evaluate", "generate"):
            raise ValueError(f"{message}. Set it as there")
        self.logger.warning("%s: the weights have to learn another prediction", message)

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


def _schedule_of(cfg: DictConfig) -> dict[str, object]:
    """Return what decides what a network predicts, by key of `diffusion.schedule`."""
    schedule = make_schedule(**dict_from_config(cfg.diffusion.schedule))
    fields = {key: value for key, value in asdict(schedule).items() if not key.startswith("shift")}
    return {"kind": cfg.diffusion.schedule.get("kind", "ddpm"), **fields}
