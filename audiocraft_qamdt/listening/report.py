"""What a listening test came to: means, win rates, agreement, and whose answers were left out."""

from __future__ import annotations

import itertools
import typing as tp
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from ..utils.pages import Cell, markdown_table, markdown_text
from ..utils.reading import JsonObject
from .agreement import Difference, group, krippendorff_alpha
from .design import NEITHER, Key
from .intervals import Estimate, Judgement, mean_of, rate_of
from .results import Result

SCALES = {"ovl": "OVL", "rel": "REL"}
"""Questions with ratings → what a table calls them."""
_DIFFERENCES: dict[str, Difference] = {"ovl": "ordinal", "rel": "ordinal", "choice": "nominal"}


@dataclass(frozen=True)
class LeftOut:
    """A result that does not count, and why."""

    rater: str
    file: str
    reason: str


@dataclass(frozen=True)
class Mean:
    """Ratings of a system by one question."""

    system: str
    question: str
    estimate: Estimate


@dataclass(frozen=True)
class WinRate:
    """How often a system wins against another one, a tie counting half."""

    system: str
    against: str
    question: str
    wins: int
    ties: int
    losses: int
    estimate: Estimate


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's alpha of the answers to a question; None = it has none."""

    question: str
    difference: str
    alpha: float | None


@dataclass(frozen=True)
class ListeningReport:
    """Results of a test.

    Args:
        test, title, kind: see `Key`.
        raters: whose answers count.
        left_out: whose do not.
        means, win_rates, agreement: the numbers.
    """

    test: str
    title: str
    kind: str
    raters: list[str]
    left_out: list[LeftOut]
    means: list[Mean]
    win_rates: list[WinRate]
    agreement: list[Agreement]

    def to_dict(self) -> JsonObject:
        """Return the content of the report's JSON file."""
        return asdict(self)

    def markdown(self) -> list[str]:
        """Return the lines of its tables."""
        lines = [f"{markdown_text(self.title)}: {len(self.raters)} raters, test {self.test}", ""]
        if self.means:
            lines += [*self._means(), ""]
        if self.win_rates:
            lines += [*self._win_rates(), ""]
        for one in self.agreement:
            alpha = "none (it takes two raters, and two values)" if one.alpha is None else f"{one.alpha:.3f}"
            lines.append(f"Krippendorff's alpha, {_called(one.question)} ({one.difference}): {alpha}")
        for other in self.left_out:
            lines.append(f"left out: {markdown_text(other.rater)} ({markdown_text(other.reason)}; {other.file})")
        return lines

    def _means(self) -> list[str]:
        questions = list(dict.fromkeys(one.question for one in self.means))
        found = {(one.system, one.question): one.estimate for one in self.means}
        rows = [
            [Cell(system), *(Cell(_mean(found.get((system, question)))) for question in questions)]
            for system in dict.fromkeys(one.system for one in self.means)
        ]
        return markdown_table(["system", *(f"{_called(question)} ± 95 %" for question in questions)], rows)

    def _win_rates(self) -> list[str]:
        head = ["system", "against", "by", "win rate", "95 %", "wins", "ties", "losses"]
        return markdown_table(head, [list(map(Cell, _cells(one))) for one in self.win_rates])


def _called(question: str) -> str:
    return SCALES.get(question, "preference")


