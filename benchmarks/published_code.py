"""The authors' class `PixArt_MDT_MOS_AS_TOKEN`, from a checkout of their code that the user has.

Nothing of theirs is part of this repository: clone github.com/ivcylc/OpenMusic (or ivcylc/qa-mdt) and pass the folder.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGE = "audioldm_train.modules.diffusionmodules"
FILE = Path(*PACKAGE.split(".")) / "PixArt.py"
CLASS = "PixArt_MDT_MOS_AS_TOKEN"
UNUSED = {
    "fairscale.nn.model_parallel.layers": ("ColumnParallelLinear", "ParallelEmbedding", "RowParallelLinear"),
    "positional_encodings.torch_encodings": ("PositionalEncoding1D",),
    f"{PACKAGE}.attention": ("CrossAttention_1D",),
}
"""Modules that their file imports for other classes than this one, and the names it takes from them."""


def official_class(code: Path) -> type[nn.Module]:
    """Import the authors' class.

    xformers, which has no kernels for CPUs, is replaced by PyTorch's fused attention, the one that our network uses.

    Args:
        code: a checkout of their code.
    Raises:
        FileNotFoundError: the folder does not hold their file.
        ImportError: a package that their file needs is missing, named in the message.
    """
    check_checkout(code)
    with _stand_ins(code):
        try:
            module = importlib.import_module(f"{PACKAGE}.{FILE.stem}")
        except ModuleNotFoundError as error:
            raise ImportError(f"{code / FILE} needs {error.name}: pip install {error.name}") from error
    found: type[nn.Module] = getattr(module, CLASS)
    return found


def check_checkout(code: Path) -> None:
    """Raise FileNotFoundError where the folder does not hold the authors' file."""
    if not (code / FILE).is_file():
        raise FileNotFoundError(
            f"{code} is no checkout of the authors' code: it lacks {FILE}; clone https://github.com/ivcylc/OpenMusic"
        )


@contextlib.contextmanager
def _stand_ins(code: Path) -> Iterator[None]:
    """Let their package be found in the folder, without what it imports for other purposes; put all back afterwards."""
    modules = {name: _module(name, **dict.fromkeys(names, nn.Identity)) for name, names in UNUSED.items()}
    parts = PACKAGE.split(".")
    for depth in range(1, len(parts) + 1):  # empty packages in place of theirs, which import the whole of their code
        name = ".".join(parts[:depth])
        modules[name] = _module(name, __path__=[str(code.joinpath(*parts[:depth]))])
    ops = _module("xformers.ops", memory_efficient_attention=attend, fmha=SimpleNamespace(BlockDiagonalMask=Blocks))
    modules |= {"xformers": _module("xformers", ops=ops), "xformers.ops": ops}
    before = dict(sys.modules)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in {known.split(".")[0] for known in modules}:
                del sys.modules[name]
        sys.modules.update(before)


def _module(name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(attributes)
    return module


# ---- xformers' attention, by PyTorch


class Blocks:
    """A mask by which the queries of each item see the keys of that item alone.

    Args:
        queries, keys: their number in each item.
    """

    def __init__(self, queries: list[int], keys: list[int]) -> None:
        self.queries, self.keys = queries, keys

    @classmethod
    def from_seqlens(cls, queries: list[int], keys: list[int]) -> Blocks:
        """As xformers names it."""
        return cls(queries, keys)


def attend(q: Tensor, k: Tensor, v: Tensor, p: float = 0.0, attn_bias: Blocks | None = None) -> Tensor:
    """Compute attention of [B, N, heads, d], or of a batch's items one after another in [1, N1 + N2 + …, heads, d].

    Texts of one length, as the benchmark has them, are attended to in a single call.
    """
    if attn_bias is None:
        return _fused(q, k, v, p)
    queries, keys = attn_bias.queries, attn_bias.keys
    if len(set(queries)) == len(set(keys)) == 1:
        q, k, v = (x[0].unflatten(0, (len(queries), -1)) for x in (q, k, v))  # [B, N, heads, d]
        return _fused(q, k, v, p).flatten(0, 1)[None]
    items = zip(q.split(queries, 1), k.split(keys, 1), v.split(keys, 1), strict=True)
    return torch.cat([_fused(*item, p=p) for item in items], dim=1)


def _fused(q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    # xformers returns [B, N, heads, d] without gaps, and the authors' code calls view on it.
    return F.scaled_dot_product_attention(q, k, v, dropout_p=p).transpose(1, 2).contiguous()
