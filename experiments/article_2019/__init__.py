"""Measurements that answer the questions of the article of 2019: `python -m experiments.article_2019`."""
