"""The manual leads somewhere: links, paths in the repository, and the site's pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("audiocraft_qamdt", "benchmarks", "config", "grids", "tests")


def text_of(page: Path) -> str:
    """Text of a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MkDocs form them."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    """Targets of a page's links to files and headings; pictures and the web are left out."""
    found = re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", text_of(page))
    return [target for target in found if not target.startswith(("http://", "https://", "mailto:"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target in links(page):
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target} leads nowhere"
        assert not heading or heading in anchors(file), f"{page.name}: {target} names no heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_in_the_text_exists(page):
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", text_of(page)):
        found = [ROOT / path, ROOT / f"{path}.yaml", ROOT / f"{path}.py"]
        assert any(file.exists() for file in found), f"{page.name} names {path}, which does not exist"


def test_the_site_has_every_page():
    config = (ROOT / "mkdocs.yml").read_text()
    navigation = yaml.safe_load(re.search(r"^nav:\n(?:[ ].*\n)+", config, flags=re.MULTILINE).group())["nav"]
    listed = re.findall(r"[\w-]+\.md", str(navigation))
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_readme_fits_a_few_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


ELEMENTS = (
    "quality token, prefix, thresholds, masks, decoder, positions, feed-forward, text, time, patch, schedule, loss, "
    "sampler, η, guidance, rerank, optimiser, EMA, dropout, statistics, weights, predictor, captions, evaluation"
).split(", ")
THEIRS = r"(?:[\w/]+\.(?:py|yaml)` (?:\d+)|readme\.md|infer_mos5\.py|on the hub)"
"""A place in the authors' code: a file with a line, or a file that is named for what it lacks."""


def rows_of_the_paper() -> dict[str, list[str]]:
    """Cells of the table of docs/paper.md behind the first, by it."""
    table = (ROOT / "docs" / "paper.md").read_text().partition("| element |")[2].partition("\n\n")[0]
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.parametrize("element", ELEMENTS)
def test_the_table_of_the_paper_has_a_row_for_every_element(element):
    assert any(element in name for name in rows_of_the_paper())


@pytest.mark.parametrize("name, cells", rows_of_the_paper().items(), ids=lambda value: str(value)[:20])
def test_every_cell_of_the_table_of_the_paper_names_its_evidence(name, cells):
    assert len(cells) == 3
    assert re.search(THEIRS, cells[1]), f"{name}: no file and line of the authors' code"
    assert re.search(r"`tests/[\w/]+\.py`", cells[2]), f"{name}: no test"
