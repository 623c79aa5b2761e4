"""Generation: reproducible, independent of the batch, of the asked length, for any kind of quality."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from audiocraft_qamdt.diffusion.guidance import Combination
from audiocraft_qamdt.diffusion.settings import Guidance
from audiocraft_qamdt.generation.pipeline import item_seeds
from audiocraft_qamdt.generation.qamdt import QAMDT, blend
from audiocraft_qamdt.models.positions import cached_rotary_table

from ..helpers.audio_folder import make_folder
from ..helpers.runs import TINY, solver_in


@pytest.mark.parametrize("duration", [0.01, 0.5, 1.0, 2.56, 3.0])  # the first is shorter than a patch
def test_asked_length_finite_and_not_silent(model, duration):
    model.set_generation_params(duration=duration)
    audio = model.generate(["piano", None])
    assert audio.shape == (2, 1, round(duration * 16000))
    assert audio.isfinite().all() and (audio.square().mean(-1).sqrt() > 1e-4).all()


def test_same_seed_same_audio_other_seed_other_audio(model):
    first = model.generate(["piano"], 5)
    assert torch.equal(model.generate(["piano"], 5), first)
    model.set_generation_params(seed=1)
    assert not torch.allclose(model.generate(["piano"], 5), first, atol=1e-3)


def test_an_item_does_not_depend_on_its_batch(model):
    attributes = [model.request(text, 3) for text in ("piano", "a much longer description of a guitar", None)]
    together = model.generate_from(attributes, [1, 2, 3], model.params)
    alone = model.generate_from(attributes[:1], [1], model.params)
    assert torch.allclose(together[:1], alone, atol=1e-4)


def test_conditions_are_heard(model):
    plain = model.generate(["piano"], 3)
    assert not torch.allclose(model.generate(["drums"], 3), plain, atol=1e-4)
    assert not torch.allclose(model.generate(["piano"], 5), plain, atol=1e-4)
    assert not torch.allclose(model.generate(["piano"], [(0.0, 1), (1.0, 5)]), plain, atol=1e-4)


def test_levels_between_integers_lie_between(model):
    """Interpolated embeddings: halfway is closer to both ends than the ends are to each other."""
    two, half, three = (model.generate(["piano"], level) for level in (2, 2.5, 3))
    apart = (two - three).norm()
    assert (half - two).norm() < apart and (half - three).norm() < apart


@pytest.mark.parametrize("quality", [0, 6, [(0.0, 1), (1.0, 7)]])
def test_levels_outside_the_scale_are_refused(model, quality):
    with pytest.raises(ValueError, match="levels go from 1 to 5"):
        model.generate(["piano"], quality)


def test_unknown_settings_are_refused(model):
    with pytest.raises(TypeError, match="temperature"):
        model.set_generation_params(temperature=1.0)


def test_progress_is_told(model):
    seen = []
    model.set_custom_progress_callback(lambda done, total: seen.append((done, total)))
    model.generate(["piano"], progress=True)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_text_and_positions_are_computed_once_not_at_every_step(model):
    """The text encoder for each branch of guidance, its keys and values for all of them, the rotary table at all."""
    network, calls = model.model.backbone, Counter()
    watched = {name: part for name, part in network.named_modules() if name.endswith("kv_linear")}
    watched |= {"blocks": network.in_blocks[0], "embedding": network.context_embed}
    watched |= {"encoder": model.model.condition_provider.conditioners["description"]}
    handles = [part.register_forward_hook(lambda *_, name=name: calls.update([name])) for name, part in watched.items()]
    cached_rotary_table.cache_clear()
    model.generate(["piano", "drums"], 5)
    for handle in handles:
        handle.remove()
    expected = dict.fromkeys(watched, 1) | {"encoder": 3, "blocks": model.params.steps}
    # blocks that run only where tokens are hidden have keys too: they are projected with the others
    assert calls == expected and len(watched) > 4
    assert cached_rotary_table.cache_info().misses == 1


def test_longer_than_fixed_positions_is_refused(tmp_path):
    folder = make_folder(tmp_path / "audio", tracks=2)
    with solver_in(tmp_path, *TINY, f"folder={folder}", "mdt.positions=sincos", "optim.epochs=1") as solver:
        solver.restore()
        solver.qamdt.set_generation_params(steps=2, duration=1.0)
        assert solver.qamdt.generate(["piano"]).shape[-1] == 16000
        solver.qamdt.set_generation_params(duration=5.0, extend="rope")
        with pytest.raises(ValueError, match="longer than the 2.56 s.*mdt.positions=rope"):
            solver.qamdt.generate(["piano"])


def test_nothing_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither an export"):
        QAMDT.get_pretrained(str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="//sig/00000000: no run of this signature has a checkpoint in .*xps"):
        QAMDT.get_pretrained("//sig/00000000")


def test_the_candidate_that_the_scorer_prefers_is_kept(model, monkeypatch):
    """Each text has another favourite among three candidates: the loudest for one, the quietest for the other."""
    signs = torch.tensor([1.0, -1.0])
    loudness = lambda audio, sample_rate, texts: signs * audio.square().mean((1, 2))  # noqa: E731
    monkeypatch.setattr("audiocraft_qamdt.builders.get_clap", lambda name, device: loudness)
    first = model.generate(["piano", "piano"])
    model.set_generation_params(candidates=3, clap="loudness")
    best = model.generate(["piano", "piano"])
    assert best.shape == first.shape
    assert (loudness(best, 16000, []) >= loudness(first, 16000, [])).all() and not torch.equal(best, first)


def test_candidates_without_a_model_to_choose_with_are_refused(model):
    model.set_generation_params(candidates=2)
    with pytest.raises(ValueError, match="candidates=2, but clap names no model"):
        model.generate(["piano"])


# ---- seeds


def test_a_clip_is_the_same_in_any_batch_at_any_place(model):
    texts = ["piano", "a much longer description of a slow guitar", None]
    together = model.generate(texts, quality=4)
    for index, text in enumerate(texts):
        assert torch.allclose(model.generate([text], quality=4)[0], together[index], atol=1e-4)


def test_repeated_descriptions_are_other_clips_which_the_next_seeds_give(model):
    first, second = model.generate(["piano", "piano"])
    assert not torch.allclose(first, second, atol=1e-3)
    model.set_generation_params(seed=1)
    assert torch.allclose(model.generate(["piano"])[0], second, atol=1e-4)
    assert (
        item_seeds(["a", "b"], 3)[1] == item_seeds(["b"], 3)[0]
        and item_seeds([None, ""], 0)[0] == item_seeds([""], 0)[0]
    )


# ---- quality


def test_pmos_asks_for_what_a_segment_of_that_pmos_was_told_in_training(model):
    from audiocraft_qamdt.conditioning.attributes import write_prefix
    from audiocraft_qamdt.data.attributes import to_levels

    from audiocraft.modules.conditioners import ConditioningAttributes

    assert model.text_prefix
    for pmos in (1.0, 3.0, 3.44, 3.9, 5.0):
        levels = to_levels(pmos, None, pmos, model.rule)
        told = write_prefix(ConditioningAttributes(text={"description": "piano", **levels}))
        assert model.request("piano", None, pmos).text.items() >= told.text.items()
    curve = model.request("piano", None, [(0, 3.0), (1, 4.2)]).text["quality_frame"]
    assert curve == sorted(curve) and {type(level) for level in curve} == {int} and curve[0] < curve[-1]


def test_quality_can_be_a_setting(model):
    asked = model.generate(["piano"], quality=5)
    model.set_generation_params(quality=5)
    assert torch.equal(model.generate(["piano"]), asked)


def test_a_quality_curve_is_what_generate_with_quality_curve_takes(model):
    curve = [(0.0, 1), (1.0, 5)]
    assert torch.equal(model.generate_with_quality_curve(["piano"], curve), model.generate(["piano"], quality=curve))


@pytest.mark.parametrize(
    "quality, message",
    [
        ("high", "quality='high': levels go from 1 to 5"),
        (True, "quality=True"),
        (float("nan"), "quality=nan"),
        ([], "a curve is a list of"),
        ([1, 5], "a curve is a list of"),
        ([(-1.0, 3)], "-1.0 is no time"),
        ([(0.0, "high")], "quality='high'"),
    ],
)
def test_impossible_quality_is_named(model, quality, message):
    with pytest.raises(ValueError, match=message):
        model.generate(["piano"], quality)


def test_pmos_needs_statistics_and_excludes_quality(model):
    with pytest.raises(ValueError, match="give one of them"):
        model.generate(["piano"], 3, pmos=4.0)
    model.rule = None
    with pytest.raises(ValueError, match="knows no quality statistics"):
        model.generate(["piano"], pmos=4.0)


# ---- guidance


def test_a_negative_prompt_takes_the_place_of_no_prompt(model):
    plain = model.generate(["piano"])
    model.set_generation_params(negative_prompt="track number 3")
    led_away = model.generate(["piano"])
    assert not torch.allclose(led_away, plain, atol=1e-4)
    model.set_generation_params(guidance_scale=1)  # no guidance, nothing to lead away with
    alone = model.generate(["piano"])
    model.set_generation_params(negative_prompt=None)
    assert torch.equal(model.generate(["piano"]), alone)


def test_equal_weights_are_plain_guidance_and_a_quality_weight_is_heard(model):
    model.set_generation_params(guidance_scale=2.0, quality_scale=None)
    plain = model.generate(["piano"], 5)
    model.set_generation_params(quality_scale=2.0 + 1e-9)  # takes the way of three branches
    assert model.params.guidance.separate and torch.allclose(model.generate(["piano"], 5), plain, atol=1e-3)
    model.set_generation_params(quality_scale=6.0)
    assert not torch.allclose(model.generate(["piano"], 5), plain, atol=1e-3)


def test_the_branch_of_the_text_has_the_text_and_not_the_quality(model):
    from audiocraft_qamdt.conditioning.attributes import text_attributes

    asked = model.request("piano, high quality please", 5)
    branch = text_attributes(asked, 0.0, prefix=True).text
    assert (
        asked.text["description"].startswith("high quality, ") and branch["description"] == "piano, high quality please"
    )
    assert (
        branch["quality_clip"] == 0 and text_attributes(model.request(None, 5), 0.0, True).text["description"] is None
    )


def test_settings_reach_the_guidance(model):
    settings = {"guidance_scale": 2.0, "guidance_interval": (0.2, 0.8), "guidance_rescale": 0.5, "quality_scale": 1.5}
    settings |= {"apg_eta": 0.0, "apg_norm": 1.0, "apg_momentum": -0.5}
    model.set_generation_params(**settings)
    assert model.params.guidance == Guidance(**settings)
    assert model.generate(["piano"], 5).isfinite().all()


def test_null_curves_are_as_long_as_their_curves(model):
    """Stacked with a curve, a null level must not end as unknown."""
    from audiocraft_qamdt.conditioning.attributes import null_attributes

    asked = model.request("piano", [(0, 1), (1, 5)])
    null = null_attributes(asked, 3.0).text["quality_frame"]
    assert null == [3.0] * len(asked.text["quality_frame"])


@pytest.fixture
def by_clip() -> QAMDT:
    """A model whose network takes one level for a whole clip: the one in the package."""
    model = QAMDT.get_pretrained()
    assert model.model.backbone.quality == ("clip",)
    model.set_generation_params(steps=4, duration=1.0)
    return model


@pytest.mark.parametrize(
    "params",
    [{"quality_scale": None}, {"quality_scale": None, "guidance_scale": 1.0}, {"quality_scale": 2.0}],
)
def test_a_network_without_curves_predicts_each_part_at_its_own_level(by_clip, params):
    model = by_clip
    model.set_generation_params(**params)
    layout = model.layout(model.params)
    latents = torch.randn(1, model.codec.latent_channels, layout.frames, model.codec.latent_bins)

    def denoised(quality):
        branches = model.branches([model.request("piano", quality)], layout, model.params)
        return model.denoiser(branches, layout, model.params)(latents, torch.tensor([500]))

    rising, low, high = denoised([(0.4, 2), (0.6, 4)]), denoised(2), denoised(4)
    quarter = layout.frames // 4
    assert torch.allclose(rising[:, :, :quarter], low[:, :, :quarter], atol=1e-5)
    assert torch.allclose(rising[:, :, -quarter:], high[:, :, -quarter:], atol=1e-5)
    assert not torch.allclose(low, high, atol=1e-3)
    assert torch.allclose(denoised([(0.0, 2), (1.0, 2)]), low, atol=1e-5)


def test_clips_of_one_level_stay_as_they_are_beside_a_curve(by_clip):
    model = by_clip
    steady = model.request("piano", 3)
    beside = model.generate_from([steady, model.request("drums", [(0.0, 1), (1.0, 5)])], [1, 2], model.params)
    assert torch.allclose(beside[:1], model.generate_from([steady], [1], model.params), atol=1e-4)


# ---- continuation and inpainting


@pytest.fixture
def tone() -> torch.Tensor:
    time = torch.arange(16000) / 16000
    return 0.3 * torch.sin(2 * torch.pi * 440 * time).expand(2, 1, -1)


def test_a_continuation_begins_with_its_prompt(model, tone):
    model.set_generation_params(duration=2.0)
    audio = model.generate_continuation(tone, 16000, ["piano", None], quality=5)
    assert audio.shape == (2, 1, 32000)
    assert torch.equal(audio[..., : 16000 - 320], tone[..., : 16000 - 320])
    assert audio[..., 16000:].std() > 1e-3 and audio.isfinite().all()


def test_a_continuation_hears_its_prompt(model, tone):
    model.set_generation_params(duration=2.0)
    one, other = (model.generate_continuation(prompt, 16000, ["piano", "piano"]) for prompt in (tone, 0.1 * tone))
    assert not torch.allclose(one[..., 16000:], other[..., 16000:], atol=1e-3)


def test_prompts_at_other_sample_rates_and_of_one_clip_are_converted(model):
    time = torch.arange(16000) / 32000
    prompt = 0.3 * torch.sin(2 * torch.pi * 440 * time)[None]
    audio = model.generate_continuation(prompt, 32000)
    assert torch.equal(model.generate_continuation(prompt.numpy(), 32000), audio), "an array is as good as a tensor"
    expected = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(8000) / 16000)
    assert audio.shape == (1, 1, 16000) and torch.allclose(audio[0, 0, 100:7000], expected[100:7000], atol=0.01)


def test_inpainting_changes_the_part_and_nothing_else(model, tone):
    audio = model.inpaint(tone, 0.3, 0.6, ["piano", None])
    first, last, fade = 4800, 9600, 320
    assert audio.shape == tone.shape
    assert torch.equal(audio[..., : first - fade], tone[..., : first - fade])
    assert torch.equal(audio[..., last + fade :], tone[..., last + fade :])
    assert not torch.allclose(audio[..., first:last], tone[..., first:last], atol=1e-2)


def test_what_is_kept_survives_the_latents(model, tone):
    """Before the crossfade, the generated clip itself holds the prompt: the codec is exact, the sampler keeps it."""
    params = model.params.changed(duration=1.0)
    known = model._known(tone, 9600, 16000, params)
    attributes = [model.request("piano", 5)] * 2
    audio = model.generate_from(attributes, [1, 2], params, known=known)
    hop = model.codec.hop_length
    error = (audio - tone)[..., hop : 9600 - 4 * hop].square().mean().sqrt()
    assert error < 0.02 * tone.square().mean().sqrt()


def test_the_solver_goes_on_from_prompts_too(trained):
    """AudioCraft's `generate.lm.prompted_samples`: each sample begins with a quarter of its reference segment."""
    assert len(list(trained.experiment.glob("samples/1/*_prompted*.wav"))) == 2
    assert len(list(trained.experiment.glob("samples/1/*_unprompted*.wav"))) == 2


