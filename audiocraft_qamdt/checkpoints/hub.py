"""A checkpoint by the name of its repository on the Hugging Face hub, as it lies there."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(/(?P<file>[\w./-]+))?(@(?P<revision>[\w./-]+))?")
SUFFIXES = (".ckpt", ".pt", ".pth")
GIB = 2**30


def is_hub_name(name: str) -> bool:
    """Tell whether `name` is not on this machine and could be owner/name, owner/name/FILE, or either with @revision."""
    return not Path(name).exists() and _NAME.fullmatch(name) is not None


def fetch_checkpoint(name: str) -> Path:
    """Return a repository's checkpoint, downloaded unless it is in the hub's cache; a broken connection is resumed.

    Size, free disk and memory are logged first.

    Args:
        name: owner/name, where one file alone is a checkpoint (by `SUFFIXES`, in any folder), or owner/name/FILE; with
            @revision a certain one.
    Raises:
        FileNotFoundError: no such repository or file, no checkpoint in it, or the hub cannot be reached.
        ValueError: several checkpoints, named.
        OSError: too little room on the disk.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.hf_api import RepoFile

    match = _NAME.fullmatch(name)
    if match is None:
        raise FileNotFoundError(f"{name}: neither a file here nor a name on the hub (owner/name or owner/name/FILE)")
    repository, revision = match["id"], match["revision"]
    with _naming(name):
        tree = HfApi().list_repo_tree(repository, recursive=True, revision=revision)
        sizes = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
    file = _chosen(repository, match["file"], sizes)
    _announce(f"{repository}/{file}", sizes[file], Path(constants.HF_HUB_CACHE))
    with _naming(name):
        return Path(hf_hub_download(repository, file, revision=revision, cache_dir=constants.HF_HUB_CACHE))


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Raise the hub's errors as one that names what was asked for."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP library

    try:
        yield
    except (HTTPError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(f"{name}: neither a file here nor a checkpoint on the hub ({reason})") from error


def _chosen(name: str, file: str | None, sizes: dict[str, int]) -> str:
    found = sorted(path for path in sizes if path.endswith(SUFFIXES))
    if file is not None:
        if file not in sizes:
            raise FileNotFoundError(f"{name}: no file {file} there; checkpoints: {', '.join(found) or 'none'}")
        return file
    if not found:
        raise FileNotFoundError(f"{name}: no checkpoint ({', '.join(SUFFIXES)}) in that repository")
    if len(found) > 1:
        raise ValueError(f"{name}: several checkpoints, name one: {', '.join(f'{name}/{path}' for path in found)}")
    return found[0]


def _announce(name: str, size: int, cache: Path) -> None:
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    logger.info(
        "%s: %.2f GiB into %s (%.0f GiB free); converting it takes at most as much disk and memory again",
        *(name, size / GIB, cache, free / GIB),
    )
    if free < size:
        raise OSError(f"{name}: {size / GIB:.1f} GiB, but {there} has {free / GIB:.1f} GiB free; set HF_HOME")
