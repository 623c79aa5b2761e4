"""Check texts: prompts, parts of descriptions that are not about music, and rewritten captions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Sentences that speak to a language model and not of music. They are not shown to one, and none may be written.
INSTRUCTIONS = re.compile(
    r"\b(ignore|disregard|forget|override)\b.{0,40}\b(above|previous|prior|earlier|instructions?|prompts?|rules?)\b"
    r"|\b(system|developer) (prompt|message)\b|\byou are (now )?(a|an|chatgpt|an? ai)\b|\bnew instructions?\b"
    r"|(^|[.!?:,]\s*|\b(please|and|then|must|now|just)\s+)"
    r"(respond|reply|answer|output|print|repeat|write) (only|with|exactly|the (word|text|prompt|following))\b"
    r"|https?://|\bwww\.",
    re.IGNORECASE | re.DOTALL,
)
# Marks with which chat templates and our prompts separate one speaker from the other.
CONTROL_MARKS = re.compile(r"<\|[^|<>]{0,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|</?[a-z_]{2,20}>|^#{2,}.*$|```", re.M | re.I)
# Phrases of an assistant around an answer.
CHATTER = re.compile(
    r"^\W*(sure|certainly|of course|okay|here('s| is| are)|as an ai|i('m| am) (sorry|an ai|unable)|i can(no|')t)\b"
    r"|\b(as an ai|language model|let me know if|hope this helps)\b"
    r"|\b(candidate|original|fused|rewritten|refined) captions?\b",
    re.IGNORECASE,
)
PREAMBLE = re.compile(
    r"^\W*(sure|certainly|okay|here('s| is))?[^:.\n]{0,60}\b(caption|description|answer)s?\W{0,3}:\s*", re.IGNORECASE
)
QUALITY = re.compile(
    r"\b(an? |the )?(audio|sound|recording|production|overall)?[ -]*(very |rather |quite )?"
    r"(low|medium|high|poor|good|great|best|bad|mediocre|excellent|studio|professional|amateur)(er|est)?"
    r"[- ](quality|fidelity)\b"
    r"|\b(audio|sound|recording|production) (quality|fidelity)\b|\bquality\b|\b(hi|high|low)-?fi(delity)?\b"
    r"|\b(well|poorly|badly|nicely|cleanly|professionally|amateurishly)[- ](recorded|produced|mixed|mastered)\b",
    re.IGNORECASE,
)
# Capitalised words of music that are no person's name.
COMMON_NAMES = frozenset(
    """
    african afro american andalusian arabic argentine asian australian balkan baroque bollywood brazilian british
    bulgarian caribbean celtic chinese christian christmas cuban east eastern edm egyptian english ethiopian european
    flamenco french german gospel greek gregorian hammond hawaiian hebrew hindi indian indonesian irish italian jamaican
    japanese jewish korean latin mediterranean mexican middle moog nashville nigerian nordic north persian polish
    portuguese punjabi rhodes roman romantic russian scandinavian scottish south spanish swedish thai tibetan turkish
    ukrainian victorian viennese welsh west western wurlitzer i r&b rnb dj mc tv us usa uk bpm idm lofi midi
    """.split()
)
PERSON_VERBS = r"(?:sings?|sang|plays?|played|performs?|performed|composed|composes|wrote|raps?|covers?)"


def clean(text: str) -> str:
    """Return one line that any file and terminal takes: composed, without control characters or lone surrogates."""
    text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode())
    kept = (" " if char.isspace() else char for char in text if char.isspace() or unicodedata.category(char) != "Cc")
    return " ".join("".join(kept).split())


def shorten(text: str, limit: int) -> str:
    """Return at most `limit` characters, cut at the end of a word."""
    if len(text) <= limit:
        return text
    words = re.match(r".*\S(?=\s)", text[: limit + 1], re.DOTALL)
    return words.group() if words else text[:limit]


def sentences(text: str) -> list[str]:
    """Split a text into sentences with their full stops."""
    return [part for part in re.split(r"(?<=[.!?])\s+|\n+", text.strip()) if part]


def without_instructions(text: str) -> str:
    """Remove what addresses a language model from a description: chat template marks and instructions."""
    lines = CONTROL_MARKS.sub(" ", text)
    return clean(" ".join(part for part in sentences(lines) if not INSTRUCTIONS.search(part)))


def has_instructions(text: str) -> bool:
    """Return whether a text addresses a language model."""
    return bool(INSTRUCTIONS.search(text) or CONTROL_MARKS.search(text))


def without_quality(text: str) -> str:
    """Remove words on the quality of the recording from a caption: the quality prefix states it."""
    if not QUALITY.search(text):
        return text
    parts = [_without_quality(sentence) for sentence in sentences(text)]
    return clean(" ".join(part for part in parts if len(words(part)) > 2))


def _without_quality(sentence: str) -> str:
    if not QUALITY.search(sentence):
        return sentence
    if re.search(rf"(?:{QUALITY.pattern})\W+(is|are|was|were|sounds?|seems?)\b", sentence, re.IGNORECASE):
        return ""  # nothing else is left
    left = re.sub(rf"(\b(is|are|was|of|with|in) )*(?:{QUALITY.pattern})", " ", sentence, flags=re.IGNORECASE)
    left = re.sub(r"\s+([,.;])", r"\1", clean(left)).strip(" ,;-")
    return left[:1].upper() + left[1:] if sentence[:1].isupper() else left


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"[\w&']+", text.casefold())


def contains(text: str, value: str) -> bool:
    """Return whether a tag's words occur in a text, one after the other."""
    wanted, found = words(value), words(text)
    return any(found[start : start + len(wanted)] == wanted for start in range(len(found) - len(wanted) + 1))


