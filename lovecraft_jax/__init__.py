"""LSTM language models on prose, in JAX and Flax: train, resume, measure, write."""

__version__ = "0.1.0"
