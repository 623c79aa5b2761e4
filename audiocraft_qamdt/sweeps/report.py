"""Report a grid: a table of its arms with mean and deviation over seeds, and pictures, as Markdown, HTML and CSV."""

from __future__ import annotations

import csv
import html
import typing as tp
from pathlib import Path

from ..metrics.base import safe
from ..metrics.table import more_is_better
from ..utils import pages, plots
from ..utils.files import replacing, write_lines
from ..utils.pages import Cell
from .arms import DEFAULT, Arm, Statistic, Sweep, remarks
from .course import LOSS, courses, equal_time

NAME = "report"
LONGEST = 24  # characters of a value beside a bar
RATIO, SPREAD, KIND = "masking.ratio", "masking.spread", "masking.kind"
NOTHING = "–"
ARROWS = {True: " ↑", False: " ↓", None: ""}
APART = {True: "overlap", False: "apart", None: ""}


class Written(tp.NamedTuple):
    """Files of a report; the metrics of each run are in `runs`, of the arms in `table`, of their epochs in `course`."""

    page: Path
    text: Path
    table: Path
    runs: Path
    course: Path


def write_grid_report(sweep: Sweep, out: Path, *, baseline: str | None = None) -> Written:
    """Write report.html, report.md, report.csv, runs.csv, course.csv, and pictures of each metric.

    Args:
        sweep: the arms.
        out: folder.
        baseline: name of an arm that all others are compared with (see `Sweep.arm`); None = no comparison.
    Raises:
        ValueError: there is no such arm.
    """
    reference = None if baseline is None else sweep.arm(baseline)
    out.mkdir(parents=True, exist_ok=True)
    names = (f"{NAME}.html", f"{NAME}.md", f"{NAME}.csv", "runs.csv", "course.csv")
    written = Written(*(out / name for name in names))
    drawn = draw(sweep, out)
    pages.write_page(written.page, f"Grid {sweep.name}", _html(sweep, reference, drawn))
    write_lines(written.text, markdown(sweep, reference, drawn))
    _write_csv(written.table, _arm_rows(sweep, reference))
    _write_csv(written.runs, _run_rows(sweep))
    _write_csv(written.course, _course_rows(sweep))
    return written


# ---- tables


def means(sweep: Sweep) -> tuple[list[str], list[list[Cell]]]:
    """Return head and rows: arms by metrics, the best mean of each metric in bold."""
    head = ["arm", "seeds", *(f"{metric}{ARROWS[more_is_better(metric)]}" for metric in sweep.metrics)]
    best = {metric: sweep.best(metric) for metric in sweep.metrics}
    rows = []
    for arm in sweep.arms:
        cells = (_mean_cell(arm.metrics.get(metric), len(arm.runs), best[metric]) for metric in sweep.metrics)
        rows.append([Cell(arm.name), Cell(str(len(arm.runs))), *cells])
    return head, rows


def _mean_cell(found: Statistic | None, runs: int, best: float | None) -> Cell:
    if found is None:
        return Cell("")
    deviation = NOTHING if found.deviation is None else f"{found.deviation:.2g}"
    clips = "" if found.interval is None else f" [{found.interval:.2g}]"
    fewer = f" ({len(found.values)} of {runs})" if len(found.values) < runs else ""
    return Cell(f"{found.mean:.4g} ± {deviation}{clips}{fewer}", bold=found.mean == best)


def comparison(sweep: Sweep, reference: Arm) -> tuple[list[str], list[list[Cell]]]:
    """Return head and rows: each arm's mean minus the reference's, and whether the two are more than ±1 sd apart."""
    names = [metric for metric in sweep.metrics if metric in reference.metrics]
    head = ["arm", *(f"{metric}{ARROWS[more_is_better(metric)]}" for metric in names)]
    others = [arm for arm in sweep.arms if arm is not reference]
    rows = [
        [Cell(arm.name), *(_relative_cell(arm.metrics.get(name), reference.metrics[name]) for name in names)]
        for arm in others
    ]
    return head, rows


def _relative_cell(found: Statistic | None, reference: Statistic) -> Cell:
    if found is None:
        return Cell("")
    percent, meets = found.relative(reference), found.overlaps(reference)
    text = NOTHING if percent is None else f"{percent:+.1f} %".replace("-", "−")
    return Cell(", ".join(filter(None, (text, APART[meets]))))


def at_equal_time(sweep: Sweep) -> tuple[list[str], list[list[Cell]]] | None:
    """Return head and rows: arms by metrics that were evaluated twice or more, all after as long a training.

    None = there is no such metric, or the arms have no time in common.
    """
    shared = {metric: equal_time(course) for metric, course in courses(sweep).items()}
    found = {metric: times for metric, times in shared.items() if times is not None}
    if not set(found) - {LOSS}:
        return None
    head = ["arm"]
    best: dict[str, float | None] = {}
    for metric, (minutes, values) in found.items():
        more = False if metric == LOSS else more_is_better(metric)
        head.append(f"{metric}{ARROWS[more]}, {minutes:.2f} min")
        best[metric] = None if more is None else (max if more else min)(values.values())
    rows = []
    for arm in sweep.arms:
        at = {metric: values.get(arm.name) for metric, (_, values) in found.items()}
        cells = ("" if value is None else f"{value:.4g}" for value in at.values())
        bold = (value is not None and value == best[metric] for metric, value in at.items())
        rows.append([Cell(arm.name), *(Cell(text, bold=is_best) for text, is_best in zip(cells, bold, strict=True))])
    return head, rows


