"""Clips longer than what the model was trained on: no seams, memory of one window, quality that follows its curve."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiocraft_qamdt.diffusion.windows import plan_windows, windowed
from audiocraft_qamdt.latents.chunks import decode_long
from audiocraft_qamdt.latents.mdct import MDCTCodec

SECONDS = 12.0
HOP = 256


def spectral_flux(audio: torch.Tensor) -> np.ndarray:
    """Rise of the log spectrum from one frame of 256 samples to the next: [T]."""
    spectrum = torch.stft(audio.flatten(), 1024, HOP, window=torch.hann_window(1024), return_complex=True).abs()
    return (spectrum + 1e-3).log().diff(dim=1).clamp(min=0).mean(dim=0).numpy()


def at_borders(flux: np.ndarray, windows: list[tuple[int, int]], frame: int = HOP) -> tuple[np.ndarray, np.ndarray]:
    """Flux within three frames of where a window begins or ends inside the clip, and elsewhere."""
    inner = {start for start, _ in windows[1:]} | {stop for _, stop in windows[:-1]}
    near = np.zeros(len(flux), dtype=bool)
    for border in inner:
        near[max(0, border * frame // HOP - 3) : border * frame // HOP + 3] = True
    return flux[near], flux[~near][4:-4]


def surprise(near: np.ndarray, rest: np.ndarray) -> float:
    """Distance of the largest flux at borders from the mean elsewhere, over that of the largest elsewhere."""
    return (near.max() - rest.mean()) / (rest.max() - rest.mean())


def chord(root: float, samples: int) -> torch.Tensor:
    time = torch.arange(samples) / 16000
    beat = 1 + 0.3 * torch.sin(2 * torch.pi * 3 * time)
    return 0.1 * beat * sum(torch.sin(2 * torch.pi * root * ratio * time) for ratio in (1, 1.25, 1.5, 2, 3))


@pytest.mark.parametrize("stride, seamless", [(80, True), (40, True), (160, False)])
def test_windows_that_play_other_chords_are_joined_without_a_seam_and_concatenated_ones_are_not(stride, seamless):
    codec = MDCTCodec()
    windows = plan_windows(750, 160, stride)
    roots = iter(110 * 2 ** (torch.arange(64) * 5 % 12 / 12))

    def network(x, t):
        return codec.encode(chord(next(roots), 160 * 256)[None, None])

    latents = windowed(network, windows, lambda conditions, start, stop: conditions)(
        torch.zeros(1, 16, 750, 16), torch.zeros(1)
    )
    near, rest = at_borders(spectral_flux(codec.decode(latents)), windows)
    assert (surprise(near, rest) <= 1.5) == seamless


def test_no_seam_where_windows_of_the_model_meet(model):
    model.set_generation_params(duration=SECONDS, steps=6)
    audio = model.generate(["piano"], 5)
    layout = model.layout(model.params)
    assert len(layout.windows) > 5
    near, rest = at_borders(spectral_flux(audio), layout.windows)
    assert surprise(near, rest) <= 1.2
    assert abs(near.mean() - rest.mean()) < 3 * rest.std() / len(near) ** 0.5 + 0.1 * rest.std()


def test_network_and_codec_see_one_window_at_a_time(model, monkeypatch):
    seen, decoded = [], []
    model.model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[2]))
    decode = model.codec._decode
    monkeypatch.setattr(model.codec, "_decode", lambda latents: decoded.append(latents.shape[2]) or decode(latents))
    model.set_generation_params(duration=SECONDS, steps=2)
    assert model.generate(["piano"]).shape[-1] == SECONDS * 16000
    window = model.model.backbone.latent_frames
    assert set(seen) == {window}
    assert max(decoded) == window


def test_long_clips_do_not_depend_on_their_batch(model):
    model.set_generation_params(duration=4.0)
    together = model.generate(["piano", "drums"], [(0, 1), (4, 5)])
    alone = model.generate(["drums"], [(0, 1), (4, 5)])[0]
    # Batches of other sizes are rounded otherwise, by 1e-7 in an evaluation; sampling on an AMD EPYC makes 1e-3 of it
    # with oneDNN, and 4e-7 without.
    assert (alone - together[1]).norm() < 0.01 * alone.norm()
    assert (alone - together[0]).norm() > 0.2 * alone.norm()


def test_each_window_is_told_the_quality_of_its_part(model):
    """As in training: the clip's level is the mean over the segment, the curve is the segment's."""
    told = []

    def record(module, args, kwargs):
        told.append({name: levels[-1] for name, levels in kwargs["quality"].items()})

    model.model.backbone.register_forward_pre_hook(record, with_kwargs=True)
    model.set_generation_params(duration=8.0, steps=1)
    model.generate(["piano"], [(0.0, 1.0), (8.0, 5.0)])
    windows = model.layout(model.params).windows
    middles = [(start + stop) / 2 / model.codec.frame_rate for start, stop in windows]
    for levels, middle in zip(told, middles, strict=True):
        assert levels["clip"].item() == pytest.approx(1 + middle / 2, abs=0.05)
        assert levels["adaln"] == levels["clip"]
        assert levels["global"].item() == pytest.approx(3, abs=0.01)
        assert levels["frame"].mean().item() == pytest.approx(1 + middle / 2, abs=0.05)
        assert (levels["frame"].diff() >= -1e-5).all()


def test_rope_makes_a_long_clip_at_once(model):
    seen = []
    model.model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[2]))
    model.set_generation_params(duration=5.0, extend="rope", steps=2)
    assert model.generate(["piano"]).isfinite().all()
    assert set(seen) == {model.codec.num_frames(80000)}


def test_fixed_positions_are_extended_by_windows(tmp_path):
    from ..helpers.audio_folder import make_folder
    from ..helpers.runs import TINY, solver_in

    folder = make_folder(tmp_path / "audio", tracks=2)
    with solver_in(tmp_path, *TINY, f"folder={folder}", "mdt.positions=sincos", "optim.epochs=1") as solver:
        solver.restore()
        solver.qamdt.set_generation_params(steps=2, duration=5.0)
        assert solver.qamdt.generate(["piano"]).shape[-1] == 80000


def test_an_hour_is_covered_by_windows_that_meet(model):
    model.set_generation_params(duration=3600.0, extend_stride=2.56)
    windows = model.layout(model.params).windows
    assert windows[0][0] == 0
    assert windows[-1][1] == model.codec.num_frames(3600 * 16000)
    assert all(start <= stop for (_, stop), (start, _) in zip(windows, windows[1:], strict=False))


def test_ten_minutes_are_made_in_windows(model):
    model.set_generation_params(duration=600.0, steps=1, guidance_scale=1, extend_stride=2.56)
    audio = model.generate(["piano"], 5)
    assert audio.shape == (1, 1, 600 * 16000)
    assert audio.isfinite().all()


@pytest.mark.parametrize("frames", [150, 161, 1000])
def test_decoding_in_chunks_is_decoding(frames, generator):
    codec = MDCTCodec()
    latents = torch.randn(2, 16, frames, 16, generator=generator)
    whole = codec.decode(latents, frames * 256 - 100)
    assert torch.allclose(decode_long(codec, latents, frames * 256 - 100, 160, 40), whole, atol=1e-4)
