"""p-MOS of a segment to its attributes in levels."""

from __future__ import annotations

from audiocraft_qamdt.data.attributes import level_names, quality_attributes, to_levels

from ..helpers.attributes import RULE, in_levels


def test_every_granularity_has_its_level():
    text = to_levels(3.3, (3.3, 3.8, 4.3), 4.3, RULE)
    assert (text["quality_clip"], text["quality_adaln"], text["quality_global"]) == (1, 1, 5)
    assert text["quality_frame"] == [1, 3, 5]


def test_the_text_has_the_segments_word():
    assert to_levels(3.3, None, None, RULE)["quality_prefix"] == "low"


def test_without_a_curve_the_segments_level_holds_throughout():
    assert to_levels(3.3, None, None, RULE)["quality_frame"] == 1


def test_without_a_rule_every_quality_is_unknown():
    assert set(to_levels(3.3, (3.3, 3.8), 4.3, None).values()) == {None}


def test_attributes_hold_no_p_mos():
    assert not [name for name in in_levels().text if "pmos" in name]


def test_the_prefix_is_no_level():
    assert set(quality_attributes(None, None, None, None)) - set(level_names()) == {"quality_prefix"}