def _left_out(sweep: Sweep) -> list[str]:
    return [f"{run.signature} ({name or 'arm unknown'}): {run.problem}" for name, run in sweep.left_out]


def _headline(sweep: Sweep) -> str:
    counted = sum(len(arm.runs) for arm in sweep.arms)
    total = counted + len(sweep.left_out)
    clips = any(found.intervals for arm in sweep.arms for found in arm.metrics.values())
    return (
        f"{len(sweep.arms)} arms, {counted} of {total} runs counted. Mean ± standard deviation over seeds"
        f"{' [half the 95 % bootstrap interval of one run over its clips]' if clips else ''}."
    )


TIMED = "Means after as many minutes of training as the quickest arm had, on a line between two evaluations."
COMPARED = "Difference of the means, and whether the intervals of ±1 standard deviation overlap or are apart."


def markdown(sweep: Sweep, reference: Arm | None = None, drawn: tp.Sequence[Path] = ()) -> list[str]:
    """Return the report's lines in Markdown; pictures are taken to be beside it."""
    common = " ".join(f"`{pages.markdown_text(f'{key}={value}')}`" for key, value in sweep.common.items())
    lines = [
        f"# Grid {pages.markdown_text(sweep.name)}",
        "",
        _headline(sweep),
        "",
        *pages.markdown_table(*means(sweep)),
        "",
    ]
    if common:
        lines += [f"All runs: {common}", ""]
    if reference is not None:
        lines += [f"## Relative to {pages.markdown_text(reference.name)}", "", COMPARED, ""]
        lines += [*pages.markdown_table(*comparison(sweep, reference)), ""]
    if timed := at_equal_time(sweep):
        lines += ["## At equal time", "", TIMED, "", *pages.markdown_table(*timed), ""]
    for title, items in (("Remarks", remarks(sweep)), ("Not counted", _left_out(sweep))):
        if items:
            lines += [f"## {title}", "", *(f"- {pages.markdown_text(item)}" for item in items), ""]
    return lines + [f"![{path.stem}]({path.name})" for path in drawn]


def _html(sweep: Sweep, reference: Arm | None, drawn: tp.Sequence[Path]) -> tp.Iterator[str]:
    yield f"<h1>Grid {html.escape(sweep.name)}</h1><p>{_headline(sweep)}</p>"
    yield pages.html_table(*means(sweep))
    common = " ".join(f"<code>{html.escape(f'{key}={value}')}</code>" for key, value in sweep.common.items())
    if common:
        yield f"<p>All runs: {common}</p>"
    if reference is not None:
        yield f"<h2>Relative to {html.escape(reference.name)}</h2><p>{COMPARED}</p>"
        yield pages.html_table(*comparison(sweep, reference))
    if timed := at_equal_time(sweep):
        yield f"<h2>At equal time</h2><p>{TIMED}</p>"
        yield pages.html_table(*timed)
    yield "<h2>Metrics</h2>"
    yield pages.pictures(drawn)
    for title, items in (("Remarks", remarks(sweep)), ("Not counted", _left_out(sweep))):
        if items:
            yield f"<h2>{title}</h2><ul>{''.join(f'<li>{html.escape(item)}</li>' for item in items)}</ul>"


# ---- CSV


_BETTER = {None: "", True: "higher", False: "lower"}


def _arm_rows(sweep: Sweep, reference: Arm | None) -> tp.Iterator[dict[str, object]]:
    """Return a row for each arm and metric."""
    for arm in sweep.arms:
        for metric, found in arm.metrics.items():
            more = more_is_better(metric)
            row: dict[str, object] = {"arm": arm.name, **arm.settings, "metric": metric}
            row["better"] = _BETTER[more]
            row |= {"mean": found.mean, "sd": found.deviation, "seeds": len(found.values), "ci95": found.interval}
            row["best"] = int(found.mean == sweep.best(metric))
            if reference is not None and metric in reference.metrics and arm is not reference:
                other = reference.metrics[metric]
                row |= {"relative_percent": found.relative(other), "sd_intervals": APART[found.overlaps(other)]}
            yield row


