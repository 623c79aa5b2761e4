"""LoRA (arXiv 2106.09685) on the network with its conditioners, through peft: what trains, alone."""

from __future__ import annotations

import types
import typing as tp
from dataclasses import dataclass

from torch import nn

from ..utils.reading import JsonObject
from .conditioners import WordsConditioner
from .model import QAMDTModel

_ALL_OF_TEXT = ("backbone.context_embed", "backbone.pooled_embed")
_ALL_OF_QUALITY = "backbone.quality_embed"


@dataclass(frozen=True)
class LoraSettings:
    """Settings of an adapter.

    Args:
        rank: width r of the product that is added to a weight.
        alpha: the product counts alpha / r times.
        dropout: share of a layer's inputs that the product does not see in training.
        targets: ends of the names of the layers that get one.
        train_text: train the conditioner's word embeddings and the network's projections of the text in full, too.
        train_quality: train the embeddings of the quality levels in full, too.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    train_text: bool = False
    train_quality: bool = False


class TrainedPart(nn.Module):
    """The tensors of a model that train, alone: what optimiser, moving average and checkpoints of an adapter see.

    They are the model's own; a name has `/` where the model's has a dot.
    """

    def __init__(self, model: nn.Module, buffers: tp.Iterable[str]) -> None:
        super().__init__()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)
        for name in buffers:
            self.register_buffer(name.replace(".", "/"), model.get_buffer(name))


def add_lora(model: QAMDTModel, settings: LoraSettings, base: str) -> tuple[TrainedPart, JsonObject]:
    """Freeze a model and add a new adapter, which changes nothing yet.

    Args:
        base: name of the model, for the adapter's users.
    Returns:
        What trains, and peft's config of the adapter as plain data.
    Raises:
        RuntimeError: peft is not installed.
        ValueError: impossible settings, or targets that no layer of the model has.
    """
    peft = _peft()
    if settings.rank < 1:
        raise ValueError(f"lora.rank={settings.rank}: give a whole number above 0")
    model.requires_grad_(False)
    full, buffers = _trained_in_full(model, settings)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_targets(model, settings),
        base_model_name_or_path=base,
    )
    peft.inject_adapter_in_model(config, model)
    for name in full:
        model.get_submodule(name).requires_grad_(True)
    content = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    content["modules_to_save"] = full or None
    return TrainedPart(model, buffers), {**content, "inference_mode": True}


def _targets(model: QAMDTModel, settings: LoraSettings) -> list[str]:
    found = [
        name
        for name, module in model.backbone.named_modules(prefix="backbone")
        if isinstance(module, nn.Linear) and name.endswith(tuple(f".{target}" for target in settings.targets))
    ]
    if not found:
        raise ValueError(f"lora.targets={list(settings.targets)}: no layer of the model has a name that ends so")
    return found


def _trained_in_full(model: QAMDTModel, settings: LoraSettings) -> tuple[list[str], list[str]]:
    """Return the modules that train in full, and the buffers that change with them."""
    modules, buffers = [], []
    if settings.train_text:
        for name, conditioner in model.condition_provider.conditioners.items():
            if isinstance(conditioner, WordsConditioner):
                path = f"condition_provider.conditioners.{name}"
                modules += [f"{path}.embed", f"{path}.output_proj"]
                buffers.append(f"{path}.counts")
        modules += [name for name in _ALL_OF_TEXT if _module(model, name) is not None]
    if settings.train_quality:
        embeddings = _module(model, _ALL_OF_QUALITY)
        names = [] if embeddings is None else [name for name, _ in embeddings.named_children()]
        if not names:
            raise ValueError("lora.train_quality=true, but the model has no embeddings of quality")
        modules += [f"{_ALL_OF_QUALITY}.{name}" for name in names]
    return modules, buffers


def _module(model: nn.Module, name: str) -> nn.Module | None:
    parent, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(parent), leaf, None)


def _peft() -> types.ModuleType:
    try:
        import peft
    except ImportError as error:
        raise RuntimeError('solver=qamdt/lora needs peft: pip install "audiocraft_qamdt[lora]"') from error
    return peft
