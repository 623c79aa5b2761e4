"""Text and JSON that people write: read in one way, and refused in one line that names the file and the place."""

from __future__ import annotations

import functools
import json
import logging
import math
from pathlib import Path
from typing import Any, TypeAlias

logger = logging.getLogger(__name__)

JsonValue: TypeAlias = Any
"""What `json.loads` returns: code that reads a file checks what is in it."""
JsonObject: TypeAlias = dict[str, JsonValue]

_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@functools.lru_cache(maxsize=4096)
def warn_once(message: str) -> None:
    """Log a warning the first time that this process has it."""
    logger.warning("%s", message)


def read_text(path: str | Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: naming the file and the line, when it is in another encoding or no text.
        OSError: it cannot be opened.
    """
    content = Path(path).read_bytes()
    if content[:2] in _MARKS:
        raise ValueError(f"{path} is {_MARKS[content[:2]]}: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8 (Latin-1?): save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{path}:{line}: holds zero bytes, it is no text: save it as UTF-8")
    return text


def read_lines(path: str | Path) -> list[tuple[str, str]]:
    """Read the lines of a text file that are not blank, each after its place (`file:line`).

    Raises:
        ValueError, OSError: see `read_text`.
    """
    # Not `splitlines`: JSON may hold U+2028 and other characters that it takes for ends of lines.
    lines = read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]


def parse_json(text: str, where: str) -> JsonValue:
    """Parse JSON, with NaN and infinite numbers as null: that is what pandas means by them. It is logged.

    Args:
        where: file, or file and line, for the message.
    Raises:
        ValueError: naming the place, when it is not JSON.
    """
    try:
        content = json.loads(text, parse_constant=float)
    except RecursionError as error:
        raise ValueError(f"{where}: not JSON that can be read (nested too deeply)") from error
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    bad: list[str] = []
    content = _finite(content, "", bad)
    if bad:
        warn_once(f"{where}: {', '.join(bad[:5])} cannot be NaN or infinite in JSON: read as null")
    return content


def read_json(path: str | Path) -> JsonValue:
    """Read a JSON file; see `parse_json` and `read_text`."""
    return parse_json(read_text(path), str(path))


def _finite(value: object, key: str, bad: list[str]) -> object:
    if isinstance(value, dict):
        return {name: _finite(item, f"{key}.{name}" if key else name, bad) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item, f"{key}[{index}]", bad) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        bad.append(key or "the value")
        return None
    return value
