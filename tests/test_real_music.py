"""`tools/real_music.sh`: packages and folders of music become data sets, resumably, with the licences of all tracks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path, PurePath

import numpy as np
import pytest
import soundfile

from audiocraft_qamdt.data.manifest import read_manifest, read_quality
from tools.real_music import licences, tracks
from tools.real_music.__main__ import main
from tools.real_music.packages import wanted

from .helpers.debian_packages import IN_WORDS, MACHINE_READABLE, build_deb, make_repository, write_music

SCRIPT = Path(__file__).parents[1] / "tools" / "real_music.sh"
MUSIC = {f"usr/share/games/x/base/music/{name}.ogg": index for index, name in enumerate(["FirstTheme", "Second-Theme"])}
PACKED = {
    f"usr/share/games/x/base/0music.pk3/music/{name}.ogg": index for index, name in enumerate(["track03", "sold"])
}
EFFECT = {"usr/share/games/x/sounds/bang.ogg": 7}
THEMES = {f"usr/share/games/y/data/core/music/theme_{index}.ogg": index for index in range(6)}

debian = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a user does."""
    command = [str(SCRIPT), *map(str, arguments), "--min-duration", "1"]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable, **environment}
    )


@pytest.fixture(scope="module")
def debs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("debs")
    build_deb(folder, "x-music", MUSIC | PACKED | EFFECT, MACHINE_READABLE)
    build_deb(folder, "wesnoth-9.1-music", THEMES, IN_WORDS)
    return folder


@pytest.fixture(scope="module")
def made(debs, tmp_path_factory) -> Path:
    """A finished data set of the two packages."""
    folder = tmp_path_factory.mktemp("made") / "set"
    result = run("--debs", debs, folder)
    assert result.returncode == 0, result.stderr
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.glob("*/*.flac") if path.parent.name != ".work"}


