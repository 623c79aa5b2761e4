"""The published Lightning checkpoint to an export that generates and trains further."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ..models.official import from_official
from ..utils.composing import compose_config
from ..utils.files import locked
from ..utils.reading import JsonObject
from . import hub, parts, store

logger = logging.getLogger(__name__)

NETWORK, EMA, CODEC = "model.diffusion_model.", "model_ema.", "first_stage_model."
IMPORTS = "qamdt"
"""Folder of imports in a repository's folder of the hub's cache: they go with it."""
BINS = 16
"""Latent bins of the published VAE: with the number of patches they give the latent frames."""

# The p-MOS of the published training data: `miu` and `sigma` in hhhh.py. Its thresholds for the prefix, 3.55 and 4.05,
# are the mean ∓ 1.25 standard deviations.
PUBLISHED_MEAN, PUBLISHED_STD = 3.80, 0.20


def import_official(
    checkpoint: str | Path,
    out: str | Path,
    *,
    vae: str | Path | None = None,
    vocoder: str | Path | None = None,
    ema: bool = True,
    num_heads: int = 16,
    overrides: Sequence[str] = (),
) -> Path:
    """Write an export of the published checkpoint: `QAMDT.get_pretrained`, `continue_from` and fine-tuning load it.

    The checkpoint is memory-mapped, and its tensors are written one after the other.

    Args:
        checkpoint: Lightning checkpoint with the network's keys under `model.diffusion_model.`, or the name of one on
            the hub (see `hub.find`).
        out: folder to write; complete or not at all.
        vae, vocoder: the codec's files; None = they are in the checkpoint, whose tensors of them alone are copied.
        ema: take the averaged weights where there are some.
        num_heads: attention heads, which no weight shows.
        overrides: of the recipe `solver=qamdt`, as on the command line of `dora run`.
    Returns:
        The folder.
    Raises:
        ValueError: a file that is damaged, holds code, NaN weights, or keys that are missing, extra or misshapen.
    """
    store.check_out(out)
    checkpoint = _local(checkpoint, Path(out))
    state = _read(checkpoint)
    network = network_weights(state, ema)
    if not network:
        raise ValueError(f"{checkpoint}: no keys under {NETWORK!r}, so it is not the published checkpoint")
    try:
        shape = infer_config(network, num_heads)
        model = from_official(network, shape)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{checkpoint}: {error}") from error
    std = torch.full((shape["in_channels"], BINS), 1 / float(state.get("scale_factor", 1.0)))
    trained = store.TrainedModel(
        cfg=_recipe(shape, vae or checkpoint, vocoder or checkpoint, overrides),
        model={f"backbone.{key}": value for key, value in model.state_dict().items()},
        codec_statistics={"mean": torch.zeros_like(std), "std": std, "count": torch.tensor(1)},
        quality_statistics=published_statistics(),
    )
    store.export(out, trained, lambda folder: _add_parts(folder, parts.in_use(trained.cfg), checkpoint, state))
    return Path(out)


def import_from_hub(name: str) -> Path:
    """Return the import of a hub repository's checkpoint: an export in the hub's cache, made unless it is there.

    Where the hub cannot be reached, the import of the commit that it had when it was last asked.

    Args:
        name: see `hub.find`.
    Raises:
        FileNotFoundError, ValueError, OSError: see `hub.find`, `hub.fetch` and `import_official`.
    """
    asked = hub.parse(name)
    imports = hub.folder_of(asked.repository) / IMPORTS
    try:
        found = hub.find(name)
    except FileNotFoundError:
        there = _imports_of(imports / (hub.cached_commit(asked) or "none"), asked.file)
        if len(there) == 1:
            logger.info("%s: the hub cannot be reached; %s is used", name, there[0])
            return there[0]
        raise
    out = imports / found.commit / _folder_name(found.file)
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out.parent):
        if not store.is_export(out):
            checkpoint = hub.fetch(found, out)
            import_official(checkpoint, out)
            logger.info("%s: imported; %s is no longer needed here", found, checkpoint.resolve())
    return out


def _folder_name(file: str) -> str:
    return file.replace("/", "--")


def _imports_of(folder: Path, file: str | None) -> list[Path]:
    """Exports in a folder of imports, or that of one file."""
    names = [_folder_name(file)] if file else [path.name for path in folder.glob("*")]
    return [folder / name for name in names if store.is_export(folder / name)]


def _local(checkpoint: str | Path, out: Path) -> Path:
    if hub.is_hub_name(str(checkpoint)):
        return hub.fetch(hub.find(str(checkpoint)), out)
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f"{checkpoint}: there is no such file")
    return Path(checkpoint)


def _read(checkpoint: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a Lightning checkpoint, or of a .safetensors file with the same names."""
    content = store.load_safely(checkpoint, mmap=True)
    return content.get("state_dict", content)


