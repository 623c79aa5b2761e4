"""Outputs are looked at before the work is done: whether they can be written, and whose file is there already."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from .audio import SUFFIXES
from .reading import JsonObject, read_json, warn_once

_OTHER_FILES = frozenset(
    ".md .txt .csv .tsv .json .jsonl .yaml .yml .toml .html .htm .pdf .png .jpg .jpeg .svg .gz .zip .tar .xml .tex "
    ".xlsx .py .pt .pth .th .ckpt .safetensors .npy .npz".split()
)
"""Suffixes that promise what is in a file."""


def check_folder(folder: str | Path, remedy: str = "choose another --out") -> None:
    """See that files can be written into a folder, which need not be there yet; nothing is left behind.

    Args:
        remedy: what to do where they cannot, for the message.
    Raises:
        OSError: naming the folder.
    """
    path = Path(os.path.abspath(folder))
    there = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file, not a folder: {remedy}")
    try:
        handle, probe = tempfile.mkstemp(dir=there, prefix=".")
        os.close(handle)
        os.unlink(probe)
    except OSError as error:
        raise OSError(f"{path}: cannot be written to ({error.strerror}): {remedy}") from error


def check_file(path: str | Path, suffixes: Collection[str], option: str = "--out") -> None:
    """See that a file can be written, and that its name does not promise another kind of file.

    Args:
        suffixes: those of the kind that is written, the usual one first; what is no known suffix is part of the name.
        option: what the user chooses the file with, for the message.
    Raises:
        ValueError, OSError: naming the path.
    """
    path = Path(path)
    suffix, usual = path.suffix.lower(), next(iter(suffixes))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give a file, e.g. {option} {path / f'result{usual}'}")
    if suffix in {*_OTHER_FILES, *SUFFIXES} and suffix not in suffixes:
        raise ValueError(f"{path}: what is written is {usual}, not {path.suffix}: {option} {path.with_suffix(usual)}")
    check_folder(path.parent, f"choose another {option}")


def check_ours(path: str | Path, made_here: Callable[[JsonObject], bool], what: str, option: str = "--out") -> None:
    """Refuse to replace a JSON file that another program, or a person, has written.

    Args:
        made_here: whether the content of a JSON object is what this command writes.
        what: what this command would write there, for the message.
    Raises:
        FileExistsError: naming the file.
    """
    if os.path.lexists(path) and not _is_ours(path, made_here):
        raise FileExistsError(
            f"{path} is there and was not written by this command: {what} would replace it, choose another {option}"
        )


def check_beside(out: str | Path, *companions: Path) -> None:
    """Refuse to replace files beside a result that is not there, so that they are not its own.

    Args:
        out: the result, which `check_ours` has found to be new or ours.
        companions: what this command writes beside it.
    Raises:
        FileExistsError: naming the file.
    """
    for companion in companions:
        if os.path.lexists(companion) and not os.path.lexists(out):
            raise FileExistsError(f"{companion} is there without {out} and would be replaced: choose another --out")


def _is_ours(path: str | Path, made_here: Callable[[JsonObject], bool]) -> bool:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and made_here(content)


@contextlib.contextmanager
def optional_cache(what: str) -> Iterator[None]:
    """Go on with a warning where a cache cannot be written: it only saves time."""
    try:
        yield
    except OSError as error:
        warn_once(f"{what} cannot be kept ({error.strerror or error}): it is computed again next time")
