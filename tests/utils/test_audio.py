"""Finding and reading audio: everything that libsndfile or FFmpeg reads, and a reason for everything else."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from audiocraft_qamdt.utils.audio import UnreadableAudio, audio_info, find_audio, read_audio, read_everywhere

RATE = 48000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE)).astype(np.float32)

LIBSNDFILE = {
    "8-bit.wav": ("WAV", "PCM_U8"),
    "16-bit.wav": ("WAV", "PCM_16"),
    "24-bit.wav": ("WAV", "PCM_24"),
    "32-bit.wav": ("WAV", "PCM_32"),
    "float32.wav": ("WAV", "FLOAT"),
    "float64.WAV": ("WAV", "DOUBLE"),
    "adpcm.wav": ("WAV", "MS_ADPCM"),
    "a.flac": ("FLAC", "PCM_16"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "a.opus": ("OGG", "OPUS"),
    "a.AIFF": ("AIFF", "PCM_16"),
    "a.au": ("AU", "PCM_16"),
    "a.caf": ("CAF", "PCM_16"),
    "a.w64": ("W64", "PCM_16"),
    "a.mp3": ("MP3", "MPEG_LAYER_III"),
    "flac in name only.mp3": ("FLAC", "PCM_16"),
    "wav in name only.m4a": ("WAV", "PCM_16"),
}
FFMPEG = {
    "a.wma": ("asf", "wmav2"),
    "a.m4a": ("ipod", "aac"),
    "a.webm": ("webm", "libopus"),
    "webm in name only.m4a": ("webm", "libopus"),
    "webm in name only.mp3": ("webm", "libopus"),
    "a.wv": ("wv", "wavpack"),
    "a.ac3": ("ac3", "ac3"),
    "a.aac": ("adts", "aac"),
}


def write(path: Path) -> Path:
    if path.name in LIBSNDFILE:
        form, subtype = LIBSNDFILE[path.name]
        soundfile.write(path, TONE, RATE, format=form, subtype=subtype)
        return path
    form, codec = FFMPEG[path.name]
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        stream.bit_rate = 128_000
        resampler = av.AudioResampler(stream.format, "mono", RATE, frame_size=stream.codec_context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(TONE[None], "fltp", "mono")
        frame.sample_rate = RATE
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(part))
    return path


@pytest.mark.parametrize("name", [*LIBSNDFILE, *FFMPEG])
def test_what_either_library_can_decode_is_found_and_read(tmp_path, name):
    path = write(tmp_path / name)
    audio, rate = read_audio(path)
    assert find_audio(tmp_path).files == [path]
    assert rate == RATE
    assert audio.dtype == torch.float32
    assert audio.shape[-1] / rate == pytest.approx(3, abs=0.15)
    assert audio.square().mean().sqrt() == pytest.approx(0.354, abs=0.03)
    assert audio_info(path).duration == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("name", [*LIBSNDFILE, *FFMPEG])
def test_a_part_is_that_part_of_the_whole(tmp_path, name):
    path = write(tmp_path / name)
    whole, _ = read_audio(path)
    part, rate = read_audio(path, 1.0, 0.5)
    assert part.shape[-1] == RATE // 2
    assert part.square().mean().sqrt() == pytest.approx(0.354, abs=0.03)
    if name in LIBSNDFILE and path.suffix != ".mp3":  # other decoders count the encoder's delay or do not
        assert (part - whole[:, RATE : RATE + RATE // 2]).abs().max() < 0.02
    padded, _ = read_audio(path, 2.9, 0.5, pad=True)
    assert padded.shape[-1] == RATE // 2
    assert padded[:, -RATE // 4 :].abs().max() < 0.1


def test_audiocraft_reads_the_same(tmp_path):
    from audiocraft.data.audio_dataset import AudioDataset, AudioMeta

    read_everywhere()
    path = write(tmp_path / "webm in name only.m4a")
    dataset = AudioDataset([AudioMeta(str(path), 3.0, RATE)], segment_duration=1.0, num_samples=1, return_info=True)
    assert dataset[0][0].abs().max() > 0.3


BROKEN = {
    "empty": (b"", "the file is empty"),
    "noise": (np.random.default_rng(0).bytes(5000), "FFmpeg|libsndfile"),
    "text": (b"not found\n", "FFmpeg|libsndfile"),
    "cut in its header": (b"RIFF\x00", "FFmpeg|libsndfile"),
}


@pytest.mark.parametrize(("content", "reason"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_decoded_is_named_with_a_reason(tmp_path, content, reason):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UnreadableAudio, match=rf"a\.wav cannot be read as audio: .*({reason})"):
        read_audio(tmp_path / "a.wav")


def test_a_header_without_sound_says_so(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((0, 1)), 16000)
    with pytest.raises(UnreadableAudio, match="it holds no sound"):
        read_audio(tmp_path / "a.wav")


def test_a_folder_is_gone_through_once_and_whole(tmp_path):
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    for folder in (outside, root / "deep" / "er", root / "song.wav"):
        folder.mkdir(parents=True)
        soundfile.write(folder / "a.wav", TONE, RATE)
    nfd = unicodedata.normalize("NFD", "é.WAV")
    soundfile.write(root / nfd, TONE, RATE, format="WAV")
    (root / "linked").symlink_to(outside)
    (root / "again").symlink_to(root / "deep")
    (root / "deep" / "loop").symlink_to(root)
    (root / "lost.mp3").symlink_to(tmp_path / "nowhere.mp3")
    (root / "._a.wav").write_bytes(b"\0\5\x16\7")
    (root / "tune.mid").write_bytes(b"MThd")
    os.mkfifo(root / "pipe.wav")
    (root / "cover.png").write_bytes(b"")
    found = find_audio(root)
    names = [path.relative_to(root).as_posix() for path in found.files]
    assert names == sorted(["deep/er/a.wav", "linked/a.wav", "song.wav/a.wav", nfd])
    assert {Path(name).name: reason for name, reason in found.left_out.items()} == {
        "again": "a link to a folder that is listed already",
        "loop": "a link to a folder that is listed already",
        "lost.mp3": "a link to nothing",
        "._a.wav": "hidden",
        "tune.mid": "notes, no sound",
        "pipe.wav": "not a file",
    }
