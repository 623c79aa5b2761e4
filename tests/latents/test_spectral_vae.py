from __future__ import annotations

import math

import pytest
import torch

from audiocraft_qamdt.latents.spectral_vae import (
    FLOOR,
    WEIGHTS,
    Amplitudes,
    SpectralVAE,
    SpectralVAECodec,
    SpectralVAESizes,
    amplitude_loss,
    centred_stft,
    griffin_lim,
    inverse_stft,
    peak_phases,
    stft,
)

SMALL = SpectralVAESizes(latent_channels=8, width=16, expansion=2, encoder_blocks=(1, 1), decoder_blocks=(1, 1))


def noise(*shape: int, seed: int = 0, level: float = 0.1) -> torch.Tensor:
    return level * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def codec() -> SpectralVAECodec:
    torch.manual_seed(0)
    return SpectralVAECodec(SpectralVAE(SMALL))


@pytest.mark.parametrize("samples", [1, 511, 512, 513, 16000, 65536])
def test_any_length_comes_back_with_its_own_length(codec, samples):
    latents = codec.encode(noise(2, 1, samples))
    assert latents.shape == (2, 8, math.ceil(samples / 512), 1)
    assert codec.decode(latents, samples).shape == (2, 1, samples)


def test_the_inverse_stft_inverts_the_stft():
    audio, window = noise(2, 5120), torch.hann_window(1024)
    spectrum = centred_stft(audio, window)
    torch.testing.assert_close(inverse_stft(spectrum, window, 256), audio, atol=1e-5, rtol=0)


def test_a_sine_of_amplitude_one_has_a_peak_of_one():
    time = torch.arange(16000) / 16000
    spectrum = stft(torch.sin(2 * math.pi * 1000 * time)[None], torch.hann_window(1024), 256)
    assert spectrum.abs().amax(1).median().item() == pytest.approx(1, abs=0.01)


