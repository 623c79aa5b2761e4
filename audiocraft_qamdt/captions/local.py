"""Models that run here: loading from the hub or a folder, and repeatable sampling."""

from __future__ import annotations

import contextlib
import typing as tp
from collections.abc import Iterator

import torch

from ..utils.errors import first_line

if tp.TYPE_CHECKING:
    from transformers import PretrainedConfig, ProcessorMixin


class GenerativeModel(tp.Protocol):
    """A model of transformers that writes text."""

    config: PretrainedConfig
    dtype: torch.dtype

    def generate(self, **inputs: object) -> torch.Tensor: ...


@contextlib.contextmanager
def loading(name: str) -> Iterator[None]:
    """Say which model could not be loaded, and that it may lie in a folder.

    Raises:
        RuntimeError: for whatever the hub, the file system or the library raises.
    """
    try:
        yield
    except Exception as error:
        raise RuntimeError(
            f"model {name!r} could not be loaded: {first_line(error)}\nGive a hub id or a local folder."
        ) from error


def load_pretrained(name: str, device: str, dtype: str) -> tuple[GenerativeModel, ProcessorMixin, bool]:
    """Return an audio-to-text model.

    Returns:
        Model, processor, and whether it is a chat model (with a chat template) instead of an encoder-decoder.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES

    with loading(name):
        config = transformers.AutoConfig.from_pretrained(name)
        processor = transformers.AutoProcessor.from_pretrained(name)
        chats = config.model_type not in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES
        # Chat models of audio share no Auto class over transformers' versions: the checkpoint names its own.
        loader = getattr(transformers, config.architectures[0]) if chats else transformers.AutoModelForSpeechSeq2Seq
        if not hasattr(processor, "feature_extractor"):
            raise ValueError(f"a {config.model_type} does not take audio")
        if chats and not getattr(processor, "chat_template", None):
            raise ValueError(f"{config.model_type} is no encoder-decoder, and it has no chat template")
        model = loader.from_pretrained(name, dtype=dtype)
    return model.to(device).eval(), processor, chats


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Sample from a seed: transformers' `generate` draws from the global generators, which are put back after."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield
