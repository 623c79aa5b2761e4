"""The captions of a whole data set, to be searched by audio."""

from __future__ import annotations

import logging
import typing as tp
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..utils.files import replacing
from ..utils.reading import JsonObject
from .cache import digest

if tp.TYPE_CHECKING:
    import faiss

_TEXTS_AT_ONCE = 256


class TextEmbedder(tp.Protocol):
    """The half of a `Matcher` that takes texts."""

    name: str
    key: JsonObject

    def embed_texts(self, texts: list[str]) -> Tensor: ...


class TextIndex:
    """Nearest captions by cosine: FAISS where it is installed, exact products otherwise.

    Args:
        texts: distinct captions.
        vectors: their unit vectors [N, D].
        factory: FAISS index, e.g. "Flat" (exact), "HNSW32" or "IVF4096,Flat" for millions.
    """

    def __init__(self, texts: Sequence[str], vectors: Tensor, factory: str = "Flat") -> None:
        self.texts, self.vectors = list(texts), vectors
        self._faiss = _faiss_index(vectors, factory)

    def search(self, queries: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """Return the `count` best captions, with their cosines, for each query [B, D]; the best first."""
        count = min(count, len(self.texts))
        if not count:
            return [[] for _ in queries]
        scores, rows = self._nearest(queries, count)
        found = zip(rows.tolist(), scores.tolist(), strict=True)
        # An approximate index gives row -1 where it found fewer.
        return [[(self.texts[row], score) for row, score in zip(*pair, strict=True) if row >= 0] for pair in found]

    def _nearest(self, queries: Tensor, count: int) -> tuple[Tensor | np.ndarray, Tensor | np.ndarray]:
        """Return cosines and rows [B, count]."""
        if self._faiss is not None:
            return self._faiss.search(queries.numpy(), count)
        scores, rows = (queries @ self.vectors.T).topk(count)
        return scores, rows


def _faiss_index(vectors: Tensor, factory: str) -> faiss.Index | None:
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it reports every build that it did not find
    try:
        import faiss
    except ImportError:
        if factory != "Flat":
            raise RuntimeError(
                f'match.index={factory!r} needs FAISS: pip install "audiocraft_qamdt[captions]"'
            ) from None
        return None
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    data = vectors.numpy()
    if not index.is_trained:
        index.train(data)
    index.add(data)
    return index


def build_index(texts: Sequence[str], matcher: TextEmbedder, folder: Path, factory: str) -> tuple[TextIndex, str]:
    """Index of the distinct texts. Their vectors are kept in `folder`, for the other shards and the next run.

    Returns:
        The index, and a key of what is in it.
    """
    distinct = sorted({text for text in texts if text.strip()})
    key = digest("index", matcher.name, matcher.key, distinct)
    path = folder / f"{key}.safetensors"
    if path.exists():
        return TextIndex(distinct, load_file(path)["vectors"], factory), key
    parts = [
        matcher.embed_texts(distinct[start : start + _TEXTS_AT_ONCE])
        for start in range(0, len(distinct), _TEXTS_AT_ONCE)
    ]
    vectors = torch.cat(parts) if parts else torch.zeros(0, 1)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        save_file({"vectors": vectors.contiguous()}, part)
    return TextIndex(distinct, vectors, factory), key
