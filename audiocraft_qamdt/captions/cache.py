"""Results of the stages on disk, by what went into them: a change of the last stage leaves the first two alone."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..utils.files import write_json
from ..utils.reading import JsonValue

CACHE_FOLDER = ".captions"  # beside the manifest
_BLOCK = 1 << 20


def digest(*parts: object) -> str:
    """Return a key that depends on all of the parts (anything that JSON can hold)."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_digest(path: str | Path) -> str:
    """Return a key that depends on a file's content, wherever it lies."""
    state = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


class StageCache:
    """A folder per stage with a small file per result. Any number of processes may share it.

    Args:
        folder: where; it is made when something is stored.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, stage: str, key: str) -> JsonValue:
        """Return what was stored; None where nothing was, or it cannot be read."""
        try:
            return json.loads(self.path(stage, key).read_text(encoding="utf-8"))["value"]
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def put(self, stage: str, key: str, value: object) -> None:
        """Store a result, whole or not at all."""
        path = self.path(stage, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"value": value})

    def path(self, stage: str, key: str) -> Path:
        """Return a result's file, in one of 256 folders: file systems slow down with millions of files in one."""
        return self.folder / stage / key[:2] / f"{key}.json"


def pack(vector: Tensor) -> str:
    """Return a vector as text for JSON, in float32."""
    return base64.b64encode(vector.float().contiguous().numpy().tobytes()).decode()


def unpack(text: str) -> Tensor:
    """Return the vector of `pack`."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), np.float32).copy())
