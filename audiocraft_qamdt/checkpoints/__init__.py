"""Trained models on disk: AudioCraft's checkpoints, exports, and the published files."""
