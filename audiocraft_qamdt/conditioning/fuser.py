"""Route conditions into the network: AudioCraft's fuser configuration as arguments of the network."""

from __future__ import annotations

import torch

from audiocraft_qamdt.utils import prepared

from ..data.attributes import QUALITY
from ..diffusion.guidance import Conditions

from audiocraft.modules.conditioners import ConditionFuser, ConditionType

_FUSED_AS = {"sum": "global", "prepend": "clip", "input_interpolate": "frame", "adaln": "adaln"}


class ModelFuser(ConditionFuser):
    """AudioCraft's fuser configuration, applied as arguments of the network instead of to its input.

    `cross` conditions become the context and its padding mask (AudioCraft's fuser drops the mask); quality conditions
    become levels by granularity: sum = global, prepend = clip, input_interpolate = frame, and our `adaln`.
    """

    FUSING_METHODS = [*ConditionFuser.FUSING_METHODS, "adaln"]

    def quality_granularities(self) -> tuple[str, ...]:
        """Return the granularities that the network needs embeddings for.

        Raises:
            ValueError: a condition that is not quality is fused in a way that only quality is.
        """
        for name, method in self.cond2fuse.items():
            if method != "cross" and name != f"{QUALITY}_{_FUSED_AS[method]}":
                raise ValueError(
                    f"fuser.{method}=[{name}]: only {QUALITY}_{_FUSED_AS[method]} can be fused by {method}; "
                    "put other conditions under fuser.cross"
                )
        return tuple(g for method, g in _FUSED_AS.items() if self.fuse2cond.get(method))

    def forward(self, conditions: dict[str, ConditionType]) -> Conditions:  # type: ignore[override]
        """Turn conditions by name, each (tensor, mask), into the network's `context`, `context_mask` and `quality`."""
        crossed = [conditions[name] for name in self.fuse2cond.get("cross", []) if name in conditions]
        quality = {
            _FUSED_AS[self.cond2fuse[name]]: levels
            for name, (levels, _) in conditions.items()
            if self.cond2fuse[name] != "cross"
        }
        return {
            "context": torch.cat([states for states, _ in crossed], dim=1) if crossed else None,
            "context_mask": torch.cat([mask for _, mask in crossed], dim=1) if crossed else None,
            "quality": {g: levels if g == "frame" else levels[:, 0] for g, levels in quality.items()},
        }
