"""Ahead-of-time compilation for TPUs and GPUs that are not here."""
