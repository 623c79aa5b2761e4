"""Let AudioCraft 1.3.0 run on a current PyTorch, and nothing else.

AudioCraft pins torch 2.1.0; each piece below names what breaks without it and the version that makes it unnecessary.
Call `prepare()` before AudioCraft is first imported. Nothing happens on import of this module.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import pickle
import sys
import types
import typing as tp
from pathlib import Path

from .lazy import Context, Deferred, LazyImports, after, import_lazily, packages_unread, without

if tp.TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

CONFIG_ROOT = Path(__file__).resolve().parent.parent / "config"

# AudioCraft, flashy and diffusers import these at module level, for conditioners, loggers, melodies and schedules that
# few runs have.
_SELDOM_USED = ("spacy", "wandb", "librosa.filters", "scipy.stats", "av", "torchaudio")

# Their `__init__` imports every model, and with these solvers and metrics, for an import of one module of them.
_PACKAGES = ("audiocraft", "audiocraft.data", "audiocraft.models")

_INSIDE: dict[str, Context] = {
    # T5, RoBERTa and Hugging Face's EnCodec, for conditioners and codecs that few runs have; and a decorator
    "audiocraft.modules.conditioners": without("transformers", "num2words"),
    "audiocraft.models.encodec": without("transformers"),
    "diffusers.utils.torch_utils": without("torch._dynamo"),
    # metrics and FSDP, which few runs use: torchmetrics alone brings transformers, torchvision and matplotlib
    "audiocraft.solvers.builders": without("audiocraft.metrics"),
    "audiocraft.solvers.musicgen": without("audiocraft.metrics"),
    "audiocraft.solvers.diffusion": without("audiocraft.metrics"),
    "audiocraft.solvers.base": without("audiocraft.optim.fsdp"),
    # pictures and videos from the net
    "diffusers.utils.loading_utils": without("requests"),
    "diffusers.utils.remote_utils": without("requests"),
    "diffusers.utils.import_utils": packages_unread,
    # They use each other: the first to be imported is always the same.
    "audiocraft.solvers": after("audiocraft.models"),
}


@functools.cache
def prepare() -> None:
    """Make AudioCraft importable and its checkpoints loadable; the first call acts, later calls do nothing."""
    _name_the_user()
    _stand_in_for_xformers()
    # `audiocraft.metrics.clap_consistency` imports laion_clap at module level, and laion_clap fetches three tokenizers
    # from the hub while it is imported. (importlib's LazyLoader would not do: `inspect` alone triggers it.)
    import_lazily("laion_clap", then=_read_clap_as_data)
    for name in _SELDOM_USED:
        import_lazily(name)
    inside = dict(_INSIDE)
    if importlib.util.find_spec("tensorboard") is not None:  # flashy does without where it is not installed
        inside["flashy.loggers.tensorboard"] = without("torch.utils.tensorboard")
    sys.meta_path.insert(0, LazyImports(_PACKAGES, inside))
    # AudioCraft resolves `//sig/...` through `audiocraft.train`, which wants a config folder that its wheel lacks.
    import_lazily("audiocraft.train", instead="audiocraft_qamdt.train")
    _allow_checkpoint_types()
    point_to_configs()
    _prepare_worker_pools()
    _write_audio_with_soundfile()


def _name_the_user() -> None:
    # AudioCraft, Dora and torch name folders after the user, whom a container's passwd may not know.
    import getpass

    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"


def has_xformers() -> bool:
    """Return whether the real xformers is installed (not the stand-in made by `prepare`)."""
    return not isinstance(sys.modules.get("xformers"), Deferred) and importlib.util.find_spec("xformers") is not None


def check_attention_backend(backend: str) -> None:
    """Refuse `efficient_attention_backend=xformers` where xformers is absent.

    Raises:
        ImportError: naming the config key and the alternative.
    """
    if backend == "xformers" and not has_xformers():
        _refuse_xformers()


def _refuse_xformers(*args: object, **kwargs: object) -> tp.NoReturn:
    raise ImportError("xformers is not installed: set efficient_attention_backend=torch, or `pip install xformers`")


class _LowerTriangularMask:
    """AudioCraft's torch attention only asks whether there is a mask."""


def _stand_in_for_xformers() -> None:
    # `audiocraft.modules.transformer` imports xformers.ops at module level, and uses these two of it with its torch
    # attention too; the attention itself only with efficient_attention_backend=xformers. AudioCraft's head (1.4.0a2)
    # still does; unnecessary once upstream guards the import.
    if "xformers" in sys.modules or importlib.util.find_spec("xformers") is not None:
        return
    import torch

    ops = types.ModuleType("xformers.ops")
    ops.__dict__.update(
        unbind=torch.unbind,
        LowerTriangularMask=_LowerTriangularMask,
        memory_efficient_attention=_refuse_xformers,
    )
    package = Deferred("xformers", _refuse_xformers)
    package.__dict__.update(ops=ops, __path__=[])
    sys.modules.update({"xformers": package, "xformers.ops": ops})


