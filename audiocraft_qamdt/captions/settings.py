"""Configuration of the stages, and the objects that it names.

Tables of names are open to registration: `MATCHERS["mine"] = build_mine`.
"""

from __future__ import annotations

import typing as tp
from collections.abc import Callable, Sequence
from pathlib import Path

from ..builders import resolve_device
from ..clap.scorer import ClapScorer
from ..compat import CONFIG_ROOT
from ..utils.reading import JsonObject
from .captioners import Captioner, EndpointCaptioner, LocalCaptioner
from .endpoint import Endpoint
from .language_models import EndpointLanguageModel, LocalLanguageModel
from .local import loading
from .matching import Matcher, Thresholds
from .rewriting import PROMPTS, Guard, JoiningRewriter, PromptedRewriter, Rewriter, Template
from .text import Rules
from .two_tower import PlaygroundMatcher

FOLDER = CONFIG_ROOT / "captions"
Settings = JsonObject
Built = tp.TypeVar("Built")


def load_settings(config: str | Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Merge the defaults, a file that overrides them, and `key=value` settings that override both.

    Args:
        config: a YAML file, or the name of one in config/captions; None = the defaults.
        overrides: such as `match.threshold=0.3`.
    Raises:
        FileNotFoundError, ValueError: naming the file, or the key that the defaults do not have.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    defaults = OmegaConf.load(FOLDER / "default.yaml")
    OmegaConf.set_struct(defaults, True)
    for free in ("caption.transformers.generate",):
        OmegaConf.set_struct(OmegaConf.select(defaults, free), False)
    path = _config_file(config)
    try:
        chosen = OmegaConf.load(path) if path else OmegaConf.create()
        merged = OmegaConf.merge(defaults, chosen, OmegaConf.from_dotlist(list(overrides)))
        return tp.cast(Settings, OmegaConf.to_container(merged, resolve=True))
    except (OmegaConfBaseException, YAMLError) as error:
        reason = " ".join(str(error).split())
        where = path or "captions"
        raise ValueError(f"{where}: {reason} (the keys are those of config/captions/default.yaml)") from error


def _config_file(config: str | Path | None) -> Path | None:
    if config is None:
        return None
    named = FOLDER / f"{config}.yaml"
    path = named if named.exists() else Path(config)
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise FileNotFoundError(f"--config {config}: neither a file nor one of {known}")
    return path


def _caption_prompt(options: Settings) -> str:
    name = options["prompt"]
    path = PROMPTS / f"{name}.txt" if (PROMPTS / f"{name}.txt").exists() else Path(name)
    if not path.exists():
        raise FileNotFoundError(f"caption.prompt={name}: neither a file nor one of the package's prompts")
    return path.read_text(encoding="utf-8").strip()


def _endpoint(options: Settings, stage: str) -> Endpoint:
    section = options["endpoint"]
    if not section["url"]:
        raise ValueError(f"{stage}.endpoint.url is not set: name the base of an OpenAI-compatible server")
    return Endpoint(**{**section, "price": tuple(section["price"])})


def _name(options: Settings, stage: str, section: str) -> str:
    name = options[section]["name"]
    if not name:
        raise ValueError(f"{stage}.{section}.name is not set: give a hub id or a local folder")
    return name


def _common(options: Settings) -> Settings:
    return {key: options[key] for key in ("temperature", "max_new_tokens")}


def _local_captioner(options: Settings) -> Captioner:
    _name(options, "caption", "transformers")
    return LocalCaptioner(**options["transformers"], prompt=_caption_prompt(options), **_common(options))


def _endpoint_captioner(options: Settings) -> Captioner:
    return EndpointCaptioner(_endpoint(options, "caption"), prompt=_caption_prompt(options), **_common(options))


def _clap(options: Settings) -> Matcher:
    name, section = _name(options, "match", "clap"), options["clap"]
    with loading(name):
        return ClapScorer(name, resolve_device(section["device"]), section["tokenizer"])


def _local_rewriter(options: Settings) -> Rewriter:
    _name(options, "rewrite", "transformers")
    template = Template(options["prompt"])
    return PromptedRewriter(LocalLanguageModel(**options["transformers"], **_common(options)), template)


def _endpoint_rewriter(options: Settings) -> Rewriter:
    template = Template(options["prompt"])
    return PromptedRewriter(EndpointLanguageModel(_endpoint(options, "rewrite"), **_common(options)), template)


CAPTIONERS: dict[str, Callable[[Settings], Captioner]] = {
    "transformers": _local_captioner,
    "endpoint": _endpoint_captioner,
}
MATCHERS: dict[str, Callable[[Settings], Matcher]] = {
    "clap": _clap,
    "playground": lambda options: PlaygroundMatcher(**options["playground"]),
}
REWRITERS: dict[str, Callable[[Settings], Rewriter]] = {
    "join": lambda options: JoiningRewriter(),
    "transformers": _local_rewriter,
    "endpoint": _endpoint_rewriter,
}
SIDECAR = "sidecar"  # captions that are there already: no captioner


def get_captioner(options: Settings) -> Captioner | None:
    """Return the captioner of a `caption` section; None = there is none, or the captions are in the sidecars."""
    return None if options["model"] in (None, SIDECAR) else _build(CAPTIONERS, options, "caption", SIDECAR)


def get_matcher(options: Settings) -> Matcher | None:
    """Return the matcher of a `match` section; None = there is none."""
    return None if options["model"] is None else _build(MATCHERS, options, "match")


def get_rewriter(options: Settings) -> Rewriter | None:
    """Return the rewriter of a `rewrite` section; None = there is none."""
    return None if options["model"] is None else _build(REWRITERS, options, "rewrite")


def _build(table: dict[str, Callable[[Settings], Built]], options: Settings, stage: str, *others: str) -> Built:
    if options["model"] not in table:
        raise ValueError(f"{stage}.model={options['model']!r} is unknown: choose one of {', '.join([*table, *others])}")
    return table[options["model"]](options)


def get_thresholds(options: Settings) -> Thresholds:
    """Return thresholds of a `match` section."""
    return Thresholds(**{key: options[key] for key in ("threshold", "same", "retrieve", "advantage")})


def get_guard(options: Settings) -> Guard:
    """Return the checks that a `rewrite` section sets for captions."""
    rules = {**options["rules"], "forbidden": tuple(options["rules"]["forbidden"])}
    return Guard(Rules(**rules), options["margin"])
