"""A model by any of its names: an export, a checkpoint, a training run, or a repository on the Hugging Face hub."""

from __future__ import annotations

import typing as tp
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from ..compat import prepare
from ..utils.errors import first_line
from ..utils.files import recover
from . import adapters, config, hub, official, parts
from .store import (
    ADAPTER_BASE,
    CODEC_PROBE,
    CONFIG,
    PACKAGED,
    QUALITY,
    WEIGHTS,
    TrainedModel,
    is_export,
    load_safely,
    read_export,
)


def load(name: str | Path, with_adapters: tp.Sequence[str] = ()) -> TrainedModel:
    """Read an export folder, a checkpoint file, an experiment's folder, `//sig/…`, `//reference/…` or a hub name.

    A run of `solver=qamdt/lora` is read as the model that it trained, its adapter merged. A repository of the hub that
    holds the authors' files is imported first, once (see `official.import_from_hub`).

    Args:
        name: what exists on this machine comes first. `fast` is the package's model of few steps; a hub name is
            `owner/name`, `owner/name/FILE` with the suffix of a checkpoint, or either with `@revision`.
        with_adapters: adapters to merge, each `DIR[:weight]` (see `adapters.read`).
    Raises:
        FileNotFoundError: there is nothing of that name, or the hub cannot be reached.
        ValueError: the file is damaged, holds anything but data, or is not a checkpoint of this solver.
    """
    trained = _load(name)
    return replace(trained, model=adapters.merge_named(trained.model, with_adapters)) if with_adapters else trained


def _load(name: str | Path) -> TrainedModel:
    recover(Path(name))
    if not is_export(name):
        name = PACKAGED.get(str(name), name)
    if is_export(name):
        return read_export(Path(name))
    prepare()
    from audiocraft.utils import checkpoint  # a second to import, and exports do not need it

    path = checkpoint.resolve_checkpoint_path(str(name))
    if path is None and hub.is_model_name(str(name)):
        return read_export(_from_hub(str(name)), own=False)
    if path is None:
        raise _nothing(str(name))
    state = load_safely(path)
    missing = [key for key in ("xp.cfg", "best_state", "codec.statistics") if key not in state]
    if missing:
        raise ValueError(f"{path}: not a checkpoint of solver=qamdt, it has no {', '.join(missing)}")
    trained = TrainedModel(
        OmegaConf.create(config.resolved(state["xp.cfg"], path)),
        state["best_state"]["model"],
        state["codec.statistics"],
        state.get("quality_statistics", {}),
        state.get("history", []),
        state.get(CODEC_PROBE),
    )
    if not OmegaConf.select(trained.cfg, "lora.use"):
        return trained
    return _with_base(trained, str(path), state.get(ADAPTER_BASE))


def _nothing(name: str) -> FileNotFoundError:
    """Say that there is nothing of that name, and what a name may be."""
    if name.startswith("//sig/"):
        prepare()
        from audiocraft import train

        return FileNotFoundError(
            f"{name}: no run of this signature has a checkpoint in {train.main.dora.dir / 'xps'} "
            "(AUDIOCRAFT_DORA_DIR names another folder of runs)"
        )
    return FileNotFoundError(
        f"{name}: neither an export (folder with {CONFIG} and {WEIGHTS}) nor a checkpoint nor a hub id (owner/name)"
    )


def _with_base(trained: TrainedModel, name: str, base: str | None) -> TrainedModel:
    """Return the whole model of a run that trained an adapter: that of `continue_from` with it."""
    cfg = trained.cfg.copy()
    tensors = adapters.from_state(trained.model)
    adapter = adapters.Adapter(cfg.lora.alpha / cfg.lora.rank, tensors, name, base, cfg.continue_from)
    weights = adapters.merge(_load(cfg.continue_from).model, (adapter, 1.0))
    cfg.lora.use, cfg.continue_from = False, None
    return replace(trained, cfg=cfg, model=weights)


def _from_hub(name: str) -> Path:
    """Return the folder of an export: the repository's own, or the import of the authors' files in it."""
    asked = hub.parse(name)
    if asked.file is None and _may_be_export(name):
        folder = download(asked.repository, asked.revision)
        if is_export(folder):
            return folder
    return official.import_from_hub(name)


def _may_be_export(name: str) -> bool:
    """Tell whether a repository has an export's files; True where the hub cannot be asked, as its cache may."""
    try:
        return {CONFIG, WEIGHTS} <= hub.list_files(name).sizes.keys()
    except FileNotFoundError:
        return True


def download(hub_id: str, revision: str | None = None) -> Path:
    """Return the folder of a hub repository in the hub's cache, with the files of an export, where it has them.

    Raises:
        FileNotFoundError: there is no such repository, or the hub cannot be reached.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [CONFIG, WEIGHTS, QUALITY, f"{parts.PARTS}/**"]
    cache = constants.HF_HUB_CACHE
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, cache_dir=cache))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{hub_id}: neither an export or checkpoint here nor a model on the hub ({first_line(error)})"
        ) from error
