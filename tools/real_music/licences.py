"""What a Debian package's `copyright` file says of each of its tracks, and which licences are free."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePath

MACHINE_READABLE = "copyright-format/1.0"
"""In the first field of a file that lists files and licences (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/)."""

# Versions are free of choice, NC and ND are not in it. Drascula's own licence allows changes and redistribution.
_FREE = re.compile(
    r"(A|L)?GPL(-[\d.]+)?\+?|GFDL(-[\w.]+\+?)?|CC-BY(-SA)?(-[\d.]+\+?)?|CC0(-1\.0)?|public-domain|Expat|MIT|ISC|zlib"
    r"|BSD(-\d-clause)?|Apache(-2\.0)?|Artistic(-[\d.]+)?|OFL(-1\.1)?|MPL(-[\d.]+)?|Drascula-License",
    re.IGNORECASE,
)
_COMMON_LICENCE = re.compile(r"/usr/share/common-licenses/([A-Za-z\d]+(?:-\d+(?:\.\d+)*)?)")


@dataclass(frozen=True)
class Copyright:
    """A parsed `copyright` file.

    Args:
        stanzas: file patterns and the licence of what matches them; the last match counts.
    """

    stanzas: tuple[tuple[tuple[str, ...], str], ...]

    def licence_of(self, track: PurePath) -> str | None:
        """Name of a track's licence, as the file gives it; None = it says nothing of this track."""
        found = [licence for patterns, licence in self.stanzas if any(_matches(track, p) for p in patterns)]
        return found[-1] if found else None


def parse(text: str) -> Copyright:
    """Parse a `copyright` file, in the machine-readable format or in plain words."""
    if MACHINE_READABLE in text.split("\n\n", 1)[0]:
        return Copyright(tuple(_stanzas(text)))
    names = _names_in_words(text)
    return Copyright(((("*",), " and ".join(names)),) if names else ())


def is_free(licence: str) -> bool:
    """Whether everything that a licence's name demands is on the list of free ones: `A and B`, `A or B`."""
    choices = re.split(r",?\s+or\s+", licence.strip())
    return any(all(_FREE.fullmatch(name) for name in re.split(r",?\s+and\s+|,\s*", choice)) for choice in choices)


def _stanzas(text: str) -> list[tuple[tuple[str, ...], str]]:
    found = []
    for paragraph in re.split(r"\n[ \t]*\n", text):
        fields = _fields(paragraph)
        if fields.get("files", "").strip() and fields.get("license", "").strip():
            licence = fields["license"].strip().splitlines()[0].strip()
            found.append((tuple(fields["files"].split()), licence))
    return found


def _fields(paragraph: str) -> dict[str, str]:
    """Fields of a paragraph by lower-case name; a line that begins with a space continues the field before it."""
    fields: dict[str, str] = {}
    name = ""
    for line in paragraph.splitlines():
        if line[:1] in (" ", "\t"):
            fields[name] = f"{fields.get(name, '')}\n{line}"
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.lower()
            fields[name] = value
    return fields


def _matches(track: PurePath, pattern: str) -> bool:
    # Patterns are paths in the source, tracks lie elsewhere in the package: what both have is the end of the path.
    end = "/".join(PurePath(pattern).parts[-2:])
    return any(fnmatchcase("/".join(track.parts[start:]), end) for start in range(len(track.parts)))


def _names_in_words(text: str) -> list[str]:
    later = "+" if re.search(r"any\s+later\s+version|version\s+[\d.]+\s+or\s+later", text) else ""
    names = [f"{name}{later if 'GPL' in name else ''}" for name in _COMMON_LICENCE.findall(text)]
    if re.search(r"creative\s+commons\s+public\s+license", text, re.IGNORECASE):
        names.append(_creative_commons(text))
    return list(dict.fromkeys(names))


def _creative_commons(text: str) -> str:
    elements = {"BY": "attribution", "NC": "non-?commercial", "ND": "no-?deriv", "SA": "share-?alike"}
    return "-".join(["CC", *(key for key, word in elements.items() if re.search(word, text, re.IGNORECASE))])
