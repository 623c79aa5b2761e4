"""Refinement of captions in three stages: a captioner, CLAP, a language model (QA-MDT, arXiv 2405.15863, section 3)."""
