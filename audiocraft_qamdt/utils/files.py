"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import logging
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

MARK = ".qamdt.json"
"""File in an output folder that names the command that made it."""
_PART = re.compile(r"\..*\.(?P<host>[^.]+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.(part|tmp)")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give the path of a new file beside `path` to write to; it takes the place of `path` if nothing was raised.

    A reader sees the old file or the new one, never a part. Links are followed.
    """
    target = Path(os.path.realpath(path))
    part = part_of(target)
    try:
        yield part
        os.replace(part, target)
    except OSError as error:  # "No space left on device" alone names no file
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def part_of(target: Path, ending: str = "tmp") -> Path:
    """Name a file beside `target` for what is not complete yet; the name holds its process, for `remove_dead_parts`."""
    name = os.fsencode(target.name)[:150].decode(errors="ignore")  # two names can be longer than a file system takes
    return target.with_name(f".{name}.{_host()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.{ending}")


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname())[:32] or "host"


def remove_dead_parts(folder: Path) -> list[Path]:
    """Remove what processes of this machine that are no more have left incomplete in a folder; what was removed."""
    dead = []
    for path in folder.glob(".*") if folder.is_dir() else ():
        found = _PART.fullmatch(path.name)
        if found is None or found["host"] != _host():
            continue
        if not is_alive(int(found["pid"])):
            dead.append(path)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    return dead


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def claim(out: Path, command: str, is_own: Callable[[Path], bool] = lambda folder: False) -> Path:
    """Make an output folder, or take one that is empty or that this command made; it is marked as the command's.

    Args:
        command: such as `qamdt report`.
        is_own: tells whether a folder without a mark was made by the command.
    Raises:
        FileExistsError: it holds what the command did not make; nothing is touched.
        NotADirectoryError: it is a file.
    """
    refuse_foreign(out, command, is_own)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MARK, {"made_by": command})
    return out


def holds_only(*patterns: str) -> Callable[[Path], bool]:
    """Return a test whether a folder holds the first of some names, and besides it only what the patterns match."""

    def is_own(folder: Path) -> bool:
        names = [path.name for path in folder.iterdir()]
        known = (MARK, *patterns)
        return patterns[0] in names and all(any(fnmatch.fnmatch(name, one) for one in known) for name in names)

    return is_own


def refuse_foreign(out: Path, command: str, is_own: Callable[[Path], bool]) -> None:
    """Refuse an output folder that is neither new nor empty nor the command's own (see `claim`).

    Raises:
        FileExistsError, NotADirectoryError: naming it.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise NotADirectoryError(f"{out} is a file: choose another --out, a new or an empty folder")
    first = next((path for path in sorted(out.iterdir())), None)
    if first is None or _made_by(out) == command or is_own(out):
        return
    raise FileExistsError(
        f"{out} holds files that {command} did not make, such as {first.name}, or more than it made: "
        "choose a new or an empty folder"
    )


def refuse_other_settings(path: Path, made: Mapping[str, object], asked: Mapping[str, object]) -> None:
    """Refuse to go on with a folder that was made with other settings.

    Args:
        path: the file that keeps them.
        made: what it says; more keys than are asked for do not matter.
        asked: what the folder is to be made with.
    Raises:
        ValueError: naming the settings that differ.
    """
    different = [key for key in asked if made.get(key) != asked[key]]
    if different:
        there, here = (" and ".join(str(some.get(key)) for key in different) for some in (made, asked))
        raise ValueError(
            f"{path}: made with another {' and '.join(different)} ({there}, not {here}): choose another folder or "
            "remove it"
        )


def _made_by(folder: Path) -> str | None:
    try:
        content = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content.get("made_by") if isinstance(content, dict) else None


@contextlib.contextmanager
def replacing_folder(folder: str | Path, is_own: Callable[[Path], bool], command: str) -> Iterator[Path]:
    """Replace a folder as `replacing` does a file: a new or empty one, or one that `is_own` allows to replace.

    Killed between the two renames, the old folder is put back by `recover`, which every call begins with.

    Raises:
        FileExistsError: the folder holds something else; nothing is touched.
    """
    folder = Path(os.path.realpath(folder))
    recover(folder)
    refuse_foreign(folder, command, is_own)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_dead_parts(folder.parent)
    part = part_of(folder, "part")
    part.mkdir()
    try:
        yield part
        sync_tree(part)
        refuse_foreign(folder, command, is_own)  # it took time: another process may have written there
        old = _old(folder)
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put a folder back that `replacing_folder` was killed over, between its two renames."""
    old = _old(folder)
    if not old.is_dir():
        return
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # read-only, or another process was first
            os.replace(old, folder)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.qamdt-old")


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a folder, or a lock file, which names the host and the process; it is released when the process ends.

    Where the file system has no locks, nothing is held.

    Args:
        wait: until no other process holds it.
    Raises:
        BlockingIOError: another process holds it and `wait` is off; the message names it.
    """
    import fcntl

    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            holder = "" if path.is_dir() else path.read_text(encoding="utf-8", errors="replace")[:200].strip()
            raise BlockingIOError(holder or "an unknown process") from error
        except OSError:  # not on this file system
            logger.debug("%s cannot be locked", path)
        if not path.is_dir():
            os.truncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def sync(path: Path) -> None:
    """Have a file or folder on the disk before going on: power may fail."""
    with contextlib.suppress(OSError):  # file systems without it, and folders on some of them
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Sync everything in a folder, and the folder itself."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


@contextlib.contextmanager
def replacing_durably(path: str | Path, mode: str = "wb") -> Iterator[IO[bytes]]:
    """Replace a file by an open one that is synced first (see `replacing`): it survives a power failure."""
    with replacing(path) as part, open(part, mode) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    sync(Path(path).parent)


def has_surrogates(text: str) -> bool:
    """Tell whether a text has halves of characters, which JSON can hold and UTF-8 cannot."""
    return any("\ud800" <= char <= "\udfff" for char in text)


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write a text file of these lines in UTF-8, whole or not at all."""
    with replacing(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_json(path: str | Path, content: Mapping[str, object]) -> None:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    if has_surrogates(text):
        text = json.dumps(content, allow_nan=False)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
