"""AudioCraft's dataset with quality: what belongs together arrives together, and files that fail are handled."""

from __future__ import annotations

import gzip
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from audiocraft_qamdt.conditioning.conditioners import QualityConditioner
from audiocraft_qamdt.data import dataset as module
from audiocraft_qamdt.data.dataset import CURVE_RATE, QualityMusicDataset
from audiocraft_qamdt.data.manifest import build_manifest
from audiocraft_qamdt.models.backbone import resample_levels
from audiocraft_qamdt.quality.levels import QualityStatistics, level_rule
from audiocraft_qamdt.utils import reading

from ..helpers.audio_folder import make_folder, write_track


@pytest.fixture(autouse=True)
def _fresh_cache():
    module._cached_quality.cache_clear()


def build(folder, **kwargs):
    options = {"segment_duration": 1.0, "sample_rate": 16000, "channels": 1, "num_samples": 32, "shuffle": True}
    return QualityMusicDataset.from_meta(folder, **{**options, **kwargs})


def test_audio_description_and_quality_belong_together(tmp_path):
    dataset = build(make_folder(tmp_path, tracks=5))
    dataset.start_epoch(3)
    for index in range(len(dataset)):
        wav, info = dataset[index]
        track = int(info.description.split()[-1])
        assert info.pmos == pytest.approx(3.0 + 0.2 * track)
        spectrum = torch.fft.rfft(wav[0] * torch.hann_window(wav.shape[-1])).abs()
        assert spectrum.argmax().item() == pytest.approx(110 * 2 ** (track / 12), rel=0.03) or (
            spectrum[int(110 * 2 ** (track / 12))] > 0.3 * spectrum.max()
        )


def test_shuffled_quality_is_that_of_another_track_and_always_the_same(tmp_path):
    folder = make_folder(tmp_path, tracks=5)
    drawn = []
    for epoch in (1, 2):
        dataset = build(folder, shuffle_quality=True)
        dataset.start_epoch(epoch)
        infos = [dataset[index][1] for index in range(len(dataset))]
        drawn.append({info.description: info.pmos for info in infos})
    assert drawn[0] == drawn[1]
    assert sorted(drawn[0].values()) == pytest.approx([3.0, 3.2, 3.4, 3.6, 3.8])
    assert all(pmos != pytest.approx(3.0 + 0.2 * int(text.split()[-1])) for text, pmos in drawn[0].items())


def test_quality_redrawn_as_published_keeps_the_good_ones_and_repeats(tmp_path):
    """Tracks of 3.0 to 3.8 are rarely taken at the first draw; those of at least 4.05 always are."""
    folder = make_folder(tmp_path, tracks=5)
    write_track(folder / "good.wav", 9, 4.0, 16000, 4.5, frames=None)
    build_manifest(folder)
    given = []
    for _ in range(2):
        dataset = build(folder, shuffle_quality="published", num_samples=200)
        dataset.start_epoch(1)
        given.append([(info.meta.path, info.pmos_track) for _, info in map(dataset.__getitem__, range(200))])
    assert given[0] == given[1]
    good = [pmos for path, pmos in given[0] if path.endswith("good.wav")]
    assert good
    assert set(good) == {4.5}
    others = [pmos for path, pmos in given[0] if not path.endswith("good.wav")]
    expected = 0.0
    redraw = dataset._redraw
    (best,) = {path for path in redraw.paths if path.endswith("good.wav")}
    tracks = [path for path in redraw.paths if path != best]
    for path in tracks:
        taken = redraw.taken[path]
        expected += (1 - taken) * redraw.taken[best] / redraw.cumulative[-1] / len(tracks)
    assert np.mean([pmos == 4.5 for pmos in others]) == pytest.approx(expected, abs=0.12)
    with pytest.raises(ValueError, match="shuffle_quality='official': give true, false or published"):
        build(folder, shuffle_quality="official")


