"""Compare language models and prompts over the same tracks."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from ..utils.files import replacing, write_json, write_lines
from ..utils.reading import JsonObject
from .matching import Matcher
from .refine import make_refiner, refine
from .settings import Settings
from .stages import Track
from .text import words

ALL_ACTIONS = ["keep", "replace", "fuse"]


@dataclass
class Outcome:
    """Results of a variant over the tracks.

    Args:
        name: the variant.
        before: path → score of the best input.
        after: path → score of what it wrote, kept or not.
        texts: path → what it wrote.
        rejected: reasons, counted.
        kept: number of captions that were kept.
        failed: number of tracks that it gave no answer for.
    """

    name: str
    before: dict[str, float | None] = field(default_factory=dict)
    after: dict[str, float | None] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    rejected: Counter = field(default_factory=Counter)
    kept: int = 0
    failed: int = 0

    def visit(self, track: Track) -> None:
        """Take a track into account."""
        if track.rewritten is None:
            return
        best = track.found.best()
        self.before[track.path] = None if best is None else track.found.candidates[best].score
        self.after[track.path], self.texts[track.path] = track.rewritten.score, track.rewritten.text
        self.kept += track.rewritten.kept
        self.rejected.update([] if track.rewritten.kept else [track.rewritten.reason])

    def row(self) -> JsonObject:
        """Return the numbers of the table's row."""
        lengths = [len(words(text)) for text in self.texts.values()]
        return {
            "name": self.name,
            "tracks": len(self.texts),
            "before": _mean(self.before.values()),
            "after": _mean(self.after.values()),
            "rejected": round(self.rejected.total() / max(len(self.texts), 1), 4),
            "reasons": dict(self.rejected),
            "words": _mean(lengths),
            "words_std": round(statistics.pstdev(lengths), 2) if lengths else None,
            "failed": self.failed,
        }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), 4) if known else None


