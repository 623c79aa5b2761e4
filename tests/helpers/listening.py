"""Folders of short clips by two systems, and answers to a listening test on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import soundfile

from audiocraft_qamdt.listening.design import Key

from .audio_folder import tone

MARKUP = "<script>alert(1)</script></script>\"'><img src=x onerror=alert(1)> & 'piano'"
SYSTEMS = {"ours-secret": 0.9, "baseline-secret": 0.1}
"""Name → level of its clips."""


def make_systems(folder: Path, names: tuple[str, ...] = ("one", "two"), seconds: float = 0.6) -> dict[str, Path]:
    """Write the clips, with prompts of which the first holds markup; system → folder."""
    for place, (system, level) in enumerate(SYSTEMS.items()):
        (folder / system).mkdir(parents=True)
        for index, name in enumerate(names):
            audio = level * tone(220 * (1 + index), seconds, 16000, seed=place)
            soundfile.write(folder / system / f"{name}.wav", audio, 16000)
            prompt = MARKUP if index == 0 else f"prompt {index}"
            (folder / system / f"{name}.json").write_text(json.dumps({"description": prompt}))
    return {system: folder / system for system in SYSTEMS}


def answers(key: Key, rater: str, rate: Any, checks_right: bool = True) -> dict[str, Any]:
    """What the page gives.

    Args:
        rate: (question, sound, its opponent or None) → rating, or whether the sound is preferred (None = neither).
    """
    trials = []
    for name, trial in key.trials.items():
        if trial.beeps is not None:
            given = {"beeps": trial.beeps if checks_right else trial.beeps % 5 + 1}
        elif trial.asks == ["choice"]:
            first, second = (key.sounds[clip] for clip in trial.clips)
            preferred = rate("choice", first, second)
            given = {"choice": "neither" if preferred is None else trial.clips[0 if preferred else 1]}
        else:
            given = {ask: rate(ask, key.sounds[trial.clips[0]], None) for ask in trial.asks}
        trials.append({"trial": name, "clips": trial.clips, "answers": given, "heard": [1.0], "seconds": 2.0})
    times = {"started": "2026-01-01T10:00:00.000Z", "finished": "2026-01-01T10:05:00.000Z"}
    return {"test": key.test, "rater": rater, **times, "trials": trials}
