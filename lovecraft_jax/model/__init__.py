"""The language model: cells, their backends, normalization, losses."""
