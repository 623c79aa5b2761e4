"""Answers of raters, as the page gives them: read, and refused where the page cannot have given them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..utils.files import has_surrogates
from ..utils.reading import JsonObject, JsonValue, read_json
from .design import Key

LONGEST_RATER = 64
"""Characters of a rater's id."""

Answers = JsonObject
"""Question → answer: a level, a number of beeps, or the id of a clip."""


@dataclass(frozen=True)
class Result:
    """What one rater answered.

    Args:
        where: file, for messages.
        rater: id that the rater gave.
        finished: when, as ISO 8601.
        answers: trial → question → answer.
    """

    where: str
    rater: str
    finished: str
    answers: dict[str, Answers]

    def wrong(self, key: Key) -> tuple[int, int]:
        """Return how many attention checks were answered wrongly, and how many there were."""
        checks = [trial for trial in self.answers if key.trials[trial].beeps is not None]
        return sum(self.answers[trial]["beeps"] != key.trials[trial].beeps for trial in checks), len(checks)


def parse_result(content: JsonValue, where: str, key: Key) -> Result:
    """Return a result from JSON.

    Raises:
        ValueError: naming the place, when it is of another test, or nothing that its page gives.
    """
    if not isinstance(content, dict) or not isinstance(content.get("trials"), list) or "test" not in content:
        raise ValueError(f"{where}: not results of a listening test")
    if content["test"] != key.test:
        raise ValueError(
            f"{where}: results of test {content['test']!r:.40}, but the key is of {key.test}: give its key"
        )
    rater, finished = content.get("rater"), content.get("finished")
    if not isinstance(rater, str) or not 0 < len(rater.strip()) <= LONGEST_RATER:
        raise ValueError(f"{where}: rater must be a text of at most {LONGEST_RATER} characters, got {rater!r:.80}")
    if has_surrogates(rater):
        raise ValueError(f"{where}: rater has characters that cannot be written, got {rater!r:.80}")
    if not isinstance(finished, str) or len(finished) > LONGEST_RATER:
        raise ValueError(f"{where}: finished must be a time, got {finished!r:.80}")
    answers: dict[str, Answers] = {}
    for index, trial in enumerate(content["trials"]):
        name, given = _answers(trial, f"{where}: trials[{index}]", key)
        if name in answers:
            raise ValueError(f"{where}: trials[{index}]: trial {name} is answered twice")
        answers[name] = given
    _check_complete(answers, where, key)
    return Result(where, rater.strip(), finished, answers)


def _answers(trial: JsonValue, where: str, key: Key) -> tuple[str, Answers]:
    name = trial.get("trial") if isinstance(trial, dict) else None
    known = key.trials.get(name) if isinstance(name, str) else None
    if name is None or known is None:
        raise ValueError(f"{where}: no trial of this test")
    given = trial.get("answers")
    if not isinstance(given, dict) or given.keys() != set(known.asks):
        raise ValueError(f"{where}: answers must be to {' and '.join(known.asks)}")
    for ask, answer in given.items():
        if not known.allows(ask, answer):
            raise ValueError(f"{where}: {ask} cannot be {answer!r:.40}")
    return name, given


def _check_complete(answers: dict[str, Answers], where: str, key: Key) -> None:
    """Refuse results that leave out attention checks, which every rater gets."""
    checks = {name for name, trial in key.trials.items() if trial.beeps is not None}
    if missing := checks - answers.keys():
        raise ValueError(f"{where}: {len(missing)} of {len(checks)} attention checks are not answered")
    if len(answers) == len(checks):
        raise ValueError(f"{where}: no clip is judged")


def read_results(paths: Iterable[Path], key: Key) -> list[Result]:
    """Read files of results, and those of folders; in the order that raters finished in.

    Raises:
        ValueError: naming the file; see `parse_result`.
        FileNotFoundError: there are none.
    """
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.json")) if path.is_dir() else [path]
        if path.is_dir() and not files:
            raise FileNotFoundError(f"no results (*.json) in {path}")
    results = [parse_result(read_json(file), str(file), key) for file in dict.fromkeys(files)]
    return sorted(results, key=lambda result: (result.finished, result.where))
