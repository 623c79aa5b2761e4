"""AudioCraft's `MusicDataset` with the quality of the segment that was cut."""

from __future__ import annotations

import functools
import itertools
import logging
import random
import typing as tp
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from audiocraft_qamdt.utils import prepared

from ..utils import audio
from ..utils.randomness import keyed_generator, keyed_seed
from ..utils.reading import warn_once
from . import metadata
from .attributes import QUALITY, Rule, to_levels
from .manifest import BrokenSidecar, Quality, read_manifest, read_quality, sidecar_path
from .metadata import read_metadata
from .weights import acceptance

from audiocraft.data.audio_dataset import AudioMeta, _resolve_audio_meta
from audiocraft.data.music_dataset import MusicDataset, MusicInfo, augment_music_info_description
from audiocraft.modules.conditioners import ConditioningAttributes

logger = logging.getLogger(__name__)
audio.read_everywhere()
metadata.read_everywhere()

CURVE_RATE = 25.0
"""p-MOS values per second of the curve along a segment: the published latent frame rate."""

CAPTIONS = ("refined", "original", "random")
"""Which of a track's texts is its description (`dataset.caption`)."""

SHARES = ("pmos", "random")
"""Which tracks `dataset.train.share` keeps: those with the highest p-MOS, or any."""

_GRACE = 20
"""Files tried before the share of failures is judged."""


@dataclass
class QualityMusicInfo(MusicInfo):
    """Segment info with the p-MOS of the segment, along it, and of its track; None = unknown."""

    pmos: float | None = None
    pmos_curve: tuple[float, ...] | None = None  # not a list: AudioCraft joins lists to text
    pmos_track: float | None = None
    rule: Rule | None = None  # that makes them to levels

    def to_condition_attributes(self) -> ConditioningAttributes:
        """Return AudioCraft's attributes, and quality in levels: all of it unknown where there is no `rule`."""
        attributes = super().to_condition_attributes()
        for field in ("pmos", "pmos_curve", "pmos_track", "rule"):
            del attributes.text[field]
        attributes.text.update(to_levels(self.pmos, self.pmos_curve, self.pmos_track, self.rule))
        return attributes


