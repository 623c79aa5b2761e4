"""Files of prompts: text with a prompt a line, or JSON lines with settings of their own."""

from __future__ import annotations

import typing as tp
from pathlib import Path

from ..diffusion.settings import parse_interval
from ..utils.checks import is_number
from ..utils.reading import JsonObject, parse_json, read_lines
from .params import KNOBS, parse_quality, parse_rerank, renamed

_NO_PROMPTS = (".csv", ".tsv", ".json", ".xlsx", ".xls", ".ods", ".yaml", ".yml")


class Row(JsonObject):
    """A prompt with settings of its own, and the file and line that they are from."""

    def __init__(self, content: JsonObject, where: str) -> None:
        super().__init__(content)
        self.where = where


def read_prompts(path: str | Path) -> list[Row]:
    """Read the rows of a file of prompts: a line each, or JSON objects with `prompt` and any of `KNOBS` (`.jsonl`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the line that is no object, has no prompt or an unknown key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of prompts")
    suffix = path.suffix.lower()
    if suffix in _NO_PROMPTS:
        raise ValueError(f"{path}: {suffix} is not read: give a prompt a line (.txt), or JSON lines (.jsonl)")
    lines = read_lines(path)
    if suffix != ".jsonl":
        return [Row({"prompt": line.strip()}, where) for where, line in lines]
    return [_row(line, where) for where, line in lines]


def _row(line: str, where: str) -> Row:
    row = parse_json(line, where)
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise ValueError(f'{where}: give an object with a "prompt"')
    row = renamed(row)
    if unknown := sorted(row.keys() - {"prompt", *KNOBS}):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}: choose among prompt, {', '.join(KNOBS)}")
    given = {
        key: _as_quality(key, value, where) if _parser(key) is parse_quality else value
        for key, value in row.items()
        if value is not None  # null = not set, as pandas writes it
    }
    for key, value in given.items():
        is_kind, wanted = _KINDS[_parser(key)]
        if not is_kind(value):
            raise ValueError(f"{where}: {key} must be {wanted}, got {value!r}")
    return Row({key: int(value) if _parser(key) is int else value for key, value in given.items()}, where)


def _as_quality(key: str, value: object, where: str) -> tp.Any:
    """Parse a quality that is written as on the command line, `"0:1,8:5"`; return any other value as it is."""
    try:
        return parse_quality(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{where}: {key}: {error}") from error


Parser = tp.Callable[[str], object]
"""From what is typed to the value of a knob."""


def _parser(key: str) -> Parser:
    """Return what parses the knob where it is typed; it tells what its value is."""
    return KNOBS[key].metadata["parse"] if key in KNOBS else str


def _is_whole(value: object) -> bool:
    return is_number(value) and value == int(value)  # 3.0 too: pandas makes numbers floats where some are missing


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_interval(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _is_quality(value: object) -> bool:
    points = value if isinstance(value, list) else None
    if points is None:
        return is_number(value)
    return bool(points) and all(isinstance(point, (list, tuple)) and len(point) == 2 for point in points)


_KINDS: dict[Parser, tuple[tp.Callable[[object], bool], str]] = {
    str: (_is_text, "a text"),
    parse_rerank: (_is_text, "a text"),
    int: (_is_whole, "a whole number"),
    float: (is_number, "a number"),
    parse_interval: (_is_interval, "[start, stop]"),
    parse_quality: (_is_quality, "a number or a list of [seconds, number]"),
}
"""What parses a knob → what its value in a line of prompts must be, and that in words."""
