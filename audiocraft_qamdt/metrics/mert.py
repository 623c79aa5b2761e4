"""MERT (arXiv 2306.00107), a model of music: the hidden states of one of its layers, through transformers' HuBERT.

On the hub MERT brings code of its own, which is never run here. What that code computes for the published
`m-a-p/MERT-v1-95M` and `m-a-p/MERT-v1-330M` is HuBERT; a configuration for which it is not is refused.
"""

from __future__ import annotations

import typing as tp

import torch
from torch import Tensor

from .base import Network, Outputs, safe
from .weights import weights_of
from .windows import cut, repeated

if tp.TYPE_CHECKING:
    from transformers import HubertModel, Wav2Vec2FeatureExtractor

PUBLISHED = "m-a-p/MERT-v1-95M"
_OTHERWISE = ("feature_extractor_cqt", "deepnorm")
"""Switches of MERT's configuration that HuBERT does not have."""


def load_mert(checkpoint: str) -> tuple[HubertModel, Wav2Vec2FeatureExtractor]:
    """Load a folder or hub id in MERT's layout; no code in it is run.

    Returns:
        A `HubertModel` and its `Wav2Vec2FeatureExtractor`.
    Raises:
        ValueError: its configuration asks for what HuBERT has not, or weights are missing.
    """
    from transformers import HubertConfig, HubertModel, PretrainedConfig, Wav2Vec2FeatureExtractor

    content, _ = PretrainedConfig.get_config_dict(checkpoint)
    wanted = [name for name in _OTHERWISE if content.get(name)]
    if wanted:
        raise ValueError(
            f"MERT {checkpoint!r}: {', '.join(wanted)} of its config.json needs MERT's own code, which is not run "
            f"here: choose a checkpoint without, such as {PUBLISHED}"
        )
    config = HubertConfig.from_dict({name: value for name, value in content.items() if name != "model_type"})
    loaded = HubertModel.from_pretrained(checkpoint, config=config, output_loading_info=True)
    model, report = tp.cast("tuple[HubertModel, dict[str, list[str]]]", loaded)
    missing = sorted(key for key in report["missing_keys"] if key != "masked_spec_embed")  # which only training uses
    if missing:
        raise ValueError(f"MERT {checkpoint!r}: no weights for {', '.join(missing[:3])} ({len(missing)} in all)")
    return model.eval(), Wav2Vec2FeatureExtractor.from_pretrained(checkpoint)


class MertNetwork(Network):
    """MERT as a `Network`: an embedding for each frame, 75 a second.

    Args:
        checkpoint: hub id or folder, see `load_mert`.
        layer: whose hidden states: 1 to the number of layers, 0 = before the first; None = the last.
        length: seconds of audio at once; None = the whole clip, as fadtk does.
        device: where it computes.
    Raises:
        MissingWeights: they cannot be had.
        ValueError: there is no such layer, or as `load_mert`.
    """

    sample_rate: int

    def __init__(
        self,
        checkpoint: str = PUBLISHED,
        layer: int | None = None,
        length: float | None = 10.0,
        device: str = "cpu",
    ) -> None:
        source = f"https://huggingface.co/{PUBLISHED}"
        with weights_of(f"MERT {checkpoint!r}", source, "set metrics.mert.checkpoint (mert=FOLDER) to a copy"):
            model, self.extractor = load_mert(checkpoint)
        layers = model.config.num_hidden_layers
        if layer is not None and not 0 <= layer <= layers:
            raise ValueError(f"metrics.mert.layer={layer}: MERT {checkpoint!r} has layers 0 to {layers}")
        self.layer = layers if layer is None else layer
        # transformers decorates `to` to what no type checker can follow
        self.module: tp.Any = tp.cast(tp.Any, model.requires_grad_(False)).to(device)
        self.name = f"mert-{safe(checkpoint.rstrip('/').split('/')[-1])}-{self.layer}"
        self.sample_rate = int(self.extractor.sampling_rate)
        self.dim, self.device, self.length = model.config.hidden_size, device, length

    @torch.no_grad()
    def __call__(self, audio: Tensor, sample_rate: int) -> Outputs:
        parts = [self._hidden(part) for part in cut(audio, sample_rate, self.sample_rate, self.length)]
        return Outputs(torch.cat(parts).cpu())

    def _hidden(self, audio: Tensor) -> Tensor:
        """Return hidden states [frames, D] of audio [S], which is repeated where it is below one frame."""
        whole = repeated(audio, self._field)
        inputs = self.extractor(whole.numpy(), sampling_rate=self.sample_rate, return_tensors="pt")
        found = self.module(inputs["input_values"].to(self.device), output_hidden_states=True)
        return found.hidden_states[self.layer][0]

    @property
    def _field(self) -> int:
        """Samples that one frame is of."""
        config, samples = self.module.config, 1
        for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
            samples = (samples - 1) * stride + kernel
        return samples
