"""The masked diffusion transformer and its parts; torch only, nothing is imported here."""
