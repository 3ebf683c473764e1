"""Studies of more than one run: article_2019 and words train many models at equal time and compare them (study)."""
