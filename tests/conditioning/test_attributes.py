"""Attributes: p-MOS to levels and the prefix, conditions dropped in training, the null branch of guidance."""

from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.conditioning.attributes import drop_conditions, null_attributes, text_attributes, to_levels
from audiocraft_qamdt.data.attributes import level_names

from ..helpers.attributes import RULE, attributes


def test_levels_by_granularity():
    item = to_levels(attributes(pmos=3.3, curve=[3.3, 3.8, 4.3]), RULE, prefix=False)
    assert item.text["quality_clip"] == item.text["quality_adaln"] == 1
    assert item.text["quality_global"] == 5
    assert item.text["quality_frame"] == [1, 3, 5]
    assert item.text["description"] == "a warm piano"


@pytest.mark.parametrize("pmos, word", [(3.54, "low"), (3.8, "medium"), (4.05, "high")])
def test_prefix_before_the_description(pmos, word):
    assert to_levels(attributes(pmos=pmos), RULE, prefix=True).text["description"] == f"{word} quality, a warm piano"


def test_unknown_quality_has_neither_level_nor_prefix():
    item = to_levels(attributes(pmos=None, track=None), RULE, prefix=True)
    assert item.text["description"] == "a warm piano"
    assert all(item.text[name] is None for name in level_names())


def test_null_branch_has_no_text_and_the_null_level():
    item = null_attributes(to_levels(attributes(), RULE, prefix=True), 3)
    assert item.text["description"] is None and item.text["quality_prefix"] is None
    assert all(item.text[name] == 3 for name in level_names())


@pytest.mark.parametrize("word, text", [(None, "a warm piano"), ("low", "low quality, a warm piano")])
def test_the_branch_of_text_has_the_null_qualitys_prefix(word, text):
    item = to_levels(attributes(), RULE, prefix=True)
    assert text_attributes(item, 1, prefix=True, null_prefix=word).text["description"] == text


def test_conditions_are_dropped_per_item_and_independently():
    items = [attributes() for _ in range(4000)]
    dropped = drop_conditions(items, {"description": 0.1, "quality": 0.3}, torch.Generator().manual_seed(0))
    text = torch.tensor([item.text["description"] is None for item in dropped]).float()
    quality = torch.tensor([item.text["quality_clip"] is None for item in dropped]).float()
    assert text.mean().item() == pytest.approx(0.1, abs=0.02)
    assert quality.mean().item() == pytest.approx(0.3, abs=0.03)
    assert (text * quality).mean().item() == pytest.approx(0.03, abs=0.01)
    assert all((item.text["quality_clip"] is None) == (item.text["quality_prefix"] is None) for item in dropped)
    assert items[0].text["description"] is not None, "the originals stay"


def test_dropping_repeats_with_the_generator_and_differs_otherwise():
    items = [attributes() for _ in range(64)]
    drops = [
        [
            item.text["description"]
            for item in drop_conditions(items, {"description": 0.5}, torch.Generator().manual_seed(seed))
        ]
        for seed in (1, 1, 2)
    ]
    assert drops[0] == drops[1] != drops[2]


def test_dropping_an_unknown_condition_is_named():
    with pytest.raises(ValueError, match="condition_dropout.tempo"):
        drop_conditions([attributes()], {"tempo": 1.0}, torch.Generator())
