"""Records that the stages hand to each other and leave in the sidecars."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..data.manifest import read_sidecar, sidecar_path, update_sidecar
from ..utils.reading import JsonObject
from .text import clean

DESCRIPTION, ORIGINAL, CAPTIONS = "description", "description_original", "captions"


@dataclass
class Candidate:
    """A text that could describe a track, and where it comes from.

    Args:
        text: the caption.
        stage: "original", "caption", "retrieve" or "rewrite".
        model: name of what wrote it; None = not known.
        score: its agreement with the audio, a cosine; None = not measured.
        segment: (start, stop) in seconds of what it was written for; None = the whole track.
        kept: whether it passed.
        sources: for "rewrite": indices of the candidates that it was made of.
        refined: whether it is the track's description now.
        reason: why it was not kept.
    """

    text: str
    stage: str
    model: str | None = None
    score: float | None = None
    segment: tuple[float, float] | None = None
    kept: bool = True
    sources: list[int] = field(default_factory=list)
    refined: bool = False
    reason: str | None = None

    @classmethod
    def from_dict(cls, fields: JsonObject) -> Candidate:
        known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        if known.get("segment") is not None:
            known["segment"] = tuple(known["segment"])
        return cls(**known)

    def to_dict(self) -> JsonObject:
        """Return the content for JSON, without what is not known."""
        always = ("text", "stage", "model", "score", "kept")
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["segment"] = None if self.segment is None else list(self.segment)  # as JSON gives it back
        return {name: value for name, value in fields.items() if name in always or value not in (None, [], False)}


@dataclass
class Texts:
    """Texts of a track's sidecar before refinement.

    Args:
        original: its description as it was found; None = there is none.
        sidecar: all of it.
    """

    original: str | None
    sidecar: JsonObject

    @property
    def captions(self) -> list[Candidate]:
        """Return the candidates that an earlier run left."""
        return [Candidate.from_dict(fields) for fields in self.sidecar.get(CAPTIONS) or []]


def read_texts(audio_path: str | Path) -> Texts:
    """Read a track's texts.

    Raises:
        ValueError: naming the sidecar, and the key that is wrong.
    """
    path = sidecar_path(audio_path)
    content = read_sidecar(path) if path.exists() else {}
    original = content.get(ORIGINAL) if ORIGINAL in content else content.get(DESCRIPTION)
    if original is not None and not isinstance(original, str):
        raise ValueError(f"{path}: {DESCRIPTION} must be a text, got {original!r}")
    captions = content.get(CAPTIONS)
    if captions is not None and not (isinstance(captions, list) and all(_is_candidate(entry) for entry in captions)):
        raise ValueError(f"{path}: {CAPTIONS} must be a list of captions with text and stage: repair or remove it")
    return Texts(original if original and clean(original) else None, content)


def _is_candidate(entry: object) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("text", "stage"))


def write_texts(audio_path: str | Path, texts: Texts, candidates: list[Candidate], description: str | None) -> bool:
    """Write candidates and description into the sidecar, and keep the original beside them.

    Returns:
        Whether anything in the sidecar changed.
    """
    changes: JsonObject = {CAPTIONS: [candidate.to_dict() for candidate in candidates]}
    found = texts.sidecar.get(ORIGINAL) if ORIGINAL in texts.sidecar else texts.sidecar.get(DESCRIPTION)
    if description is not None:
        changes |= {DESCRIPTION: description, ORIGINAL: found}
    elif ORIGINAL in texts.sidecar:  # an earlier run had found a description, this one has not
        changes[DESCRIPTION] = found
    if all(key in texts.sidecar and texts.sidecar[key] == value for key, value in changes.items()):
        return False
    update_sidecar(audio_path, changes)
    return True


def undo_texts(audio_path: str | Path) -> bool:
    """Give a track its original description back and drop the candidates; False = there was nothing to undo."""
    path = sidecar_path(audio_path)
    content = read_sidecar(path) if path.exists() else {}
    if not {ORIGINAL, CAPTIONS} & set(content):
        return False
    original = content.get(ORIGINAL)
    restored = {DESCRIPTION: original} if ORIGINAL in content and original is not None else {}
    gone = [ORIGINAL, CAPTIONS] + ([DESCRIPTION] if ORIGINAL in content and original is None else [])
    update_sidecar(audio_path, restored, remove=gone)
    return True
