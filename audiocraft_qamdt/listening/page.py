"""The folder of a listening test: what raters get, and the key that stays."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from ..utils.files import replacing_folder
from ..utils.pages import STYLE, write_page
from .audio import SUFFIX, match_loudness, pair_clips, read_prompts, write_beeps, write_clip
from .design import CLIPS, KEY, KINDS, PAGE, SERVED, Key, design

logger = logging.getLogger(__name__)

COMMAND = "qamdt listening-test"
_HERE = Path(__file__).parent
_SOURCES = "media-src 'self' file:; connect-src 'self'"  # `file:` for browsers that do not count it as 'self'


def make_test(
    systems: Mapping[str, str | Path],
    out: Path,
    *,
    kind: str = "rating",
    captions: Path | None = None,
    checks: int = 3,
    per_rater: int | None = None,
    title: str = "Listening test",
) -> Key:
    """Write a listening test.

    Args:
        systems: name → folder of its clips; those of the same name are of the same prompt.
        out: new or empty folder. `public` in it is for raters, key.json is not.
        kind: `rating` from 1 to 5, or `preference` between two.
        captions: see `read_captions`; None = from sidecars.
        checks: number of attention checks.
        per_rater: prompts that each rater hears; None = all.
        title: shown to raters.
    Raises:
        ValueError, OSError: folders or numbers that make no test, named.
    """
    _check(systems, out, kind, checks, per_rater)
    pairs = pair_clips(systems)
    prompts = read_prompts(pairs, captions)
    if kind == "rating" and (bare := [name for name in pairs if name not in prompts]):
        logger.warning(
            "%d of %d clips have no prompt, such as %s: their REL is not asked", len(bare), len(pairs), bare[0]
        )
    loudness, gains = match_loudness(path for files in pairs.values() for path in files.values())
    logger.info("all clips are played at %.1f LUFS", loudness)
    key = design(
        kind,
        list(systems),
        list(pairs),
        prompts,
        title=title,
        loudness=loudness,
        checks=checks,
        per_rater=per_rater,
    )
    with replacing_folder(out, lambda folder: False, COMMAND) as part:
        public = part / SERVED
        (public / CLIPS).mkdir(parents=True)
        _write_clips(public / CLIPS, key, pairs, gains)
        _write_html(public / PAGE, key)
        key.write(part / KEY)
    return key


def _check(systems: Mapping[str, str | Path], out: Path, kind: str, checks: int, per_rater: int | None) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if len(systems) < (2 if kind == "preference" else 1):
        raise ValueError("a preference is between two systems: give A=DIR B=DIR")
    if checks < 0 or (per_rater is not None and per_rater < 1):
        raise ValueError("a test has 0 attention checks or more, and 1 prompt or more for each rater")
    for folder in systems.values():
        if out.resolve().is_relative_to(Path(folder).resolve()):
            raise ValueError(f"{out} is in {folder}, whose clips are judged: choose another --out")
    if (out / KEY).exists():
        raise FileExistsError(f"{out} holds a listening test, whose results need its {KEY}: choose another --out")


def _write_clips(folder: Path, key: Key, pairs: Mapping[str, Mapping[str, Path]], gains: Mapping[Path, float]) -> None:
    """Write all clips in the order of their random ids: times of files tell nothing."""
    beeps = {trial.clips[0]: trial.beeps for trial in key.trials.values() if trial.beeps is not None}
    for clip in sorted([*key.sounds, *beeps]):
        to = folder / f"{clip}{SUFFIX}"
        if clip in beeps:
            write_beeps(to, beeps[clip], key.loudness)
        else:
            source = pairs[key.sounds[clip].name][key.sounds[clip].system]
            write_clip(source, to, gains[source])


def _write_html(path: Path, key: Key) -> None:
    shown = {**key.page(), "folder": CLIPS, "suffix": SUFFIX}
    data = json.dumps(shown, ensure_ascii=True).replace("<", "\\u003c")  # no text of it ends the element
    parts = [
        f"<h1>{html.escape(key.title)}</h1>",
        '<main id="main"><noscript>This page needs JavaScript.</noscript></main>',
        f'<script type="application/json" id="test">{data}</script>',
    ]
    style = STYLE + (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    write_page(path, key.title, parts, style=style, script=script, sources=_SOURCES)
