"""Debian packages: fetched with `apt-get download`, unpacked with `dpkg-deb -x`. Nothing is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .licences import Copyright, parse

ABOUT = {
    "asc-music": "music of a turn-based strategy game",
    "drascula-music": "music of a comic vampire adventure game",
    "fb-music-high": "tracker music of a puzzle game",
    "hyperrogue-music": "music of a fantasy exploration game",
    "nexuiz-music": "music of a science fiction shooter",
    "planetblupi-music-ogg": "music of a cheerful cartoon strategy game",
    "singularity-music": "music of a game about an artificial intelligence",
    "ufoai-music": "music of a tactical game about an alien invasion",
    "warzone2100-music": "music of a strategy game in a ruined world",
}
"""Packages that are fetched, and what a description says of their music."""
JUDGE = re.compile(r"wesnoth(-[\d.]+)?-music")
"""Packages that nothing is trained on: their tracks go to the split `judge`."""
JUDGE_ABOUT = "orchestral music of a fantasy strategy game"
ELSEWHERE = "take a folder of music instead: tools/real_music.sh --from FOLDER DIR"


class Unavailable(Exception):
    """This machine does not have what the command needs."""


@dataclass(frozen=True)
class Package:
    """An unpacked package.

    Args:
        name, version: as in its control file.
        about: what its music is, in words.
        root: folder of its files.
        copyright_text: its `copyright` file; None = it has none.
    """

    name: str
    version: str
    about: str
    root: Path
    copyright_text: str | None

    @property
    def copyright(self) -> Copyright:
        """The licences that its `copyright` file gives."""
        return parse(self.copyright_text or "")


def require(*commands: str) -> None:
    """Check that commands are there.

    Raises:
        Unavailable: one is not.
    """
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        raise Unavailable(f"no {' and no '.join(missing)} on this machine, which Debian and Ubuntu have: {ELSEWHERE}")


class Apt:
    """apt's own lists and downloads.

    Args:
        work: folder for what is being downloaded.
        update: fetch the lists of packages first, into `work`: those of the machine stay as they are.
    """

    def __init__(self, work: Path, update: bool = False) -> None:
        self.incoming = work / "incoming"
        self.options = ["-q", "-o", "APT::Sandbox::User=root"]
        if update:
            self._update(work / "apt")

    def _update(self, folder: Path) -> None:
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.options += ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]
        _run("apt-get", *self.options, "update")

    def names(self) -> set[str]:
        """Names of all packages that can be had."""
        return set(_run("apt-cache", *self.options, "pkgnames").split())

    def download(self, name: str, folder: Path) -> Path:
        """Download a package into `folder`, whole or not at all; one that lies there already is taken.

        Raises:
            RuntimeError: with apt's last line, where it fails.
        """
        for there in folder.glob(f"{name}_*.deb"):
            return there
        shutil.rmtree(self.incoming, ignore_errors=True)
        self.incoming.mkdir(parents=True)
        _run("apt-get", *self.options, "download", name, folder=self.incoming)
        [deb] = self.incoming.glob("*.deb")
        return deb.rename(folder / deb.name)


def wanted(known: set[str]) -> list[str]:
    """Names to fetch: those of `ABOUT`, and the newest of Wesnoth's music, which has its version in its name."""
    judges = [name for name in known if re.fullmatch(r"wesnoth-[\d.]+-music", name)]
    newest = sorted(judges, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])[-1:]
    return [*ABOUT, *(newest or ["wesnoth-music"])]


def name_of(deb: Path) -> str:
    """The package's name, from its control file."""
    return _run("dpkg-deb", "-f", str(deb), "Package").strip()


def unpack(deb: Path, folder: Path) -> Package:
    """Unpack a package into `folder`, what lay there before removed; archives of a game's data in it, too.

    Raises:
        RuntimeError: with dpkg-deb's last line, where it is broken.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    name = name_of(deb)
    _run("dpkg-deb", "-x", str(deb), str(folder))
    for archive in sorted(folder.rglob("*.pk3")):
        with zipfile.ZipFile(archive) as content:
            content.extractall(archive.with_suffix(""))
    version, summary = (_run("dpkg-deb", "-f", str(deb), field).strip() for field in ("Version", "Description"))
    about = JUDGE_ABOUT if JUDGE.fullmatch(name) else ABOUT.get(name, summary.splitlines()[0])
    terms = folder / "usr" / "share" / "doc" / name / "copyright"
    text = terms.read_text(encoding="utf-8", errors="replace") if terms.is_file() else None
    return Package(name, version, about, folder, text)


def _run(*command: str, folder: Path | None = None) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if result.returncode:
        last = [line for line in result.stderr.splitlines() if line.strip()][-1:] or [f"status {result.returncode}"]
        raise RuntimeError(f"{command[0]}: {last[0].strip()}")
    return result.stdout