def test_the_curve_follows_the_cut(tmp_path):
    """p-MOS rises by one per second: a segment cut at s has the values s + 1 … of the track."""
    write_track(tmp_path / "rise.wav", 0, 4.0, 16000, 2.5, frames=[1.0, 2.0, 3.0, 4.0])
    build_manifest(tmp_path)
    dataset = build(tmp_path, segment_duration=1.5)
    dataset.start_epoch(1)
    starts = set()
    for index in range(16):
        _, info = dataset[index]
        starts.add(round(info.seek_time, 2))
        times = info.seek_time + (np.arange(len(info.pmos_curve)) + 0.5) / CURVE_RATE
        expected = np.interp(times, [0.5, 1.5, 2.5, 3.5], [1.0, 2.0, 3.0, 4.0])
        assert list(info.pmos_curve) == pytest.approx(expected.tolist(), abs=0.02)
        assert info.pmos_track == 2.5
    assert len(starts) > 10


def test_each_tokens_level_follows_the_cut(tmp_path):
    """From the sidecar's windows to the level of each time step of tokens, of one track cut at many places."""
    frames = [1.0, 1.0, 2.0, 3.5, 5.0, 5.0, 3.0, 1.5, 4.5, 4.5]
    write_track(tmp_path / "track.wav", 0, 10.0, 16000, 3.0, frames=frames)
    build_manifest(tmp_path)
    dataset = build(tmp_path, segment_duration=2.56)
    dataset.start_epoch(1)
    scores = [1 + index / 25 for index in range(101)]
    rule = level_rule("quantile", QualityStatistics.from_scores(scores, "test", "1"))
    steps, starts = 40, set()  # tokens of 64 ms, as patches of four latent frames at 62.5 Hz
    for index in range(16):
        _, info = dataset[index]
        starts.add(round(info.seek_time, 1))
        text = replace(info, rule=rule).to_condition_attributes().text
        curve = QualityConditioner("frame").tokenize([text["quality_frame"]])  # [1, N]
        tokens = resample_levels(curve, steps)[0].tolist()
        edges = info.seek_time + np.arange(-1, steps + 2) * 0.064
        levels = rule.levels(np.interp(edges, np.arange(10) + 0.5, frames).tolist())
        for step, token in enumerate(tokens):
            around = levels[step : step + 4]  # from one token before to one after
            assert min(around) <= token <= max(around)
        assert len({round(token) for token in tokens}) > 1
        mean = np.mean([frame for i, frame in enumerate(frames) if 0 <= i + 0.5 - info.seek_time < 2.56])
        assert text["quality_clip"] == rule.level(mean)
        assert text["quality_global"] == rule.level(3.0)
    assert len(starts) > 10


def test_items_repeat_with_epoch_and_index_and_differ_between_epochs(tmp_path):
    dataset = build(make_folder(tmp_path))
    drawn = []
    for epoch in (1, 1, 2):
        dataset.start_epoch(epoch)
        drawn.append([(info.meta.path, info.seek_time) for _, info in (dataset[index] for index in range(8))])
    assert drawn[0] == drawn[1] != drawn[2]


def test_tracks_without_sidecar_or_score_are_unknown(tmp_path):
    make_folder(tmp_path, quality=False)
    (tmp_path / "track0.json").unlink()
    build_manifest(tmp_path)
    dataset = build(tmp_path)
    dataset.start_epoch(1)
    infos = [dataset[index][1] for index in range(20)]
    assert all(info.pmos is None and info.pmos_curve is None for info in infos)
    assert {info.description is None for info in infos} == {True, False}
    assert all(info.to_condition_attributes().text["quality_clip"] is None for info in infos)


