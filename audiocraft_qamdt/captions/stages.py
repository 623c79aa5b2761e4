"""The three stages over a batch of tracks, with one cache: what was computed once is not computed again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from torch import Tensor

from ..utils.audio import read_audio
from ..utils.randomness import keyed_seed
from ..utils.reading import JsonObject
from .cache import StageCache, digest, file_digest, pack, unpack
from .captioners import Clip
from .endpoint import BudgetSpent, EndpointError
from .matching import Match, gather, hear, match, mismatched_score, unmatched
from .records import CAPTIONS, Candidate, Texts, read_texts
from .retrieval import TextIndex, build_index
from .rewriting import Request, make_request
from .settings import SIDECAR, Settings, get_captioner, get_guard, get_matcher, get_rewriter, get_thresholds
from .text import clean, has_instructions

STAGES = ("caption", "match", "rewrite")
HOPELESS = 8  # tracks that fail one after the other, after all attempts: the endpoint is down


@dataclass
class Track:
    """A track between the stages.

    Args:
        path: the audio file.
        content: key of its audio.
        texts: of its sidecar.
        audio, sample_rate: mono samples [S]; None = no stage needs them.
        silent: nothing is heard.
        vector: its unit vector [D] in the matcher's space.
        captions: of stage 1.
        found: of stage 2.
        request, rewritten: of stage 3.
        failure: why it is left as it is.
    """

    path: str
    content: str
    texts: Texts
    audio: Tensor | None = None
    sample_rate: int = 0
    silent: bool = False
    vector: Tensor | None = None
    captions: list[Candidate] = field(default_factory=list)
    found: Match = field(default_factory=Match)
    request: Request | None = None
    rewritten: Candidate | None = None
    failure: Exception | None = None

    def result(self) -> tuple[list[Candidate], str | None]:
        """Return all candidates, with the chosen one marked, and the track's description."""
        candidates = list(self.found.candidates)
        if self.rewritten is not None:
            self.rewritten.sources = self.found.inputs()
            candidates.append(self.rewritten)
        kept = self.rewritten is not None and self.rewritten.kept
        chosen = len(candidates) - 1 if kept else self.found.best()
        for index, candidate in enumerate(candidates):
            candidate.refined = index == chosen
        if chosen is None or candidates[chosen].stage == "original":  # as it was found, not as models saw it
            return candidates, self.texts.original
        return candidates, candidates[chosen].text