def _run_rows(sweep: Sweep) -> tp.Iterator[dict[str, object]]:
    """Return a row for each run: its results in the order of the report, then their intervals."""
    counted = [(arm.name, run, 1) for arm in sweep.arms for run in arm.runs]
    for name, run, counts in counted + [(name, run, 0) for name, run in sweep.left_out]:
        seed = "" if run.config is None else run.seed
        row = {"signature": run.signature, "arm": name, "seed": seed, "epochs": len(run.history)}
        intervals = {f"{metric} ci95": half for metric, half in run.intervals.items() if metric in run.measured}
        measured = {**dict.fromkeys(sweep.metrics), **run.measured}
        yield {**row, "counted": counts, "problem": run.problem, **measured, **intervals}


def _course_rows(sweep: Sweep) -> tp.Iterator[dict[str, object]]:
    """Return a row for each arm, metric and epoch, for metrics that were measured at two epochs or more."""
    for metric, course in courses(sweep).items():
        for arm, moments in course.items():
            for moment in moments:
                row = {"arm": arm, "metric": metric, "epoch": moment.epoch, "minutes": moment.minutes}
                values = moment.found
                yield {**row, "mean": values.mean, "sd": values.deviation, "seeds": len(values.values)}


def _write_csv(path: Path, rows: tp.Iterable[dict[str, object]]) -> None:
    content = list(rows)
    with replacing(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in content for key in row)))
        writer.writeheader()
        writer.writerows(content)


# ---- pictures


def draw(sweep: Sweep, out: Path) -> list[Path]:
    """Draw each metric: against the mask ratio where the grid has three or more, else bars by arm; then against time.

    Against the minutes of training stand the validation loss, and metrics that were evaluated twice or more.
    """
    masked = len({tuple(arm.runs[0].setting(key) for key in (RATIO, SPREAD)) for arm in sweep.arms}) > 2
    labels = [_label(arm) for arm in sweep.arms]
    labels = [label if labels.count(label) == 1 else arm.name for label, arm in zip(labels, sweep.arms, strict=True)]
    drawn = []
    for metric in sweep.metrics:
        drawn.append(out / f"metric_{safe(metric.replace('/', '-'))}.png")
        title = f"{metric}{ARROWS[more_is_better(metric)]}"
        if masked:
            plots.error_lines(mask_curves(sweep, metric), drawn[-1], xlabel="mask ratio", title=title)
        else:
            named = zip(labels, sweep.arms, strict=True)
            measured = {label: arm.metrics[metric] for label, arm in named if metric in arm.metrics}
            bars = {label: (found.mean, found.deviation) for label, found in measured.items()}
            plots.error_bars(bars, drawn[-1], title=title, best=sweep.best(metric))
    short = {arm.name: label for arm, label in zip(sweep.arms, labels, strict=True)}
    for metric, course in courses(sweep).items():
        drawn.append(out / f"course_{safe(metric.replace('/', '-'))}.png")
        title = f"{metric}{ARROWS[False if metric == LOSS else more_is_better(metric)]}"
        lines = {short[arm]: [moment.point for moment in moments] for arm, moments in course.items()}
        plots.error_lines(lines, drawn[-1], xlabel="minutes of training", title=title)
    return drawn


def mask_curves(sweep: Sweep, metric: str) -> dict[str, list[plots.Point]]:
    """Return a metric's points over the mask ratio, a line for each kind of mask and whatever else varies.

    A ratio that is drawn from ratio + U(0, spread) is shown at its mean, as a line of its own. An arm without masking
    belongs to every kind.
    """
    curves: dict[str, list[plots.Point]] = {}
    unmasked: list[tuple[dict[str, object], plots.Point]] = []
    others: dict[str, dict[str, object]] = {}
    for arm in sweep.arms:
        if metric not in arm.metrics:
            continue
        found, (ratio, spread) = (
            arm.metrics[metric],
            (tp.cast(float, arm.runs[0].setting(key)) for key in (RATIO, SPREAD)),
        )
        point = plots.Point(ratio + spread / 2, found.mean, found.deviation, spread)
        rest = {key: value for key, value in arm.settings.items() if key not in (RATIO, SPREAD, KIND)}
        if not ratio + spread:
            unmasked.append((rest, point))
            continue
        kind = str(arm.runs[0].setting(KIND))
        label = " ".join([kind, *(f"{key}={value}" for key, value in rest.items())])
        if spread:
            label += f" + U(0, {spread:g})"
        curves.setdefault(label, []).append(point)
        others[label] = rest
    for rest, point in unmasked:
        labels = [label for label, other in others.items() if other == rest and not curves[label][0].span]
        for label in labels or [" ".join(["no mask", *(f"{key}={value}" for key, value in rest.items())])]:
            curves.setdefault(label, []).append(point)
    return {label: sorted(points) for label, points in curves.items()}


def _label(arm: Arm) -> str:
    """Return what an arm sets, in few words: a picture has no room for whole keys and for what it leaves alone."""
    if len(arm.settings) == 1:
        return str(*arm.settings.values())
    chosen = ((key.rpartition(".")[2], str(value)) for key, value in arm.settings.items() if value != DEFAULT)
    short = (f"{key}={value if len(value) <= LONGEST else value[: LONGEST - 1] + '…'}" for key, value in chosen)
    return " ".join(short) or arm.name
