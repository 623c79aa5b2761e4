"""Training target and loss, samplers, guidance: torch and diffusers schedulers, no model and no AudioCraft."""
