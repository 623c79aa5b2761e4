"""The one way to find audio in folders and to read it: what libsndfile or FFmpeg can decode, or the reason why not."""

from __future__ import annotations

import errno
import os
import typing as tp
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

from ..compat import prepare

if tp.TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from torch import Tensor

SUFFIXES = tuple(
    ".wav .wave .mp3 .flac .ogg .oga .opus .spx .m4a .m4b .mp4 .aac .aif .aiff .aifc .wma .webm .weba .mka .mp2 .mpga "
    ".ac3 .eac3 .amr .ape .au .snd .caf .tta .wv .w64 .rf64 .dsf .mpc .3gp".split()
)
"""What a file of audio is called; a file is read by what it holds, whatever its name says."""

NOTES = (".mid", ".midi", ".kar", ".rmi")
_SEEK_EARLIER = 0.1  # seconds: decoders of mp3 and AAC need what comes before
_LOSSY_BY_FFMPEG = "MP3"  # libsndfile's name of the format whose frames FFmpeg places exactly


class UnreadableAudio(ValueError):
    """A file that cannot be decoded.

    Args:
        path: the file.
        reason: why, in a few words.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read as audio: {reason}")
        self.reason = reason


@dataclass
class Found:
    """The audio under a folder.

    Args:
        files: in the order of their paths.
        left_out: what looks like audio and is none, or cannot be reached → why.
    """

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def find_audio(folder: str | Path) -> Found:
    """Find the audio files of a folder, nested or not; links are followed, each folder is visited once.

    Raises:
        FileNotFoundError: no folder, or no audio in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder")
    found = Found()
    for path in _files(root, found.left_out):
        reason = _no_audio(path, root)
        if reason is None:
            found.files.append(path)
        else:
            found.left_out[str(path)] = reason
    if not found.files:
        others = "".join(f"; {path}: {reason}" for path, reason in list(found.left_out.items())[:3])
        raise FileNotFoundError(f"no audio in {root}: looked for {' '.join(SUFFIXES)}, nested folders included{others}")
    found.files.sort()
    return found


def _files(root: Path, left_out: dict[str, str]) -> Iterator[Path]:
    """Yield the files with an audio suffix; real folders come before links to them."""
    waiting, links, seen = [root], list[Path](), set[str]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        real = os.path.realpath(folder)
        if real in seen:
            left_out[str(folder)] = "a link to a folder that is listed already"
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            left_out[str(folder)] = f"the folder cannot be listed ({error.strerror})"
            continue
        for entry in entries:
            path = folder / entry.name
            if path.is_dir():
                (links if path.is_symlink() else waiting).append(path)
            elif path.suffix.lower() in (*SUFFIXES, *NOTES):
                yield path


def _no_audio(path: Path, root: Path) -> str | None:
    if any(part.startswith(".") for part in path.relative_to(root).parts):
        return "hidden"
    if path.suffix.lower() in NOTES:
        return "notes, no sound"
    if not path.exists():
        return "a link to nothing"
    return None if path.is_file() else "not a file"


class AudioInfo(tp.NamedTuple):
    """What a file's header promises; AudioCraft's `AudioFileInfo`."""

    sample_rate: int
    duration: float
    channels: int


def audio_info(path: str | Path) -> AudioInfo:
    """Read a file's header, which may promise more or less than can be decoded.

    Raises:
        UnreadableAudio: neither libsndfile nor FFmpeg knows it.
    """
    infos = _first_of(path, (_info_by_libsndfile, _info_by_ffmpeg), every=True)
    return infos[0]._replace(duration=max(info.duration for info in infos))


def read_samples(path: str | Path, seek_time: float = 0.0, duration: float = -1.0) -> tuple[np.ndarray, int]:
    """Read audio without PyTorch, whose import takes seconds and half a gigabyte.

    Args:
        path: a file of any format that libsndfile or FFmpeg reads.
        seek_time: where to begin, in seconds.
        duration: seconds to read; not above 0 = all that is there.
    Returns:
        Samples [C, S] in float32, full scale at 1, and the sample rate in Hz.
    Raises:
        UnreadableAudio: it cannot be decoded, or holds nothing from `seek_time` on.
    """
    readers = (_read_by_ffmpeg, _read_by_libsndfile) if _is_mp3(path) else (_read_by_libsndfile, _read_by_ffmpeg)
    samples, sample_rate = _first_of(path, [_at(read, seek_time, duration) for read in readers])[0]
    if not samples.shape[-1]:
        raise UnreadableAudio(path, f"it holds no sound after {seek_time:g} s" if seek_time else "it holds no sound")
    return samples, sample_rate


def read_audio(
    path: str | Path, seek_time: float = 0.0, duration: float = -1.0, pad: bool = False
) -> tuple[Tensor, int]:
    """Read audio as a tensor, with the arguments of AudioCraft's `audio_read`.

    Args:
        path, seek_time, duration: see `read_samples`.
        pad: fill up with zeros where the file ends before `duration`.
    Returns:
        Samples [C, S] in float32, full scale at 1, and the sample rate in Hz.
    Raises:
        UnreadableAudio: see `read_samples`.
    """
    import torch

    samples, sample_rate = read_samples(path, seek_time, duration)
    missing = int(duration * sample_rate) - samples.shape[-1] if pad else 0
    if missing > 0:
        samples = np.pad(samples, ((0, 0), (0, missing)))
    return torch.from_numpy(samples), sample_rate


