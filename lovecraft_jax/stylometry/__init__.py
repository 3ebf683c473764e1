"""A text against an author: style features, verbatim overlap, authorship. numpy only, no jax."""
