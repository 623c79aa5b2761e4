"""CLAP: agreement of audio with text, and laion-clap's checkpoints."""
