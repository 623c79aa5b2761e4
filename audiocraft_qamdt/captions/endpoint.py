"""A client for OpenAI-compatible HTTP endpoints (vLLM, llama.cpp, Ollama, hosted ones) that expects them to fail.

Only the standard library: a request is one POST, and what matters is what happens when it does not come back.
"""

from __future__ import annotations

import base64
import email.utils
import http.client
import io
import json
import logging
import math
import os
import threading
import time
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import Tensor

from ..utils.randomness import keyed_seed
from ..utils.reading import JsonObject
from .transport import post

logger = logging.getLogger(__name__)

Conversation: TypeAlias = list[JsonObject]
"""Messages of a chat, each with its role and content, in the service's form."""

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
MOST_TOKENS = 10**9  # of one answer; more is no count
LONGEST_WAIT = 120.0  # seconds between two attempts, whatever the server asks for


class EndpointError(RuntimeError):
    """Request that failed for good; the message gives the reason and never the key."""


class BudgetSpent(EndpointError):
    """The cost cap is reached; no further request is sent."""


class _Retry(Exception):
    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass
class Endpoint:
    """Address and limits of an OpenAI-compatible service.

    Args:
        url: base, such as http://localhost:8000/v1; `/chat/completions` is added.
        model: the model's name there.
        key_env: environment variable that holds the API key; None = none is sent.
        timeout: seconds until an attempt is given up, from the connection to the answer's last byte.
        retries: further attempts after the first.
        backoff: seconds before the first of them, doubled each time; a Retry-After of the server is respected.
        concurrency: requests at a time.
        requests_per_minute: None = no limit.
        price: dollars per million tokens of (prompt, answer), by what the server says it used; what it does not say, or
            not credibly, is counted as a token a byte.
        budget: dollars after which no request is sent (those under way end and count); None = no cap.
    """

    url: str
    model: str
    key_env: str | None = None
    timeout: float = 60.0
    retries: int = 5
    backoff: float = 1.0
    concurrency: int = 8
    requests_per_minute: float | None = None
    price: tuple[float, float] = (0.0, 0.0)
    budget: float | None = None

    def __post_init__(self) -> None:
        if not self.url or not self.url.startswith(("http://", "https://")):
            raise ValueError(f"endpoint.url={self.url!r} must begin with http:// or https://")
        if "@" in urllib.parse.urlsplit(self.url).netloc:
            raise ValueError("endpoint.url holds a user or a password: name the key's variable in endpoint.key_env")
        if not self.model:
            raise ValueError("endpoint.model is not set: name the model that the endpoint serves")
        if not all(math.isfinite(price) and price >= 0 for price in self.price):
            raise ValueError(f"endpoint.price={list(self.price)}: give dollars per million tokens, 0 or more")
        if self.budget is not None and not any(self.price):
            raise ValueError("endpoint.budget needs endpoint.price, in dollars per million tokens of prompt and answer")
        if self.key_env and not os.environ.get(self.key_env):
            raise ValueError(f"endpoint.key_env={self.key_env}: that environment variable is not set")
        self.cost, self.requests = 0.0, 0
        self._lock, self._next = threading.Lock(), 0.0

    def chat_each(
        self,
        conversations: Sequence[Conversation],
        options: Sequence[JsonObject],
    ) -> list[str | EndpointError]:
        """Answer several conversations, some at a time; an error stands in the place of a missing answer."""

        def ask(messages: Conversation, chosen: JsonObject) -> str | EndpointError:
            try:
                return self.chat(messages, **chosen)
            except EndpointError as error:
                return error

        with ThreadPoolExecutor(max(self.concurrency, 1)) as pool:
            return list(pool.map(ask, conversations, options))

    def chat(self, messages: Conversation, **options: object) -> str:
        """Return the answer to a conversation.

        Args:
            messages: in OpenAI's format.
            options: of the request, e.g. `max_tokens`, `temperature`, `seed`.
        Raises:
            BudgetSpent: the cost cap is reached.
            EndpointError: no answer after all attempts, or a refusal that no attempt would change.
        """
        body = json.dumps({"model": self.model, "messages": messages, **options}).encode()
        for attempt in range(self.retries + 1):
            self._wait_for_turn()
            try:
                return self._attempt(body)
            except _Retry as error:
                if attempt == self.retries:
                    raise EndpointError(f"{self.url}: no answer in {attempt + 1} attempts, last: {error}") from None
                logger.info("%s: %s, trying again", self.url, error)
                self._pause(attempt, error.after)
        raise AssertionError("unreachable")

    def _pause(self, attempt: int, after: float | None) -> None:
        # Spread over half the interval, or all clients of a server that came back knock at once.
        jitter = 1 + keyed_seed(time.monotonic_ns(), threading.get_ident()) / 2**64
        wait = self.backoff * 2**attempt * jitter if after is None else after
        time.sleep(min(wait, LONGEST_WAIT))

    def _wait_for_turn(self) -> None:
        with self._lock:
            if self.budget is not None and self.cost >= self.budget:
                spent = f"{self.cost:.4f} of {self.budget:.4f} dollars are spent"
                raise BudgetSpent(f"{self.url}: {spent} (endpoint.budget)")
            self.requests += 1
            start = max(time.monotonic(), self._next)
            if self.requests_per_minute:
                self._next = start + 60 / self.requests_per_minute
        time.sleep(max(start - time.monotonic(), 0))

    def _attempt(self, body: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        if self.key_env:
            headers["Authorization"] = f"Bearer {os.environ[self.key_env]}"
        url = f"{self.url.rstrip('/')}/chat/completions"
        try:
            status, answered, content = post(url, body, headers, self.timeout)
        except (OSError, ValueError, http.client.HTTPException) as error:  # refused, cut off, too late, not HTTP
            raise _Retry(self._shown(f"{type(error).__name__}: {error}")) from None  # the cause may hold the key
        if status in RETRIED:
            raise _Retry(f"status {status}", _retry_after(answered.get("Retry-After")))
        if status != 200:
            raise EndpointError(f"{url} refused the request: status {status} {self._shown(content)}")
        return self._answer(content, len(body))

    def _answer(self, content: bytes, asked: int) -> str:
        text, used = None, None
        try:
            answer = json.loads(content)
            used = answer.get("usage")
            text = answer["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass
        self._pay(used, asked, len(content))
        if text is None:
            raise _Retry(f"not an answer of a chat endpoint: {self._shown(content, 80)!r}")
        if not isinstance(text, str):
            raise _Retry(f"an answer without text: {self._shown(content, 80)!r}")
        if used is not None and _tokens(used) is None:
            raise _Retry(f"usage is no count of tokens: {self._shown(str(used), 80)}")
        if self._key() and self._key() in text:
            raise EndpointError(f"{self.url}: the answer repeats the API key, and is not kept")
        return text

    def _pay(self, used: object, asked: int, answered: int) -> None:
        tokens = _tokens(used) if used is not None else None
        if tokens is None:  # no token is shorter than a byte
            tokens = (asked, answered) if self.budget is not None or used is not None else (0, 0)
        with self._lock:
            self.cost += sum(count * price / 1e6 for count, price in zip(tokens, self.price, strict=True))

    def _key(self) -> str:
        return os.environ.get(self.key_env, "") if self.key_env else ""

    def _shown(self, content: bytes | str, longest: int = 500) -> str:
        """Return what a server sent for a message: without the key, on one line, without control characters."""
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
        key = self._key()
        for form in {key, urllib.parse.quote(key), json.dumps(key)[1:-1], base64.b64encode(key.encode()).decode()}:
            text = text.replace(form, "***") if form else text
        text = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
        return text[:longest]


def _tokens(used: object) -> tuple[int, int] | None:
    """Return the tokens of prompt and answer by a `usage`; None where it holds no counts."""
    if not isinstance(used, dict):
        return None
    counts = [used.get(key) or 0 for key in ("prompt_tokens", "completion_tokens")]
    if any(isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MOST_TOKENS for count in counts):
        return None
    return counts[0], counts[1]


def _retry_after(value: str | None) -> float | None:
    """Return seconds that a Retry-After header asks for: a number, or a date (RFC 9110, section 10.2.3)."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            parsed = email.utils.parsedate_tz(value)
            seconds = math.nan if parsed is None else email.utils.mktime_tz(parsed) - time.time()
        except (ValueError, OverflowError, TypeError, IndexError):  # a date that no calendar has
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_WAIT)


def audio_message(audio: Tensor, sample_rate: int, prompt: str) -> Conversation:
    """Return a conversation that shows audio [S] to a model, as a wav file in OpenAI's `input_audio`."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(audio.numpy(), -1, 1), sample_rate, format="WAV", subtype="PCM_16")
    sound = {"data": base64.b64encode(file.getvalue()).decode(), "format": "wav"}
    parts = [{"type": "input_audio", "input_audio": sound}, {"type": "text", "text": prompt}]
    return [{"role": "user", "content": parts}]
