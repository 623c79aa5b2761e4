"""Stage 1: models that listen to music and write captions."""

from __future__ import annotations

import typing as tp
from collections.abc import Sequence
from dataclasses import dataclass

import julius
import numpy as np
import torch
from torch import Tensor

from ..builders import resolve_device
from ..utils.randomness import keyed_seed
from ..utils.reading import JsonObject
from .endpoint import Endpoint, EndpointError, audio_message
from .local import load_pretrained, seeded

if tp.TYPE_CHECKING:
    from transformers import BatchFeature


@dataclass(frozen=True)
class Clip:
    """A segment of a track.

    Args:
        audio: mono samples [S].
        sample_rate: Hz.
        seed: what sampling is seeded with; the same clip gets the same captions in any batch.
    """

    audio: Tensor
    sample_rate: int
    seed: int


class Captioner(tp.Protocol):
    """Writes captions; `name` goes into the sidecars, `key` (with the name) into the cache."""

    name: str
    key: JsonObject

    def caption(self, clips: Sequence[Clip], count: int) -> list[list[str] | Exception]:
        """Return `count` captions for each clip, or the error in their place."""


class LocalCaptioner:
    """Any audio-to-text model of the hub or a folder: Whisper-style encoder-decoders, Qwen2-Audio-style chat models.

    Which of the two it is follows from the model's own configuration.

    Args:
        name: hub id or folder.
        prompt: what a chat model is asked; an encoder-decoder is asked nothing.
        device: where it computes; "auto" = a GPU when there is one.
        dtype: "auto" = that of the checkpoint.
        batch_size: clips at a time.
        temperature: 0 = the best captions by beam search; above it, samples.
        max_new_tokens: longest caption.
        generate: further arguments of transformers' `generate`, e.g. the language of a Whisper.
    Raises:
        RuntimeError: naming the model, when it cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        *,
        prompt: str = "",
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 4,
        temperature: float = 0.0,
        max_new_tokens: int = 96,
        generate: JsonObject | None = None,
    ) -> None:
        self.name, self.prompt, self.batch_size, self.temperature = name, prompt, batch_size, temperature
        self.options = {"max_new_tokens": max_new_tokens, **(generate or {})}
        self.device = resolve_device(device)
        self.model, self.processor, self.chats = load_pretrained(name, self.device, dtype)
        self.key = {"prompt": prompt if self.chats else "", "temperature": temperature, **self.options}
        self.sample_rate = self.processor.feature_extractor.sampling_rate

    def caption(self, clips: Sequence[Clip], count: int) -> list[list[str] | Exception]:
        size = 1 if self.temperature > 0 else self.batch_size  # a sample must not depend on its neighbours
        found: list[list[str] | Exception] = []
        for start in range(0, len(clips), size):
            texts = self._generate(clips[start : start + size], count)
            found += [texts[first : first + count] for first in range(0, len(texts), count)]
        return found

    @torch.no_grad()
    def _generate(self, clips: Sequence[Clip], count: int) -> list[str]:
        audio = [julius.resample_frac(clip.audio, clip.sample_rate, self.sample_rate).numpy() for clip in clips]
        inputs = self._inputs(audio).to(self.device)
        for key, value in inputs.items():
            if value.is_floating_point():
                inputs[key] = value.to(self.model.dtype)
        search: JsonObject = {"num_return_sequences": count, "num_beams": max(count, 2), "do_sample": False}
        if self.temperature > 0:
            search |= {"num_beams": 1, "do_sample": True, "temperature": self.temperature}
        with seeded(clips[0].seed):
            tokens = self.model.generate(**inputs, **{**search, **self.options})
        if self.chats:  # the answer follows the question in the same sequence
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]

    def _inputs(self, audio: list[np.ndarray]) -> BatchFeature:
        if not self.chats:
            return self.processor.feature_extractor(
                audio, sampling_rate=self.sample_rate, return_tensors="pt", return_attention_mask=True
            )
        question: JsonObject = {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": self.prompt}]}
        text = self.processor.apply_chat_template([question], add_generation_prompt=True, tokenize=False)
        return self.processor(
            text=[text] * len(audio),
            audio=audio,
            sampling_rate=self.sample_rate,
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )


class EndpointCaptioner:
    """A model behind an OpenAI-compatible endpoint that takes audio.

    Args:
        endpoint: where.
        prompt: what it is asked.
        temperature: above 0 when more than one caption is wanted.
        max_new_tokens: longest caption.
    """

    def __init__(self, endpoint: Endpoint, *, prompt: str, temperature: float = 0.0, max_new_tokens: int = 96) -> None:
        self.endpoint, self.prompt = endpoint, prompt
        self.name = endpoint.model
        self.options = {"temperature": temperature, "max_tokens": max_new_tokens}
        self.key = {"prompt": prompt, **self.options}

    def caption(self, clips: Sequence[Clip], count: int) -> list[list[str] | Exception]:
        # A request for each caption instead of one with `n`: llama.cpp and Ollama answer once whatever it is.
        questions = [audio_message(clip.audio, clip.sample_rate, self.prompt) for clip in clips]
        options = [
            {**self.options, "seed": keyed_seed(clip.seed, index) % 2**31} for clip in clips for index in range(count)
        ]
        answers = self.endpoint.chat_each([question for question in questions for _ in range(count)], options)
        parts = [answers[first : first + count] for first in range(0, len(answers), count)]
        return [_texts(part) for part in parts]


def _texts(answers: Sequence[str | EndpointError]) -> list[str] | Exception:
    """Return the answers that came; where none did, why."""
    texts = [answer.strip() for answer in answers if isinstance(answer, str)]
    errors = [answer for answer in answers if isinstance(answer, EndpointError)]
    return texts if texts or not errors else errors[0]
