"""Descriptions of clips in a folder: from a file of captions, or from what lies beside the clips."""

from __future__ import annotations

import csv
import io
import logging
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..utils.audio import SUFFIXES
from ..utils.reading import parse_json, read_json, read_lines, read_text

logger = logging.getLogger(__name__)

COLUMNS = ("file", "description")
FORMS = (".json", ".jsonl", ".csv", ".tsv")
_DELIMITERS = ",;\t"
_SHOWN = 5  # names in a message


def read_captions(path: str | Path | None, files: Mapping[str, Path]) -> dict[str, str]:
    """Return descriptions of clips: name → text.

    Clips that get none, and lines of no clip, are warned of.

    Args:
        path: a JSON object {file: description}, JSON lines or CSV with the columns file and description; a file is
            named with or without its suffix. None = `description` of the sidecar beside each file, or of the
            `conditioning` that AudioCraft writes beside its samples, or the `prompt` that `qamdt generate` does.
        files: what `named_audio` found.
    Raises:
        ValueError: naming the file and the line, when it has another form.
    """
    if path is None:
        sidecars = {name: file.with_suffix(".json") for name, file in files.items()}
        texts = {name: _description(file) for name, file in sidecars.items() if file.exists()}
        return {name: text for name, text in texts.items() if text}
    rows = list(_rows(Path(path)))
    captions: dict[str, str] = {}
    strangers = []
    for where, named, text in rows:
        name = _name(named, files)
        if name is None:
            strangers.append(named)
        elif captions.get(name, text) != text:
            raise ValueError(f"{where}: a second description of {named}: keep one of them")
        elif text:
            captions[name] = text
    _warn(path, "no clip is called", strangers, len(rows))
    return captions


def _name(named: str, files: Mapping[str, Path]) -> str | None:
    """Return the clip that a caption's `file` means; with or without suffix, with or without the folder."""
    plain = posixpath.normpath(unicodedata.normalize("NFC", named.strip()).replace("\\", "/"))
    stem, suffix = posixpath.splitext(plain)
    names = [plain, stem] if suffix.lower() in SUFFIXES else [plain]
    by_path = {unicodedata.normalize("NFC", str(file)): name for name, file in files.items()}
    return next((name for name in names if name in files), by_path.get(plain))


def _warn(path: str | Path, what: str, names: list[str], total: int) -> None:
    if names:
        more = " ..." if len(names) > _SHOWN else ""
        logger.warning("%s: %s %s%s: %d of %d left out", path, what, ", ".join(names[:_SHOWN]), more, len(names), total)


def _description(sidecar: Path) -> str | None:
    """Return a clip's description from the JSON beside it; other or damaged files give none, with a warning."""
    try:
        content = read_json(sidecar)
    except (OSError, ValueError) as error:
        logger.warning("%s: the clip has no description", error)
        return None
    conditioning = content.get("conditioning") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(conditioning, (dict, type(None))):
        logger.warning("%s: not metadata of a clip: the clip has no description", sidecar)
        return None
    prompt = content.get("prompt")  # of `qamdt generate` a text; that of AudioCraft's samples is a sound
    typed = prompt if isinstance(prompt, str) else None
    text = content.get("description") or (conditioning or {}).get("description") or typed
    if text is None or isinstance(text, str):
        return text
    logger.warning("%s: description must be a text, got %.60r: the clip has no description", sidecar, text)
    return None


def _rows(path: Path) -> Iterator[tuple[str, str, str | None]]:
    """Yield (place, file, description) of each caption; a null description, or an empty one, is none."""
    form = path.suffix.lower()
    if form not in FORMS:
        raise ValueError(f"{path}: captions are a file of {', '.join(FORMS)}")
    if form == ".json":
        content = read_json(path)
        if not isinstance(content, dict):
            raise _not_captions(str(path), "it holds no object")
        yield from (_row(str(path), {"file": name, "description": text}) for name, text in content.items())
    elif form == ".jsonl":
        yield from (_row(where, parse_json(line, where)) for where, line in read_lines(path))
    else:
        yield from _table(path)


def _table(path: Path) -> Iterator[tuple[str, str, str | None]]:
    text = read_text(path)
    head = text.lstrip().partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(_DELIMITERS, key=head.count))
    try:
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise _not_captions(str(path), f"no column {' and '.join(missing)}")
        for row in reader:
            if any(row.values()):
                yield _row(f"{path}:{reader.line_num}", row)
    except csv.Error as error:
        raise _not_captions(f"{path}:{reader.line_num}", str(error)) from error


def _row(where: str, row: object) -> tuple[str, str, str | None]:
    if not isinstance(row, dict) or not isinstance(row.get("file"), str) or "description" not in row:
        raise _not_captions(where, "no file and description")
    if not isinstance(row["description"], (str, type(None))):
        raise ValueError(f"{where}: the description of {row['file']} must be a text, got {row['description']!r:.60}")
    return where, row["file"], row["description"]


def _not_captions(where: str, reason: str) -> ValueError:
    return ValueError(
        f"{where}: not captions ({reason}); expected a JSON object {{file: description}}, or JSON lines or CSV with "
        f"the columns {' and '.join(COLUMNS)}"
    )