def test_blend_is_exact_outside_and_ramps_inside():
    audio, made = torch.zeros(1, 1, 20), torch.ones(1, 1, 20)
    blended = blend(audio, made, 8, 12, 3)[0, 0]
    assert blended[:5].eq(0).all() and blended[15:].eq(0).all() and blended[8:12].eq(1).all()
    assert blended[4:9].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1]) and torch.equal(blended, blended.flip(0))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda model, tone: model.generate_continuation(tone, 16000), "the prompt lasts 1.00 s, duration=1.0"),
        (lambda model, tone: model.inpaint(tone, 0.5, 1.5), "end=1.5: give 0 <= start < end <= 1.00 s"),
        (lambda model, tone: model.inpaint(tone, 0.5, 0.5), "start=0.5, end=0.5"),
        (lambda model, tone: model.inpaint(tone, 0.2, 0.5, ["piano"]), "1 descriptions for 2 clips"),
        (lambda model, tone: model.inpaint(tone * float("nan"), 0.2, 0.5), "give finite samples"),
        (lambda model, tone: model.inpaint(tone[0, 0], 0.2, 0.5), "give finite samples"),
    ],
)
def test_impossible_continuations_are_named(model, tone, call, message):
    with pytest.raises(ValueError, match=message):
        call(model, tone)


