"""The annotator: every score in its own sidecar, nothing scored twice, nothing broken, what fails named."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiocraft_qamdt.data.manifest import (
    build_manifest,
    read_manifest,
    read_quality,
    read_sidecar,
    sidecar_path,
    write_sidecar_key,
)
from audiocraft_qamdt.data.weights import sampling_weights
from audiocraft_qamdt.quality.annotate import annotate, cut_windows
from audiocraft_qamdt.quality.levels import QualityStatistics

RATE = 8000


class Loudness:
    """Says how loud a window is, so that a score that went astray would be seen; remembers what it was given."""

    name, version, sample_rate, window, hop = "loudness", "1", None, 1.0, 1.0

    def __init__(self, fail_after: float = math.inf, value: float | None = None, device: str = "cpu") -> None:
        self.batches: list[tuple[int, int]] = []
        self.fail_after, self.value = fail_after, value

    def score(self, audio, sample_rate):
        if self.scored >= self.fail_after:
            raise RuntimeError("killed")
        self.batches.append((len(audio), sample_rate))
        assert audio.shape[1] == sample_rate * self.window
        return torch.full(audio.shape[:1], self.value) if self.value else 1 + 4 * audio.abs().amax(1)

    @property
    def scored(self) -> int:
        return sum(count for count, _ in self.batches)


class Ticking(Loudness):
    """Tells somebody at the other end of a pipe of each window."""

    def __init__(self, pipe: int) -> None:
        super().__init__()
        self.pipe = pipe

    def score(self, audio, sample_rate):
        os.write(self.pipe, b".")
        return super().score(audio, sample_rate)


def make_folder(folder: Path, tracks: int = 7, sample_rate: int = RATE) -> Path:
    """Tracks of 1.5 s, 2.5 s, …: second j of track i peaks at (i + 1) / 10 + j / 50."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(tracks):
        seconds = 1.5 + i
        time = np.arange(round(seconds * sample_rate)) / sample_rate
        gain = (i + 1) / 10 + np.floor(time) / 50
        audio = gain * np.sign(np.sin(2 * np.pi * 100 * time))
        soundfile.write(folder / f"{i}.wav", audio, sample_rate, subtype="FLOAT")
        sidecar_path(folder / f"{i}.wav").write_text(json.dumps({"title": f"track {i}", "bpm": ""}))
    build_manifest(folder)
    return folder


def expected_frames(i: int) -> list[float]:
    """Windows are whole seconds, but for the last: it is the track's last second, half in each of two."""
    seconds = [1 + 4 * ((i + 1) / 10 + j / 50) for j in range(i + 2)]
    return [*seconds[: i + 1], seconds[-1]]


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_folder(tmp_path / "data")


@pytest.mark.parametrize("batch_size, workers", [(1, 1), (4, 3), (1000, 2)])
def test_every_track_gets_its_own_scores(folder, batch_size, workers):
    predictor = Loudness()
    report = annotate(folder, predictor, batch_size=batch_size, workers=workers)
    for i in range(7):
        quality = read_quality(folder / f"{i}.wav")
        assert quality.frames == pytest.approx(expected_frames(i), abs=1e-3)
        assert quality.pmos == pytest.approx(np.mean(expected_frames(i)), abs=1e-3)
        assert (quality.hop, quality.predictor, quality.version) == (1.0, "loudness", "1")
    assert (report.scored, report.skipped, report.unreadable) == (7, 0, {})
    assert report.audio_seconds == pytest.approx(sum(1.5 + i for i in range(7)))
    assert max(count for count, _ in predictor.batches) == min(batch_size, predictor.scored)


def test_other_keys_of_the_sidecar_stay(folder):
    annotate(folder, Loudness())
    assert list(read_sidecar(folder / "3.json")) == ["title", "bpm", "quality"]
    assert read_sidecar(folder / "3.json")["title"] == "track 3"


def test_what_is_scored_is_not_scored_again(folder):
    first = Loudness(fail_after=12)
    with pytest.raises(RuntimeError, match="killed"):
        annotate(folder, first, batch_size=3)
    done = [i for i in range(7) if read_quality(folder / f"{i}.wav")]
    assert 0 < len(done) < 7
    again = Loudness()
    report = annotate(folder, again, batch_size=3)
    assert (report.scored, report.skipped) == (7 - len(done), len(done))
    assert again.scored == sum(i + 2 for i in range(7) if i not in done)
    assert annotate(folder, Loudness(fail_after=0)).skipped == 7


