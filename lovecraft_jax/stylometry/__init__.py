"""Compares a text with an author: features of style, verbatim overlap, authorship. numpy only, no jax."""