def test_a_batch_of_two_equals_two_batches_of_one(codec):
    audio = noise(2, 1, 8192)
    latents = codec.encode(audio)
    torch.testing.assert_close(latents[1:], codec.encode(audio[1:]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(codec.decode(latents)[1:], codec.decode(latents[1:]), atol=1e-4, rtol=1e-3)


def test_noise_has_unit_power_in_each_bin(codec):
    made = codec.vae._noise(torch.zeros(1, 400, 513))
    assert made.shape == (1, 400, 513)
    assert made.abs().square().mean((0, 1))[4:-4].mean().item() == pytest.approx(1, abs=0.05)


def test_a_spread_as_wide_as_that_of_noise_is_all_noise():
    median = torch.full((1, 1, 1), -5.0)
    tone, noise = Amplitudes(median, torch.full((1, 1, 1), 0.6)).parts()
    assert tone.item() == 0
    assert noise.log().item() == pytest.approx(-5 + 0.1833, abs=1e-3)


def test_no_spread_is_all_tone():
    tone, noise = Amplitudes(torch.full((1, 1, 1), -5.0), torch.zeros(1, 1, 1)).parts()
    assert noise.item() == 0
    assert tone.log().item() == pytest.approx(-5, abs=1e-3)


@pytest.mark.parametrize("spread", [0.0, 0.2, 0.484, 0.6])
def test_the_power_is_that_of_both_parts_with_a_finite_gradient(spread):
    made = Amplitudes(*(torch.full((1, 1, 1), value, requires_grad=True) for value in (-5.0, spread)))
    power = made.power()
    assert power.item() == pytest.approx(sum(part.square().item() for part in made.parts()))
    assert all(gradient.isfinite() for gradient in torch.autograd.grad(power, made))


def test_phases_of_a_steady_tone_are_found():
    window = torch.hann_window(1024)
    audio = 0.3 * torch.sin(2 * math.pi * 997.3 / 16000 * torch.arange(16384))[None]
    wanted = centred_stft(audio, window).abs()
    made = griffin_lim(torch.polar(wanted, peak_phases(wanted)), window, iterations=4)
    found = centred_stft(made, window).abs()
    assert ((found - wanted).norm() / wanted.norm()).item() < 0.05


def test_griffin_lim_comes_closer_with_more_iterations():
    window = torch.hann_window(1024)
    wanted = centred_stft(noise(1, 8192), window).abs()

    def error(iterations: int) -> float:
        made = griffin_lim(torch.polar(wanted, peak_phases(wanted)), window, iterations)
        return ((centred_stft(made, window).abs() - wanted).norm() / wanted.norm()).item()

    assert error(16) < error(4) < error(0)


def test_the_loss_is_least_at_the_true_amplitudes():
    log_amplitude = (centred_stft(noise(1, 8192), torch.hann_window(1024)).abs() + FLOOR).log()
    spread = torch.full_like(log_amplitude, 0.1)
    losses = [amplitude_loss(Amplitudes(log_amplitude + shift, spread), log_amplitude) for shift in (-0.3, 0.0, 0.3)]
    assert losses[1][0].item() == pytest.approx(0, abs=1e-6)
    assert losses[1][1] < min(losses[0][1], losses[2][1])


def test_weights_come_back_from_a_file(codec, tmp_path):
    codec.save(tmp_path / "codec.safetensors", dtype=torch.float32)
    read = SpectralVAECodec.from_file(tmp_path / "codec.safetensors")
    assert read.vae.sizes == SMALL
    assert torch.equal(read.encode(noise(1, 1, 4096)), codec.encode(noise(1, 1, 4096)))


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-codec.safetensors"):
        SpectralVAECodec.from_file(tmp_path / "no-codec.safetensors")


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "codec.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="codec.safetensors: no spectral_vae codec, or damaged"):
        SpectralVAECodec.from_file(path)


def test_weights_of_another_shape_are_refused(codec, tmp_path):
    from safetensors.torch import load_file, save_file

    codec.save(tmp_path / "codec.safetensors")
    weights = load_file(tmp_path / "codec.safetensors")
    save_file(weights, tmp_path / "other.safetensors", {"spectral_vae": '{"width": 32}'})
    with pytest.raises(ValueError, match="other.safetensors"):
        SpectralVAECodec.from_file(tmp_path / "other.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=["NaN", "infinite"])
def test_samples_that_are_not_finite_are_refused(codec, bad):
    audio = noise(1, 1, 4096)
    audio[0, 0, 100] = bad
    with pytest.raises(ValueError, match="not finite"):
        codec.encode(audio)


def test_silence_stays_finite(codec):
    assert codec.decode(codec.encode(torch.zeros(1, 1, 4096))).isfinite().all()


def test_the_loss_falls_while_a_codec_learns_a_tone():
    torch.manual_seed(0)
    vae = SpectralVAE(SMALL)
    audio = 0.1 * torch.sin(torch.arange(8192) * 0.3)[None, None].repeat(2, 1, 1)
    log_amplitude = (vae.spectrum(audio).abs() + FLOOR).log()
    optimizer, losses = torch.optim.Adam(vae.parameters(), 3e-3), []
    for _ in range(30):
        losses.append(amplitude_loss(vae.decoder(vae.encode(audio)[0]), log_amplitude)[1])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the codec is not in this checkout")
def test_the_codec_in_the_package_gives_music_back():
    from audiocraft_qamdt.playground.dataset import make_track

    track = make_track(7, 0, 4.096, 16000, degraded=0.0)[0]
    audio = torch.from_numpy(track / 32768).float()[None, None]
    codec = SpectralVAECodec.from_file()
    decoded = codec.decode(codec.encode(audio), audio.shape[-1])
    level = 10 * (decoded.square().mean() / audio.square().mean()).log10()
    assert abs(level) < 1.5
    assert WEIGHTS.stat().st_size <= 12e6


@pytest.mark.parametrize(("part", "same"), [("encoder", False), ("decoder", True)])
def test_the_probe_tells_encoders_apart_and_not_decoders(part, same):
    first, second = SpectralVAECodec(SpectralVAE(SMALL)), SpectralVAECodec(SpectralVAE(SMALL))
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        for name, parameter in second.named_parameters():
            if part in name:
                parameter.mul_(1.3)
    assert torch.equal(first.probe, second.probe) == same
