"""Tiny Debian packages of music, built with `dpkg-deb`, and an apt repository of them in a folder, for tests."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile

from .audio_folder import tone

MACHINE_READABLE = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Source: http://example.org/

Files: *
Copyright: 2001 Someone
License: GPL-2+

Files:
 base/music/Second-Theme.ogg
 base/music/track03.ogg
Copyright: 2002 Someone Else
License: CC-BY-SA-3.0

Files: music/sold.ogg
Copyright: 2003 A Label
License: CC-BY-NC-3.0

License: GPL-2+
 On Debian systems, see /usr/share/common-licenses/GPL-2.
"""
IN_WORDS = """This package was debianized by Someone.

You are free to distribute this software under the terms of the GNU General Public License, version 2 or later.
The complete text can be found in /usr/share/common-licenses/GPL-2 file.
"""


def write_music(path: Path, index: int, seconds: float = 2.0, sample_rate: int = 22050) -> None:
    """A stereo track, in the format that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = tone(110 * 2 ** (index / 12), seconds, sample_rate, index)
    soundfile.write(path, np.stack([left, 0.5 * left], axis=1), sample_rate)


def build_deb(folder: Path, name: str, files: Mapping[str, int], terms: str | None, seconds: float = 2.0) -> Path:
    """Build a package in `folder`: `files` are paths of tracks in it; an `x.pk3/` among them becomes a zip archive."""
    tree = folder / f"{name}-tree"
    for path, index in files.items():
        write_music(tree / path, index, seconds)
    for inside in sorted(tree.rglob("*.pk3")):
        _pack(inside)
    (tree / "DEBIAN").mkdir(parents=True)
    control = {"Package": name, "Version": "1.0-1", "Architecture": "all", "Maintainer": "T <t@example.org>"}
    control["Description"] = f"music of {name}"
    (tree / "DEBIAN" / "control").write_text("".join(f"{key}: {value}\n" for key, value in control.items()))
    if terms is not None:
        (tree / "usr/share/doc" / name).mkdir(parents=True)
        (tree / "usr/share/doc" / name / "copyright").write_text(terms)
    deb = folder / f"{name}_1.0-1_all.deb"
    subprocess.run(["dpkg-deb", "--build", "-Znone", str(tree), str(deb)], check=True, capture_output=True)
    return deb


def _pack(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = [(path.relative_to(folder), path.read_bytes()) for path in files]
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()
    with zipfile.ZipFile(folder, "w") as archive:
        for path, data in content:
            archive.writestr(str(path), data)


def make_repository(folder: Path) -> Path:
    """Make an apt repository of the packages in `folder`; returns a file for APT_CONFIG that names no other."""
    entries = []
    for deb in sorted(folder.glob("*.deb")):
        control = subprocess.run(["dpkg-deb", "-f", str(deb)], check=True, capture_output=True, text=True).stdout
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        entries.append(f"{control}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n")
    (folder / "Packages").write_text("\n".join(entries))
    sources, nothing, config = folder / "sources.list", folder / "empty", folder / "apt.conf"
    sources.write_text(f"deb [trusted=yes] file:{folder} ./\n")
    nothing.mkdir(exist_ok=True)
    (folder / "status").write_text("")
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": nothing,
        "Dir::State::status": folder / "status",
    }
    settings |= {"Dir::State::Lists": nothing, "Dir::Cache": nothing}
    config.write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
    return config
