"""From a segment's metadata to the network's arguments."""

from __future__ import annotations

import pytest
import torch
from audiocraft.modules.conditioners import ConditioningAttributes, ConditioningProvider

from audiocraft_qamdt.conditioning import conditioners as C
from audiocraft_qamdt.data.attributes import level_names, quality_attributes
from audiocraft_qamdt.quality.levels import QualityStatistics, level_rule

RULE = level_rule(
    "official",
    QualityStatistics.from_dict(
        {
            "mean": 3.8,
            "std": 0.2,
            "count": 100,
            "quantiles": [3.0, 3.5, 3.8, 4.0, 4.5],
            "predictor": "test",
            "version": "1",
            "unscored": 0,
        },
        "test",
    ),
)


def attributes(description="a warm piano", pmos=3.8, curve=None, track=4.3):
    return ConditioningAttributes(text={"description": description, **quality_attributes(pmos, curve, track)})


def test_levels_by_granularity():
    item = C.to_levels(attributes(pmos=3.3, curve=[3.3, 3.8, 4.3]), RULE, prefix=False)
    assert item.text["quality_clip"] == item.text["quality_adaln"] == 1
    assert item.text["quality_global"] == 5
    assert item.text["quality_frame"] == [1, 3, 5]
    assert item.text["description"] == "a warm piano"


@pytest.mark.parametrize("pmos, word", [(3.54, "low"), (3.8, "medium"), (4.05, "high")])
def test_prefix_before_the_description(pmos, word):
    assert C.to_levels(attributes(pmos=pmos), RULE, prefix=True).text["description"] == f"{word} quality, a warm piano"


def test_unknown_quality_has_neither_level_nor_prefix():
    item = C.to_levels(attributes(pmos=None, track=None), RULE, prefix=True)
    assert item.text["description"] == "a warm piano"
    assert all(item.text[name] is None for name in level_names())


def test_null_branch_has_no_text_and_the_null_level():
    item = C.null_attributes(C.to_levels(attributes(), RULE, prefix=True), 3)
    assert item.text["description"] is None and item.text["quality_prefix"] is None
    assert all(item.text[name] == 3 for name in level_names())


def test_conditions_are_dropped_per_item_and_independently():
    items = [attributes() for _ in range(4000)]
    dropped = C.drop_conditions(items, {"description": 0.1, "quality": 0.3}, torch.Generator().manual_seed(0))
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
            for item in C.drop_conditions(items, {"description": 0.5}, torch.Generator().manual_seed(seed))
        ]
        for seed in (1, 1, 2)
    ]
    assert drops[0] == drops[1] != drops[2]


def test_dropping_an_unknown_condition_is_named():
    with pytest.raises(ValueError, match="condition_dropout.tempo"):
        C.drop_conditions([attributes()], {"tempo": 1.0}, torch.Generator())


def test_quality_conditioner_hands_levels_over():
    conditioner = C.QualityConditioner("frame")
    levels, mask = conditioner(conditioner.tokenize([[1, 2, 3], None, 4.5]))
    assert levels.tolist() == [[1, 2, 3], [0, 0, 0], [4.5, 4.5, 4.5]]
    assert mask.shape == levels.shape and not list(conditioner.parameters())


def test_words_depend_on_the_text_and_nothing_else():
    words = C.WordsConditioner(n_bins=64, dim=8, output_dim=12)
    states, mask = words(words.tokenize(["Warm piano, slow", None, "warm"]))
    assert states.shape == (3, 3, 12) and mask.tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert torch.equal(states[0, 0], states[2, 0]) and states[1].abs().max() == 0


def fuser(**methods):
    return C.ModelFuser({"cross": ["description"], **methods})


def test_fuser_names_the_arguments_of_the_network():
    provider = ConditioningProvider(
        {
            "description": C.WordsConditioner(64, 8, 12),
            "quality_clip": C.QualityConditioner("clip"),
            "quality_frame": C.QualityConditioner("frame"),
        }
    )
    fuse = fuser(prepend=["quality_clip"], input_interpolate=["quality_frame"])
    items = [C.to_levels(attributes(curve=[3.3, 4.3]), RULE, prefix=False) for _ in range(2)]
    conditions = fuse(provider(provider.tokenize(items)))
    assert conditions["context"].shape == (2, 3, 12) and conditions["context_mask"].shape == (2, 3)
    assert conditions["quality"]["clip"].tolist() == [3, 3]
    assert conditions["quality"]["frame"].tolist() == [[1, 5], [1, 5]]
    assert fuse.quality_granularities() == ("clip", "frame")


def test_fusing_something_else_where_quality_goes_is_refused():
    with pytest.raises(ValueError, match=r"fuser.sum=\[genre\].*put other conditions under fuser.cross"):
        fuser(sum=["genre"]).quality_granularities()


def test_unknown_granularity_is_named():
    with pytest.raises(ValueError, match="quality.granularity='bar' is unknown"):
        C.QualityConditioner("bar")


def test_t5_states_are_the_encoders_own(tiny_t5):
    from transformers import AutoTokenizer, T5EncoderModel

    conditioner = C.T5StatesConditioner(tiny_t5, output_dim=16, device="cpu")
    states, mask = conditioner(conditioner.tokenize(["warm piano", "warm"]))
    inputs = AutoTokenizer.from_pretrained(tiny_t5)(["warm piano", "warm"], return_tensors="pt", padding=True)
    expected = T5EncoderModel.from_pretrained(tiny_t5).eval()(**inputs).last_hidden_state
    assert mask.tolist() == inputs["attention_mask"].tolist() and mask[1].sum() < mask[0].sum()
    assert torch.allclose(states, expected * mask.unsqueeze(-1), atol=1e-6)
    assert not [key for key in conditioner.state_dict() if "t5" in key], "a frozen T5 is not part of the checkpoint"


def test_t5_null_is_the_encoding_of_the_empty_string(tiny_t5):
    conditioner = C.T5StatesConditioner(tiny_t5, output_dim=16, device="cpu")
    states, mask = conditioner(conditioner.tokenize([None, "warm piano"]))
    alone, _ = conditioner(conditioner.tokenize([""]))
    assert mask[0].tolist()[:2] == [1, 0] and states[0, 0].abs().max() > 0
    assert torch.allclose(states[0, :1], alone[0], atol=1e-6)
    zeros = C.T5StatesConditioner(tiny_t5, output_dim=16, device="cpu", no_text="zeros")
    assert zeros(zeros.tokenize([None]))[1].sum() == 0


def test_t5_of_another_width_names_the_key(tiny_t5):
    with pytest.raises(ValueError, match="set mdt.context_dim=16"):
        C.T5StatesConditioner(tiny_t5, output_dim=1024, device="cpu")


def test_t5_cuts_long_descriptions(tiny_t5):
    conditioner = C.T5StatesConditioner(tiny_t5, output_dim=16, device="cpu", max_length=4)
    assert conditioner.tokenize(["warm piano " * 50])["input_ids"].shape == (1, 4)