def tidy_answer(text: str) -> str:
    """Return the caption in a language model's answer: without reasoning, a heading before it, and quotation marks."""
    text = re.sub(r"(?s)^.*</think>", "", text)
    text = PREAMBLE.sub("", clean(CONTROL_MARKS.sub(" ", text)))
    return text.strip(" \"'“”«»*_`")


@dataclass(frozen=True)
class Rules:
    """Rules for a rewritten caption.

    Args:
        min_words, max_words: its length.
        forbidden: further words it must not hold.
    """

    min_words: int = 3
    max_words: int = 80
    forbidden: tuple[str, ...] = ()

    def objection(self, text: str, inputs: Sequence[str], *, prompt: str = "", tags: Iterable[str] = ()) -> str | None:
        """Return why a text is no caption made of the inputs; None = it is one.

        Args:
            text: what the model wrote, tidied.
            inputs: original, candidates and tags: the only source of names.
            prompt: the instructions, of which nothing may be repeated.
            tags: values that must be named.
        """
        checks = (
            ("length", not self.min_words <= len(words(text)) <= self.max_words),
            ("prompt", bool(CHATTER.search(text)) or has_instructions(text) or repeats(text, prompt, inputs)),
            ("quality", bool(QUALITY.search(text))),
            ("name", bool(invented_names(text, inputs))),
            ("script", bool(scripts(text) - {"LATIN"}.union(*map(scripts, inputs)))),
            ("forbidden", any(contains(text, word) for word in self.forbidden)),
            ("tag", not all(contains(text, tag) for tag in tags)),
        )
        return next((reason for reason, holds in checks if holds), None)


def repeats(text: str, prompt: str, inputs: Sequence[str], length: int = 6) -> bool:
    """Return whether so many words in a row come from the prompt and not from the inputs."""
    known = {run for source in inputs for run in _runs(source, length)}
    return bool((_runs(text, length) & _runs(prompt, length)) - known)


def _runs(text: str, length: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[start : start + length]) for start in range(len(found) - length + 1)}


def invented_names(text: str, inputs: Sequence[str]) -> list[str]:
    """Find names of persons that no input has: capitalised words inside a sentence, or before what persons do.

    It is a rule of thumb on the safe side: what it takes for a name costs one rewritten caption.
    """
    known = {word for source in inputs for word in words(source)} | COMMON_NAMES
    found = []
    for sentence in sentences(text):
        inside = re.findall(r"(?<=[\w,;:)’'\"-] )[\"“(]?([A-Z][\w'’]+)", sentence)
        found += inside + re.findall(rf"^([A-Z]\w+)(?:['’]s\b|\s+{PERSON_VERBS}\b)", sentence)
        found += re.findall(r"\bby ([a-z]\w+(?: [a-z]\w+)?) \(?(?:feat|ft)\b", sentence)
    names = (re.sub(r"['’]s$", "", name) for name in found)
    return [name for name in names if not set(words(name)) <= known and name.casefold() not in _NOT_NAMES]


_NOT_NAMES = frozenset("the a an it this these there its they music instrumental".split())


def scripts(text: str) -> set[str]:
    """Return scripts of the letters of a text, e.g. {"LATIN", "HIRAGANA"}."""
    return {unicodedata.name(char, "?").split()[0] for char in text if char.isalpha()}
