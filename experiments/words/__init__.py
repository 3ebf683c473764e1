"""Measurements of tokens and of rare words, at equal time: `python -m experiments.words`."""
