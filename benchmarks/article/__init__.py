"""The article's questions, measured: `python -m benchmarks.article`."""
