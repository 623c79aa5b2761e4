"""Make an AudioCraft data set of real music.

Its splits are `train`, `valid` and `test`, by whole tracks, and `judge`, which nothing is trained on. Freely licensed
music is fetched from Debian's own packages (on Debian and Ubuntu; nothing is installed, no root is needed), or taken
from any folder with --from. LICENCES.json says which track is from where and on what terms. A run that was stopped goes
on where it was.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from audiocraft_qamdt.cli import main as qamdt
from audiocraft_qamdt.commands.output import say

from .dataset import DataSet
from .packages import Apt, Unavailable, name_of, require, unpack, wanted

logger = logging.getLogger("real_music")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="tools/real_music.sh", description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of the data set")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--from", dest="music", metavar="FOLDER", type=Path, help="take this folder's music instead")
    where.add_argument("--debs", metavar="FOLDER", type=Path, help="take the packages (.deb) that lie in this folder")
    parser.add_argument("--licence", default="unknown", help="what LICENCES.json says of the music of --from")
    parser.add_argument("--packages", nargs="+", metavar="NAME", help="fetch these only, default: all that are known")
    parser.add_argument("--update", action="store_true", help="fetch new lists of packages first, for this run only")
    parser.add_argument("--sample-rate", type=int, default=16000)
    parser.add_argument("--channels", type=int, choices=(1, 2), default=1)
    parser.add_argument("--min-duration", type=float, default=8.0, help="seconds; manifests leave out shorter tracks")
    parser.add_argument("--predictor", default="acoustic", help="of `qamdt annotate`")
    return parser.parse_args(arguments)


def make(options: argparse.Namespace) -> int:
    """Make the data set or go on with it.

    Returns:
        exit status: 1 when a file of a split could not be read.
    Raises:
        Unavailable: this machine lacks apt or dpkg-deb.
        RuntimeError: no package could be had.
    """
    folder = options.folder.resolve()
    if options.music is None:
        require("dpkg-deb", *(() if options.debs else ("apt-get", "apt-cache")))
    music = check_music(options.music, folder) if options.music else None
    dataset = DataSet(folder, options.sample_rate, options.channels)
    if music is not None:
        dataset.add_folder(music, options.licence)
    else:
        add_packages(dataset, options)
    status = label(dataset.splits(), options.min_duration, options.predictor)
    dataset.close()
    say([f"{folder}: ready for dset=real_music folder={folder}"])
    return status


def check_music(music: Path, folder: Path) -> Path:
    """The folder of music, which must not hold the data set.

    Raises:
        FileNotFoundError: it is not a folder.
        ValueError: the data set would lie in it.
    """
    music = music.resolve()
    if not music.is_dir():
        raise FileNotFoundError(f"--from {music} is not a folder")
    if folder.is_relative_to(music):
        raise ValueError(f"{folder} lies in {music}, whose music is to be taken: put the data set elsewhere")
    return music


def add_packages(dataset: DataSet, options: argparse.Namespace) -> None:
    """Unpack and take one package after the other; those that cannot be had are named.

    Raises:
        RuntimeError: none could be had.
    """
    debs = local_debs(options.debs) if options.debs else fetched_debs(dataset, options)
    for deb in debs:
        if not dataset.has(name_of(deb)):
            dataset.add_package(unpack(deb, dataset.work / "unpacked"))
    if not dataset.record["sources"]:
        raise RuntimeError("no package could be had: is there a network? --update fetches new lists of packages")


def local_debs(folder: Path) -> list[Path]:
    """Packages in a folder.

    Raises:
        FileNotFoundError: there are none.
    """
    debs = sorted(folder.glob("*.deb"))
    if not debs:
        raise FileNotFoundError(f"no .deb in {folder}")
    return debs


def fetched_debs(dataset: DataSet, options: argparse.Namespace) -> Iterator[Path]:
    """Download the packages that the data set lacks, one at a time; each is removed when the next is asked for."""
    apt = Apt(dataset.work, options.update)
    known = apt.names()
    for name in options.packages or wanted(known):
        if dataset.has(name):
            say([f"{name}: is there already"])
        elif name not in known:
            say([f"{name}: skipped, apt does not know it"])
        else:
            try:
                deb = apt.download(name, dataset.work)
            except RuntimeError as error:
                say([f"{name}: skipped ({error}); --update may help"])
                continue
            yield deb
            deb.unlink()


def label(splits: Iterable[Path], min_duration: float, predictor: str) -> int:
    """Run `qamdt manifest` and `qamdt annotate` on each split; returns the worst exit status."""
    status = 0
    for split in splits:
        listed = qamdt(["manifest", str(split), "--min-duration", str(min_duration)])
        status |= listed or qamdt(["annotate", str(split), "--predictor", predictor])
    return status


def main(arguments: list[str] | None = None) -> int:
    """Run the command; errors end with one line, exit status 2 where the machine lacks what is needed, else 1."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        return make(options)
    except Unavailable as error:
        logger.error("%s", error)
        return 2
    except KeyboardInterrupt:
        logger.error("interrupted; what is complete is kept, the same command goes on")
        return 130
    except (OSError, ValueError, RuntimeError) as error:
        logger.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
