"""Studies of more than one run: article_2019 trains many models and writes a page of them."""