class QualityMusicDataset(MusicDataset):
    """`MusicDataset` that returns `QualityMusicInfo`, and stops when most files cannot be read.

    Sampling, retries and collation are AudioCraft's. Sidecars need not hold every music field.

    Args:
        info_fields_required: as in `MusicDataset`, but False by default.
        caption: `refined` = the sidecar's description; `original` = what it was before `qamdt captions`; `random` = one
            of these and of the candidates that passed, drawn for each item.
        shuffle_quality: a control for ablations: each track has the quality of another, always the same one; or
            "published": each clip keeps its own or has that of another, drawn again each time, as in the published
            loader (see `data.weights.share_of_other_labels`).
        share: of the tracks, in (0, 1], that are kept; None = all.
        share_by: which ones, of `SHARES`; the same number and always the same ones.
        filter_below: leave tracks out whose p-MOS is below this, a number or "mean" (of all tracks); None = none.
        filter_share: of those, in [0, 1], are left out: random ones, always the same, those of a smaller share first.
        kwargs: of `MusicDataset`.
    Raises:
        ValueError: an unknown `caption` or `share_by`, a share that keeps nothing, or more than have a p-MOS.
        RuntimeError: while reading, when more than half of the files tried have failed.
    """

    def __init__(
        self,
        meta: list[AudioMeta],
        *args: tp.Any,
        info_fields_required: bool = False,
        caption: str = "refined",
        shuffle_quality: bool | str = False,
        share: float | None = None,
        share_by: str = "pmos",
        filter_below: float | str | None = None,
        filter_share: float = 1.0,
        **kwargs: tp.Any,
    ) -> None:
        if caption not in CAPTIONS:
            raise ValueError(f"dataset.caption={caption!r} is unknown: choose one of {', '.join(CAPTIONS)}")
        # AudioCraft merges other fields into the description while it reads it: with another text, that comes after.
        self._merge_text_p = kwargs.pop("merge_text_p", 0.0) if caption != "refined" else 0.0
        meta = meta if share is None else _share(meta, share, share_by)
        meta = meta if filter_below is None else _filtered(meta, filter_below, filter_share)
        super().__init__(meta, *args, info_fields_required=info_fields_required, **kwargs)
        self.caption = caption
        self.rule: Rule | None = None  # set when the statistics of the training data are known
        if not isinstance(shuffle_quality, bool) and shuffle_quality != "published":
            raise ValueError(f"dataset.shuffle_quality={shuffle_quality!r}: give true, false or published")
        self._scored_as = _shuffled([meta.path for meta in self.meta]) if shuffle_quality is True else {}
        self._redraw = PublishedRedraw([meta.path for meta in self.meta]) if shuffle_quality == "published" else None
        self._tried = 0
        self._read = 0
        self._last_tried = ""
        self._predictor: str | None = None
        if self.segment_duration is not None:
            short = sum(meta.duration < self.segment_duration for meta in self.meta)
            if short:
                logger.warning(
                    "%d of %d tracks are shorter than dataset.segment_duration=%.2f s: they are padded with silence",
                    short,
                    len(self.meta),
                    self.segment_duration,
                )

    @classmethod
    def from_meta(cls, root: str | Path, **kwargs: tp.Any) -> QualityMusicDataset:
        # AudioCraft's own reader stops at a byte order mark and at a blank line.
        return cls([_resolve_audio_meta(AudioMeta.from_dict(row)) for row in read_manifest(root)], **kwargs)

    def sample_file(self, index: int, rng: torch.Generator) -> AudioMeta:
        if self._tried >= _GRACE and self._most_fail():
            raise self._unreadable()
        self._tried += 1
        meta = super().sample_file(index, rng)
        self._last_tried = meta.path
        return meta

    def __getitem__(self, index: int) -> tuple[torch.Tensor, QualityMusicInfo]:
        if self.segment_duration is None:  # whole tracks: AudioCraft does not call sample_file
            self._tried, self._last_tried = self._tried + 1, self.meta[index].path
        try:
            wav, info = super().__getitem__(index)
        except KeyError as error:  # dataset.info_fields_required
            sidecar = sidecar_path(self._last_tried)
            raise ValueError(f"{sidecar}: not valid music metadata: {error}") from error
        except Exception as error:  # whatever the decoder raised, after AudioCraft's last retry
            raise self._unreadable() from error
        self._read += 1
        return wav, self._with_quality(self._with_caption(info, index), index)

    def _with_caption(self, info: MusicInfo, index: int) -> MusicInfo:
        if self.caption == "refined":
            return info
        description, texts = _cached_texts(info.meta.path)
        if self.caption == "random" and texts:
            description = texts[keyed_seed(*self._item(index), "caption") % len(texts)]
        info = replace(info, description=description)
        if self._merge_text_p:
            options = (self._merge_text_p, self.drop_desc_p, self.drop_other_p)
            info = augment_music_info_description(info, *options)
        if "description" in info.joint_embed:
            info.joint_embed["description"] = info.joint_embed["description"]._replace(text=[info.description])
        return info

    def _item(self, index: int) -> tuple[int, int, int]:
        epoch = (self.current_epoch or 0) if self.shuffle else 0  # as AudioCraft seeds what it draws for an item
        return self.shuffle_seed, epoch, index

    def _most_fail(self) -> bool:
        return self._tried - self._read > self._tried / 2

    def _unreadable(self) -> RuntimeError:
        return RuntimeError(
            f"{self._tried - self._read} of {self._tried} audio files could not be read, last "
            f"{self._last_tried}: check the manifest (`qamdt manifest` lists unreadable files)"
        )

    def _with_quality(self, info: MusicInfo, index: int) -> QualityMusicInfo:
        known = {field.name: getattr(info, field.name) for field in fields(info)}
        path = self._scored_as.get(info.meta.path, info.meta.path)
        if self._redraw is not None:
            path = self._redraw(path, random.Random(keyed_seed(*self._item(index), "published")))
        quality = self._quality(path)
        if quality is None:
            return QualityMusicInfo(**known, rule=self.rule)
        start = info.seek_time
        heard, padded = (start + frames / info.sample_rate for frames in (info.n_frames, info.total_frames))
        return QualityMusicInfo(
            **known,
            rule=self.rule,
            pmos=quality.pmos_between(start, heard),
            pmos_track=quality.pmos,
            pmos_curve=tuple(quality.curve(start, padded, CURVE_RATE)) if quality.frames else None,
        )

    def _quality(self, path: str) -> Quality | None:
        quality = _cached_quality(path)
        if quality is None:
            return None
        name = f"{quality.predictor} {quality.version}"
        self._predictor = self._predictor or name
        if name != self._predictor:
            raise ValueError(
                f"{Path(path).with_suffix('.json')}: {QUALITY} is by {name}, but other tracks of the data set "
                f"were scored by {self._predictor}: annotate all of them with one predictor"
            )
        return quality


