"""The fuser: conditions as arguments of the network."""

from __future__ import annotations

import pytest

from audiocraft_qamdt.conditioning.conditioners import QualityConditioner, WordsConditioner
from audiocraft_qamdt.conditioning.fuser import ModelFuser

from ..helpers.attributes import in_levels

from audiocraft.modules.conditioners import ConditioningProvider


def fuser(**methods):
    return ModelFuser({"cross": ["description"], **methods})


def test_fuser_names_the_arguments_of_the_network():
    provider = ConditioningProvider(
        {
            "description": WordsConditioner(64, 8, 12),
            "quality_clip": QualityConditioner("clip"),
            "quality_frame": QualityConditioner("frame"),
        }
    )
    fuse = fuser(prepend=["quality_clip"], input_interpolate=["quality_frame"])
    items = [in_levels(curve=(3.3, 4.3)) for _ in range(2)]
    conditions = fuse(provider(provider.tokenize(items)))
    assert conditions["context"].shape == (2, 3, 12)
    assert conditions["context_mask"].shape == (2, 3)
    assert conditions["quality"]["clip"].tolist() == [3, 3]
    assert conditions["quality"]["frame"].tolist() == [[1, 5], [1, 5]]
    assert fuse.quality_granularities() == ("clip", "frame")


def test_fusing_something_else_where_quality_goes_is_refused():
    with pytest.raises(ValueError, match=r"fuser.sum=\[genre\].*put other conditions under fuser.cross"):
        fuser(sum=["genre"]).quality_granularities()
