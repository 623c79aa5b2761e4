"""p-MOS → level and prefix: the published rules, to the last bit, and what any rule must do."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from audiocraft_qamdt.quality.levels import LEVELS, PRESETS, WORDS, QualityStatistics, level_rule, prefixed, unprefixed

PMOS = st.floats(1, 5)
SCORES = st.lists(PMOS, min_size=5, max_size=50)


def statistics_of(mean: float, std: float) -> QualityStatistics:
    quantiles = np.clip(np.linspace(mean - 2 * std, mean + 2 * std, 11), 1, 5).tolist()
    return QualityStatistics(mean, std, 100, quantiles, "test", "1")


PUBLISHED = statistics_of(3.80, 0.20)
STATISTICS = st.builds(statistics_of, st.floats(2, 4), st.floats(0.01, 1))


def below(value: float) -> float:
    return math.nextafter(value, -math.inf)


@pytest.mark.parametrize("cut, level", [(3.8 - 2 * 0.2, 2), (3.8 - 0.2, 3), (3.8 + 0.2, 4), (3.8 + 2 * 0.2, 5)])
def test_official_levels_begin_at_the_published_cuts(cut, level):
    rule = level_rule("official", PUBLISHED)
    assert (rule.level(below(cut)), rule.level(cut)) == (level - 1, level)


def test_official_prefix_is_the_published_one():
    """`mos <= 3.55` is low, `mos >= 4.05` high."""
    rule = level_rule("official", PUBLISHED)
    low, high = rule.word_boundaries
    assert (low, high) == pytest.approx((3.55, 4.05), abs=1e-9)
    assert [rule.word(s) for s in (1, below(low), low, below(high), high, 5)] == [
        "low",
        "low",
        "medium",
        "medium",
        "high",
        "high",
    ]
    assert rule.word(3.55) == "low"


@given(PMOS, STATISTICS)
def test_paper_levels_follow_the_printed_formula(pmos, statistics):
    mean, std = statistics.mean, statistics.std
    distances = [abs(pmos - mean - k * std) for k in (-2, -1, 0, 1, 2)]
    assume(min(distances) > 1e-9)  # there the formula's own rounding decides
    printed = math.floor((pmos - (mean - 2 * std)) / std) + (2 if pmos > mean else 1)
    assert level_rule("paper", statistics).level(pmos) == min(max(printed, 1), 5)


def test_paper_level_three_is_the_mean_alone():
    rule = level_rule("paper", PUBLISHED)
    assert [rule.level(s) for s in (below(3.8), 3.8, math.nextafter(3.8, 5))] == [2, 3, 4]


@pytest.mark.parametrize(
    "pmos, word",
    [
        (below(2.0), "low"),
        (2.0, None),
        (below(2.5), None),
        (2.5, "medium"),
        (3.5, "medium"),
        (math.nextafter(3.5, 5), None),
        (4.0, None),
        (math.nextafter(4.0, 5), "high"),
    ],
)
def test_paper_prefix_has_gaps_between_its_words(pmos, word):
    """Low below μ − 2σ, medium within μ ± σ, high above μ + 2σ."""
    rule = level_rule("paper", statistics_of(3.0, 0.5))
    assert rule.word(pmos) == word
    assert prefixed("slow piano", rule.word(pmos)) == (f"{word} quality, slow piano" if word else "slow piano")


def test_even_levels_are_equal_steps():
    scores = [1.0, 1.5, *[4.8] * 96, 5.0, 4.9]  # most tracks alike: equal shares could not be told apart
    rule = level_rule("even", QualityStatistics.from_scores(np.linspace(1, 5, 101).tolist(), "test", "1"))
    assert np.allclose(rule.boundaries, 1.08 + 3.84 * np.array([0.2, 0.4, 0.6, 0.8]))
    assert rule.word_boundaries == (rule.boundaries[0], rule.boundaries[3])
    skewed = level_rule("even", QualityStatistics.from_scores(scores, "test", "1"))
    assert skewed.level(4.85) == 5
    assert skewed.level(1.2) == 1
    assert skewed.level(3.0) < 4


def test_quantile_levels_are_equal_shares():
    scores = np.random.default_rng(0).beta(8, 3, 1000) * 4 + 1
    rule = level_rule("quantile", QualityStatistics.from_scores(scores, "test", "1"))
    assert np.bincount(rule.levels(scores))[1:] == pytest.approx([200] * 5, abs=3)


@pytest.mark.parametrize("preset", PRESETS)
@given(first=PMOS, second=PMOS, statistics=STATISTICS)
def test_rules_are_total_and_never_fall(preset, first, second, statistics):
    assume(preset not in ("quantile", "even") or len(set(statistics.quantiles)) == len(statistics.quantiles))
    rule = level_rule(preset, statistics)
    low, high = sorted((first, second))
    assert rule.levels([low, high]) == sorted(rule.levels([low, high]))
    assert set(rule.levels([low, high])) <= set(LEVELS)
    words = [word for word in (rule.word(low), rule.word(high)) if word]
    assert words == sorted(words, key=WORDS.index)


@pytest.mark.parametrize("preset", PRESETS)
@given(statistics=STATISTICS)
def test_boundaries_are_exact(preset, statistics):
    assume(preset not in ("quantile", "even") or len(set(statistics.quantiles)) == len(statistics.quantiles))
    rule = level_rule(preset, statistics)
    assert rule.levels(rule.boundaries) == [2, 3, 4, 5]
    assert rule.levels(map(below, rule.boundaries)) == [1, 2, 3, 4]


@pytest.mark.parametrize("preset", PRESETS)
@given(statistics=STATISTICS)
def test_the_centre_of_a_level_has_that_level_and_the_ends_say_low_and_high(preset, statistics):
    assume(preset not in ("quantile", "even") or len(set(statistics.quantiles)) == len(statistics.quantiles))
    rule = level_rule(preset, statistics)
    assert [rule.level(rule.centre(level)) for level in LEVELS] == list(LEVELS)
    words = [rule.level_word(level) for level in LEVELS]
    assert words == sorted(words, key=WORDS.index)
    assert (words[0], words[-1]) == ("low", "high")


@pytest.mark.parametrize("preset", ["official", "paper"])
def test_constant_scores_are_in_the_middle(preset):
    statistics = QualityStatistics.from_scores([3.0] * 7, "constant", "3")
    rule = level_rule(preset, statistics)
    assert (rule.level(3.0), rule.word(3.0)) == (3, "medium")


def test_constant_scores_have_no_quantiles():
    statistics = QualityStatistics.from_scores([3.0] * 7, "constant", "3")
    with pytest.raises(ValueError, match="'quantile' needs increasing boundaries.*choose the preset 'official'"):
        level_rule("quantile", statistics)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="'thirds'.*official, paper, quantile, even"):
        level_rule("thirds", PUBLISHED)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda rule: rule.level(math.nan), "NaN"),
        (lambda rule: rule.word(math.nan), "NaN"),
        (lambda rule: rule.centre(0), "from 1 to 5, got 0"),
        (lambda rule: rule.level_word(2.5), "from 1 to 5, got 2.5"),
    ],
)
def test_values_without_a_level_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(level_rule("official", PUBLISHED))


@pytest.mark.parametrize(
    "description, text",
    [
        ("a calm song", "high quality, a calm song"),
        ("", "high quality"),
        (None, "high quality"),
    ],
)
def test_prefix_goes_before_the_description(description, text):
    assert prefixed(description, "high") == text


@given(SCORES, st.integers(0, 9))
def test_statistics_survive_json(scores, unscored):
    statistics = QualityStatistics.from_scores(scores, "acoustic", "1", unscored)
    assert QualityStatistics.from_dict(json.loads(json.dumps(statistics.to_dict())), "quality.json") == statistics
    assert (statistics.quantile(0), statistics.quantile(1)) == (min(scores), max(scores))
    assert statistics.quantile(0.5) == pytest.approx(np.median(scores))


@pytest.mark.parametrize(
    "field, value",
    [
        ("mean", math.nan),
        ("mean", 5.5),
        ("mean", None),
        ("std", -0.1),
        ("count", 1.5),
        ("quantiles", [4.0, 3.0]),
        ("quantiles", [0.0, 3.0]),
        ("predictor", ""),
        ("version", 2),
        ("unscored", -1),
    ],
)
def test_impossible_statistics_name_file_and_field(tmp_path, field, value):
    path = tmp_path / "quality.json"
    path.write_text(json.dumps(PUBLISHED.to_dict() | {field: value}))
    with pytest.raises(ValueError, match=rf"quality\.json: field '{field}'"):
        QualityStatistics.load(path)


def test_statistics_are_loaded_from_their_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="qamdt annotate"):
        QualityStatistics.load(tmp_path)
    (tmp_path / "quality.json").write_text(json.dumps(PUBLISHED.to_dict()))
    assert QualityStatistics.load(tmp_path) == PUBLISHED
    (tmp_path / "quality.json").write_text('{"mean": 3.8')
    with pytest.raises(ValueError, match="quality.json: not JSON"):
        QualityStatistics.load(tmp_path)
    (tmp_path / "quality.json").write_text("[]")
    with pytest.raises(ValueError, match="expected an object"):
        QualityStatistics.load(tmp_path)
    (tmp_path / "quality.json").write_text("{}")
    with pytest.raises(ValueError, match="no field 'mean'"):
        QualityStatistics.load(tmp_path)


def test_no_score_gives_no_statistics():
    with pytest.raises(ValueError, match="no track has a score by acoustic"):
        QualityStatistics.from_scores([], "acoustic", "1")


@pytest.mark.parametrize("word", ["low", "medium", "high"])
@pytest.mark.parametrize("description", ["slow piano", "high quality, slow piano", "a quality, of sorts", None])
def test_unprefixed_is_the_inverse_of_prefixed(word, description):
    assert unprefixed(prefixed(description, word)) == description


@pytest.mark.parametrize("description", ["slow piano", "the quality of slow piano"])
def test_unprefixed_leaves_a_description_without_prefix(description):
    assert unprefixed(description) == description
