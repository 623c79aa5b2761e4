"""Report a run and the distribution of its scores, from which thresholds are chosen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..utils.files import replacing, write_json
from ..utils.reading import JsonObject
from .matching import Match
from .records import Candidate

REPORT_FILE, PLOT_FILE = "captions.json", "captions.png"
EDGES = np.linspace(-1, 1, 201)
KINDS = {  # of scores, in the order of the picture
    "original": "originals",
    "caption": "captioner",
    "retrieve": "retrieved",
    "rewrite": "rewritten",
    "mismatched": "another track's caption",
}


@dataclass
class Scores:
    """Histograms of scores by kind, which add up over shards."""

    counts: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, kind: str, score: float | None) -> None:
        """Count a score."""
        if score is not None:
            counts = self.counts.setdefault(kind, np.zeros(len(EDGES) - 1, int))
            counts[np.clip(np.searchsorted(EDGES, score, "right") - 1, 0, len(counts) - 1)] += 1

    def merge(self, other: Scores) -> None:
        """Add another shard's."""
        for kind, counts in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + counts

    def kept(self, kind: str, threshold: float) -> float:
        """Return the share of the scores of a kind from a threshold on, to the width of a bin."""
        counts = self.counts[kind]
        return float(counts[EDGES[:-1] >= threshold - 1e-9].sum() / counts.sum())

    def quantile(self, kind: str, share: float) -> float:
        """Score below which so much of a kind lies."""
        cumulated = np.cumsum(self.counts[kind]) / self.counts[kind].sum()
        return float(EDGES[1:][np.searchsorted(cumulated, share)])


@dataclass
class CaptionReport:
    """Counts and scores of a `refine` run.

    Args:
        manifest: the data set.
        tracks: number of tracks that were gone through.
        changed: number of sidecars written.
        actions: stage 2's decisions.
        rejected: rewritten captions that were not kept, by reason.
        rewritten: number of those that were.
        silent: tracks that are silent.
        suspicious: tracks whose description speaks to a language model.
        unreadable: tracks whose audio or sidecar could not be read → why.
        failed: tracks that a model gave no answer for → why; they are left as they were, for the next run.
        stopped: why the run ended early; None = it did not.
        cost: dollars.
        scores: for calibration.
        threshold: that of stage 2.
    """

    manifest: Path
    tracks: int = 0
    changed: int = 0
    actions: Counter = field(default_factory=Counter)
    rejected: Counter = field(default_factory=Counter)
    rewritten: int = 0
    silent: list[str] = field(default_factory=list)
    suspicious: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None
    cost: float = 0.0
    scores: Scores = field(default_factory=Scores)
    threshold: float = 0.0

    def count(self, found: Match, candidates: list[Candidate]) -> None:
        """Take a track into account."""
        self.actions[found.action] += 1
        self.scores.add("mismatched", found.mismatched)
        for candidate in candidates:
            self.scores.add(candidate.stage, candidate.score)
            if candidate.stage == "rewrite":
                self.rewritten += candidate.kept
                self.rejected.update([] if candidate.kept else [candidate.reason])

    def merge(self, other: CaptionReport) -> None:
        """Add what another process did at the same time on the same data set."""
        for name in ("tracks", "changed", "rewritten", "cost"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.actions += other.actions
        self.rejected += other.rejected
        self.silent += other.silent
        self.suspicious += other.suspicious
        self.unreadable |= other.unreadable
        self.failed |= other.failed
        self.stopped = self.stopped or other.stopped
        self.scores.merge(other.scores)

    @property
    def status(self) -> int:
        """Exit status: 1 where something could not be read or done."""
        return 1 if self.unreadable or self.failed or self.stopped else 0

    def lines(self) -> list[str]:
        """Return the report as text."""
        lines = [f"{self.manifest}: {self.tracks} tracks, {self.changed} sidecars written"]
        if self.actions:
            lines.append("decisions: " + _listed(self.actions))
        if self.rewritten or self.rejected:
            total = self.rewritten + self.rejected.total()
            reasons = _listed(self.rejected) or "nothing"
            lines.append(f"rewritten: {self.rewritten} of {total} kept; rejected for: {reasons}")
        lines += [
            f"{KINDS[kind]}: median score {self.scores.quantile(kind, 0.5):.2f}, "
            f"{self.scores.kept(kind, self.threshold):.0%} at {self.threshold:g} or above"
            for kind in KINDS
            if kind in self.scores.counts
        ]
        if self.cost:
            lines.append(f"cost: {self.cost:.4f} dollars")
        for title, names in (("silent", self.silent), ("speaks to a language model", self.suspicious)):
            lines += [f"{title}: {name}" for name in names]
        for title, files in (("unreadable", self.unreadable), ("failed, left as it was", self.failed)):
            lines += [f"{title}: {name} ({reason})" for name, reason in files.items()]
        if self.stopped:
            lines.append(f"stopped: {self.stopped}")
        return lines

    def write(self) -> None:
        """Write `captions.json` and the histograms beside the manifest."""
        write_json(self.manifest.parent / REPORT_FILE, self.to_dict())
        if self.scores.counts:
            draw_scores(self.scores, self.threshold, self.manifest.parent / PLOT_FILE)

    def to_dict(self) -> JsonObject:
        """Return the content for JSON, with the share that each threshold would keep, for each kind of score."""
        names = ("tracks", "changed", "rewritten", "silent", "suspicious", "unreadable", "failed", "stopped", "cost")
        grid = [round(value, 2) for value in np.arange(0, 0.95, 0.05).tolist()]
        scores = {
            kind: {
                "count": int(counts.sum()),
                "median": round(self.scores.quantile(kind, 0.5), 4),
                "histogram": counts.tolist(),
                "kept": {f"{threshold:.2f}": round(self.scores.kept(kind, threshold), 4) for threshold in grid},
            }
            for kind, counts in self.scores.counts.items()
        }
        tables = {"actions": dict(self.actions), "rejected": dict(self.rejected)}
        known = {name: getattr(self, name) for name in names}
        return {**known, **tables, "threshold": self.threshold, "edges": EDGES.round(2).tolist(), "scores": scores}


def _listed(counts: Counter) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def draw_scores(scores: Scores, threshold: float, path: str | Path) -> None:
    """Draw the scores of each kind, and the share that any threshold keeps.

    Args:
        threshold: the chosen one.
        path: PNG to write.
    """
    # matplotlib takes a second to import; the Agg canvas needs no screen and no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((8, 6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    for kind, title in KINDS.items():
        if kind not in scores.counts:
            continue
        counts = scores.counts[kind]
        coarse = counts.reshape(-1, 4).sum(1) / counts.sum()
        style = "--" if kind == "mismatched" else "-"
        above.stairs(coarse, EDGES[::4], label=f"{title} ({counts.sum()})", linestyle=style, linewidth=1.6)
        kept = counts[::-1].cumsum()[::-1] / counts.sum()
        below.plot(EDGES[:-1], kept, style, label=title)
    used = np.flatnonzero(sum(scores.counts.values()))
    for axes, label in ((above, "share of texts in 0.04"), (below, "share kept")):
        axes.axvline(threshold, color="black", linewidth=1, linestyle=":", label=f"threshold {threshold:g}")
        axes.set(ylabel=label, xlim=(EDGES[used[0]] - 0.05, EDGES[used[-1]] + 0.06))
        axes.grid(alpha=0.3)
    above.legend(fontsize="small")
    below.set_xlabel("agreement of text and audio (cosine)")
    with replacing(path) as part:
        figure.savefig(part, format="png")
