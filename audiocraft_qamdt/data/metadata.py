"""What AudioCraft's `MusicInfo` takes from a sidecar, and what it would drop without a word."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable
from pathlib import Path

from ..compat import prepare
from ..utils.reading import JsonObject, read_json, warn_once


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, str | int | float) and not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _are_words(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("title", "artist", "key", "genre", "description", "name", "instrument"), (_is_text, "a text")),
    **dict.fromkeys(("moods", "keywords"), (_are_words, "a text or a list of texts")),
    "bpm": (_is_number, "a number"),
}
"""Music field → what it must be (null = not known), and that in words."""

_REPLACED = ("self_wav", "joint_embed", "audio_tokens")  # AudioCraft fills these in itself


def checked_metadata(content: JsonObject, source: str | Path) -> JsonObject:
    """Return a sidecar's content without the music fields that are of another type; each of them is warned of, by name.

    Args:
        content: of the sidecar; other keys are left alone.
        source: the sidecar.
    """
    kept = {key: value for key, value in content.items() if key not in _REPLACED}
    for field, (fits, wanted) in KINDS.items():
        value = kept.get(field)
        if value is not None and not fits(value):
            warn_once(f"{source}: {field} must be {wanted}, got {_short(value)}: this field of the track is left out")
            del kept[field]
    return kept


def read_metadata(path: str | Path) -> JsonObject:
    """Read the music metadata of a sidecar; where it cannot be read, there is none, and a warning says so.

    The track is trained on all the same: its sound is sound.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"{path}: must hold a JSON object, got {_short(content)}")
    except (OSError, ValueError) as error:
        warn_once(f"{error}: the track has no metadata")
        return {}
    return checked_metadata(content, path)


def read_everywhere() -> None:
    """Let AudioCraft's `MusicDataset` read sidecars through `read_metadata`: it knows `json` by that name alone."""
    prepare()
    import audiocraft.data.music_dataset

    ours = types.SimpleNamespace(**{**vars(json), "load": lambda file: read_metadata(file.name)})
    vars(audiocraft.data.music_dataset)["json"] = ours


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