def test_another_predictors_scores_are_replaced_only_on_request(folder):
    annotate(folder, Loudness())
    other = Loudness(value=2.0)
    other.version = "2"
    with pytest.raises(ValueError, match=r"0\.wav was scored by loudness 1.*--overwrite"):
        annotate(folder, other)
    assert other.scored == 0
    report = annotate(folder, other, overwrite=True)
    assert report.scored == 7
    assert report.statistics.mean == 2.0
    assert annotate(folder, other, overwrite=True).skipped == 7


def test_what_cannot_be_read_is_reported_and_the_rest_is_scored(folder):
    (folder / "2.wav").write_bytes(b"RIFF")
    (folder / "4.json").write_text('{"title": ')
    write_sidecar_key(folder / "5.wav", "quality", {"pmos": 9, "predictor": "x", "version": "1"})
    report = annotate(folder, Loudness())
    assert sorted(Path(name).name for name in report.unreadable) == ["2.wav", "4.wav", "5.wav"]
    assert "quality.pmos must be between 1 and 5" in report.unreadable[str(folder / "5.wav")]
    assert (folder / "4.json").read_text() == '{"title": '
    assert (report.scored, report.statistics.count, report.statistics.unscored) == (4, 4, 3)
    assert sum(line.startswith("unreadable: ") for line in report.lines()) == 3


@pytest.mark.parametrize("value", [math.nan, 0.5, 5.5])
def test_a_predictor_off_the_scale_is_found_out(folder, value):
    with pytest.raises(ValueError, match=r"loudness on .*quality\.frames\[0\]|quality\.pmos"):
        annotate(folder, Loudness(value=value))
    assert not any(read_quality(folder / f"{i}.wav") for i in range(7))


def test_nothing_readable_gives_no_statistics(folder):
    for i in range(7):
        (folder / f"{i}.wav").write_bytes(b"")
    report = annotate(folder, Loudness())
    assert report.statistics is None
    assert len(report.unreadable) == 7
    assert not (folder / "quality.json").exists()


def test_statistics_and_histogram_lie_beside_the_manifest(folder):
    report = annotate(folder, "constant", device="cpu")
    statistics = QualityStatistics.load(folder)
    assert statistics == report.statistics
    assert (statistics.mean, statistics.std, statistics.count, statistics.predictor) == (3.0, 0.0, 7, "constant")
    assert (folder / "quality.png").read_bytes().startswith(b"\x89PNG")
    annotate(folder, Loudness(), overwrite=True)
    scores = [read_quality(folder / f"{i}.wav").pmos for i in range(7)]
    assert QualityStatistics.load(folder) == QualityStatistics.from_scores(scores, "loudness", "1")
    assert not list(folder.glob(".*"))


def test_weights_grow_with_quality_and_touch_nothing_else(folder):
    (folder / "6.wav").write_bytes(b"")
    before = read_manifest(folder)
    report = annotate(folder, Loudness(), weights=True)
    rows = read_manifest(folder)
    assert [row | {"weight": None} for row in rows] == before
    scores = [read_quality(row["path"]).pmos for row in rows[:6]]
    weights = [row["weight"] for row in rows]
    assert max(weights) == 1
    assert weights[5] / weights[3] == pytest.approx(math.exp(5 * (scores[5] - scores[3])))
    # A track without a score is drawn as an average one.
    assert weights[6] == pytest.approx(math.exp(5 * (report.statistics.mean - max(scores))))


@given(st.lists(st.floats(1, 5), min_size=1), st.floats(0, 10))
def test_sampling_weights_are_shares_of_the_best(scores, steepness):
    weights = sampling_weights(scores, steepness=steepness)
    assert max(weights) == 1
    assert min(weights) > 0
    assert [weights[i] for i in np.argsort(scores)] == sorted(weights)