def test_two_predictors_in_one_data_set_are_an_error(tmp_path):
    make_folder(tmp_path, tracks=2)
    sidecar = tmp_path / "track1.json"
    content = json.loads(sidecar.read_text())
    content["quality"]["predictor"] = "other"
    sidecar.write_text(json.dumps(content))
    dataset = build(tmp_path)
    dataset.start_epoch(1)
    with pytest.raises(ValueError, match=r"track\d.json: quality is by .*annotate all of them with one predictor"):
        [dataset[index] for index in range(20)]


@pytest.mark.parametrize("pmos", [float("nan"), 0.5, 7.0, "high"])
def test_bad_scores_are_refused_by_name(tmp_path, pmos):
    make_folder(tmp_path, tracks=1)
    content = json.loads((tmp_path / "track0.json").read_text())
    content["quality"]["pmos"] = pmos
    (tmp_path / "track0.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="track0.json.*pmos"):
        build(tmp_path)[0]


SPOILT = {
    "cut off": (b'{"description": ', "not JSON"),
    "a list": (b'["slow piano"]', "must hold a JSON object"),
    "null": (b"null", "must hold a JSON object"),
    "a number": (b"4", "must hold a JSON object"),
    "Latin-1": (b'{"description": "caf\xe9"}', "is not UTF-8"),
    "UTF-16": ('{"description": "x"}'.encode("utf-16"), "UTF-16"),
    "empty": (b"", "not JSON"),
    "bpm a list": (b'{"bpm": [120]}', "bpm must be a number"),
    "bpm NaN": (b'{"bpm": NaN}', "bpm cannot be NaN"),
    "description a number": (b'{"description": 5}', "description must be a text"),
    "description a list": (b'{"description": ["x"]}', "description must be a text"),
    "genre an object": (b'{"genre": {"a": 1}}', "genre must be a text"),
    "moods of numbers": (b'{"moods": [1, 2]}', "moods must be a text or a list of texts"),
}


@pytest.mark.parametrize(("content", "message"), SPOILT.values(), ids=SPOILT)
def test_a_spoilt_sidecar_is_named_with_its_key_and_costs_its_own_track_no_more_than_that(
    tmp_path, caplog, content, message
):
    make_folder(tmp_path, tracks=2, quality=False)
    (tmp_path / "track0.json").write_bytes(content)
    reading.warn_once.cache_clear()
    dataset = build(tmp_path, merge_text_p=1.0, drop_other_p=1.0)
    dataset.start_epoch(1)
    infos = [dataset[index][1] for index in range(16)]
    assert {info.meta.path for info in infos} == {str(tmp_path / f"track{index}.wav") for index in range(2)}
    assert "track0.json" in caplog.text
    assert message in caplog.text
    assert all("track number 1" in info.description for info in infos if info.meta.path.endswith("1.wav"))


def test_a_byte_order_mark_changes_nothing(tmp_path):
    make_folder(tmp_path, tracks=1)
    for name in ("track0.json", "quality.json"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    rows = gzip.decompress((tmp_path / "data.jsonl.gz").read_bytes())
    (tmp_path / "data.jsonl").write_bytes(b"\xef\xbb\xbf\n" + rows + b"\r\n\n")
    _, info = build(tmp_path)[0]
    assert (info.description, info.pmos) == ("track number 0", 3.0)
    assert QualityStatistics.load(tmp_path).mean == 3.0


def test_a_corrupt_file_is_skipped_with_its_name(tmp_path, caplog):
    make_folder(tmp_path, tracks=6)
    (tmp_path / "track2.wav").write_bytes(b"RIFF not audio")
    dataset = build(tmp_path, num_samples=40)
    dataset.start_epoch(1)
    with caplog.at_level(logging.WARNING):
        tracks = {dataset[index][1].meta.path for index in range(40)}
    assert len(tracks) == 5
    assert "track2.wav" in caplog.text


def test_a_data_set_where_most_files_fail_stops(tmp_path):
    make_folder(tmp_path, tracks=6)
    for index in range(5):
        (tmp_path / f"track{index}.wav").write_bytes(b"RIFF not audio")
    dataset = build(tmp_path, num_samples=100)
    dataset.start_epoch(1)
    with pytest.raises(RuntimeError, match=r"\d+ of \d+ audio files could not be read, last .*track\d.wav"):
        [dataset[index] for index in range(100)]


def test_short_tracks_are_padded_and_reported(tmp_path, caplog):
    make_folder(tmp_path, tracks=3, duration=1.2)
    with caplog.at_level(logging.WARNING):
        dataset = build(tmp_path, segment_duration=2.0)
    assert "3 of 3 tracks are shorter than dataset.segment_duration=2.00 s" in caplog.text
    dataset.start_epoch(1)
    wav, info = dataset[0]
    assert wav.shape[-1] == info.total_frames == 32000
    assert info.n_frames < 32000
    assert wav[:, info.n_frames :].abs().max() == 0


def test_collation_keeps_the_infos(tmp_path):
    dataset = build(make_folder(tmp_path))
    dataset.start_epoch(1)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=dataset.collater)
    wav, infos = next(iter(loader))
    assert wav.shape == (4, 1, 16000)
    for info, item in zip(infos, wav, strict=True):
        assert info.pmos == pytest.approx(3.0 + 0.2 * int(info.description.split()[-1]))
        assert torch.equal(info.self_wav.wav[0], item)


def refine_sidecar(folder):
    """Sidecars as `qamdt captions` leaves them; returns the texts of each kind."""
    for path in sorted(folder.glob("track*.json")):
        content = json.loads(path.read_text())
        original = content["description"]
        entries = [
            {"text": original, "stage": "original", "model": None, "score": 0.3, "kept": True},
            {"text": f"candidate of {path.stem}", "stage": "caption", "model": "m", "score": 0.4, "kept": True},
            {"text": "wrong", "stage": "caption", "model": "m", "score": 0.0, "kept": False},
        ]
        content |= {"description": f"refined {path.stem}", "description_original": original, "captions": entries}
        path.write_text(json.dumps(content))


@pytest.fixture
def refined(tmp_path):
    make_folder(tmp_path, tracks=4)
    refine_sidecar(tmp_path)
    module._cached_texts.cache_clear()
    return tmp_path


def descriptions(dataset, epoch=1):
    dataset.start_epoch(epoch)
    return [dataset[index][1].description for index in range(len(dataset))]


def test_the_description_is_the_refined_or_the_original_one(refined):
    assert all(text.startswith("refined track") for text in descriptions(build(refined)))
    assert all(text.startswith("track number") for text in descriptions(build(refined, caption="original")))
    for text, same in zip(descriptions(build(refined, caption="original")), descriptions(build(refined)), strict=True):
        assert text.split()[-1] == same[-1]  # of the same track


def test_a_random_caption_is_any_that_passed_and_repeats_with_epoch_and_index(refined):
    dataset = build(refined, caption="random")
    first = descriptions(dataset)
    assert {text.split()[0] for text in first} == {"refined", "track", "candidate"}
    assert first == descriptions(dataset) == descriptions(build(refined, caption="random"))
    assert first != descriptions(dataset, epoch=2)
    assert first != descriptions(build(refined, caption="random", shuffle_seed=1))
    fixed = build(refined, caption="random", shuffle=False)
    assert [fixed[i][1].description for i in range(4)] == [fixed[i][1].description for i in range(4)]


@pytest.mark.parametrize("caption", ["original", "random", "refined"])
def test_tracks_that_were_never_refined_have_one_text(tmp_path, caption):
    folder = make_folder(tmp_path, tracks=3)
    (tmp_path / "track0.json").write_text("{}")
    module._cached_texts.cache_clear()
    assert {text and text.split()[0] for text in descriptions(build(folder, caption=caption))} == {None, "track"}


def test_a_description_that_was_not_there_is_not_there_as_the_original(refined):
    for path in refined.glob("track*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"description_original": None}))
    module._cached_texts.cache_clear()
    assert set(descriptions(build(refined, caption="original"))) == {None}


@pytest.mark.parametrize("caption, begins", [("original", "track number"), ("refined", "refined track")])
def test_other_fields_are_merged_into_the_chosen_text(refined, caption, begins):
    options = {"merge_text_p": 1.0, "drop_other_p": 1.0, "joint_embed_attributes": ["description"]}
    dataset = build(refined, caption=caption, **options)
    dataset.start_epoch(1)
    info = dataset[0][1]
    assert info.description.startswith(begins)
    assert "genre: test" in info.description
    assert info.joint_embed["description"].text == [info.description]


def test_an_unknown_kind_of_caption_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dataset.caption='best' is unknown: choose one of refined, original, random"):
        build(make_folder(tmp_path, tracks=1), caption="best")


@pytest.mark.parametrize("share, count", [(0.4, 2), (1.0, 5)])
def test_a_share_of_the_best_tracks_and_as_many_random_ones(tmp_path, share, count):
    folder = make_folder(tmp_path, tracks=5)
    best, drawn, again = (
        [meta.path for meta in build(folder, share=share, share_by=by).meta] for by in ("pmos", "random", "random")
    )
    assert best == [str(folder / f"track{index}.wav") for index in range(5 - count, 5)]
    assert len(drawn) == count
    assert drawn == again
    assert len(build(folder).meta) == 5


def test_a_share_of_the_tracks_below_a_pmos_is_left_out_and_a_smaller_share_is_part_of_it(tmp_path):
    """p-MOS 3.0, 3.2, ... 4.8: five below the mean of 3.9, four below 3.7."""
    folder = make_folder(tmp_path, tracks=10)
    kept = {
        (below, share): [meta.path for meta in build(folder, filter_below=below, filter_share=share).meta]
        for below, share in (("mean", 0.0), ("mean", 0.4), ("mean", 1.0), (3.7, 1.0))
    }
    everything = kept["mean", 0.0]
    assert len(everything) == 10
    assert everything == [meta.path for meta in build(folder).meta]
    assert [len(paths) for paths in kept.values()] == [10, 8, 5, 6]
    assert set(kept["mean", 1.0]) < set(kept["mean", 0.4]) < set(everything)
    best = [meta.path for meta in build(folder, share=0.5, share_by="pmos").meta]
    assert kept["mean", 1.0] == best


@pytest.mark.parametrize(
    "options, message",
    [
        ({"filter_below": 3.5, "filter_share": 1.5}, r"filter_share=1.5: give a share in \[0, 1\]"),
        ({"filter_below": "median"}, "filter_below='median': give a p-MOS, or mean"),
        ({"filter_below": 5.0}, "filter_below=5.0 leaves no track"),
    ],
)
def test_a_filter_that_cannot_be_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(make_folder(tmp_path, tracks=3), **options)


def test_a_random_share_is_not_chosen_by_quality(tmp_path):
    folder = make_folder(tmp_path, tracks=10, duration=1.0)
    best, drawn = ({meta.path for meta in build(folder, share=0.5, share_by=by).meta} for by in ("pmos", "random"))
    assert 0 < len(best & drawn) < 5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"share": 0.0}, "share=0.0 of 5 tracks"),
        ({"share": 1.5}, "in \\(0, 1\\]"),
        ({"share": 0.5, "share_by": "size"}, "share_by='size' is unknown"),
    ],
)
def test_a_share_that_cannot_be_is_refused(tmp_path, options, message):
    folder = make_folder(tmp_path, tracks=5)
    with pytest.raises(ValueError, match=message):
        build(folder, **options)


def test_more_than_have_a_score_cannot_be_the_best(tmp_path):
    with pytest.raises(ValueError, match="only 0 have a p-MOS"):
        build(make_folder(tmp_path, tracks=5, quality=False), share=0.4)