# ---- bad and odd input


@pytest.mark.parametrize(
    "prompt",
    ["", "   ", "🎹" * 50, " ".join(f"word{index}" for index in range(5000))],
    ids=["empty", "blank", "emoji", "long"],
)
def test_odd_prompts_give_music(model, prompt):
    audio = model.generate([prompt], 3)
    assert audio.isfinite().all() and audio.std() > 1e-4


def test_no_prompt_is_an_empty_one(model):
    assert torch.equal(model.generate([""], 3), model.generate([None], 3))
    assert model.generate_unconditional(2).shape == (2, 1, 16000)


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"duration": 0}, "duration=0"),
        ({"duration": -3.0}, "duration=-3.0"),
        ({"duration": float("inf")}, "duration=inf"),
        ({"duration": 1e9}, "duration=1000000000.0: a clip lasts at most 86400 s"),
        ({"duration": "long"}, "duration='long'"),
        ({"sampler": "plms"}, "sampler 'plms' is unknown.*ddim"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"candidates": 0}, "candidates=0"),
        ({"seed": "x"}, "seed='x'"),
        ({"extend": "loop"}, "extend='loop'.*windows, rope"),
        ({"extend_stride": 0}, "extend_stride=0"),
        ({"guidance_interval": (0.8, 0.2)}, "guidance_interval"),
    ],
)
def test_impossible_settings_are_named_when_they_are_set(model, setting, message):
    before = model.params
    with pytest.raises(ValueError, match=message):
        model.set_generation_params(**setting)
    assert model.params == before