def content(folder: Path) -> dict[str, bytes]:
    """All files of a data set, except figures that name its folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "data.jsonl.gz"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@debian
class TestPackages:
    def test_judging_music_is_in_the_split_judge_alone(self, made):
        judges = {name for name in names(made) if "wesnoth" in name}
        assert judges == {f"judge/wesnoth-9.1-music--theme-{index}.flac" for index in range(6)}

    def test_other_music_is_not_in_the_split_judge(self, made):
        others = {name for name in names(made) if "wesnoth" not in name}
        assert {PurePath(name).parts[0] for name in others} <= {"train", "valid", "test"}

    def test_all_free_music_is_taken_and_no_effects(self, made):
        taken = {PurePath(name).stem for name in names(made) if "x-music" in name}
        assert taken == {"x-music--first-theme", "x-music--second-theme", "x-music--track03"}

    def test_tracks_have_the_rate_and_channels_asked_for(self, made):
        infos = [soundfile.info(made / name) for name in names(made)]
        assert {(info.samplerate, info.channels, info.format, info.subtype) for info in infos} == {
            (16000, 1, "FLAC", "PCM_16")
        }

    def test_tracks_keep_their_length(self, made):
        assert all(abs(soundfile.info(made / name).duration - 2) < 0.01 for name in names(made))

    @pytest.mark.parametrize(
        "stem, title, licence, description",
        [
            ("x-music--first-theme", "First Theme", "GPL-2+", "First Theme, music of x-music"),
            ("x-music--second-theme", "Second Theme", "CC-BY-SA-3.0", "Second Theme, music of x-music"),
            ("x-music--track03", "track03", "CC-BY-SA-3.0", "music of x-music"),
            ("wesnoth-9.1-music--theme-2", "theme 2", "GPL-2+", "theme 2, orchestral music of a fantasy strategy game"),
        ],
    )
    def test_a_sidecar_says_what_a_track_is(self, made, stem, title, licence, description):
        [path] = made.rglob(f"{stem}.json")
        sidecar = json.loads(path.read_text())
        assert {key: sidecar[key] for key in ("title", "licence", "description")} == {
            "title": title,
            "licence": licence,
            "description": description,
        }

    def test_every_track_is_listed_and_scored(self, made):
        listed = [Path(row["path"]) for split in made.iterdir() if split.name in ("train", "valid", "test", "judge")
                  for row in read_manifest(split)]  # fmt: skip
        assert {str(path.relative_to(made)) for path in listed if read_quality(path)} == names(made)

    def test_licences_are_written_down_with_the_tracks(self, made):
        record = json.loads((made / "LICENCES.json").read_text())["sources"]["x-music"]
        assert (record["version"], record["licences"]) == ("1.0-1", ["CC-BY-SA-3.0", "GPL-2+"])
        assert set(record["tracks"]) == {name for name in names(made) if "x-music" in name}

    def test_a_track_that_is_not_free_is_named(self, made):
        record = json.loads((made / "LICENCES.json").read_text())["sources"]["x-music"]
        assert list(record["left_out"].values()) == ["its licence is not known to be free: CC-BY-NC-3.0"]

    def test_the_terms_are_kept(self, made):
        assert (made / "licences" / "x-music.txt").read_text() == MACHINE_READABLE

    def test_nothing_unfinished_is_left(self, made):
        assert not (made / ".work").exists()

    def test_the_same_command_again_changes_nothing(self, made, debs):
        before = content(made)
        assert main(["--debs", str(debs), str(made), "--min-duration", "1"]) == 0
        assert content(made) == before

    def test_another_rate_needs_another_folder(self, made, debs):
        result = run("--debs", debs, made, "--sample-rate", "8000")
        assert result.returncode == 1
        assert "LICENCES.json: made with another sample_rate (16000, not 8000)" in result.stderr

    def test_a_package_without_terms_gives_nothing(self, tmp_path):
        build_deb(tmp_path, "bare-music", {"usr/share/bare/music/a.ogg": 0}, None)
        result = run("--debs", tmp_path, tmp_path / "set")
        assert "its licence is not known to be free: nothing said" in result.stdout
        assert names(tmp_path / "set") == set()

    def test_a_broken_package_is_named(self, tmp_path):
        (tmp_path / "broken.deb").write_bytes(b"nothing")
        result = run("--debs", tmp_path, tmp_path / "set")
        assert result.returncode == 1
        assert "dpkg-deb" in result.stderr


@debian
def test_a_killed_run_leaves_whole_tracks_and_the_next_one_goes_on(tmp_path):
    files = {f"usr/share/games/z/music/part_{index}.ogg": index for index in range(8)}
    build_deb(tmp_path, "z-music", files, IN_WORDS, seconds=20)
    command = [str(SCRIPT), "--debs", str(tmp_path), str(tmp_path / "killed")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHON": sys.executable}, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(names(tmp_path / "killed")) < 3:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = {tmp_path / "killed" / name for name in names(tmp_path / "killed")}
    assert 3 <= len(there) < 8
    assert all(abs(soundfile.info(path).duration - 20) < 0.01 and path.with_suffix(".json").exists() for path in there)
    times = {path: path.stat().st_mtime_ns for path in there}
    assert main(["--debs", str(tmp_path), str(tmp_path / "killed")]) == 0
    assert main(["--debs", str(tmp_path), str(tmp_path / "whole")]) == 0
    assert {path: path.stat().st_mtime_ns for path in there} == times
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")
class TestApt:
    @pytest.fixture(scope="class")
    def apt_config(self, tmp_path_factory) -> str:
        folder = tmp_path_factory.mktemp("repository")
        build_deb(folder, "asc-music", MUSIC, MACHINE_READABLE)
        build_deb(folder, "wesnoth-9.1-music", {"usr/share/y/music/old.ogg": 1}, IN_WORDS)
        build_deb(folder, "wesnoth-9.12-music", {"usr/share/y/music/new.ogg": 2}, IN_WORDS)
        return str(make_repository(folder))

    @pytest.fixture
    def fetch(self, apt_config, monkeypatch, capsys):
        """Run the command on the test's archive; returns its exit status and what it printed."""
        monkeypatch.setenv("APT_CONFIG", apt_config)

        def call(*arguments: str | Path) -> tuple[int, str]:
            status = main(["--update", *map(str, arguments), "--min-duration", "1"])
            return status, capsys.readouterr().out

        return call

    def test_what_the_archive_has_is_fetched_once_and_the_rest_named(self, fetch, tmp_path):
        status, printed = fetch(tmp_path / "set")
        assert status == 0
        assert {PurePath(name).stem for name in names(tmp_path / "set")} == {
            "asc-music--first-theme",
            "asc-music--second-theme",
            "wesnoth-9.12-music--new",
        }
        assert "ufoai-music: skipped, apt does not know it" in printed
        status, printed = fetch(tmp_path / "set", "--packages", "asc-music")
        assert (status, "asc-music: is there already" in printed) == (0, True)

    def test_a_download_that_fails_is_named(self, fetch, apt_config, tmp_path, caplog):
        (Path(apt_config).parent / "wesnoth-9.1-music_1.0-1_all.deb").unlink()
        status, printed = fetch(tmp_path / "set", "--packages", "wesnoth-9.1-music")
        assert status == 1
        assert "wesnoth-9.1-music: skipped (apt-get: " in printed
        assert "no package could be had" in caplog.text

    def test_no_package_at_all_is_an_error(self, fetch, tmp_path, caplog):
        assert fetch(tmp_path / "set", "--packages", "no-such-music")[0] == 1
        assert "no package could be had" in caplog.text


