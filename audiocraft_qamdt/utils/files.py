"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give the path of a new file beside `path` to write to; it takes the place of `path` if nothing was raised.

    A reader sees the old file or the new one, never a part. Links are followed.
    """
    target = Path(os.path.realpath(path))
    # Without the target's own name: the two together can be longer than the file system takes.
    part = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield part
        os.replace(part, target)
    except OSError as error:  # "No space left on device" alone names no file
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    if any("\ud800" <= char <= "\udfff" for char in text):  # half a character, which UTF-8 cannot hold
        text = json.dumps(content, allow_nan=False)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