@dataclass
class Comparison:
    """Several variants over the same tracks.

    Args:
        outcomes: of each.
        agreement: [V, V], mean cosine of what two variants wrote for a track; NaN = no matcher, or no such track.
    """

    outcomes: list[Outcome]
    agreement: np.ndarray

    def lines(self) -> list[str]:
        """Return the table, in Markdown."""
        head = ("variant", "tracks", "score before", "after", "rejected", "words", "agreement")
        rows = [head, ("---",) * len(head)]
        for index, outcome in enumerate(self.outcomes):
            row = outcome.row()
            length = f"{row['words']} ± {row['words_std']}"
            mean = _mean([value for value in np.delete(self.agreement[index], index) if np.isfinite(value)])
            rejected = f"{row['rejected']:.0%}" + "".join(f", {n} {why}" for why, n in outcome.rejected.most_common())
            cells = (row["name"], row["tracks"], row["before"], row["after"], rejected, length, mean)
            rows.append(tuple("–" if cell is None else str(cell) for cell in cells))
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return [*lines, *(f"{one.name}: {one.failed} tracks without an answer" for one in self.outcomes if one.failed)]

    def write(self, folder: str | Path) -> None:
        """Write `compare.json` (with every caption), `compare.md` and `compare.png`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows = self.agreement.tolist()
        agreement = [[round(value, 4) if np.isfinite(value) else None for value in row] for row in rows]
        captions = {one.name: one.texts for one in self.outcomes}
        table = [one.row() for one in self.outcomes]
        write_json(folder / "compare.json", {"table": table, "agreement": agreement, "captions": captions})
        write_lines(folder / "compare.md", self.lines())
        draw_comparison(self, folder / "compare.png")


def compare(manifest: str | Path, settings: Settings, *, tracks: int = 100) -> Comparison:
    """Run stage 3 with each of the settings' `compare` variants over the same tracks; no sidecar is written.

    Args:
        tracks: how many, spread over the data set. Each is rewritten, whatever stage 2 decided.
    Raises:
        ValueError: fewer than two variants, or two of one name.
    """
    variants = settings["compare"]
    names = [variant.get("name") for variant in variants]
    if len(set(names)) < 2 or len(set(names)) < len(names) or None in names:
        raise ValueError("compare: list at least two variants of different `name`, each with its `rewrite` settings")
    chosen = [_override(settings, variant) for variant in variants]
    heard = make_refiner(manifest, settings, ["caption", "match"])
    outcomes = []
    for name, variant in zip(names, chosen, strict=True):
        outcome = Outcome(name)
        report = refine(manifest, variant, write=False, sample=tracks, visit=outcome.visit, like=heard)
        outcome.failed = len(report.failed)
        outcomes.append(outcome)
    return Comparison(outcomes, _agreement(outcomes, heard.matcher))


def _override(settings: Settings, variant: JsonObject) -> Settings:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    base = OmegaConf.create({"rewrite": {**settings["rewrite"], "actions": ALL_ACTIONS}})
    OmegaConf.set_struct(base, True)
    try:
        merged = OmegaConf.merge(base, {key: value for key, value in variant.items() if key != "name"})
    except OmegaConfBaseException as error:
        raise ValueError(f"compare, variant {variant['name']!r}: {' '.join(str(error).split())}") from error
    return {**settings, **OmegaConf.to_container(merged)}  # type: ignore[dict-item]


def _agreement(outcomes: Sequence[Outcome], matcher: Matcher | None) -> np.ndarray:
    agreement = np.full((len(outcomes), len(outcomes)), np.nan)
    if matcher is None:
        return agreement
    vectors = [
        dict(zip(one.texts, matcher.embed_texts(list(one.texts.values())), strict=True)) if one.texts else {}
        for one in outcomes
    ]
    for i, j in np.ndindex(*agreement.shape):
        both = [path for path in vectors[i] if path in vectors[j]]
        if both:
            agreement[i, j] = np.mean([float(vectors[i][path] @ vectors[j][path]) for path in both])
    return agreement


def draw_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draw scores before and after, what was rejected, lengths, and agreement between variants.

    Args:
        path: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    outcomes, names = comparison.outcomes, [one.name for one in comparison.outcomes]
    figure = Figure((4 + 1.6 * len(names), 8), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    ((scores, rejected), (lengths, agreement)) = figure.subplots(2, 2)
    _draw_scores(scores, outcomes)
    _draw_rejected(rejected, outcomes)
    lengths.boxplot([[len(words(text)) for text in one.texts.values()] for one in outcomes], showmeans=True)
    lengths.set(ylabel="words", title="length")
    _draw_agreement(agreement, comparison)
    for axes in (scores, rejected, lengths):
        axes.set_xticks(range(1, len(names) + 1), names, rotation=30, ha="right")
        axes.grid(alpha=0.3, axis="y")
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _draw_scores(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    for shift, colour, label in ((-0.18, "tab:gray", "before"), (0.18, "tab:blue", "after")):
        values = [[v for v in getattr(one, label).values() if v is not None] for one in outcomes]
        places = [index + 1 + shift for index in range(len(outcomes))]
        boxes = axes.boxplot(values, positions=places, widths=0.3, patch_artist=True, showfliers=False)
        for box in boxes["boxes"]:
            box.set(facecolor=colour, alpha=0.6)
        axes.plot([], [], "s", color=colour, alpha=0.6, label=label)
    axes.set(ylabel="agreement with the audio (cosine)", title="score before and after")
    axes.legend(fontsize="small")


def _draw_rejected(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    totals = np.array([max(len(one.texts), 1) for one in outcomes])
    below = np.zeros(len(outcomes))
    for reason in sorted({why for one in outcomes for why in one.rejected}):
        shares = np.array([one.rejected[reason] for one in outcomes]) / totals
        axes.bar(range(1, len(outcomes) + 1), shares, 0.6, below, label=reason)
        below += shares
    axes.set(ylabel="share of tracks", ylim=(0, 1), title="rejected")
    if below.any():
        axes.legend(fontsize="small")


def _draw_agreement(axes: Axes, comparison: Comparison) -> None:
    names = [one.name for one in comparison.outcomes]
    axes.imshow(comparison.agreement, vmin=0, vmax=1, cmap="viridis")
    axes.set(title="agreement of captions (cosine)")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(comparison.agreement):
        colour = "black" if value > 0.6 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
