"""Adapters (LoRA, arXiv 2106.09685) on disk, in peft's layout, and merged into a model's weights.

A folder holds `adapter_config.json` and `adapter_model.safetensors`: what `solver=qamdt/lora` writes, and what
`peft.PeftModel.from_pretrained` reads. Merging needs no peft.
"""

from __future__ import annotations

import json
import math
import typing as tp
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..utils.reading import JsonObject, warn_once
from .fingerprint import fingerprint

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FOLDER = "adapter"
"""Folder of a run's adapter inside the experiment's."""
_BASE = "qamdt_base"
"""Key of the weights' metadata that has `base_of` the model trained on; peft reads its config alone."""
_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_UNSUPPORTED = ("use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "layer_replication")


@dataclass(frozen=True)
class Adapter:
    """A trained change of a model's weights.

    Args:
        scaling: factor of the products of its matrices (peft: alpha / rank).
        tensors: under peft's names without its prefix: `<layer>.lora_A.weight` [r, I], `<layer>.lora_B.weight` [O, r],
            and, under their own names, tensors that were trained in full.
        name: where it comes from, for messages.
        base: `base_of` the weights that it was trained on; None = it does not say.
        base_name: what those were called where it was trained, for messages.
    """

    scaling: float
    tensors: dict[str, Tensor]
    name: str = "adapter"
    base: str | None = None
    base_name: str | None = None

    def changes(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what this adapter adds to a model's weights, in float32, under the names of those that it changes.

        Raises:
            ValueError: the adapter is one of another model.
        """
        found: dict[str, Tensor] = {}
        for key, value in self.tensors.items():
            if key.endswith(_UP):
                continue
            target, new = self._target(key, value)
            base = weights.get(target)
            if base is None or new is None or new.shape != base.shape:
                raise ValueError(f"{self.name}: its {key} does not fit this model; it was trained on another one")
            found[target] = new if key.endswith(_DOWN) else new - base.float()
        return found

    def _target(self, key: str, value: Tensor) -> tuple[str, Tensor | None]:
        """Return which tensor an own one is about, and what is added to it or, trained in full, what it became."""
        if not key.endswith(_DOWN):
            return key, value.float()
        layer = key.removesuffix(_DOWN)
        up = self.tensors.get(f"{layer}{_UP}")
        if up is None or up.shape[1] != value.shape[0]:
            return f"{layer}.weight", None
        return f"{layer}.weight", self.scaling * (up.float() @ value.float())  # [O, I]


def base_of(weights: Mapping[str, Tensor]) -> str:
    """Return the short name of weights by which an adapter knows what it was trained on."""
    return fingerprint(value for _, value in sorted(weights.items()))


def check_base(name: str, trained_on: str | None, called: str | None, base: str) -> None:
    """Refuse weights that an adapter was not trained on; warn where it does not say which those are.

    Args:
        name: of the adapter, for messages.
        trained_on, called: `Adapter.base` and `Adapter.base_name`.
        base: `base_of` the weights that it is to be added to.
    Raises:
        ValueError: the adapter is one of other weights, whatever their shapes.
    """
    if trained_on is None:
        warn_once(f"{name}: does not say which weights it was trained on; nothing tells whether they are these")
    elif trained_on != base:
        raise ValueError(
            f"{name}: trained on other weights ({called or 'a model without a name'}, {trained_on}) than these "
            f"({base}): name that model, or train an adapter for this one"
        )


def read(source: str | Path) -> Adapter:
    """Read an adapter's folder, or that of the training run or signature (`//sig/…`) that made it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of a kind that cannot be merged.
    """
    from safetensors import SafetensorError, safe_open

    folder = _locate(source)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            base = (file.metadata() or {}).get(_BASE)
        scaling = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
        kind = config["peft_type"]
    except (ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError, SafetensorError) as error:
        raise ValueError(f"{folder}: damaged or no LoRA adapter ({type(error).__name__}: {error})") from error
    used = [key for key in _UNSUPPORTED if config.get(key)]
    if kind != "LORA" or used:
        raise ValueError(f"{folder}: {', '.join(used) or kind} is not supported: merge that adapter with peft")
    content = {key.removeprefix(_PREFIX): value for key, value in tensors.items()}
    return Adapter(scaling, content, str(folder), base, config.get("base_model_name_or_path"))


def write(folder: Path, config: JsonObject, tensors: dict[str, Tensor], base: str) -> None:
    """Write an adapter into a folder.

    Args:
        config: peft's, as plain data.
        tensors, base: as in `Adapter`.
    """
    from safetensors.torch import save_file

    from ..utils.files import replacing, write_json

    folder.mkdir(parents=True, exist_ok=True)
    content = {f"{_PREFIX}{key}": value.detach().cpu().float().contiguous() for key, value in tensors.items()}
    with replacing(folder / WEIGHTS) as part:
        save_file(content, part, {_BASE: base})
    write_json(folder / CONFIG, config)


def parse(text: str) -> tuple[str, float]:
    """Parse `DIR` or `DIR:weight`, as typed; the weight is 1 where none is given.

    Raises:
        ValueError: a weight that is not finite.
    """
    folder, colon, tail = text.rpartition(":")
    try:
        weight = float(tail)
    except ValueError:
        return text, 1.0
    if not (folder and colon):
        return text, 1.0
    if not math.isfinite(weight):
        raise ValueError(f"adapter {text!r}: its weight must be a finite number, such as DIR:0.5")
    return folder, weight


def merge(weights: dict[str, Tensor], *weighted: tuple[Adapter, float]) -> dict[str, Tensor]:
    """Return a model's weights with adapters added, each so many times; what none changes is shared with `weights`.

    What several have trained in full adds up, too: each one's change from `weights`.

    Raises:
        ValueError: an adapter is one of another model.
    """
    merged, base = dict(weights), base_of(weights)
    for adapter, weight in weighted:
        check_base(adapter.name, adapter.base, adapter.base_name, base)
        for key, change in adapter.changes(weights).items():
            merged[key] = (merged[key].float() + weight * change).to(merged[key].dtype)
    return merged


def merge_named(weights: dict[str, Tensor], adapters: tp.Iterable[str]) -> dict[str, Tensor]:
    """Merge adapters given as `DIR[:weight]`; see `merge`.

    Raises:
        FileNotFoundError, ValueError: see `read` and `merge`.
    """
    named = [parse(text) for text in adapters]
    return merge(weights, *((read(source), weight) for source, weight in named))


def _locate(source: str | Path) -> Path:
    for folder in (Path(source), Path(source) / FOLDER):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    if str(source).startswith("//sig/"):
        from audiocraft_qamdt.utils import prepared

        from audiocraft.utils import checkpoint

        path = checkpoint.resolve_checkpoint_path(str(source))
        if path is not None and (path.parent / FOLDER / CONFIG).is_file():
            return path.parent / FOLDER
    raise FileNotFoundError(
        f"{source}: no adapter there: a folder with {CONFIG} and {WEIGHTS}, or a run of solver=qamdt/lora"
    )


def from_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an `Adapter` from the state of a training run, where they have peft's names in a model."""
    return {_adapter_name(key): value for key, value in state.items()}


def _adapter_name(key: str) -> str:
    return key.replace("/", ".").replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")