def _add_parts(folder: Path, used: dict[str, str], checkpoint: Path, state: Mapping[str, Tensor]) -> None:
    """Add the codec's parts to an export; of the checkpoint's own codec, which is a small share of it, the tensors."""
    inside = [key for key, source in used.items() if source == str(checkpoint.resolve())]
    codec = {key: value for key, value in state.items() if key.startswith(CODEC) and ".loss." not in key}
    others = {key: source for key, source in used.items() if not (codec and key in inside)}
    config = folder / store.CONFIG
    parts.add_parts(folder, config, others)
    if not (codec and inside):
        return
    file = Path(parts.PARTS) / "codec.safetensors"
    (folder / file).parent.mkdir(exist_ok=True)
    store.write_safetensors(codec, folder / file)
    content = OmegaConf.create(json.loads(config.read_text(encoding="utf-8")))
    for key in inside:
        OmegaConf.update(content, key, f"./{file.as_posix()}")
    config.write_text(json.dumps(OmegaConf.to_container(content), indent=2), encoding="utf-8")


def network_weights(state: Mapping[str, Tensor], ema: bool) -> dict[str, Tensor]:
    """Select the network's weights under the published class's names, averaged ones if `ema` and where there are any.

    The average is kept under the same names with the dots removed (LitEma of the latent diffusion code).
    """
    names = [key.removeprefix(NETWORK) for key in state if key.startswith(NETWORK)]
    averaged = {name: EMA + f"diffusion_model.{name}".replace(".", "") for name in names}
    found = sum(key in state for key in averaged.values())
    logger.info("%d weights of the network, %d of them averaged%s", len(names), found, "" if ema else " (not used)")
    return {name: state[averaged[name]] if ema and averaged[name] in state else state[NETWORK + name] for name in names}


def infer_config(network: Mapping[str, Tensor], num_heads: int) -> JsonObject:
    """Return arguments of the published constructor, read off the shapes of its weights.

    Raises:
        KeyError: a weight is missing that gives part of it.
    """
    width, channels, patch_frames, patch_bins = network["x_embedder.proj.weight"].shape
    rows = network["pos_embed"].shape[1] // (BINS // patch_bins)
    return {
        "input_size": [rows * patch_frames, BINS],
        "patch_size": [patch_frames, patch_bins],
        "overlap": [0, 0],
        "in_channels": channels,
        "hidden_size": width,
        "depth": 2 * _count(network, "en_inblocks") + _count(network, "de_blocks"),
        "num_heads": num_heads,
        "mlp_ratio": network["sideblocks.0.mlp.fc1.weight"].shape[0] / width,
        "cond_dim": network["y_embedder.weight"].shape[1],
        "mask_ratio": 0.3,
        "decode_layer": _count(network, "de_blocks"),
        "lewei_scale": 1.0,
    }


def _count(network: Mapping[str, Tensor], blocks: str) -> int:
    return len({key.split(".")[1] for key in network if key.startswith(f"{blocks}.")})


def published_statistics() -> JsonObject:
    """Return fields of `QualityStatistics` that give the published thresholds."""
    normal = statistics.NormalDist(PUBLISHED_MEAN, PUBLISHED_STD)
    shares = [(index + 0.5) / 21 for index in range(21)]
    return {
        "mean": PUBLISHED_MEAN,
        "std": PUBLISHED_STD,
        "count": 0,
        "quantiles": [normal.inv_cdf(share) for share in shares],
        "predictor": "published",
        "version": "ceebbdb",
        "unscored": 0,
    }


def _recipe(shape: JsonObject, vae: str | Path, vocoder: str | Path, overrides: Sequence[str]) -> DictConfig:
    mdt = {
        "patch": shape["patch_size"],
        "dim": shape["hidden_size"],
        "depth": shape["depth"],
        "decoder_depth": shape["decode_layer"],
        "num_heads": shape["num_heads"],
        "ffn_ratio": shape["mlp_ratio"],
        "context_dim": shape["cond_dim"],
    }
    values = {
        **{f"mdt.{key}": value for key, value in mdt.items()},
        "latents.mel_vae.checkpoint": "null",
        "latents.mel_vae.vae": Path(vae).resolve(),
        "latents.mel_vae.vocoder": Path(vocoder).resolve(),
        "dataset.segment_duration": shape["input_size"][0] / 25,  # 25 latent frames per second
        "generate.quality": 5,  # infer/infer.sh; the network has no row for an unknown level
    }
    return compose_config("solver=qamdt", *(f"{key}={value}" for key, value in values.items()), *overrides)