def test_shards_share_the_work_and_the_last_one_sums_up(folder):
    predictors = [Loudness() for _ in range(3)]
    reports = [annotate(folder, predictor, shard=(i, 3)) for i, predictor in enumerate(predictors)]
    assert [report.scored for report in reports] == [3, 2, 2]
    assert [report.statistics.unscored for report in reports] == [4, 2, 0]
    assert sum(predictor.scored for predictor in predictors) == sum(i + 2 for i in range(7))
    with pytest.raises(ValueError, match="shard 3/3: the first number must be from 0 to 2"):
        annotate(folder, Loudness(), shard=(3, 3))


def test_batches_have_one_sample_rate_or_the_one_that_is_wanted(tmp_path):
    make_folder(tmp_path / "data" / "a", 3)
    make_folder(tmp_path / "data" / "b", 3, sample_rate=16000)
    for path in tmp_path.rglob("data.jsonl.gz"):
        path.unlink()
    build_manifest(tmp_path / "data")
    predictor = Loudness()
    annotate(tmp_path / "data", predictor, batch_size=4)
    assert {rate for _, rate in predictor.batches} == {8000, 16000}
    predictor = Loudness()
    predictor.sample_rate, predictor.version = 4000, "4k"
    annotate(tmp_path / "data", predictor, batch_size=4, overwrite=True)
    assert {rate for _, rate in predictor.batches} == {4000}


@given(st.floats(0.01, 20), st.floats(0.1, 5), st.floats(0.1, 5))
def test_windows_lie_inside_and_their_centres_where_frames_say(seconds, window, hop):
    rate = 100
    audio = torch.arange(max(1, round(seconds * rate)), dtype=torch.float32)
    windows = cut_windows(audio, rate, window, hop)
    size = round(window * rate)
    assert all(len(cut) == size for cut in windows)
    assert abs(len(windows) - len(audio) / rate / hop) <= 0.5 + 1e-9 or len(windows) == 1
    for i, cut in enumerate(windows):
        middle = cut[0].item() + size / 2
        room = (size / 2, len(audio) - size / 2)
        if room[0] <= room[1]:
            assert middle == pytest.approx(np.clip((i + 0.5) * hop * rate, *room), abs=1)


def test_a_track_shorter_than_a_window_is_repeated_not_padded():
    assert cut_windows(torch.tensor([1.0, 2.0, 3.0]), 4, 2.0, 1.0)[0].tolist() == [1, 2, 3, 1, 2, 3, 1, 2]


def kill_twenty_times(root: Path) -> None:
    """Annotate in processes that are killed at random moments; fails where a sidecar is broken or a score lost."""
    import audiocraft.data.audio  # noqa: F401  (once, not in each process that is killed)

    rng, done, seen = random.Random(0), set(), set()
    for _ in range(20):
        windows, told = os.pipe()
        child = os.fork()
        if child == 0:
            annotate(root, Ticking(told), batch_size=1)
            os._exit(0)
        os.close(told)
        for _ in range(rng.randrange(1, 24)):
            os.read(windows, 1)  # nothing where it has ended
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(windows)
        now = {path for path in root.glob("*/*.wav") if read_quality(path)}  # raises where a sidecar is broken
        assert now >= done
        done, seen = now, {*seen, len(now)}
    (root / "killed.json").write_text(json.dumps({"done": len(done), "moments": len(seen)}))


def test_killed_twenty_times_nothing_is_lost_or_broken(tmp_path):
    parts = [make_folder(tmp_path / "data" / str(part), 8) for part in range(8)]
    for part in parts:
        (part / "data.jsonl.gz").unlink()
    build_manifest(tmp_path / "data")
    root = Path(__file__).resolve().parents[2]
    code = f"import tests.quality.test_annotate as it; it.kill_twenty_times(it.Path({str(tmp_path / 'data')!r}))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", f"import tests.conftest; {code}"]
    subprocess.run(command, cwd=root, env=environment, check=True, timeout=300)
    killed = json.loads((tmp_path / "data" / "killed.json").read_text())
    assert killed["moments"] > 3, "the kills came while it worked"
    report = annotate(tmp_path / "data", Loudness())
    assert (report.skipped, report.scored) == (killed["done"], 64 - killed["done"])
    for part in parts:
        for i in range(8):
            assert read_quality(part / f"{i}.wav").frames == pytest.approx(expected_frames(i), abs=1e-3)
            assert read_sidecar(part / f"{i}.json")["title"] == f"track {i}"