def _mean(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    half = "" if estimate.high is None else f" ± {estimate.high - estimate.mean:.2f}"
    return f"{estimate.mean:.2f}{half} (N = {estimate.judgements})"


def _cells(one: WinRate) -> list[str]:
    low, high = one.estimate.low, one.estimate.high
    interval = "" if low is None or high is None else f"{low:.1%} to {high:.1%}"
    counts = [str(one.wins), str(one.ties), str(one.losses)]
    return [one.system, one.against, _called(one.question), f"{one.estimate.mean:.1%}", interval, *counts]


def report_on(results: Sequence[Result], key: Key, allow_failed: int = 0) -> ListeningReport:
    """Evaluate the results of a test.

    Args:
        results: in the order that raters finished in; of two by the same rater the first counts.
        key: of the test.
        allow_failed: wrong answers to attention checks that a rater may have.
    Raises:
        ValueError: no rater's answers count.
    """
    counted, left_out = _sift(results, key, allow_failed)
    if not counted:
        reasons = "; ".join(f"{other.rater}: {other.reason}" for other in left_out[:3])
        raise ValueError(f"no rater's answers count ({reasons}): --allow-failed N admits wrong answers to checks")
    wins = _choices(counted, key) if key.kind == "preference" else _comparisons(counted, key)
    return ListeningReport(
        key.test,
        key.title,
        key.kind,
        [result.rater for result in counted],
        left_out,
        _means(counted, key),
        [_win_rate(*pair, judgements) for pair, judgements in wins.items()],
        _agreement(counted, key),
    )


def _sift(results: Sequence[Result], key: Key, allow_failed: int) -> tuple[list[Result], list[LeftOut]]:
    counted: list[Result] = []
    left_out: list[LeftOut] = []
    first: dict[str, str] = {}
    for result in results:
        wrong, checks = result.wrong(key)
        if result.rater in first:
            reason = f"a second result of this rater, the first is {first[result.rater]}"
            left_out.append(LeftOut(result.rater, result.where, reason))
        elif wrong > allow_failed:
            left_out.append(LeftOut(result.rater, result.where, f"{wrong} of {checks} attention checks failed"))
        else:
            counted.append(result)
        first.setdefault(result.rater, result.where)
    return counted, left_out


class _Rated(tp.NamedTuple):
    rater: str
    name: str
    system: str
    question: str
    value: float


def _ratings(results: Iterable[Result], key: Key) -> list[_Rated]:
    found = []
    for result in results:
        for trial, answers in result.answers.items():
            sound = key.sounds.get(key.trials[trial].clips[0])
            if sound is not None:
                ratings = [(question, answers[question]) for question in SCALES if question in answers]
                found += [_Rated(result.rater, sound.name, sound.system, *rating) for rating in ratings]
    return found


def _means(results: list[Result], key: Key) -> list[Mean]:
    ratings = _ratings(results, key)
    means = []
    for system, question in itertools.product(key.systems, SCALES):
        judgements = [
            Judgement(one.rater, one.name, one.value)
            for one in ratings
            if (one.system, one.question) == (system, question)
        ]
        if judgements:
            means.append(Mean(system, question, mean_of(judgements)))
    return means


_Wins = dict[tuple[str, str, str], list[Judgement]]
"""(System, other system, question) → 1 for a win, 0.5 for a tie, 0 for a loss."""


def _comparisons(results: list[Result], key: Key) -> _Wins:
    """Return wins by ratings of the same clip by the same rater."""
    rated = {one[:4]: one.value for one in _ratings(results, key)}
    wins: _Wins = {}
    for (rater, name, system, question), value in rated.items():
        for other in key.systems[key.systems.index(system) + 1 :]:
            if (against := rated.get((rater, name, other, question))) is not None:
                outcome = 0.5 + 0.5 * ((value > against) - (value < against))
                wins.setdefault((system, other, question), []).append(Judgement(rater, name, outcome))
    return _in_order(wins, key)


def _choices(results: list[Result], key: Key) -> _Wins:
    wins: _Wins = {}
    for result in results:
        for trial, answers in result.answers.items():
            if "choice" in answers:
                first, second = (key.sounds[clip] for clip in key.trials[trial].clips)
                pair = (first.system, second.system, "choice")
                outcome = _outcome(answers["choice"], key.trials[trial].clips)
                wins.setdefault(pair, []).append(Judgement(result.rater, first.name, outcome))
    return _in_order(wins, key)


def _outcome(choice: str, clips: list[str]) -> float:
    return 0.5 if choice == NEITHER else float(choice == clips[0])


def _in_order(wins: _Wins, key: Key) -> _Wins:
    pairs = itertools.product([*SCALES, "choice"], itertools.combinations(key.systems, 2))
    order = [(*pair, question) for question, pair in pairs]
    return {pair: wins[pair] for pair in order if pair in wins}


def _win_rate(system: str, against: str, question: str, judgements: list[Judgement]) -> WinRate:
    values = [one.value for one in judgements]
    wins, ties, losses = (values.count(value) for value in (1.0, 0.5, 0.0))
    return WinRate(system, against, question, wins, ties, losses, rate_of(judgements))


def _agreement(results: list[Result], key: Key) -> list[Agreement]:
    found = []
    for question, difference in _DIFFERENCES.items():
        answered = [
            (trial, answers[question])
            for result in results
            for trial, answers in result.answers.items()
            if question in answers
        ]
        if question == "choice":
            answered = [(trial, _outcome(choice, key.trials[trial].clips)) for trial, choice in answered]
        if answered:
            found.append(Agreement(question, difference, krippendorff_alpha(group(answered), difference)))
    return found
