"""Finding and reading the weights of networks that metrics measure with; what is missing ends in one clear error."""

from __future__ import annotations

import typing as tp
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.store import load_safely
from ..compat import prepare
from ..utils.errors import MissingWeights, first_line


@contextmanager
def weights_of(what: str, source: str, place: str) -> tp.Iterator[None]:
    """Turn whatever goes wrong inside into one error.

    Args:
        what: whose weights are loaded.
        source: where to get them.
        place: where to put them, or the setting that names their place.
    Raises:
        MissingWeights: in place of any error but a setting that does not fit or a package that is not installed.
    """
    try:
        yield
    except (ValueError, ImportError, MissingWeights):
        raise
    except Exception as error:  # whatever the hub, the file system or a library raises, the user needs one message
        raise MissingWeights(
            f"{what}: the weights could not be loaded ({first_line(error)}).\nGet them from {source}, and {place}. "
            "The metrics of solver/qamdt/evaluation=playground need none."
        ) from error


def resolve(path: str) -> Path:
    """Return a path, or `//reference/...` in AudioCraft's reference folder.

    Raises:
        FileNotFoundError: there is no such file.
    """
    prepare()
    from audiocraft.environment import AudioCraftEnvironment

    found = Path(AudioCraftEnvironment.resolve_reference_path(path))
    if not found.exists():
        raise FileNotFoundError(f"no file {found}")
    return found


def read_weights(checkpoint: str | None, url: str) -> dict[str, Tensor]:
    """Return the state dict from a file, or downloaded into torch's hub cache; data only, nothing in it is run.

    Args:
        checkpoint: path or `//reference/...`; None = download.
        url: of the published file.
    """
    if checkpoint is not None:
        return load_safely(resolve(checkpoint))
    return torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True)


def label(name: str, checkpoint: str | None) -> str:
    """Name of a network as numbers are logged, with its checkpoint where that is not the published one."""
    return name if checkpoint is None else f"{name}-{Path(checkpoint).stem}"