class Refiner:
    """The stages with their models, over one cache.

    Args:
        settings: see `settings.load_settings`.
        cache: results of earlier runs.
        stages: which of `STAGES` to run; what the others left in the sidecars is taken from there.
        like: takes the first two stages with their models from there; None = loads them.
    """

    def __init__(
        self,
        settings: Settings,
        cache: StageCache,
        stages: Sequence[str] = STAGES,
        like: Refiner | None = None,
    ) -> None:
        unknown = set(stages) - set(STAGES)
        if unknown or not stages:
            raise ValueError(f"stages {', '.join(stages)}: choose among {', '.join(STAGES)}")
        self.settings, self.cache, self.stages = settings, cache, tuple(stages)
        self.caption_options, self.match_options, self.rewrite_options = (settings[stage] for stage in STAGES)
        if like is None:
            self.captioner = get_captioner(self.caption_options) if "caption" in stages else None
            self.matcher = get_matcher(self.match_options) if "match" in stages else None
        else:
            self.captioner, self.matcher = like.captioner, like.matcher
        self.rewriter = get_rewriter(self.rewrite_options) if "rewrite" in stages else None
        self.thresholds, self.guard = get_thresholds(self.match_options), get_guard(self.rewrite_options)
        self.index: TextIndex | None = like.index if like else None
        self.index_key: str | None = like.index_key if like else None
        self._failures = 0

    @property
    def cost(self) -> float:
        """Return the dollars spent so far."""
        models = (self.captioner, getattr(self.rewriter, "model", None))
        endpoints = (getattr(model, "endpoint", None) for model in models)
        return sum(endpoint.cost for endpoint in endpoints if endpoint is not None)

    def prepare(self, rows: Iterable[JsonObject]) -> None:
        """Index the original captions of the whole data set, so that every shard retrieves from the same."""
        if self.matcher is None:
            return
        with ThreadPoolExecutor(max(self.settings["workers"], 1)) as pool:
            texts = list(pool.map(_original, (row["path"] for row in rows)))
        usable = [text for text in texts if not has_instructions(text)]
        factory = self.match_options["index"]
        self.index, self.index_key = build_index(usable, self.matcher, self.cache.folder / "index", factory)

    # ---- what is heard

    def open(self, path: str) -> Track:
        """Return a track with its texts, and its audio where a stage will need it.

        Raises:
            ValueError, OSError, RuntimeError: whatever is wrong with the sidecar or the audio.
        """
        track = Track(path, file_digest(path), read_texts(path))
        heard = self.cache.get("audio", self._audio_key(track))
        captioned = self.captioner is None or self.cache.get("caption", self._caption_key(track)) is not None
        if heard is not None:
            track.silent = heard["silent"]
            track.vector = unpack(heard["vector"]) if heard["vector"] else None
        if heard is None and (self.matcher or self.captioner) or not (captioned or track.silent):
            track.audio, track.sample_rate = read_mono(path)
        return track

    def _audio_key(self, track: Track) -> str:
        matcher = self.matcher and [self.matcher.name, self.matcher.key]
        return digest(track.content, matcher, self.settings["silence_db"])

    def listen(self, tracks: Sequence[Track]) -> None:
        """Return whether each track is audible, and its vector."""
        for track in tracks:
            if track.audio is None or (track.vector is not None):
                continue
            peak = track.audio.abs().max().item() if track.audio.numel() else 0.0
            track.silent = peak < 10 ** (self.settings["silence_db"] / 20)
            if self.matcher is not None and not track.silent:
                track.vector = hear(self.matcher, track.audio, track.sample_rate)
            vector = None if track.vector is None else pack(track.vector)
            self.cache.put("audio", self._audio_key(track), {"silent": track.silent, "vector": vector})

    # ---- stage 1

    def _caption_key(self, track: Track) -> str:
        assert self.captioner is not None
        chosen = {key: self.caption_options[key] for key in ("candidates", "segment", "max_segments")}
        return digest(track.content, self.captioner.name, self.captioner.key, chosen, self.settings["seed"])

    def caption(self, tracks: Sequence[Track]) -> None:
        """Stage 1: from the cache, the captioner or the sidecar."""
        todo = []
        for track in tracks:
            if self.captioner is None:
                track.captions = self._from_sidecar(track.texts)
            elif not track.silent:
                known = self.cache.get("caption", self._caption_key(track))
                track.captions = [Candidate.from_dict(entry) for entry in known or []]
                if known is None:
                    todo.append(track)
        cuts = [(track, start, clip) for track in todo for start, clip in self._clips(track)]
        if self.captioner is None or not cuts:
            return
        answers = self.captioner.caption([clip for _, _, clip in cuts], self.caption_options["candidates"])
        for (track, start, clip), answer in zip(cuts, answers, strict=True):
            if self._failed(track, answer):
                continue
            segment = (round(start, 2), round(start + len(clip.audio) / clip.sample_rate, 2))
            texts = [clean(text) for text in answer]  # type: ignore[union-attr]
            name = self.captioner.name
            track.captions += [Candidate(text, "caption", name, segment=segment) for text in texts if text]
        for track in todo:
            if track.failure is None:
                self.cache.put("caption", self._caption_key(track), [text.to_dict() for text in track.captions])

    def _clips(self, track: Track) -> list[tuple[float, Clip]]:
        """Return segments, spread evenly over the track, with their starts in seconds."""
        assert track.audio is not None
        rate, options = track.sample_rate, self.caption_options
        size = round(options["segment"] * rate)
        count = min(max(1, len(track.audio) // max(size, 1)), options["max_segments"])
        spare = max(len(track.audio) - size, 0)
        starts = [round(spare * (i + 0.5) / count) if count > 1 else spare // 2 for i in range(count)]
        seeds = [keyed_seed(self.settings["seed"], track.content, "caption", start) for start in starts]
        return [
            (start / rate, Clip(track.audio[start : start + size], rate, seed))
            for start, seed in zip(starts, seeds, strict=True)
        ]

    def _from_sidecar(self, texts: Texts) -> list[Candidate]:
        """Return captions that are there already; those of an earlier run where no captioner is configured."""
        keys = self.caption_options["sidecar"]["keys"] if self.caption_options["model"] == SIDECAR else [CAPTIONS]
        earlier = ("caption",) if self.matcher else ("caption", "retrieve")  # retrieved ones are searched again
        found = [entry for entry in texts.captions if entry.stage in earlier] if CAPTIONS in keys else []
        for key in keys:
            value = texts.sidecar.get(key) if key != CAPTIONS else None
            entries = [value] if isinstance(value, str) else value or []
            found += [Candidate(clean(text), "caption", f"sidecar:{key}") for text in entries if isinstance(text, str)]
        return found

    # ---- stage 2

    def match(self, tracks: Sequence[Track]) -> None:
        """Stage 2: from the cache or the matcher; without one, every text counts."""
        for track in tracks:
            candidates = gather(track.texts.original, [] if track.silent else track.captions, track.texts.captions)
            if self.matcher is None or track.vector is None:
                track.found = Match(candidates) if track.silent else unmatched(candidates)
                continue
            inputs = [candidate.to_dict() for candidate in candidates]
            key = digest(self._audio_key(track), inputs, vars(self.thresholds), self.index_key)
            known = self.cache.get("match", key)
            track.found = Match.from_dict(known) if known else self._match(track, candidates)
            if known is None:
                self.cache.put("match", key, track.found.to_dict())

    def _match(self, track: Track, candidates: list[Candidate]) -> Match:
        assert self.matcher is not None and track.vector is not None and self.index is not None
        found = match(track.vector, candidates, self.matcher, self.thresholds, self.index)
        own, row = clean(track.texts.original or ""), keyed_seed(self.settings["seed"], track.content)
        found.mismatched = mismatched_score(track.vector, self.index, own, row)
        return found

    # ---- stage 3

    def rewrite(self, tracks: Sequence[Track]) -> None:
        """Stage 3: from the cache or the rewriter, for the decisions that the settings name."""
        if self.rewriter is None:
            return
        todo = []
        for track in tracks:
            if track.found.action not in self.rewrite_options["actions"]:
                continue
            seed = keyed_seed(self.settings["seed"], track.content, "rewrite")
            track.request = make_request(track.found, track.texts.sidecar, self.settings["tags"], seed)
            known = self.cache.get("rewrite", self._rewrite_key(track))
            track.rewritten = Candidate.from_dict(known) if known else None
            if not known:
                todo.append(track)
        answers = self.rewriter.rewrite([track.request for track in todo if track.request]) if todo else []
        for track, answer in zip(todo, answers, strict=True):
            if not self._failed(track, answer):
                track.rewritten = self._judge(track, str(answer))
                self.cache.put("rewrite", self._rewrite_key(track), track.rewritten.to_dict())

    def _judge(self, track: Track, answer: str) -> Candidate:
        assert track.request is not None and self.rewriter is not None
        best = track.found.best()
        score = None if best is None else track.found.candidates[best].score
        return self.guard.judge(answer, track.request, self.rewriter, score, track.vector, self.matcher)

    def _rewrite_key(self, track: Track) -> str:
        assert self.rewriter is not None and track.request is not None
        scored = [candidate.score for candidate in track.found.candidates]
        rules = {**vars(self.guard.rules), "margin": self.guard.margin}
        asked = {**vars(track.request), "matched": [self._audio_key(track), scored]}
        return digest(asked, self.rewriter.name, self.rewriter.key, rules)

    # ---- all of them

    def run(self, tracks: Sequence[Track]) -> None:
        """Run all stages over a batch of tracks; one that fails has its `failure` and goes no further."""
        self.listen(tracks)
        for stage in (self.caption, self.match, self.rewrite):
            stage([track for track in tracks if track.failure is None])

    def _failed(self, track: Track, answer: object) -> bool:
        """Return whether an error stands in the place of an answer.

        Raises:
            EndpointError: the budget is spent, or nothing but failures came one after the other.
        """
        if not isinstance(answer, Exception):
            self._failures = 0
            return False
        if track.failure is None and isinstance(answer, EndpointError) and not isinstance(answer, BudgetSpent):
            self._failures += 1
        track.failure = track.failure or answer
        if self._failures >= HOPELESS:
            raise EndpointError(f"{self._failures} tracks failed one after the other: {answer}") from answer
        return True


def _original(path: str) -> str:
    try:
        return clean(read_texts(path).original or "")
    except (OSError, ValueError):  # named when its turn comes
        return ""


def read_mono(path: str) -> tuple[Tensor, int]:
    """Return samples [S] of a file, channels averaged, and its sample rate."""
    audio, sample_rate = read_audio(path)
    if not audio.isfinite().all():
        raise ValueError("it holds samples that are not finite numbers")
    return audio.mean(0), sample_rate
