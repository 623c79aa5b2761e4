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
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..utils.randomness import keyed_seed

logger = logging.getLogger(__name__)

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
LARGEST_ANSWER = 1 << 20  # bytes; a caption is a few hundred
LONGEST_WAIT = 120.0  # seconds between two attempts, whatever the server asks for


class EndpointError(RuntimeError):
    """Request that failed for good; the message gives the reason and never the key."""


class BudgetSpent(EndpointError):
    """The cost cap is reached; no further request is sent."""


class _Retry(Exception):
    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None  # the key and the texts go where they were sent, and nowhere else


@dataclass
class Endpoint:
    """Address and limits of an OpenAI-compatible service.

    Args:
        url: base, such as http://localhost:8000/v1; `/chat/completions` is added.
        model: the model's name there.
        key_env: environment variable that holds the API key; None = none is sent.
        timeout: seconds until an attempt is given up, the answer's last byte included.
        retries: further attempts after the first.
        backoff: seconds before the first of them, doubled each time; a Retry-After of the server is respected.
        concurrency: requests at a time.
        requests_per_minute: None = no limit.
        price: dollars per million tokens of (prompt, answer), by what the server says it used.
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
        if not self.model:
            raise ValueError("endpoint.model is not set: name the model that the endpoint serves")
        if self.budget is not None and not any(self.price):
            raise ValueError("endpoint.budget needs endpoint.price, in dollars per million tokens of prompt and answer")
        if self.key_env and not os.environ.get(self.key_env):
            raise ValueError(f"endpoint.key_env={self.key_env}: that environment variable is not set")
        self.cost, self.requests = 0.0, 0
        self._lock, self._next = threading.Lock(), 0.0
        self._opener = urllib.request.build_opener(_NoRedirect)

    def chat_each(
        self,
        conversations: Sequence[list[dict[str, Any]]],
        options: Sequence[dict[str, Any]],
    ) -> list[str | EndpointError]:
        """Answers to several conversations, some at a time; an error in the place of an answer that did not come."""

        def ask(messages: list[dict[str, Any]], chosen: dict[str, Any]) -> str | EndpointError:
            try:
                return self.chat(messages, **chosen)
            except EndpointError as error:
                return error

        with ThreadPoolExecutor(max(self.concurrency, 1)) as pool:
            return list(pool.map(ask, conversations, options))

    def chat(self, messages: list[dict[str, Any]], **options: Any) -> str:
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
                    raise EndpointError(f"{self.url}: no answer in {attempt + 1} attempts, last: {error}") from error
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
            with self._opener.open(urllib.request.Request(url, body, headers), timeout=self.timeout) as response:
                content = _read(response, time.monotonic() + self.timeout)
        except urllib.error.HTTPError as error:
            if error.code in RETRIED:
                raise _Retry(f"status {error.code}", _retry_after(error.headers.get("Retry-After"))) from error
            reason = error.read(500).decode("utf-8", "replace") if error.fp else ""
            raise EndpointError(f"{url} refused the request: status {error.code} {' '.join(reason.split())}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:  # refused, cut off, too late, not HTTP
            raise _Retry(f"{type(error).__name__}: {error}") from error
        return self._answer(content)

    def _answer(self, content: bytes) -> str:
        try:
            answer = json.loads(content)
            text = answer["choices"][0]["message"]["content"]
            used = answer.get("usage") or {}
            tokens = [int(used.get(key) or 0) for key in ("prompt_tokens", "completion_tokens")]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _Retry(f"not an answer of a chat endpoint: {content[:80]!r}") from error
        with self._lock:
            self.cost += sum(count * price / 1e6 for count, price in zip(tokens, self.price, strict=True))
        if not isinstance(text, str):
            raise _Retry(f"an answer without text: {content[:80]!r}")
        return text


def _read(response: Any, deadline: float) -> bytes:
    """Read the body within the deadline: a socket's own timeout starts again with every byte."""
    parts: list[bytes] = []
    while part := response.read1(1 << 16):
        parts.append(part)
        if sum(map(len, parts)) > LARGEST_ANSWER:
            raise ValueError(f"an answer of more than {LARGEST_ANSWER} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not end in time")
    return b"".join(parts)


def _retry_after(value: str | None) -> float | None:
    """Return seconds that a Retry-After header asks for: a number, or a date (RFC 9110, section 10.2.3)."""
    if not value:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        parsed = email.utils.parsedate_tz(value)
        return None if parsed is None else max(email.utils.mktime_tz(parsed) - time.time(), 0.0)


def audio_message(audio: Tensor, sample_rate: int, prompt: str) -> list[dict[str, Any]]:
    """Return a conversation that shows audio [S] to a model, as a wav file in OpenAI's `input_audio`."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(audio.numpy(), -1, 1), sample_rate, format="WAV", subtype="PCM_16")
    sound = {"data": base64.b64encode(file.getvalue()).decode(), "format": "wav"}
    parts = [{"type": "input_audio", "input_audio": sound}, {"type": "text", "text": prompt}]
    return [{"role": "user", "content": parts}]
