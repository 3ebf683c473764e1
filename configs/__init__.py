"""Experiments: one file each, with a `get_config(variant=None)`."""
