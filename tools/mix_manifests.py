#!/usr/bin/env python3
"""Mix data sets: `mix_manifests.py OUT FOLDER:SHARE [FOLDER:SHARE ...]` writes OUT/data.jsonl.gz.

A FOLDER is an AudioCraft data set (with data.jsonl or data.jsonl.gz); SHARE is the part of what is drawn that comes
from it. AudioCraft draws a track by duration times weight: each row gets the weight that makes the shares come true.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from audiocraft_qamdt.data.manifest import find_manifest, read_manifest, write_manifest


def mixed(shares: dict[str, float]) -> list[dict]:
    """Rows of all data sets, by folder → share, weighted so that the largest weight is 1."""
    rows, weights = [], []
    for folder, share in shares.items():
        part = [dict(row) for row in read_manifest(folder)]
        seconds = sum(row["duration"] for row in part)
        rows += part
        weights += [share / seconds] * len(part)
    return [{**row, "weight": weight / max(weights)} for row, weight in zip(rows, weights, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("sources", nargs="+", metavar="FOLDER:SHARE")
    args = parser.parse_args()
    shares = {}
    for source in args.sources:
        folder, _, share = source.rpartition(":")
        try:
            shares[folder] = float(share)
            find_manifest(folder)
        except (ValueError, FileNotFoundError) as error:
            parser.error(f"{source}: {error}")
    args.out.mkdir(parents=True, exist_ok=True)
    write_manifest(args.out / "data.jsonl.gz", mixed(shares))


if __name__ == "__main__":
    main()