def test_windows_that_would_leave_gaps_are_refused(model):
    model.set_generation_params(duration=6.0, extend_stride=3.0)
    with pytest.raises(ValueError, match="extend_stride=3.0: windows last 2.56 s"):
        model.generate(["piano"])


@pytest.mark.parametrize("descriptions", ["piano", []])
def test_descriptions_are_a_list(model, descriptions):
    with pytest.raises(ValueError, match="give a list of texts"):
        model.generate(descriptions)


# ---- precision


@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 0.2), (torch.float16, 0.05)])
def test_half_precision_sounds_alike(trained, model, dtype, tolerance):
    full = model.generate(["piano"], 5)
    half = QAMDT.get_pretrained(str(trained.export), "cpu", dtype)
    half.set_generation_params(steps=4)
    audio = half.generate(["piano"], 5)
    assert audio.dtype == torch.float32 and not torch.equal(audio, full)
    assert (audio - full).norm() / full.norm() < tolerance


def test_unknown_precision_is_named(trained):
    with pytest.raises(ValueError, match="dtype='int8'.*bfloat16"):
        QAMDT.get_pretrained(str(trained.export), dtype="int8")


def test_noise_of_the_steps_belongs_to_the_item_and_the_step(model):
    """With eta, too, a clip is the same in any batch, again and again; and eta is heard."""
    attributes = [model.request(text, 3) for text in ("piano", "a much longer description of a guitar", None)]
    model.set_generation_params(sampler="ddim", steps=4)
    plain = model.generate_from(attributes[:1], [1], model.params)
    model.set_generation_params(eta=1.0)
    together = model.generate_from(attributes, [1, 2, 3], model.params)
    alone = model.generate_from(attributes[:1], [1], model.params)
    assert torch.allclose(together[:1], alone, atol=1e-4)
    assert torch.equal(model.generate_from(attributes[:1], [1], model.params), alone)
    assert not torch.allclose(alone, plain, atol=1e-3)


