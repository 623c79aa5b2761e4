"""The authors' checkpoint by the name of a repository on the Hugging Face hub, as it lies there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..utils.errors import first_line
from ..utils.files import locked
from ..utils.memory import free_memory

logger = logging.getLogger(__name__)

CHECKPOINTS = (".ckpt", ".pt", ".pth")
SUFFIXES = (*CHECKPOINTS, ".safetensors")
"""Of the files that can be named: a .safetensors alone is mostly another kind of model's."""
PIPELINE, PATHS = "model_index.json", "offset_pretrained_checkpoints.json"
"""Files at the root of a pipeline of diffusers, and of the authors' code: their checkpoint lies beside these."""
GIB = 2**30
LARGEST_IMPORT = int(3.2 * GIB)
"""The published network in float32 (676 M parameters), its VAE and its vocoder."""
_NAME = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(/(?P<file>[\w./-]+))?(@(?P<revision>[\w./-]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK = 2**20


@dataclass(frozen=True)
class Name:
    """What a name on the hub asks for.

    Args:
        repository: owner/name.
        file: path in it; None = not given.
        revision: branch, tag or commit; None = main.
    """

    repository: str
    file: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Files:
    """What a repository holds.

    Args:
        asked: how it was asked for.
        commit: that the revision is at.
        sizes: in bytes, by path.
    """

    asked: Name
    commit: str
    sizes: dict[str, int]


@dataclass(frozen=True)
class Checkpoint:
    """A file on the hub.

    Args:
        asked: how it was asked for.
        file: its path.
        commit: that the revision is at.
        size: in bytes.
    """

    asked: Name
    file: str
    commit: str
    size: int

    def __str__(self) -> str:
        return f"{self.asked.repository}/{self.file}"


def is_hub_name(name: str) -> bool:
    """Tell whether `name` is not on this machine and could be owner/name, owner/name/FILE, or either with @revision."""
    return not Path(name).exists() and _NAME.fullmatch(name) is not None


def is_model_name(name: str) -> bool:
    """As `is_hub_name`, where FILE has the suffix of a checkpoint: a mistyped path is no name of a model."""
    return is_hub_name(name) and (parse(name).file or SUFFIXES[0]).endswith(SUFFIXES)


def parse(name: str) -> Name:
    """Take a name on the hub apart.

    Raises:
        FileNotFoundError: it is none.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise FileNotFoundError(f"{name}: neither a file here nor a name on the hub (owner/name or owner/name/FILE)")
    return Name(match["id"], match["file"], match["revision"])


def list_files(name: str) -> Files:
    """Ask the hub for a repository's files.

    Raises:
        FileNotFoundError: no such repository, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    asked = parse(name)
    with _naming(name):
        info = HfApi().model_info(asked.repository, revision=asked.revision, files_metadata=True)
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    return Files(asked, info.sha or "", sizes)


def find(name: str) -> Checkpoint:
    """Find the authors' checkpoint in a repository, as it lies there.

    Args:
        name: owner/name, where one file alone is a checkpoint (by `CHECKPOINTS`, in any folder), or one alone lies
            beside `PIPELINE` or `PATHS`, as in the diffusers-style copies; or owner/name/FILE; with @revision a certain
            one.
    Raises:
        FileNotFoundError: no such repository or file, no checkpoint in it, or the hub cannot be reached.
        ValueError: several checkpoints, named.
    """
    files = list_files(name)
    file = _chosen(files.asked, files.sizes)
    return Checkpoint(files.asked, file, files.commit, files.sizes[file])


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Raise the hub's errors as one that names what was requested."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP library

    try:
        yield
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(error.errno, error.strerror, name) from error
        raise FileNotFoundError(
            f"{name}: neither a file here nor a checkpoint on the hub ({first_line(error)})"
        ) from error


def _chosen(asked: Name, sizes: dict[str, int]) -> str:
    name, found = asked.repository, sorted(path for path in sizes if path.endswith(CHECKPOINTS))
    if asked.file is not None:
        if asked.file not in sizes:
            raise FileNotFoundError(f"{name}: no file {asked.file} there; checkpoints: {', '.join(found) or 'none'}")
        return asked.file
    roots = {path.rpartition("/")[0] for path in sizes if path.rpartition("/")[2] in (PIPELINE, PATHS)}
    candidates = [path for path in found if path.rpartition("/")[0] in roots] or found
    if not candidates:
        raise FileNotFoundError(
            f"{name}: no model that can be read; there are {_contents(sizes)}. Expected: an export (config.json and "
            f"model.safetensors), or the authors' checkpoint ({', '.join(CHECKPOINTS)}), alone or beside {PIPELINE}"
        )
    if len(candidates) > 1:
        named = ", ".join(f"{name}/{path}" for path in candidates)
        raise ValueError(f"{name}: several checkpoints, name one: {named}")
    return candidates[0]


def _contents(sizes: dict[str, int], most: int = 8) -> str:
    """Name what lies at a repository's root, for a message."""
    names = sorted({path.partition("/")[0] + ("/" if "/" in path else "") for path in sizes} - {".gitattributes"})
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "no files") + more


def folder_of(repository: str) -> Path:
    """Return the folder of a repository in the hub's cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")


def cached_commit(asked: Name) -> str | None:
    """Return the commit of a revision when the hub was last asked; None = it never was."""
    revision = asked.revision or "main"
    ref = folder_of(asked.repository) / "refs" / revision
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else asked.revision


def fetch(found: Checkpoint, out: Path) -> Path:
    """Return a checkpoint's file in the hub's cache, downloaded unless it is there.

    What a download that ended early has left is resumed, also by another process: the hub's library would begin anew.
    Disk and memory are logged first.

    Args:
        out: folder that it will be imported into, whose disk must have room, too.
    Raises:
        FileNotFoundError: the hub cannot be reached.
        OSError: too little room on a disk, or a file that is not what the hub says.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    asked = found.asked
    with _naming(str(found)):
        url = hf_hub_url(asked.repository, found.file, revision=found.commit)
        etag = get_hf_file_metadata(url).etag or found.commit
    blob = folder_of(asked.repository) / "blobs" / etag
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(f"{etag}.incomplete")
    with locked(blob.parent):
        if _size(part) > found.size:
            part.unlink()
        _check_room(found, 0 if blob.exists() else found.size - _size(part), blob.parent, out)
        if not blob.exists():
            with _naming(str(found)):
                _download(url, part, found.size)
            _check_content(part, etag, str(found))
            part.replace(blob)
    with _naming(str(found)):  # makes the cache's links
        cache = constants.HF_HUB_CACHE
        return Path(hf_hub_download(asked.repository, found.file, revision=asked.revision, cache_dir=cache))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _download(url: str, part: Path, size: int) -> None:
    """Download a file's rest behind what there is of it."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # compressed, a file has no place to go on from
    with open(part, "ab", buffering=0) as file:
        http_get(url, file, resume_size=file.tell(), headers=headers, expected_size=size)


def _check_content(part: Path, etag: str, name: str) -> None:
    """Compare a file with its SHA-256, which is the tag of large files on the hub."""
    if not _SHA256.fullmatch(etag):
        return
    digest = hashlib.sha256()
    with open(part, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != etag:
        part.unlink()
        raise OSError(f"{name}: what was downloaded is not what the hub has, and was removed; try again")


def _check_room(found: Checkpoint, rest: int, cache: Path, out: Path) -> None:
    """Log what the download and the import take of disk and memory, and refuse what has no room.

    Raises:
        OSError: naming the disk, and what to set.
    """
    imported = min(found.size, LARGEST_IMPORT)
    disk, memory = shutil.disk_usage(_existing(cache)).free, free_memory(torch.device("cpu"))
    logger.info(
        "%s: the authors' checkpoint, %.2f GiB to download into %s (%.1f GiB free); its import %s takes at most "
        "%.2f GiB, generating with it about %.1f GiB of memory (%.1f GiB free)",
        *(found, rest / GIB, cache.parent, disk / GIB, out, imported / GIB, 2 * imported / GIB, memory / GIB),
    )
    same = _existing(cache).stat().st_dev == _existing(out).stat().st_dev
    needs = {cache: rest + imported} if same else {cache: rest, out: imported}
    for folder, need in needs.items():
        free = shutil.disk_usage(_existing(folder)).free
        if free < need:
            remedy = "set HF_HOME to a folder" if folder == cache else "choose another --out"
            raise OSError(
                f"{found}: {need / GIB:.1f} GiB are needed for it, but {folder} has {free / GIB:.1f} GiB free; {remedy}"
                " on a larger disk"
            )


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
