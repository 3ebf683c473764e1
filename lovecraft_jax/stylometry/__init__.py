"""Compares a text with an author: features of style, verbatim overlap, authorship. No jax."""
