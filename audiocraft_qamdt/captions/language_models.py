"""Language models that answer prompts: any causal model of transformers, or an OpenAI-compatible endpoint."""

from __future__ import annotations

import typing as tp
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..builders import resolve_device
from ..utils.reading import JsonObject
from .endpoint import Endpoint
from .local import GenerativeModel, loading, seeded

if tp.TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A question.

    Args:
        system: the instructions.
        user: what they apply to; it holds texts that are not to be trusted.
        seed: what sampling is seeded with.
    """

    system: str
    user: str
    seed: int

    @property
    def messages(self) -> list[dict[str, str]]:
        """Return the prompt in the format of chat templates and endpoints."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]


class LanguageModel(tp.Protocol):
    """Answers prompts; `name` goes into the sidecars, `key` (with the name) into the cache."""

    name: str
    key: JsonObject

    def answer(self, prompts: Sequence[Prompt]) -> list[str | Exception]:
        """Return an answer to each, or the error in its place."""


class LocalLanguageModel:
    """A causal language model of the hub or a folder, with its chat template when it has one.

    Args:
        name: hub id or folder.
        device, dtype: as for captioners.
        batch_size: prompts at a time.
        temperature: 0 = the likeliest words; above it, samples.
        max_new_tokens: longest answer.
    Raises:
        RuntimeError: naming the model, when it cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 8,
        temperature: float = 0.0,
        max_new_tokens: int = 128,
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.name, self.batch_size, self.temperature = name, batch_size, temperature
        self.max_new_tokens, self.device = max_new_tokens, resolve_device(device)
        self.key = {"temperature": temperature, "max_new_tokens": max_new_tokens}
        with loading(name):
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, padding_side="left")
            model: nn.Module = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        self.model = tp.cast(GenerativeModel, model.to(self.device).eval())
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def answer(self, prompts: Sequence[Prompt]) -> list[str | Exception]:
        size = 1 if self.temperature > 0 else self.batch_size
        answers: list[str | Exception] = []
        for start in range(0, len(prompts), size):
            answers += self._answer(prompts[start : start + size])
        return answers

    @torch.no_grad()
    def _answer(self, prompts: Sequence[Prompt]) -> list[str]:
        room = self._room()
        inputs = self.tokenizer(
            [self._text(prompt) for prompt in prompts],
            padding=True,
            truncation=room is not None,
            max_length=room,
            add_special_tokens=not self.tokenizer.chat_template,  # a template holds them
            return_tensors="pt",
        ).to(self.device)
        inputs.pop("token_type_ids", None)
        sampling: JsonObject = {"do_sample": self.temperature > 0}
        if self.temperature > 0:
            sampling["temperature"] = self.temperature
        with seeded(prompts[0].seed):
            tokens = self.model.generate(
                **inputs, max_new_tokens=self.max_new_tokens, pad_token_id=self.tokenizer.pad_token_id, **sampling
            )
        answers = self.tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        if self.tokenizer.chat_template:
            return answers
        return [answer.strip().partition("\n")[0] for answer in answers]  # nothing else tells it where to end

    def _room(self) -> int | None:
        """Return tokens of the longest prompt that leaves room for an answer; None = the model names no limit."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return None if limit is None else max(limit - self.max_new_tokens, 1)

    def _text(self, prompt: Prompt) -> str:
        # Words of untrusted texts must not become the tokens that begin another speaker's turn.
        user = prompt.user
        for token in self.tokenizer.all_special_tokens:
            user = user.replace(token, "")
        if not self.tokenizer.chat_template:
            return f"{prompt.system}\n\n{user}\n\nCaption:"
        messages = Prompt(prompt.system, user, prompt.seed).messages
        return tp.cast(str, self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


class EndpointLanguageModel:
    """A language model behind an OpenAI-compatible endpoint.

    Args:
        endpoint: where.
        temperature: 0 = the likeliest words.
        max_new_tokens: longest answer.
    """

    def __init__(self, endpoint: Endpoint, *, temperature: float = 0.0, max_new_tokens: int = 128) -> None:
        self.endpoint, self.name = endpoint, endpoint.model
        self.options = {"temperature": temperature, "max_tokens": max_new_tokens}
        self.key = dict(self.options)

    def answer(self, prompts: Sequence[Prompt]) -> list[str | Exception]:
        options = [{**self.options, "seed": prompt.seed % 2**31} for prompt in prompts]
        return list(self.endpoint.chat_each([prompt.messages for prompt in prompts], options))