class PublishedRedraw:
    """The published loader's fault: whose quality a clip is given.

    It draws tracks until one is taken, with the probability `acceptance` of its p-MOS, beginning with the clip's own;
    those drawn later are taken in proportion to it.

    Args:
        paths: of all tracks. One without a score is never taken.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths = sorted(paths)
        scored = _scores(self.paths)
        self.taken = {path: acceptance(scored[path]) if path in scored else 0.0 for path in self.paths}
        self.cumulative = list(itertools.accumulate(self.taken.values()))
        other = 1 - self.cumulative[-1] / len(self.paths)
        logger.info("dataset.shuffle_quality=published: %.1f %% of the clips have a redrawn quality", 100 * other)

    def __call__(self, path: str, rng: random.Random) -> str:
        """Return the track whose quality the clip of `path` is given."""
        if not self.cumulative[-1] or rng.random() < self.taken[path]:
            return path
        return rng.choices(self.paths, cum_weights=self.cumulative)[0]


def _share(meta: list[AudioMeta], share: float, share_by: str) -> list[AudioMeta]:
    """Return a share of the tracks in the manifest's order, the same whatever that order is."""
    count = round(share * len(meta))
    if share_by not in SHARES:
        raise ValueError(f"dataset.train.share_by={share_by!r} is unknown: choose one of {', '.join(SHARES)}")
    if not (0 < share <= 1 and count):
        raise ValueError(f"dataset.train.share={share} of {len(meta)} tracks: give a share in (0, 1] that keeps some")
    paths = sorted(track.path for track in meta)
    if share_by == "random":
        order = torch.randperm(len(paths), generator=keyed_generator("share")).tolist()
        kept = {paths[index] for index in order[:count]}
    else:
        scores = _scores(paths)
        if len(scores) < count:
            raise ValueError(
                f"dataset.train.share={share} keeps the best {count} of {len(meta)} tracks, but only {len(scores)} "
                "have a p-MOS: run `qamdt annotate`"
            )
        kept = set(sorted(scores, key=lambda path: (-scores[path], path))[:count])
    return [track for track in meta if track.path in kept]


def _filtered(meta: list[AudioMeta], below: float | str, share: float) -> list[AudioMeta]:
    """Leave out a share of the tracks whose p-MOS is below a value; those without a score stay."""
    if not 0 <= share <= 1:
        raise ValueError(f"dataset.train.filter_share={share}: give a share in [0, 1]")
    scores = _scores(sorted(track.path for track in meta))
    if not scores:
        raise ValueError(f"dataset.train.filter_below={below}: no track has a p-MOS, run `qamdt annotate`")
    if isinstance(below, str) and below != "mean":
        raise ValueError(f"dataset.train.filter_below={below!r}: give a p-MOS, or mean")
    limit = sum(scores.values()) / len(scores) if isinstance(below, str) else below
    low = [path for path, score in scores.items() if score < limit]
    order = torch.randperm(len(low), generator=keyed_generator("filter")).tolist()
    left_out = {low[index] for index in order[: round(share * len(low))]}
    logger.info("%d of %d tracks with a p-MOS below %.2f are left out", len(left_out), len(low), limit)
    if len(left_out) == len(meta):
        raise ValueError(f"dataset.train.filter_below={below} leaves no track: give a lower p-MOS or filter_share")
    return [track for track in meta if track.path not in left_out]


def _scores(paths: list[str]) -> dict[str, float]:
    """Return the p-MOS of the tracks that have one."""
    return {path: quality.pmos for path in paths if (quality := _cached_quality(path)) is not None}


def _shuffled(paths: list[str]) -> dict[str, str]:
    """Give each path another one, whatever the order and number of processes: one cycle through all of them."""
    order = torch.randperm(len(paths), generator=keyed_generator("shuffle_quality")).tolist()
    cycle = [sorted(paths)[index] for index in order]
    return dict(zip(cycle, cycle[1:] + cycle[:1], strict=True))


@functools.lru_cache(maxsize=65536)
def _cached_quality(path: str) -> Quality | None:
    try:
        return read_quality(path)
    except BrokenSidecar as error:  # concerns one track; a wrong score concerns all, and is refused
        warn_once(f"{error}: the track has no quality")
        return None


@functools.lru_cache(maxsize=65536)
def _cached_texts(path: str) -> tuple[str | None, tuple[str, ...]]:
    """Return a track's original description, and all its texts: this, the refined one, candidates that passed."""
    sidecar = sidecar_path(path)
    content = read_metadata(sidecar) if sidecar.exists() else {}
    description = content.get("description")
    original = content.get("description_original", description)
    captions = content.get("captions")
    entries = captions if isinstance(captions, list) else []
    kept = [entry.get("text") for entry in entries if isinstance(entry, dict) and entry.get("kept")]
    texts = dict.fromkeys(text for text in (original, description, *kept) if isinstance(text, str) and text)
    return original or None, tuple(texts)
