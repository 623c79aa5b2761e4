"""Pages: text is shown as it is, pictures are inside, nothing else is loaded."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from audiocraft_qamdt.utils.pages import Cell, embed, html_table, markdown_table, pictures, write_page

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
MARKUP = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>|[a](javascript:alert(1))`"


class Read(HTMLParser):
    """Text and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.texts += [data] if data.strip() else []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))


def test_a_table_shows_texts_as_they_are():
    read = Read(html_table(["a <b>", "n"], [[Cell("x & y"), Cell("<script>")]]))
    assert read.texts == ["a <b>", "n", "x & y", "<script>"]


def test_the_best_cell_of_a_table_is_bold():
    tags = [tag for tag, _ in Read(html_table(["a"], [[Cell("1", bold=True)], [Cell("2")]])).tags]
    assert tags.count("b") == 1


def test_a_markdown_table_has_a_rule_and_escapes_its_bars():
    assert markdown_table(["a", "n"], [[Cell("x|y"), Cell("1", bold=True)]]) == [
        "| a | n |",
        "| --- | ---: |",
        "| x\\|y | **1** |",
    ]


def test_content_is_embedded_whole():
    kind, _, content = embed(PNG, "image/png").partition(";base64,")
    assert kind == "data:image/png"
    assert base64.b64decode(content) == PNG


@pytest.fixture
def page(tmp_path) -> str:
    (tmp_path / "loss.png").write_bytes(PNG)
    write_page(tmp_path / "report.html", "losses <1>", ["<h1>Losses</h1>", pictures([tmp_path / "loss.png"])])
    return (tmp_path / "report.html").read_text()


def test_a_page_has_its_title_as_text(page):
    assert "losses <1>" in Read(page).texts


def test_a_page_loads_nothing_from_outside(page):
    addresses = [attributes[key] for _, attributes in Read(page).tags for key in ("src", "href") if key in attributes]
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(r"https?://|@import|url\(", page)


def test_a_picture_is_named_by_its_file(page):
    assert [attributes["alt"] for tag, attributes in Read(page).tags if tag == "img"] == ["loss"]


def test_markup_in_a_table_is_text_in_html():
    table = html_table([MARKUP], [[Cell(MARKUP)], [Cell(MARKUP, bold=True)]])
    assert "<script" not in table
    assert "<img" not in table
    assert table.count("&lt;script&gt;") == 3


def test_markup_in_a_table_is_text_in_markdown():
    (*_, line) = markdown_table(["a"], [[Cell(MARKUP + "\n# head")]])
    assert "<" not in line
    assert "](javascript" not in line
    assert "\n" not in line
    assert "\\|" in line


def test_a_page_has_a_policy_that_runs_no_script(tmp_path):
    write_page(tmp_path / "page.html", MARKUP, ["<p>text</p>"])
    page = (tmp_path / "page.html").read_text()
    assert "default-src 'none'" in page
    assert "script-src" not in page
    assert "unsafe-inline" not in page
    assert "<script" not in page


@pytest.mark.parametrize("field", ["name", "argv", "metric", "stage"])
def test_no_text_of_an_experiment_becomes_markup(tmp_path, field):
    from audiocraft_qamdt.reports.runs import Run, write_report

    name = MARKUP.replace("/", "") if field == "name" else "3f2a"
    metric, stage = (MARKUP if field == one else other for one, other in (("metric", "silent"), ("stage", "evaluate")))
    history = [{"train": {"loss": 1.0}, "valid": {"loss": 1.0}, stage: {metric: 0.5}}]
    argv = [MARKUP] if field == "argv" else []
    page = write_report([Run(name, argv, history, [])], tmp_path / "out").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
