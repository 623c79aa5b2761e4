"""Stage 3: one caption from what passed, by a language model or by rule, checked before it counts."""

from __future__ import annotations

import json
import string
import typing as tp
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..utils.reading import JsonObject
from .language_models import LanguageModel, Prompt
from .matching import LONGEST, Match, Matcher
from .records import Candidate
from .text import Rules, clean, contains, shorten, tidy_answer, without_instructions

PROMPTS = Path(__file__).parent / "prompts"
FIELDS = {"original", "candidates", "tags"}


@dataclass(frozen=True)
class Request:
    """Inputs that a caption is made from.

    Args:
        original: the track's description; None = it has none, or it does not agree with the audio.
        candidates: other captions, the best first.
        tags: sidecar field → value, e.g. genre → "rock".
        required: values of tags that the caption must name.
        seed: what sampling is seeded with.
    """

    original: str | None
    candidates: tuple[str, ...]
    tags: dict[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    seed: int = 0

    @property
    def texts(self) -> list[str]:
        """Return all texts that a name may come from."""
        return [text for text in (self.original, *self.candidates, *self.tags.values()) if text]


class Rewriter(tp.Protocol):
    """Makes a caption of several; `name` goes into the sidecars, `key` (with the name) into the cache."""

    name: str
    key: JsonObject
    prompt: str

    def rewrite(self, requests: Sequence[Request]) -> list[str | Exception]:
        """Return a caption for each request, or the error in its place."""


class Template:
    """A prompt from a file: instructions, a line of `---`, and what they apply to, with $original, $candidates, $tags.

    Args:
        name: of a file among the package's prompts, or a path.
    Raises:
        FileNotFoundError, ValueError: naming the file, and what is wrong with it.
    """

    def __init__(self, name: str) -> None:
        path = PROMPTS / f"{name}.txt" if (PROMPTS / f"{name}.txt").exists() else Path(name)
        if not path.exists():
            known = ", ".join(sorted(file.stem for file in PROMPTS.glob("*.txt")))
            raise FileNotFoundError(f"prompt {name!r} is neither a file nor one of {known}")
        self.text = path.read_text(encoding="utf-8")
        self.system, found, self.user = (part.strip() for part in self.text.partition("\n---\n"))
        try:
            string.Template(self.text).substitute(dict.fromkeys(FIELDS, ""))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: {error}: the fields are ${', $'.join(sorted(FIELDS))}, and $$ is a $") from error
        if not found or not self.user:
            raise ValueError(f"{path}: no line of --- between the instructions and the texts")

    def fill(self, request: Request) -> Prompt:
        """Return the prompt for a request. Texts are quoted as JSON, so that none can end its own quotation."""
        fields = {
            "original": _quote(request.original) if request.original else "none",
            "candidates": "\n".join(_quote(text) for text in request.candidates) or "none",
            "tags": "\n".join(f"{key}: {_quote(value)}" for key, value in request.tags.items()) or "none",
        }
        return Prompt(
            string.Template(self.system).substitute(fields),
            string.Template(self.user).substitute(fields),
            request.seed,
        )


def _quote(text: str) -> str:
    return json.dumps(shorten(without_instructions(text), LONGEST), ensure_ascii=False)


class PromptedRewriter:
    """A language model with a prompt.

    Args:
        model: the language model.
        template: its prompt.
    """

    def __init__(self, model: LanguageModel, template: Template) -> None:
        self.model, self.template = model, template
        self.name, self.prompt = model.name, template.text
        self.key = {"prompt": template.text, **model.key}

    def rewrite(self, requests: Sequence[Request]) -> list[str | Exception]:
        answers = self.model.answer([self.template.fill(request) for request in requests])
        return [tidy_answer(answer) if isinstance(answer, str) else answer for answer in answers]


class JoiningRewriter:
    """No model: the texts one after the other, and the tags that none of them names."""

    name = "join"
    prompt = ""
    key: JsonObject = {}

    def rewrite(self, requests: Sequence[Request]) -> list[str | Exception]:
        return [self._join(request) for request in requests]

    def _join(self, request: Request) -> str:
        texts = [clean(text).rstrip(".") for text in (request.original, *request.candidates[:1]) if text]
        missing = [value for value in request.tags.values() if not any(contains(text, value) for text in texts)]
        if missing:
            texts.append(", ".join(missing))
        return ". ".join(texts) + "."


@dataclass(frozen=True)
class Guard:
    """Checks that a rewritten caption must pass.

    Args:
        rules: on its text.
        margin: how far its agreement with the audio may lie below that of the best input.
    """

    rules: Rules = Rules()
    margin: float = 0.05

    def judge(
        self,
        text: str,
        request: Request,
        rewriter: Rewriter,
        best_input: float | None,
        audio: Tensor | None,
        matcher: Matcher | None,
    ) -> Candidate:
        """Return the caption with its score, and why it is not kept where it is not.

        Args:
            best_input: agreement of the best input; None = it is not known, and the caption's does not count.
            audio: the track's unit vector [D].
        """
        reason = self.rules.objection(text, request.texts, prompt=rewriter.prompt, tags=request.required)
        score = None
        if matcher is not None and audio is not None and text:
            score = round(float(matcher.embed_texts([text])[0] @ audio), 4)
            if reason is None and best_input is not None and score < best_input - self.margin:
                reason = "score"
        return Candidate(text, "rewrite", rewriter.name, score, kept=reason is None, reason=reason)


def make_request(found: Match, sidecar: JsonObject, fields: Sequence[str], seed: int) -> Request:
    """Make stage 3's request from stage 2's result and the sidecar's tags.

    A tag is required where the original description names it, whether or not that description passed.

    Args:
        fields: keys of the sidecar that are tags.
    """
    tags = {key: text for key in fields if (text := _tag(sidecar.get(key)))}
    chosen = [found.candidates[index] for index in found.inputs()]
    original = next((candidate.text for candidate in chosen if candidate.stage == "original"), None)
    named = next((candidate.text for candidate in found.candidates if candidate.stage == "original"), "")
    return Request(
        original,
        tuple(candidate.text for candidate in chosen if candidate.stage != "original"),
        tags,
        tuple(value for value in tags.values() if contains(named, value)),
        seed,
    )


def _tag(value: object) -> str:
    if isinstance(value, list):
        value = ", ".join(part for part in value if isinstance(part, str))
    return shorten(without_instructions(value), 200) if isinstance(value, str) else ""
