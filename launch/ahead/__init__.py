"""Ahead-of-time compilation for TPUs and GPUs that this machine does not have."""
