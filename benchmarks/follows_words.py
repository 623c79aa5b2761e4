"""Whether a model of the playground makes clean music that follows the words, on pieces that it never saw.

python -m benchmarks.follows_words [MODEL] [--clips 512] [--seed 2]
"""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from audiocraft_qamdt.checkpoints import loading, store
from audiocraft_qamdt.commands.output import say
from audiocraft_qamdt.generate import QAMDT
from audiocraft_qamdt.metrics.frechet import Moments, frechet_distance
from audiocraft_qamdt.playground.classifier import CLASSES, EMBEDDING_DIM, load_classifier
from audiocraft_qamdt.playground.dataset import make_track
from audiocraft_qamdt.playground.synthesis import Piece, compose, tempo_word

from .hearing import heard_key, heard_tempo

SECONDS = 4.096
GENRE, LEAD = ([name.split(" with ")[part] for name in CLASSES] for part in (0, 1))


def pieces(seed: int, count: int) -> list[Piece]:
    """The first pieces of a seed."""
    return [compose(seed, index) for index in range(count)]


def real_clips(chosen: list[Piece]) -> list[Tensor]:
    """Clean clips [S] of these pieces."""
    made = (make_track(piece.seed, piece.index, SECONDS, 16000, degraded=0.0)[0] for piece in tqdm(chosen, "real"))
    return [torch.from_numpy(audio / np.float32(32768)) for audio in made]


def generated_clips(model: QAMDT, chosen: list[Piece], quality: float, batch: int = 16) -> list[Tensor]:
    """Clips [S] for the descriptions of these pieces."""
    found: list[Tensor] = []
    for first in tqdm(range(0, len(chosen), batch), "generated"):
        texts: list[str | None] = [piece.description for piece in chosen[first : first + batch]]
        model.set_generation_params(seed=first)
        found.extend(model.generate(texts, quality)[:, 0])
    return found


@torch.no_grad()
def through_codec(model: QAMDT, clips: list[Tensor]) -> list[Tensor]:
    """Encode and decode clips [S]: what a perfect model could reach."""
    return [model.codec.decode(model.codec.encode(clip[None, None]), len(clip))[0, 0] for clip in clips]


def share_in_order(slow: list[float], fast: list[float]) -> float:
    """Share of pairs of a slow and a fast clip whose rates are in order; ties count half."""
    pairs = [(a < b) + 0.5 * (a == b) for a, b in product(slow, fast)]
    return float(np.mean(pairs)) if pairs else float("nan")


@torch.no_grad()
def heard(clips: list[Tensor], chosen: list[Piece], sample_rate: int) -> tuple[dict[str, float], Moments]:
    """Shares of clips in which what the description names is heard, and the moments of their embeddings."""
    classifier, moments = load_classifier(), Moments.empty(EMBEDDING_DIM)
    hits: dict[str, list[bool]] = {"genre": [], "lead": [], "key": []}
    rates: dict[str, list[float]] = {"slow": [], "steady": [], "fast": []}
    for clip, piece in zip(clips, chosen, strict=True):
        prediction = classifier.classify(clip, sample_rate)
        moments.add(prediction.embedding)
        label = int(prediction.logits.softmax(1).mean(0).argmax())
        if piece.genre in piece.description:
            hits["genre"].append(GENRE[label] == piece.genre)
        hits["lead"].append(LEAD[label] == piece.lead)
        if f"in {piece.key} {piece.mode}" in piece.description:
            hits["key"].append(heard_key(clip, sample_rate) == f"{piece.key} {piece.mode}")
        if (word := tempo_word(piece.bpm)) in piece.description:
            rates[word].append(heard_tempo(clip, sample_rate))
    figures = {name: float(np.mean(values)) for name, values in hits.items()}
    return {**figures, "fast over slow": share_in_order(rates["slow"], rates["fast"])}, moments


def crest_factor(clip: Tensor) -> float:
    """Peak over root mean square, in dB."""
    return 20 * float((clip.abs().max() / clip.square().mean().sqrt().clamp(min=1e-9)).log10())


@torch.no_grad()
def loss_with_other_words(
    model: QAMDT, diffusion: DictConfig, clips: list[Tensor], chosen: list[Piece]
) -> dict[int, float]:
    """How much the loss of clean clips rises with the captions of other clips, by timestep."""
    from audiocraft_qamdt import builders

    if model.distilled is not None:  # with guidance inside, it was trained for another loss
        return {}
    objective = builders.get_objective(diffusion)
    latents = model.codec.encode(torch.stack(clips)[:, None])
    texts: list[str | None] = [piece.description for piece in chosen]
    rises = {}
    for step in (50, 200, 350, 500, 650, 800, 950):
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(step))
        steps = torch.full((len(latents),), step)
        losses = []
        for words in (texts, texts[1:] + texts[:1]):
            attributes = [model.request(text, 5, None, SECONDS) for text in words]
            conditions = model.model.encode_conditions(attributes)
            prediction = model.model(objective.add_noise(latents, noise, steps), steps, **conditions)
            losses.append(objective.loss(prediction, latents, noise, steps).mean().item())
        rises[step] = losses[1] / losses[0] - 1
    return rises


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.follows_words", description=__doc__)
    parser.add_argument("model", nargs="?", help="export, checkpoint or //sig/<signature>; default: the embedded one")
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--seed", type=int, default=2, help="of the pieces; a seed that no model was trained on")
    parser.add_argument("--quality", type=float, default=5.0)
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--quality-scale", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    trained = loading.load(options.model or store.EMBEDDED)
    model = QAMDT.from_trained(trained, dtype=options.dtype)
    chosen = {name: getattr(options, name) for name in ("guidance_scale", "quality_scale", "steps")}
    model.set_generation_params(duration=SECONDS, **{key: value for key, value in chosen.items() if value is not None})
    asked = pieces(options.seed, options.clips)
    real = real_clips(asked)
    figures, reference = heard(real, asked, 16000)
    say([f"real clips: {_line(figures)}"])
    figures, moments = heard(through_codec(model, real), asked, model.sample_rate)
    say(
        [f"real clips through the codec: Fréchet distance {frechet_distance(moments, reference):.2f}, {_line(figures)}"]
    )
    rises = loss_with_other_words(model, trained.cfg.diffusion, real[:128], asked[:128])
    if rises:
        say([f"loss with the captions of other clips: {_line({f't={step}': rise for step, rise in rises.items()})}"])
    made = generated_clips(model, asked, options.quality)
    figures, moments = heard(made, asked, model.sample_rate)
    crest = sorted(crest_factor(clip) for clip in made)
    distance = frechet_distance(moments, reference)
    say([f"level {options.quality:g}: Fréchet distance {distance:.2f}, {_line(figures)}"])
    say([f"crest factor, dB: median {crest[len(crest) // 2]:.1f}, highest {crest[-1]:.1f}"])


def _line(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


if __name__ == "__main__":
    main()
