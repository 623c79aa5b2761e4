"""Attributes: p-MOS to levels and the prefix, conditions dropped in training, the null branch of guidance."""

from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.conditioning.attributes import (
    drop_conditions,
    null_attributes,
    text_attributes,
    write_prefix,
)
from audiocraft_qamdt.data.attributes import level_names

from ..helpers.attributes import in_levels


@pytest.mark.parametrize("pmos, word", [(3.54, "low"), (3.8, "medium"), (4.05, "high")])
def test_prefix_before_the_description(pmos, word):
    assert write_prefix(in_levels(pmos=pmos)).text["description"] == f"{word} quality, a warm piano"


def test_levels_alone_leave_the_description_as_it_is():
    assert in_levels(pmos=4.05).text["description"] == "a warm piano"


def test_unknown_quality_has_neither_level_nor_prefix():
    item = write_prefix(in_levels(pmos=None, track=None))
    assert item.text["description"] == "a warm piano"
    assert all(item.text[name] is None for name in level_names())


def test_null_branch_has_no_text_and_the_null_level():
    item = null_attributes(write_prefix(in_levels()), 3)
    assert item.text["description"] is None
    assert item.text["quality_prefix"] is None
    assert all(item.text[name] == 3 for name in level_names())


@pytest.mark.parametrize("word, text", [(None, "a warm piano"), ("low", "low quality, a warm piano")])
def test_the_branch_of_text_has_the_null_qualitys_prefix(word, text):
    item = write_prefix(in_levels())
    assert text_attributes(item, 1, prefix=True, null_prefix=word).text["description"] == text


def test_a_forgotten_quality_is_not_written_before_the_description():
    (item,) = drop_conditions([in_levels()], {"quality": 1.0}, torch.Generator())
    assert write_prefix(item).text["description"] == "a warm piano"


def test_one_granularity_can_be_forgotten_alone():
    (item,) = drop_conditions([in_levels()], {"quality_clip": 1.0}, torch.Generator())
    assert item.text["quality_clip"] is None
    assert item.text["quality_adaln"] is not None


def test_conditions_are_dropped_per_item_and_independently():
    items = [in_levels() for _ in range(4000)]
    dropped = drop_conditions(items, {"description": 0.1, "quality": 0.3}, torch.Generator().manual_seed(0))
    text = torch.tensor([item.text["description"] is None for item in dropped]).float()
    quality = torch.tensor([item.text["quality_clip"] is None for item in dropped]).float()
    assert text.mean().item() == pytest.approx(0.1, abs=0.02)
    assert quality.mean().item() == pytest.approx(0.3, abs=0.03)
    assert (text * quality).mean().item() == pytest.approx(0.03, abs=0.01)
    assert all((item.text["quality_clip"] is None) == (item.text["quality_prefix"] is None) for item in dropped)
    assert items[0].text["description"] is not None, "the originals stay"


def test_dropping_repeats_with_the_generator_and_differs_otherwise():
    items = [in_levels() for _ in range(64)]
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
        drop_conditions([in_levels()], {"tempo": 1.0}, torch.Generator())
