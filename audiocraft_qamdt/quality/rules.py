"""Rules by source: quality and caption of tracks that are known to be good, as the published loader has them."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..data.manifest import QUALITY_KEY, Quality, read_manifest, read_sidecar, sidecar_path, update_sidecar
from ..utils.reading import JsonObject

_KEYS = {"source", "pmos", "caption"}


@dataclass(frozen=True)
class SourceRule:
    """What holds for the tracks of one source.

    Args:
        source: pattern of the file's name, such as `pixa_*`.
        pmos: their p-MOS, throughout, in place of the predictor's; None = the predictor's.
        caption: keys of the sidecar, of which the first that has a text becomes the description; () = as it is.
    """

    source: str
    pmos: float | None = None
    caption: tuple[str, ...] = ()


def read_rules(path: str | Path) -> list[SourceRule]:
    """Read rules from YAML: a list of objects with `source`, `pmos` and `caption`; a track takes the first that fits.

    Raises:
        ValueError: naming the file, the rule and the key that is wrong.
    """
    import yaml

    try:
        rules = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML ({error})") from error
    if not isinstance(rules, list) or not rules:
        raise ValueError(f"{path}: give a list of rules, such as `- {{source: 'pixa_*', pmos: 5}}`")
    return [_rule(rule, f"{path}: rule {number}") for number, rule in enumerate(rules, 1)]


def _rule(rule: object, where: str) -> SourceRule:
    if not isinstance(rule, Mapping) or not isinstance(rule.get("source"), str) or rule.keys() - _KEYS:
        raise ValueError(f"{where}: give an object with source, and pmos or caption; got {rule!r}")
    pmos, caption = rule.get("pmos"), rule.get("caption") or []
    caption = [caption] if isinstance(caption, str) else caption
    if pmos is not None and not (isinstance(pmos, int | float) and 1 <= pmos <= 5):
        raise ValueError(f"{where}: pmos={pmos!r}, it goes from 1 to 5")
    if not isinstance(caption, list) or not all(isinstance(key, str) for key in caption):
        raise ValueError(f"{where}: caption={caption!r}, give keys of the sidecar in the order of preference")
    return SourceRule(rule["source"], None if pmos is None else float(pmos), tuple(caption))


def apply_rules(manifest: str | Path, rules: list[SourceRule]) -> list[str]:
    """Write what the rules say into the sidecars of a data set that is scored.

    Returns:
        For each rule a line with the number of its tracks.
    """
    counts = dict.fromkeys(rules, 0)
    for row in read_manifest(manifest):
        rule = next((rule for rule in rules if fnmatch.fnmatchcase(Path(row["path"]).name, rule.source)), None)
        if rule is None:
            continue
        counts[rule] += 1
        sidecar = sidecar_path(row["path"])
        changes = _changes(rule, read_sidecar(sidecar) if sidecar.exists() else {}, str(sidecar))
        if changes:
            update_sidecar(row["path"], changes)
    return [f"rule {rule.source}: {count} tracks" for rule, count in counts.items()]


def _changes(rule: SourceRule, sidecar: JsonObject, where: str) -> JsonObject:
    changes: JsonObject = {}
    if rule.pmos is not None and sidecar.get(QUALITY_KEY):
        scored = Quality.from_dict(sidecar[QUALITY_KEY], where)
        changes[QUALITY_KEY] = replace(scored, pmos=rule.pmos, hop=None, frames=None).to_dict()
    texts = (sidecar.get(key) for key in rule.caption)
    text = next((text for text in texts if isinstance(text, str) and text.strip().lower() not in ("", "none")), None)
    if text is not None:
        changes["description"] = text
    return changes