def _allow_checkpoint_types() -> None:
    # Since torch 2.6 `torch.load` defaults to weights_only=True. AudioCraft's checkpoints hold the config ('xp.cfg')
    # and the EMA's defaultdict besides tensors: these types carry data only. torch cannot fill a defaultdict that
    # way, so one is read as a dict. Unnecessary once upstream allow-lists them.
    import torch
    from omegaconf import DictConfig, ListConfig
    from omegaconf.base import ContainerMetadata, Metadata
    from omegaconf.nodes import AnyNode, BooleanNode, FloatNode, IntegerNode, StringNode

    torch.serialization.add_safe_globals(
        [
            DictConfig,
            ListConfig,
            ContainerMetadata,
            Metadata,
            AnyNode,
            BooleanNode,
            FloatNode,
            IntegerNode,
            StringNode,
            tp.Any,
            dict,
            list,
            int,
            float,
            str,
            bool,
            (_plain_dict, "collections.defaultdict"),
        ]
    )


def _read_clap_as_data() -> None:
    # laion_clap 1.1.7 runs whatever code a checkpoint holds, and fails on those without position_ids, which
    # transformers no longer has. AudioCraft's `load_clap_state_dict` finds this one instead.
    for module in ("clap_module.factory", "laion_clap.hook"):
        vars(importlib.import_module(module))["load_state_dict"] = read_clap_checkpoint


def read_clap_checkpoint(
    path: str | Path, map_location: str = "cpu", skip_params: bool = True
) -> dict[str, torch.Tensor]:
    """Read a laion-clap checkpoint's state dict, as data only, with the arguments of laion_clap's own function.

    Raises:
        ValueError: naming the file, when it holds more than tensors, plain data and NumPy scalars.
    """
    import numpy as np
    import torch

    # Training left a NumPy scalar (the best score) beside the weights: these three types carry data only.
    scalar: tp.Callable[..., object] = vars(np.core.multiarray)["scalar"]
    scalars: list[tp.Callable[..., object] | tuple[tp.Callable[..., object], str]]
    scalars = [scalar, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i8"))]
    with torch.serialization.safe_globals(scalars):
        try:
            loaded = torch.load(path, map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path}: refused, it holds more than tensors and plain data ({error})") from error
    state = loaded.get("state_dict", loaded)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    state.pop("text_branch.embeddings.position_ids", None)
    return state


def _plain_dict(factory: object = None) -> dict:
    return {}


def point_to_configs() -> None:
    """Name the folders of configuration in the environment, where it does not name them already.

    AUDIOCRAFT_CONFIG is the team's file, AUDIOCRAFT_CONFIG_ROOT AudioCraft's own config/, which our search path ends
    with: AudioCraft's wheel holds neither. Without its config, AudioCraft's own solvers cannot be chosen.
    """
    team_file = CONFIG_ROOT / "teams" / f"{os.environ.get('AUDIOCRAFT_TEAM', 'default')}.yaml"
    if team_file.exists():
        os.environ.setdefault("AUDIOCRAFT_CONFIG", str(team_file))
    spec = importlib.util.find_spec("audiocraft")
    installed = Path(sys.prefix) / "share" / "audiocraft" / "config"  # where `make install` keeps it
    checkout = Path(spec.origin).parent.parent / "config" if spec is not None and spec.origin else installed
    os.environ.setdefault("AUDIOCRAFT_CONFIG_ROOT", str(checkout if (checkout / "config.yaml").exists() else installed))


def _prepare_worker_pools() -> None:
    # AudioCraft's compression solver evaluates in spawned processes, which import AudioCraft again, without all this.
    from concurrent.futures import ProcessPoolExecutor

    import audiocraft.utils.utils

    prepared: tp.Callable[..., ProcessPoolExecutor] = functools.partial(ProcessPoolExecutor, initializer=prepare)
    vars(audiocraft.utils.utils)["ProcessPoolExecutor"] = prepared


def _write_audio_with_soundfile() -> None:
    # `audiocraft.data.audio.audio_write` pipes into the ffmpeg program, which a machine may not have, or have broken.
    import audiocraft.data.audio

    audiocraft.data.audio._piping_to_ffmpeg = _write_with_soundfile


_SUBTYPES = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


def _write_with_soundfile(out_path: str | Path, wav: torch.Tensor, sample_rate: int, flags: list[str]) -> None:
    """Write audio as AudioCraft's `_piping_to_ffmpeg` does; bit rates among `flags` are left to libsndfile."""
    import soundfile

    audio_format = flags[flags.index("-f") + 1]
    part = Path(f"{out_path}.part")
    try:
        soundfile.write(
            part,
            wav.t().detach().cpu().numpy().clip(-1, 1),
            sample_rate,
            format=audio_format.upper(),
            subtype=_SUBTYPES[audio_format],
        )
        os.replace(part, out_path)
    finally:
        part.unlink(missing_ok=True)
