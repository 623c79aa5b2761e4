"""Latent codecs: audio [B, channels, S] to latents [B, C, T, F] of unit variance, and back."""
