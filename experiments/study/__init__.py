"""What studies share that train many settings with the same time and seeds and compare them. `study.py` says what a
study is; experiments/article_2019 and experiments/words are two."""