def read_everywhere() -> None:
    """Let AudioCraft's data sets read what this module reads: what is listed is also trained on."""
    prepare()
    import audiocraft.data.audio
    import audiocraft.data.audio_dataset

    for module in (audiocraft.data.audio, audiocraft.data.audio_dataset):
        vars(module).update(audio_read=read_audio, audio_info=audio_info)


_Read = tuple[np.ndarray, int]
Result = tp.TypeVar("Result")


def _at(read: tp.Callable[..., _Read], seek_time: float, duration: float) -> tp.Callable[[str], _Read]:
    return lambda path: read(path, seek_time, duration)


def _first_of(path: str | Path, readers: tp.Sequence[tp.Callable[[str], Result]], every: bool = False) -> list[Result]:
    """Return what the first reader gives that can read the file (or `every` one that can)."""
    results, reasons = [], []
    for read in readers:
        try:
            results.append(read(str(path)))
        except Exception as error:  # decoders raise anything on a broken file
            reasons.append(_reason(error))
            continue
        if not every:
            break
    if not results:
        raise UnreadableAudio(path, _why(path, reasons))
    return results


def _why(path: str | Path, reasons: list[str]) -> str:
    try:
        if not os.stat(path).st_size:
            return "the file is empty"
        with open(path, "rb"):
            return "; ".join(dict.fromkeys(reasons))
    except OSError as error:
        return str(error.strerror)


def _reason(error: Exception) -> str:
    if isinstance(error, soundfile.LibsndfileError):
        return f"libsndfile: {error.error_string.rstrip('.')}"
    if isinstance(error, av.error.FFmpegError):
        return f"FFmpeg: {error.strerror}"
    return str(error) or type(error).__name__


def _is_mp3(path: str | Path) -> bool:
    try:
        return soundfile.info(str(path)).format == _LOSSY_BY_FFMPEG
    except (soundfile.LibsndfileError, OSError, ValueError):
        return False


def _info_by_libsndfile(path: str) -> AudioInfo:
    info = soundfile.info(path)
    return AudioInfo(info.samplerate, 0.0 if info.format == _LOSSY_BY_FFMPEG else info.duration, info.channels)


def _info_by_ffmpeg(path: str) -> AudioInfo:
    with av.open(path, metadata_errors="ignore") as container:
        stream = _stream(container)
        duration = 0.0
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / av.time_base
        return AudioInfo(stream.codec_context.sample_rate, duration, stream.codec_context.channels)


def _stream(container: InputContainer) -> AudioStream:
    if not container.streams.audio:
        raise ValueError("it has no audio stream")
    return container.streams.audio[0]


def _read_by_libsndfile(path: str, seek_time: float, duration: float) -> _Read:
    with soundfile.SoundFile(path) as file:
        first = int(seek_time * file.samplerate)
        if first > file.frames:
            raise OSError(errno.EINVAL, f"it ends before {seek_time:g} s")
        file.seek(first)
        frames = int(duration * file.samplerate) if duration > 0 else -1
        samples = file.read(frames, dtype="float32", always_2d=True)
        return np.ascontiguousarray(samples.T), file.samplerate


def _read_by_ffmpeg(path: str, seek_time: float, duration: float) -> _Read:
    with av.open(path, metadata_errors="ignore") as container:
        stream = _stream(container)
        try:
            container.seek(
                int(max(0.0, seek_time - _SEEK_EARLIER) / tp.cast(Fraction, stream.time_base)), stream=stream
            )
        except av.error.FFmpegError:
            if seek_time > _SEEK_EARLIER:
                raise
        parts: list[np.ndarray] = []
        length, sample_rate = 0, stream.codec_context.sample_rate
        for start, sample_rate, samples in _decoded(container, stream):
            parts.append(samples[:, max(0, int(sample_rate * seek_time) - start) :])
            length += parts[-1].shape[1]
            if 0 < int(sample_rate * duration) <= length:
                break
    if not parts:
        raise ValueError(f"it holds no sound after {seek_time:g} s" if seek_time else "it holds no sound")
    samples = np.concatenate(parts, axis=1)
    wanted = int(sample_rate * duration)
    return np.ascontiguousarray(samples[:, :wanted] if wanted > 0 else samples), sample_rate


def _decoded(container: InputContainer, stream: AudioStream) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (first sample's place, sample rate, samples [C, S] in float32) of each frame; all like the first one."""
    resampler, shape, like, after = None, None, None, 0
    for frame in container.decode(stream):
        start = after if frame.pts is None else int(frame.sample_rate * frame.pts * tp.cast(Fraction, frame.time_base))
        now = (frame.format.name, frame.layout.name, frame.sample_rate)
        like = like or now
        if resampler is None or now != shape:
            resampler, shape = av.AudioResampler("fltp", like[1], like[2]), now
        frame.pts = None  # the resampler would fill gaps by them
        samples = [part.to_ndarray() for part in resampler.resample(frame)]
        if samples:
            joined = np.concatenate(samples, axis=1)
            after = start + joined.shape[1]
            yield start, like[2], joined
