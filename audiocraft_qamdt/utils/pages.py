"""Self-contained HTML pages: style, tables, and pictures and sound within the page."""

from __future__ import annotations

import base64
import hashlib
import html
import typing as tp
from pathlib import Path

from .files import replacing

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; } code { background: #f3f3f3; padding: .1em .3em; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid #ddd; border-radius: 6px; padding: .6rem; overflow: hidden; }
figure img, .plots img { width: 100%; } .plots { margin: 1rem 0; }
audio { width: 100%; height: 2.2rem; } figcaption { font-size: .85rem; }
.scroll { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e5e5e5; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
"""


def _policy(style: str, script: str, sources: str) -> str:
    """Return a page's policy: pictures and sound within it, its own style and script, and `sources`."""
    parts = ["default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'", f"style-src {_hash(style)}"]
    parts += [f"script-src {_hash(script)}"] if script else []
    return "; ".join([*parts, sources])


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


class Cell(tp.NamedTuple):
    """Text of a table, as it is to be read, and whether it stands out."""

    text: str
    bold: bool = False


def html_table(head: tp.Sequence[str], rows: tp.Iterable[tp.Sequence[Cell]]) -> str:
    """Return a table that scrolls sideways where it is wider than the page."""
    lines = [f"<tr>{''.join(f'<th>{html.escape(text)}</th>' for text in head)}</tr>"]
    lines += [f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in rows]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _html_cell(cell: Cell) -> str:
    text = html.escape(cell.text)
    return f"<td><b>{text}</b></td>" if cell.bold else f"<td>{text}</td>"


def markdown_table(head: tp.Sequence[str], rows: tp.Iterable[tp.Sequence[Cell]]) -> list[str]:
    """Return the lines of the same table in Markdown."""
    lines = [
        list(head),
        ["---", *["---:"] * (len(head) - 1)],
        *([_markdown_cell(cell) for cell in row] for row in rows),
    ]
    return [f"| {' | '.join(line)} |" for line in lines]


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(cell.text)
    return f"**{text}**" if cell.bold else text


def markdown_text(text: str) -> str:
    """Escape text for Markdown: on one line, without markup, links or cells of its own."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return flat.replace("|", "\\|").replace("](", "]\\(").replace("`", "'")


def embed(content: bytes, kind: str) -> str:
    """Return the content as the address of an element, of a MIME type such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def pictures(paths: tp.Iterable[Path]) -> str:
    """Return PNG files side by side."""
    return f'<div class="grid plots">{"".join(map(_picture, paths))}</div>'


def _picture(path: Path) -> str:
    return f'<img src="{embed(path.read_bytes(), "image/png")}" alt="{html.escape(path.stem)}">'


def write_page(
    path: Path,
    title: str,
    parts: tp.Iterable[str],
    *,
    style: str = STYLE,
    script: str = "",
    sources: str = "media-src data:",
) -> None:
    """Write a page that needs no other file, but for what `sources` names.

    Args:
        path: HTML file.
        title: of the window, as it is to be read.
        parts: HTML of the body.
        style: CSS.
        script: JavaScript that runs after the body was read; "" = none runs.
        sources: further directives of the page's Content-Security-Policy.
    """
    policy = _policy(style, script, sources)
    page = (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>\n<body>\n"
        + "\n".join([*parts, *([f"<script>{script}</script>"] if script else [])])
        + "\n</body>\n</html>\n"
    )
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")
