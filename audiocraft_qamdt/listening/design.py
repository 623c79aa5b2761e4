"""What a listening test asks, without a word about systems: opaque ids in the page, their meaning in the key."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..utils.checks import is_number
from ..utils.files import write_json
from ..utils.reading import JsonObject, read_json

KEY, PAGE, SERVED, CLIPS = "key.json", "index.html", "public", "clips"
"""Names in the folder of a test: its key, and the folder of what raters get."""
FORMAT = "qamdt listening-test key 1"
KINDS = ("rating", "preference")
NEITHER = "neither"
"""Answer to a choice between two clips of the same quality."""
MOST_BEEPS = 5
LEVELS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Sound:
    """A clip of the test.

    Args:
        name: of the clip, the same for all systems.
        system: that made it.
    """

    name: str
    system: str


@dataclass(frozen=True)
class Trial:
    """One screen of the page.

    Args:
        clips: their ids; two in a choice.
        asks: what is asked: of ovl, rel, choice and beeps.
        beeps: right answer of an attention check; None = it is none.
    """

    clips: list[str]
    asks: list[str]
    beeps: int | None = None

    def allows(self, ask: str, answer: object) -> bool:
        """Return whether the page can have given an answer."""
        if ask == "choice":
            return answer in (*self.clips, NEITHER)
        return type(answer) is int and answer in LEVELS


@dataclass(frozen=True)
class Key:
    """All about a test; it stays with who made it.

    Args:
        test: id of the test.
        kind: of `KINDS`.
        title: shown to raters.
        loudness: of all clips, in LUFS.
        systems: names, in the order they were given in.
        sounds: id → clip; those of attention checks are not in it.
        trials: id → trial, attention checks included.
        prompts: name of a clip → its prompt.
        per_rater: how many prompts a rater hears; None = all.
    """

    test: str
    kind: str
    title: str
    loudness: float
    systems: list[str]
    sounds: dict[str, Sound]
    trials: dict[str, Trial]
    prompts: dict[str, str]
    per_rater: int | None = None
    format: str = field(default=FORMAT)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> Key:
        """Read what `write` wrote.

        Raises:
            ValueError: naming the file, when it is no key.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path}: not the key of a listening test (no format {FORMAT!r})")
        try:
            sounds = {name: Sound(**sound) for name, sound in content["sounds"].items()}
            trials = {name: Trial(**trial) for name, trial in content["trials"].items()}
            key = cls(**{**content, "sounds": sounds, "trials": trials})
            key._check_types()
            return key
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: the key of a listening test is damaged ({error})") from error

    def _check_types(self) -> None:
        """Refuse what JSON can hold in the fields and `write` does not write.

        Raises:
            TypeError: saying which field.
        """
        if not _are_texts([self.test, self.title, self.kind, *self.systems]) or self.kind not in KINDS:
            raise TypeError("test, title, kind or systems")
        if not is_number(self.loudness) or not (self.per_rater is None or type(self.per_rater) is int):
            raise TypeError("loudness or per_rater")
        if not isinstance(self.prompts, dict) or not _are_texts(self.prompts.values()):
            raise TypeError("prompts")
        for name, sound in self.sounds.items():
            if not isinstance(sound.name, str) or sound.system not in self.systems:
                raise TypeError(f"sound {name}")
        for name, trial in self.trials.items():
            if not _is_trial(trial, self.sounds):
                raise TypeError(f"trial {name}")

    def name_of(self, trial: str) -> str | None:
        """Name of the clip that a trial is about; None = an attention check."""
        sound = self.sounds.get(self.trials[trial].clips[0])
        return None if sound is None else sound.name

    def page(self) -> JsonObject:
        """Return what the page may know, in the order of random ids: no systems, names or right answers."""
        items: dict[str | None, list[JsonObject]] = {}
        for trial, content in sorted(self.trials.items()):
            shown = {"id": trial, "clips": sorted(content.clips), "asks": content.asks}
            items.setdefault(self.name_of(trial), []).append(shown)
        checks = items.pop(None, [])
        listed = [{"prompt": self.prompts.get(name or "", ""), "trials": trials} for name, trials in items.items()]
        return {
            "id": self.test,
            "perRater": self.per_rater,
            "neither": NEITHER,
            "items": listed,
            "checks": checks,
        }


def _are_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_trial(trial: Trial, sounds: Mapping[str, Sound]) -> bool:
    if not _are_texts([*trial.clips, *trial.asks]) or not trial.asks:
        return False
    if trial.beeps is not None:
        return trial.beeps in LEVELS and trial.asks == ["beeps"] and len(trial.clips) == 1
    asked = len(trial.clips) == 2 if trial.asks == ["choice"] else len(trial.clips) == 1
    return asked and set(trial.asks) <= {"ovl", "rel", "choice"} and set(trial.clips) <= sounds.keys()


def design(
    kind: str,
    systems: Sequence[str],
    names: Sequence[str],
    prompts: Mapping[str, str],
    *,
    title: str,
    loudness: float,
    checks: int,
    per_rater: int | None = None,
    draw: random.Random | None = None,
) -> Key:
    """Lay out a test.

    Args:
        kind: of `KINDS`.
        systems, names: each system has a clip of each name.
        prompts: name → prompt; relevance is asked of clips that have one.
        title, loudness, per_rater: see `Key`.
        checks: number of attention checks.
        draw: of ids and right answers; None = from the system's random numbers.
    """
    draw = draw or random.SystemRandom()
    sounds = {_new_id(draw): Sound(name, system) for name in names for system in systems}
    by_sound = {sound: clip for clip, sound in sounds.items()}
    trials: dict[str, Trial] = {}
    for name in names:
        clips = [by_sound[Sound(name, system)] for system in systems]
        for asked in _asked(kind, clips, name in prompts):
            trials[_new_id(draw)] = asked
    for beeps in _beeps(checks, draw):
        trials[_new_id(draw)] = Trial([_new_id(draw)], ["beeps"], beeps)
    return Key(_new_id(draw), kind, title, loudness, list(systems), sounds, trials, dict(prompts), per_rater)


def _asked(kind: str, clips: list[str], has_prompt: bool) -> list[Trial]:
    if kind == "preference":
        return [Trial(list(pair), ["choice"]) for pair in itertools.combinations(clips, 2)]
    return [Trial([clip], ["ovl", "rel"] if has_prompt else ["ovl"]) for clip in clips]


def _beeps(checks: int, draw: random.Random) -> list[int]:
    """Draw right answers, each number as often as the others."""
    numbers: list[int] = []
    while len(numbers) < checks:
        numbers += draw.sample(range(1, MOST_BEEPS + 1), MOST_BEEPS)
    return numbers[:checks]


def _new_id(draw: random.Random) -> str:
    return f"{draw.getrandbits(64):016x}"
