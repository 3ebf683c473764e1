"""Experiments, one file each, with a function `get_config(variant=None)`."""
