"""Data: manifests and sidecars in AudioCraft's own formats, and the dataset that adds quality to them."""