class TestRefusal:
    @pytest.fixture
    def bare_path(self, tmp_path) -> str:
        """A PATH with what the script itself runs, and no apt."""
        (tmp_path / "bin").mkdir()
        for command in ("bash", "dirname"):
            (tmp_path / "bin" / command).symlink_to(shutil.which(command))
        return str(tmp_path / "bin")

    @pytest.mark.parametrize(
        "arguments, missing", [([], "no dpkg-deb and no apt-get"), (["--debs", "."], "no dpkg-deb on")]
    )
    def test_a_machine_without_apt_gets_one_line_and_status_2(self, tmp_path, bare_path, arguments, missing):
        result = run(*arguments, tmp_path / "set", PATH=bare_path)
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
        assert missing in result.stderr
        assert "--from FOLDER DIR" in result.stderr

    def test_a_refusal_writes_nothing(self, tmp_path, bare_path):
        run(tmp_path / "set", PATH=bare_path)
        assert not (tmp_path / "set").exists()

    def test_a_missing_environment_is_named(self, tmp_path):
        result = run(tmp_path / "set", PYTHON="/nowhere/python")
        assert result.returncode == 2
        assert "make install" in result.stderr


class TestFolder:
    @pytest.fixture(scope="class")
    def music(self, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("home") / "My Music"
        for index in range(4):
            write_music(folder / "Quiet Album" / f"{index + 1:02d} - Dawn{index}.wav", index)
        write_music(folder / "sounds" / "wave.mp3", 5, sample_rate=44100)
        write_music(folder / "a" / "same.ogg", 6)
        write_music(folder / "b" / "same.flac", 7)
        (folder / "a" / "same.json").write_text(json.dumps({"description": "my words", "quality": {"pmos": 2}}))
        (folder / "broken.mp3").write_bytes(b"nothing" * 99)
        return folder

    @pytest.fixture(scope="class")
    def made(self, music, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("made") / "set"
        assert (
            main(["--from", str(music), str(folder), "--licence", "mine", "--channels", "2", "--min-duration", "1"])
            == 0
        )
        return folder

    def test_all_that_can_be_read_is_taken(self, made):
        assert {PurePath(name).stem for name in names(made)} == {
            *(f"my-music--{index + 1:02d}-dawn{index}" for index in range(4)),
            "my-music--wave",
            "my-music--a-same-ogg",
            "my-music--b-same-flac",
        }

    def test_what_cannot_be_read_is_named(self, made):
        [record] = json.loads((made / "LICENCES.json").read_text())["sources"].values()
        assert list(record["left_out"]) == ["broken.mp3"]
        assert record["licences"] == ["mine"]

    def test_own_words_are_kept(self, made):
        [path] = made.rglob("*a-same-ogg.json")
        assert json.loads(path.read_text())["description"] == "my words"

    def test_folders_give_words_where_there_are_no_own(self, made):
        [path] = made.rglob("*dawn2.json")
        assert json.loads(path.read_text())["description"] == "03 Dawn2, Quiet Album"

    def test_both_channels_are_kept(self, made):
        [path] = made.rglob("*dawn1.flac")
        audio, _ = soundfile.read(path)
        assert np.abs(audio[:, 1] - 0.5 * audio[:, 0]).max() < 1e-3

    def test_a_data_set_within_the_music_is_refused(self, music, caplog):
        assert main(["--from", str(music), str(music / "set")]) == 1
        assert "put the data set elsewhere" in caplog.text

    def test_a_folder_that_is_not_there_is_named(self, tmp_path, caplog):
        assert main(["--from", str(tmp_path / "none"), str(tmp_path / "set")]) == 1
        assert "none is not a folder" in caplog.text


@pytest.mark.parametrize(
    "track, licence",
    [
        ("usr/share/games/x/music/other.ogg", "GPL-2+"),
        ("usr/share/games/x/music/track03.ogg", "CC-BY-SA-3.0"),
        ("music/Second-Theme.ogg", "CC-BY-SA-3.0"),
        ("usr/share/x/music/sold.ogg", "CC-BY-NC-3.0"),
    ],
)
def test_the_last_file_list_that_names_a_track_gives_its_licence(track, licence):
    assert licences.parse(MACHINE_READABLE).licence_of(PurePath(track)) == licence


@pytest.mark.parametrize(
    "text, licence",
    [
        (IN_WORDS, "GPL-2+"),
        ("See /usr/share/common-licenses/GPL-3.", "GPL-3"),
        ("See /usr/share/common-licenses/Apache-2.0.", "Apache-2.0"),
        (
            "version 2 of the License, or (at your option)\n any later version: /usr/share/common-licenses/LGPL-2.1",
            "LGPL-2.1+",
        ),
        ("THIS CREATIVE COMMONS PUBLIC LICENSE\nLicense Elements: Attribution, ShareAlike.", "CC-BY-SA"),
        ("THIS CREATIVE COMMONS PUBLIC LICENSE: Attribution, Noncommercial, NoDerivatives", "CC-BY-NC-ND"),
        ("See /usr/share/common-licenses/GPL-2 and\n/usr/share/common-licenses/Artistic", "GPL-2 and Artistic"),
        ("All rights reserved.", None),
    ],
)
def test_licences_in_words_are_found(text, licence):
    assert licences.parse(text).licence_of(PurePath("a/b.ogg")) == licence


@pytest.mark.parametrize(
    "licence, free",
    [
        ("GPL-2+", True),
        ("CC-BY-SA-4.0", True),
        ("CC0-1.0", True),
        ("public-domain", True),
        ("GPL-2+ and CC-BY-3.0", True),
        ("GPL-2+ or Proprietary", True),
        ("GPL-2+ and Proprietary", False),
        ("CC-BY-NC-3.0", False),
        ("CC-BY-NC-SA-3.0", False),
        ("CC-BY-ND", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_free_licences_are_told_from_others(licence, free):
    assert licences.is_free(licence) is free


@pytest.mark.parametrize(
    "source, name, split",
    [
        ("x-music", "FirstTheme", "train"),
        ("x-music", "track03", "valid"),
        ("warzone2100-music", "track13", "test"),
        ("warzone2100-music", "track3_enhanced", "train"),
    ],
)
def test_a_tracks_split_stays_what_it_is(source, name, split):
    assert tracks.split_of(source, name) == split


def test_versions_of_a_piece_share_their_split():
    pieces = [f"piece{number}" for number in range(50)]
    assert all(tracks.split_of("x", piece) == tracks.split_of("x", f"{piece}_enhanced (Loop)") for piece in pieces)


def test_splits_have_their_shares():
    splits = [tracks.split_of("x", f"piece {number}") for number in range(4000)]
    assert [splits.count(name) / 4000 for name in ("train", "valid", "test")] == pytest.approx(
        [0.84, 0.08, 0.08], abs=0.02
    )


@pytest.mark.parametrize(
    "name, tags, description",
    [
        ("northern_mountains", {}, "northern mountains, music of a game"),
        ("hr3-hell", {"title": "Caves;Hell", "genre": "Game"}, "hr3 hell, music of a game"),
        ("x", {"title": "Sad", "genre": "Romantic Classical"}, "Sad, romantic classical, music of a game"),
        ("track 12", {"genre": "17"}, "music of a game"),
        ("Dawn", {"title": "04 - Track 04", "genre": "(None)"}, "Dawn, music of a game"),
        ("x", {"title": "sub_cities.mp3", "genre": "Sound FX"}, "sub cities, music of a game"),
    ],
)
def test_descriptions_say_what_is_known(name, tags, description):
    assert tracks.describe(Path(f"{name}.ogg"), "music of a game", tags)["description"] == description


def test_names_with_other_letters_are_kept():
    assert tracks.slug("Город_Ночь 01") == "город-ночь-01"


@pytest.mark.parametrize("sample_rate, channels", [(16000, 1), (44100, 1), (48000, 2)])
@pytest.mark.parametrize("suffix", ["wav", "ogg", "mp3", "flac"])
def test_conversion_keeps_pitch_and_level(tmp_path, suffix, sample_rate, channels):
    time_ = np.arange(2 * 44100) / 44100
    soundfile.write(tmp_path / f"a.{suffix}", 0.5 * np.sin(2 * np.pi * 1000 * time_), 44100)
    tracks.convert(tmp_path / f"a.{suffix}", tmp_path / "out.flac", sample_rate, channels)
    audio, rate = soundfile.read(tmp_path / "out.flac", always_2d=True)
    middle = audio[rate // 2 : 3 * rate // 2, 0]
    expected = 0.5 * np.sqrt(0.5)
    assert (rate, audio.shape[1]) == (sample_rate, channels)
    assert np.abs(np.fft.rfft(middle)).argmax() == 1000
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(expected, rel=0.02)


def test_what_ffmpeg_cannot_open_is_read_with_libsndfile(tmp_path):
    write_music(tmp_path / "a.wav", 0)
    audio, rate = soundfile.read(tmp_path / "a.wav")
    soundfile.write(tmp_path / "b.wav", audio, rate, format="MAT5", subtype="PCM_16")
    for name in ("a", "b"):
        tracks.convert(tmp_path / f"{name}.wav", tmp_path / f"{name}.flac", 16000, 1)
    assert (tmp_path / "a.flac").read_bytes() == (tmp_path / "b.flac").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
def test_a_full_disk_is_not_taken_for_a_broken_track(tmp_path):
    write_music(tmp_path / "a.wav", 0, seconds=60)
    with pytest.raises(OSError, match="/dev/full cannot be written"):
        tracks.convert(tmp_path / "a.wav", Path("/dev/full"), 16000, 1)


@pytest.mark.parametrize("content", [b"", b"nothing" * 99, b"OggS" + bytes(999)], ids=["empty", "text", "truncated"])
@pytest.mark.parametrize("suffix", ["mp3", "ogg", "wav", "m4a"])
def test_a_broken_track_is_a_value_error(tmp_path, suffix, content):
    (tmp_path / f"a.{suffix}").write_bytes(content)
    with pytest.raises(ValueError):
        tracks.convert(tmp_path / f"a.{suffix}", tmp_path / "a.flac", 16000, 1)


def module_bytes() -> bytes:
    """A ProTracker module that plays one looped square wave."""
    sample = b"square".ljust(22, b"\0") + (16).to_bytes(2, "big") + bytes([0, 64]) + bytes(2) + (16).to_bytes(2, "big")
    nothing = bytes(28) + b"\0\1"
    note = bytes([0x01, 0xAC, 0x10, 0x00])  # period 428 of sample 1
    pattern = note.ljust(1024, b"\0")
    order = bytes([1, 127]) + bytes(128)
    return b"song".ljust(20, b"\0") + sample + 30 * nothing + order + b"M.K." + pattern + bytes([64] * 16 + [192] * 16)


def test_a_tracker_module_without_ffmpeg_is_a_clear_error(tmp_path, monkeypatch):
    (tmp_path / "a.mod").write_bytes(module_bytes())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="install ffmpeg"):
        tracks.convert(tmp_path / "a.mod", tmp_path / "a.flac", 16000, 1)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the program ffmpeg")
def test_a_tracker_module_is_rendered(tmp_path):
    (tmp_path / "a.mod").write_bytes(module_bytes())
    tracks.convert(tmp_path / "a.mod", tmp_path / "a.flac", 16000, 1)
    audio, _ = soundfile.read(tmp_path / "a.flac")
    assert np.abs(audio).max() > 0.01


def test_the_newest_music_for_judging_is_fetched():
    assert wanted({"wesnoth-1.9-music", "wesnoth-1.16-music", "wesnoth-1.2-data"})[-1] == "wesnoth-1.16-music"
