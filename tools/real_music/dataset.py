"""The data set: a folder for each split, and LICENCES.json, which says what was taken from where and on what terms."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from audiocraft_qamdt.commands.output import say
from audiocraft_qamdt.data.manifest import QUALITY_KEY, read_sidecar, replacing, sidecar_path, write_json
from audiocraft_qamdt.utils.files import refuse_other_settings

from .licences import is_free
from .packages import JUDGE, Package
from .tracks import EFFECTS, SPLITS, convert, describe, find_tracks, output_names, slug, split_of, words

LICENCES = "LICENCES.json"
TERMS = "licences"
"""Folder of the packages' `copyright` files."""
WORK = ".work"
"""Folder of all that is not finished."""
ALL_SPLITS = (*(name for name, _ in SPLITS), "judge")


@dataclass(frozen=True)
class Track:
    """A track on its way into the data set.

    Args:
        path: its file.
        source: its path within the package or folder.
        target: its FLAC file in the data set.
        licence: the licence's name.
        about: what is known of its source, in words.
        origin: keys of the sidecar that say where it is from.
    """

    path: Path
    source: Path
    target: Path
    licence: str
    about: str
    origin: dict[str, str]


class DataSet:
    """A data set that grows a package at a time.

    Args:
        folder: where it is; goes on with what is there.
        sample_rate, channels: of its tracks.
    Raises:
        ValueError: it was begun with another rate or number of channels, or its LICENCES.json is not readable.
    """

    def __init__(self, folder: Path, sample_rate: int, channels: int) -> None:
        self.folder, self.work = folder, folder / WORK
        asked = {"sample_rate": sample_rate, "channels": channels}
        self.record: dict[str, Any] = {**asked, "sources": {}}
        if (folder / LICENCES).exists():
            self.record = read_sidecar(folder / LICENCES)
        refuse_other_settings(folder / LICENCES, self.record, asked)
        self.work.mkdir(parents=True, exist_ok=True)
        self._save()

    def has(self, source: str) -> bool:
        """Whether all of a package or folder has been taken."""
        return source in self.record["sources"]

    def add_package(self, package: Package) -> None:
        """Take the tracks of a package whose licence is free; say which are left out."""
        tracks, left_out = [], {}
        judge = JUDGE.fullmatch(package.name) is not None
        origin = {"package": package.name, "version": package.version}
        found = find_tracks(package.root, EFFECTS)
        for path, name in output_names(package.name, found, package.root).items():
            source = path.relative_to(package.root)
            licence = package.copyright.licence_of(source)
            if licence is None or not is_free(licence):
                left_out[str(source)] = f"its licence is not known to be free: {licence or 'nothing said'}"
                continue
            split = "judge" if judge else split_of(package.name, path.stem)
            target = self.folder / split / f"{name}.flac"
            tracks.append(Track(path, source, target, licence, package.about, origin))
        if package.copyright_text:
            self._keep_terms(package.name, package.copyright_text)
        self._add(package.name, {"version": package.version}, tracks, left_out)

    def add_folder(self, folder: Path, licence: str) -> None:
        """Take all music of a folder; `licence` is what its owner says of it."""
        tracks, name_of_folder = [], slug(folder.name)
        origin = {"folder": str(folder)}
        for path, name in output_names(name_of_folder, find_tracks(folder), folder).items():
            target = self.folder / split_of(name_of_folder, path.stem) / f"{name}.flac"
            tracks.append(Track(path, path.relative_to(folder), target, licence, words(path.parent.name), origin))
        self._add(str(folder), {}, tracks, {})

    def splits(self) -> Iterator[Path]:
        """Folders of the splits that hold a track."""
        for name in ALL_SPLITS:
            if any((self.folder / name).glob("*.flac")):
                yield self.folder / name

    def close(self) -> None:
        """Remove what only an unfinished data set needs."""
        shutil.rmtree(self.work)

    def _add(self, name: str, facts: dict[str, Any], tracks: list[Track], left_out: dict[str, str]) -> None:
        for track in tqdm(tracks, name, unit="track"):
            try:
                self._take(track)
            except ValueError as error:
                left_out[str(track.source)] = str(error)
        say(f"{name}: left out {source} ({reason})" for source, reason in left_out.items())
        taken = [track for track in tracks if str(track.source) not in left_out]
        listed = {
            str(track.target.relative_to(self.folder)): {"source": str(track.source), "licence": track.licence}
            for track in taken
        }
        licences = sorted({track.licence for track in taken})
        self.record["sources"][name] = {**facts, "licences": licences, "tracks": listed, "left_out": left_out}
        self._save()
        say([f"{name}: {len(taken)} tracks, {', '.join(licences) or 'no licence'}"])

    def _take(self, track: Track) -> None:
        """Convert a track; its sidecar is written first, so that the FLAC file is there only when all is."""
        if track.target.exists():
            return
        track.target.parent.mkdir(parents=True, exist_ok=True)
        part = self.work / "part.flac"
        tags = convert(track.path, part, self.record["sample_rate"], self.record["channels"])
        facts = {**describe(track.path, track.about, tags), **track.origin, "licence": track.licence}
        own = sidecar_path(track.path)
        if own.exists():
            facts |= {key: value for key, value in read_sidecar(own).items() if key != QUALITY_KEY}
        write_json(sidecar_path(track.target), {**facts, "source": str(track.source)})
        os.replace(part, track.target)

    def _keep_terms(self, name: str, text: str) -> None:
        (self.folder / TERMS).mkdir(exist_ok=True)
        with replacing(self.folder / TERMS / f"{name}.txt") as part:
            part.write_text(text, encoding="utf-8")

    def _save(self) -> None:
        with replacing(self.folder / LICENCES) as part:
            part.write_text(json.dumps(self.record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
