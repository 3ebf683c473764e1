"""The article's questions, measured: `python -m experiments.article_2019`."""
