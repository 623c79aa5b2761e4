"""Latent codecs: audio [B, 1, S] to latents [B, C, T, F] of unit variance, and back."""