def test_eta_that_is_asked_of_a_sampler_without_noise_is_refused_and_a_recipes_left_aside(model):
    model.set_generation_params(sampler="ddim", eta=1.0)
    model.set_generation_params(sampler="euler")
    assert model.params.used_eta == 0
    with pytest.raises(ValueError, match="eta=1.0: sampler=euler adds no noise"):
        model.set_generation_params(eta=1.0)
    with pytest.raises(ValueError, match="eta=-1: it is a share"):
        model.set_generation_params(sampler="ddim", eta=-1)


@pytest.mark.parametrize(
    "word, negative, text", [(None, None, None), ("low", None, "low quality"), ("low", "drums", "low quality, drums")]
)
def test_the_unconditional_branch_can_say_low_quality_as_the_papers(model, monkeypatch, word, negative, text):
    """D(high, y) + w [D(high, y) − D(low, ∅)] in place of D(∅) + w [D(high, y) − D(∅)]."""
    seen = {}
    model.text_prefix = True
    model.set_generation_params(null_prefix=word, null_level=1, negative_prompt=negative)
    encode = model.model.encode_conditions
    monkeypatch.setattr(
        model.model, "encode_conditions", lambda items: seen.setdefault(len(seen), items) and encode(items)
    )
    item = model.request("piano", 5)
    model.branches([item], model.layout(model.params), model.params)
    assert seen[1][0].text["description"] == text and seen[1][0].text["quality_clip"] == 1


def test_the_papers_guidance_is_ours_with_one_more():
    conditional, null = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    ours = Combination(Guidance(guidance_scale=4.5))([null, conditional])
    assert torch.allclose(ours, conditional + 3.5 * (conditional - null), atol=1e-5)
